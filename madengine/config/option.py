"""A dataclass field that is a command-line option: its flags, its help, and what becomes of it on another host.

Every option is declared once, as a field. The parser, the words that are sent to a host, the checks before the first
step, the reference page and the messages about options that don't apply are derived from the declarations.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import MISSING, Field, dataclass, field, fields, replace
from enum import Enum
from pathlib import Path
from typing import Any, TypeVar

from madengine.errors import ConfigurationError

T = TypeVar("T")


class OnHosts(Enum):
    """What becomes of an option where the models run on other hosts."""

    FORWARDED = "sent to every host, where it differs from its default"
    COPIED = "the file is copied to every host"
    LOCAL = "used on this machine"
    REFUSED = "can't be combined with --host"


class Group(Enum):
    """The subjects under which `--help` lists the options, in this order."""

    SELECTION = "selection"
    BUILD = "build"
    RUN = "run"
    GPUS = "GPUs"
    HOSTS = "hosts, over ssh"
    ANSIBLE = "Ansible"
    KUBERNETES = "Kubernetes"
    SLURM = "Slurm"
    OUTPUT = "output"


@dataclass(frozen=True)
class Option:
    """How a field is written on a command line."""

    #: All spellings; the first is the one in messages.
    flags: tuple[str, ...]
    help: str
    group: Group
    #: Turns one word into a value; raises argparse.ArgumentTypeError.
    parse: Callable[[str], Any] = str
    choices: tuple[str, ...] = ()
    metavar: str = ""
    #: Takes several words, and may be repeated.
    many: bool = False
    #: Turns the words of a `many` option into the field's value; raises ConfigurationError.
    collect: Callable[[Sequence[str]], Any] = tuple
    #: The value of the flag alone; None where a value has to follow.
    bare: Any = None
    on_hosts: OnHosts = OnHosts.LOCAL
    #: `file` or `folder`: the value names one that has to exist before the first step.
    exists: str = ""

    @property
    def flag(self) -> str:
        return self.flags[0]


def option(flag: str, *more_flags: str, default: Any, help: str, group: Group, **how: Any) -> Any:
    """Declare a dataclass field that is an option; `how` are further fields of Option."""
    return field(default=default, metadata={"option": Option((flag, *more_flags), help, group, **how)})


def inherited(base: type, name: str, default: Any, **changes: Any) -> Any:
    """The option `name` of a base class again, with another default (and help, for example)."""
    declared = next(one for one in fields(base) if one.name == name)
    return field(default=default, metadata={"option": replace(declared.metadata["option"], **changes)})


def options_of(classes: Iterable[type]) -> dict[str, tuple[Option, Any]]:
    """The options of these dataclasses by field name, each with its default; the first class wins."""
    declared: dict[str, tuple[Option, Any]] = {}
    for one in classes:
        for each in _option_fields(one):
            declared.setdefault(each.name, (each.metadata["option"], each.default))
    return declared


def from_options(cls: type[T], values: Mapping[str, Any], **more: Any) -> T:
    """An instance of a dataclass out of the parsed values of its options, by field name, and `more` fields."""
    known = {each.name: values[each.name] for each in _option_fields(cls) if each.name in values}
    return cls(**{**known, **more})


def changed(classes: Iterable[type], values: Mapping[str, Any]) -> list[str]:
    """The names of the options of these dataclasses whose value is not the default."""
    return [name for name, (_, default) in options_of(classes).items() if name in values and values[name] != default]


def words_for_hosts(classes: Iterable[type], values: Mapping[str, Any]) -> tuple[str, ...]:
    """The options that are forwarded, as words of a command line again, where they differ from their defaults."""
    declared = options_of(classes)
    return tuple(
        word
        for name in changed(classes, values)
        if declared[name][0].on_hosts is OnHosts.FORWARDED
        for word in _words(declared[name][0], values[name])
    )


def words_again(classes: Iterable[type], values: Mapping[str, Any], besides: Sequence[str] = ()) -> tuple[str, ...]:
    """All options as words of a command line again, where they differ from their defaults, but for some names."""
    declared = options_of(classes)
    names = (name for name in changed(classes, values) if name not in besides)
    return tuple(word for name in names for word in _words(declared[name][0], values[name]))


def refuse_on_hosts(classes: Iterable[type], values: Mapping[str, Any]) -> None:
    """Raise ConfigurationError for an option that can't be used on another host."""
    declared = options_of(classes)
    for name in changed(classes, values):
        if declared[name][0].on_hosts is OnHosts.REFUSED:
            raise ConfigurationError(f"{declared[name][0].flag} {values[name]}: {OnHosts.REFUSED.value}")


def check_existing(declared: Mapping[str, tuple[Option, Any]], values: Mapping[str, Any]) -> None:
    """Raise ConfigurationError for a file or folder that an option names and that does not exist."""
    for name, (how, default) in declared.items():
        value = values.get(name)
        if how.exists and value is not None and value != default and not Path(value).exists():
            raise ConfigurationError(f"{value}: no such {how.exists}; {how.flag} names an existing one")


def _option_fields(cls: type) -> Iterator[Field[Any]]:
    for each in fields(cls):
        if "option" in each.metadata:
            assert each.default is not MISSING
            yield each


def _words(how: Option, value: Any) -> Iterator[str]:
    if how.many:
        yield from (f"{how.flag}={one}" for one in value)
    elif isinstance(value, bool) and how.bare is None:
        yield how.flag
    else:
        yield f"{how.flag}={str(value).lower() if isinstance(value, bool) else value}"


# --- values ---


def comma_separated(words: Sequence[str]) -> tuple[str, ...]:
    """The values in words that may each hold several with commas between."""
    return tuple(part for word in words for part in map(str.strip, word.split(",")) if part)


def whole_number(what: str, least: int, most: int | None = None) -> Callable[[str], int]:
    """A parser of whole numbers of something."""

    def parse(text: str) -> int:
        if text.isascii() and text.isdigit() and len(text) < 20 and least <= int(text) <= (most or int(text)):
            return int(text)
        limits = f"from {least} to {most}" if most else f"{least} or more"
        raise argparse.ArgumentTypeError(f"expected a number of {what}, {limits}, got {text[:60]!r}")

    return parse


def number(what: str, least: float, most: float) -> Callable[[str], float]:
    """A parser of numbers of something."""

    def parse(text: str) -> float:
        with suppress(ValueError):
            if least <= float(text) <= most:
                return float(text)
        raise argparse.ArgumentTypeError(
            f"expected a number of {what} from {least:g} to {most:.10g}, got {text[:60]!r}"
        )

    return parse


def time_limit(text: str) -> int | None:
    """Seconds; 0 is no limit. -1 is how madengine 2 writes an unset one."""
    if text == "-1":
        return None
    if not (text.isascii() and text.isdigit()) or len(text) > 9:
        raise argparse.ArgumentTypeError(f"expected a number of seconds (0 is no limit), got {text[:60]!r}")
    return int(text)


def yes_or_no(text: str) -> bool:
    """A truth value."""
    if text.strip().lower() not in ("true", "false", "yes", "no", "1", "0"):
        raise argparse.ArgumentTypeError(f"expected true or false, got {text[:60]!r}")
    return text.strip().lower() in ("true", "yes", "1")


def run_id(text: str) -> str:
    """The name of a run; it names a folder, containers and a label."""
    if text and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}", text):
        raise argparse.ArgumentTypeError(
            f"invalid run id {text[:60]!r}: expected a letter or digit, then up to 99 letters, digits, '-', '_' and '.'"
        )
    return text


def host_and_reason(text: str) -> tuple[str, str]:
    """A host and why it could not run."""
    host, equals, reason = text.partition("=")
    if not host or not equals or "/" in host:
        raise argparse.ArgumentTypeError(f"expected HOST=REASON, got {text[:60]!r}")
    return host, reason
