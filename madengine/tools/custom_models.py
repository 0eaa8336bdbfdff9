"""The models of a get_models_json.py, which runs in a process of its own: there it may end, hang or change anything."""

from __future__ import annotations

import json
import logging
import os
import sys
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

from madengine import programs
from madengine.errors import DiscoveryError
from madengine.files import parse_json

logger = logging.getLogger(__name__)

SECONDS_LIMIT = 120.0
_TEXT_LIMIT = 2000
# With our own import path, which a zipapp or `python -m` sets.
_CODE = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from madengine.tools.custom_models import main; main(*sys.argv[2:])"
)


def custom_entries(path: Path, root: Path, shown: str) -> list[Any]:
    """Run a get_models_json.py in the package's root, as older versions do, and return its models as JSON values.

    What it prints goes to stderr. Raises DiscoveryError, with the path as it is `shown` and the line, if it fails.
    """
    search_path = json.dumps([str(Path(place).absolute()) for place in sys.path])
    command = programs.program(sys.executable, "-c", _CODE, search_path, str(path.absolute()), str(root))
    answer = programs.attempt(command, seconds=SECONDS_LIMIT, own_stderr=True)
    if answer.code is None:
        raise DiscoveryError(f"{shown}: did not end within {SECONDS_LIMIT:g} s")
    try:
        value = parse_json(answer.out)
    except ValueError:
        raise DiscoveryError(f"{shown}: ended without its models: exit code {answer.code}") from None
    if "error" in value:
        logger.debug(value["traceback"])
        raise DiscoveryError(f"{shown}{value['line']}: {value['error']}")
    entries: list[Any] = value["models"]
    return entries


# --- in the process of its own ---


def main(path: str, root: str) -> NoReturn:
    """Run a get_models_json.py, and write its models, or what went wrong, to what stdout was."""
    out = os.fdopen(os.dup(1), "w", encoding="ascii")
    os.dup2(2, 1)
    os.chdir(root)
    json.dump(_answer(Path(path)), out)
    out.close()
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):
            stream.flush()
    os._exit(0)  # whatever threads and exit functions it has left


def _answer(path: Path) -> dict[str, Any]:
    module = ModuleType("get_models_json")
    module.__file__ = str(path)
    # Dataclasses look up their own module here. No bytecode is written, or used when it is stale.
    sys.modules[module.__name__] = module
    try:
        exec(compile(path.read_bytes(), module.__file__, "exec", dont_inherit=True), vars(module))
        return {"models": [_updated(custom) for custom in _listed(module)]}
    except BaseException as error:
        return {"error": _text(error), "line": _line(error, str(path)), "traceback": _traceback(error)}


def _listed(module: ModuleType) -> list[Any]:
    # Its subclasses must be of the class that it imports.
    from madengine.tools.discover_models import CustomModel

    if not callable(getattr(module, "list_models", None)):
        raise TypeError("no list_models(); define one that returns a list of CustomModel")
    models = list(module.list_models())
    for model in models:
        if not isinstance(model, CustomModel):
            raise TypeError(f"list_models(): expected CustomModel objects, got {type(model).__name__} {model!r}")
    return models


def _updated(model: Any) -> Any:
    model.update_model()
    return json.loads(json.dumps(model.to_dict()))


def _text(error: BaseException) -> str:
    try:
        return " ".join(f"{type(error).__name__}: {error}"[:_TEXT_LIMIT].split())
    except BaseException:
        return f"{type(error).__name__}, whose text can't be shown"


def _line(error: BaseException, file: str) -> str:
    """Return `:12` where the error was raised in line 12 of the file."""
    if isinstance(error, SyntaxError) and error.filename == file:
        return f":{error.lineno}"
    lines, trace = [], error.__traceback__
    while trace:
        if trace.tb_frame.f_code.co_filename == file:
            lines.append(trace.tb_lineno)
        trace = trace.tb_next
    return f":{lines[-1]}" if lines else ""


def _traceback(error: BaseException) -> str:
    try:
        from traceback import format_exception

        return "".join(format_exception(error))
    except BaseException:  # it may have broken the import, too
        return ""
