"""What users write, checked and shown: the rules that all readers of configuration share."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from madengine.errors import ConfigurationError
from madengine.files import check_nesting

SHOWN_CHARACTERS = 60
#: of a key as JSON: YAML reads no longer one
KEY_CHARACTERS = 1000

_KINDS: tuple[tuple[Any, str], ...] = (
    (type(None), "null"),
    (bool, "true/false"),
    (int | float, "a number"),
    (str, "a string"),
    (Mapping, "an object"),
    (list | tuple, "a list"),
)


def kind_of(value: Any) -> str:
    """Name the type of a value without the value, which may be a secret."""
    return next((name for kind, name in _KINDS if isinstance(value, kind)), f"a Python {type(value).__name__}")


def shown(value: Any, limit: int = SHOWN_CHARACTERS) -> str:
    """Return a value for an error, at most `limit` characters of it."""
    if isinstance(value, str):
        # Cut first: a text may be megabytes long.
        text = repr(value[: limit + 1])
    else:
        try:
            text = json.dumps(value, default=kind_of)
        except (ValueError, TypeError, RecursionError):
            return kind_of(value)
    return text if len(text) <= limit else f"{text[: limit - 2]}…{text[0] if isinstance(value, str) else ''}"


def place(where: str, *path: str) -> str:
    """Name a place for an error: `where`, and the keys that lead to the value."""
    return f"{where}: {'.'.join(map(shown_key, path))}" if path else where


def shown_key(key: str) -> str:
    """Return a key for an error, as it is unless it is long."""
    return key if len(key) <= SHOWN_CHARACTERS else shown(key)


def expected(where: str, what: str, value: Any) -> ConfigurationError:
    """Return the error for a value of the wrong kind: `where: expected what, got value`."""
    return ConfigurationError(f"{where}: expected {what}, got {shown(value)}")


def is_passable(text: str) -> bool:
    """Return whether a text can be an argument or a variable of a program.

    Half a character stands for a byte that is not UTF-8, as in a file's name; other halves, and the null
    character, can't be passed.
    """
    try:
        text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return False
    return "\0" not in text


def check_value(value: Any, where: str) -> None:
    """Check all of a value of JSON's types.

    Raise ConfigurationError, with the place, for a string or key that can't be passed to programs, for a key that is
    too long, and for too many levels.
    """
    try:
        check_nesting(value)
    except ValueError as error:
        raise ConfigurationError(f"{where}: {error}") from None
    _check_strings(value, where, ())


def _check_strings(value: Any, where: str, path: tuple[str, ...]) -> None:
    if isinstance(value, Mapping):
        for key, item in value.items():
            check_key(key, where, *path)
            _check_strings(item, where, (*path, key))
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            _check_strings(item, where, (*path, str(index)))
    elif isinstance(value, str) and not is_passable(value):
        raise ConfigurationError(f"{place(where, *path)}: contains a null character or a lone surrogate; remove it")


def check_key(key: Any, where: str, *path: str) -> None:
    """Raise ConfigurationError for a key that is no string, or can't be passed to a program or written into YAML."""
    if not isinstance(key, str):
        raise ConfigurationError(f"{place(where, *path)}: expected a string as key, got {shown(key)}; put it in quotes")
    if not is_passable(key):
        raise ConfigurationError(
            f"{place(where, *path)}: the key {shown(key)} contains a null character or a lone surrogate; remove it"
        )
    if len(key) > KEY_CHARACTERS or len(json.dumps(key)) > KEY_CHARACTERS:
        raise ConfigurationError(
            f"{place(where, *path)}: the key {shown(key)} is too long, expected at most {KEY_CHARACTERS} characters"
        )
