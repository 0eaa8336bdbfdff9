"""Objects written as JSON or as Python literals, as contexts and CONTEXT headers are."""

from __future__ import annotations

import ast
import json
import math
import warnings
from collections.abc import Mapping
from typing import Any

from madengine.config.values import check_key, check_value, kind_of, place, shown
from madengine.errors import ConfigurationError
from madengine.files import DIGITS_LIMIT, NESTING_LIMIT

_ERRORS = (ValueError, SyntaxError, TypeError, MemoryError, RecursionError)
_LARGEST = 10**DIGITS_LIMIT
# of a text on the command line: enough to recognise it, too little to carry a token into a log
_SHOWN_CHARACTERS = 32


def parse_object(text: str, where: str) -> dict[str, Any]:
    """Parse an object written as JSON or as a Python literal; `where` names its source in errors.

    Raise ConfigurationError, with the position, if it is neither, or holds what a manifest can't.
    """
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as json_error:
        try:
            value = _literal(text)
        except _ERRORS as literal_error:
            raise ConfigurationError(_neither(text, where, json_error, literal_error)) from None
    if not isinstance(value, dict):
        raise ConfigurationError(
            f"{where}: expected an object such as {{'docker_env_vars': {{}}}}, got {kind_of(value)}"
        )
    return plain_object(value, where)


def parse_literal_object(text: str) -> dict[str, Any] | None:
    """Parse a dict written as a Python literal; return None if it is none."""
    try:
        value = _literal(text)
    except _ERRORS:
        return None
    return value if isinstance(value, dict) else None


def plain_object(value: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return an object in JSON's types: a tuple becomes a list.

    Raise ConfigurationError, with the key, for what a manifest can't hold or no program can be passed.
    """
    plain: dict[str, Any] = _plain(value, where, ())
    check_value(plain, where)
    return plain


def _literal(text: str) -> Any:
    with warnings.catch_warnings():
        # an odd backslash in the user's text is no concern of the terminal
        warnings.simplefilter("ignore")
        return ast.literal_eval(text.strip())


def _plain(value: Any, where: str, path: tuple[str, ...]) -> Any:
    if len(path) > NESTING_LIMIT:
        raise ConfigurationError(f"{where}: nested more than {NESTING_LIMIT} levels deep")
    if isinstance(value, Mapping):
        for key in value:
            check_key(key, where, *path)
        return {key: _plain(item, where, (*path, key)) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, where, (*path, str(index))) for index, item in enumerate(value)]
    if value is None or isinstance(value, str | bool) or _is_json_number(value):
        return value
    raise ConfigurationError(f"{place(where, *path)}: expected a value that JSON has, got {_kind(value)}")


def _is_json_number(value: Any) -> bool:
    return math.isfinite(value) if isinstance(value, float) else isinstance(value, int) and abs(value) < _LARGEST


def _kind(value: Any) -> str:
    if isinstance(value, float):
        return str(value)
    return f"a number of more than {DIGITS_LIMIT} digits" if isinstance(value, int) else kind_of(value)


def _neither(text: str, where: str, json_error: Exception, literal_error: BaseException) -> str:
    """Return the message with the position of the parser that read further."""
    if not text.strip():
        return f"{where}: empty, expected an object"
    line, column, problem = 1, 1, _problem(json_error)
    if isinstance(json_error, json.JSONDecodeError):
        line, column = json_error.lineno, json_error.colno
    if isinstance(literal_error, SyntaxError):
        skipped = text[: len(text) - len(text.lstrip())].count("\n")
        position = (skipped + (literal_error.lineno or 0), literal_error.offset or 0)
        if position > (line, column):
            (line, column), problem = position, _problem(literal_error)
    start = f"{shown(text, _SHOWN_CHARACTERS)} is " if where.startswith("--") else ""
    return f"{where}: {start}neither JSON nor a Python literal: line {line} column {column}: {problem}"


def _problem(error: Exception) -> str:
    """Return what a parser says, without the user's own text and without Python's advice."""
    if isinstance(error, RecursionError):
        return f"nested more than {NESTING_LIMIT} levels deep"
    message = str(getattr(error, "msg", error))
    if "integer string conversion" in message:
        return "a number has too many digits"
    return shown_message(message)


def shown_message(message: str) -> str:
    return message[:1].lower() + message[1:]
