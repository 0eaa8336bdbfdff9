"""What engines answer, as checked values: a wrapper may print a banner before it, or nothing at all."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from madengine import programs
from madengine.files import check_nesting
from madengine.programs.smi import first_json

if TYPE_CHECKING:
    from plumbum.commands.base import BaseCommand

_Value = TypeVar("_Value")
_EXIT_CODES = 2**31
_BEFORE_END = ("running", "created", "paused", "restarting", "stopping", "removing")


def checked(command: BaseCommand, answer: programs.Answer, parse: Callable[[str], _Value]) -> _Value:
    """Return what `parse` makes of the answer's stdout.

    Raises CommandError, with the reason, if that isn't possible.
    """
    try:
        return parse(answer.out)
    except ValueError as error:
        raise programs.failure(command, answer, reason=f"unexpected output: {error}") from None


def image_records(text: str) -> list[dict[str, Any]]:
    """Return the records of `image inspect`; their Id, Size, RepoDigests and RepoTags have the right types."""
    records = _records(text)
    for record in records:
        if not isinstance(record.get("Id"), str) or not record["Id"]:
            raise ValueError("an image without an Id")
        size = record.get("Size")
        if size is not None and (isinstance(size, bool) or not isinstance(size, int) or size < 0):
            raise ValueError(f"Size: expected a number, got {size!r:.40}")
        for name in ("RepoDigests", "RepoTags"):
            if not all(isinstance(item, str) for item in _list(record, name)):
                raise ValueError(f"{name}: expected a list of strings")
    return records


def container_state(text: str) -> Mapping[str, Any]:
    """Return the `.State` of a container; its ExitCode is a number."""
    state = first_json(text)
    if not isinstance(state, dict):
        raise ValueError("no JSON object")
    code = state.get("ExitCode") or 0
    if isinstance(code, bool) or not isinstance(code, int) or abs(code) >= _EXIT_CODES:
        raise ValueError(f"ExitCode: expected a number, got {code!r:.40}")
    if state.get("Status") not in _BEFORE_END and not isinstance(state.get("ExitCode"), int):
        raise ValueError("a container that has ended without an ExitCode")
    return state


def labelled_containers(text: str) -> list[tuple[str, Mapping[str, str]]]:
    """Return the names and labels of `container inspect`."""
    containers: list[tuple[str, Mapping[str, str]]] = []
    for record in _records(text):
        name, config = record.get("Name"), record.get("Config")
        labels = (config.get("Labels") or {}) if isinstance(config, dict) else None
        if not isinstance(name, str) or not isinstance(labels, dict):
            raise ValueError("a container without a Name or Labels")
        containers.append((name.lstrip("/"), {key: str(value) for key, value in labels.items()}))
    return containers


def _records(text: str) -> list[dict[str, Any]]:
    records = first_json(text)
    if not isinstance(records, list):
        raise ValueError("no JSON list")
    check_nesting(records)
    return records


def _list(record: Mapping[str, Any], name: str) -> list[Any]:
    value = record.get(name) or []
    if not isinstance(value, list):
        raise ValueError(f"{name}: expected a list, got {value!r:.40}")
    return value
