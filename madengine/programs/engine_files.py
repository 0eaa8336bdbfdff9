"""Private files that an engine reads: where it sees them, for docker as a snap has a /tmp of its own."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from madengine.errors import MadengineError
from madengine.process import private_folder

logger = logging.getLogger(__name__)

Result = TypeVar("Result")

_MISSING = re.compile(r"not found|no such file", re.IGNORECASE)
# The engines that don't see the folder for temporary files.
_blind: set[str] = set()


def in_visible_folder(engine: str, step: Callable[[Path], Result], elsewhere: Path) -> Result:
    """Do a step with a private folder; again with one in the folder `elsewhere` if the engine doesn't see the first."""
    if engine not in _blind:
        try:
            return _in_folder(None, step)
        except _HiddenError as error:
            logger.info(f"{engine} doesn't see {error.folder} (it has a /tmp of its own): using {elsewhere}")
            _blind.add(engine)
    try:
        return _in_folder(elsewhere, step)
    except _HiddenError as error:
        raise type(error.cause)(
            f"{error.cause}; {engine} doesn't see {error.folder}: as a snap it sees only your home folder; work there"
        ) from error.cause


def is_hidden(path: Path, message: str) -> bool:
    """Whether an engine reports that a path is missing, which is there."""
    return bool(_MISSING.search(message)) and str(path) in message and path.exists()


class _HiddenError(Exception):
    """An engine that doesn't see a folder, and its error."""

    def __init__(self, folder: Path, cause: MadengineError) -> None:
        super().__init__(str(folder))
        self.folder, self.cause = folder, cause


def _in_folder(parent: Path | None, step: Callable[[Path], Result]) -> Result:
    with private_folder(parent) as folder:
        try:
            return step(folder)
        except MadengineError as error:
            if is_hidden(folder, str(error)):
                raise _HiddenError(folder.parent, error) from error
            raise
