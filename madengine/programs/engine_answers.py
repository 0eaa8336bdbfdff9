"""What engines answer, as checked values: a wrapper may print a banner before it, or nothing at all."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from madengine import programs
from madengine.files import check_nesting
from madengine.programs.smi import first_json

if TYPE_CHECKING:
    from plumbum.commands.base import BaseCommand

_Value = TypeVar("_Value")
_EXIT_CODES = 2**31
_BEFORE_END = ("running", "created", "paused", "restarting", "stopping", "removing")


@dataclass(frozen=True)
class State:
    """How a container is; `error` is the engine's own message."""

    exit_code: int
    oom_killed: bool
    error: str
    running: bool


@dataclass(frozen=True)
class LabelledContainer:
    """A container, as `container inspect` describes it; what the engine does not say is empty or None."""

    name: str
    labels: Mapping[str, str] = field(default_factory=dict)
    id: str = ""
    #: ISO 8601, with any number of digits of the second
    created: str = ""
    running: bool = False
    #: the paths of this machine that it has mounted
    mounts: tuple[str, ...] = ()
    #: bytes that it has written, beside its mounts
    size_bytes: int | None = None


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


def labelled_containers(text: str) -> list[LabelledContainer]:
    """Return the containers of `container inspect`; each has a name and labels."""
    return [_labelled_container(record) for record in _records(text)]


def _labelled_container(record: Mapping[str, Any]) -> LabelledContainer:
    name, config = record.get("Name"), record.get("Config")
    labels = (config.get("Labels") or {}) if isinstance(config, dict) else None
    if not isinstance(name, str) or not isinstance(labels, dict):
        raise ValueError("a container without a Name or Labels")
    state = record.get("State")
    size = record.get("SizeRw")
    mounts = [mount.get("Source") for mount in _list(record, "Mounts") if isinstance(mount, dict)]
    return LabelledContainer(
        name=name.lstrip("/"),
        labels={key: str(value) for key, value in labels.items()},
        id=_text(record, "Id"),
        created=_text(record, "Created"),
        running=isinstance(state, dict) and state.get("Status") in _BEFORE_END,
        mounts=tuple(source for source in mounts if isinstance(source, str)),
        size_bytes=size if isinstance(size, int) and not isinstance(size, bool) and size >= 0 else None,
    )


def _text(record: Mapping[str, Any], name: str) -> str:
    value = record.get(name)
    return value if isinstance(value, str) else ""


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
