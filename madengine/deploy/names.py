"""Names that come from another machine, checked before they become a path."""

from __future__ import annotations

import re

from madengine.errors import RunError

_RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


def checked_run_id(text: str) -> str:
    """Return the id of a run. Raises RunError for one that madengine doesn't make."""
    if not _RUN_ID.fullmatch(text):
        raise RunError(f"invalid run id {text[:200]!r}; expected up to 128 letters, digits, '.', '_' and '-'")
    return text
