"""An option is declared once: the parser, the words for hosts and the checks follow from the declaration."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from madengine.config.option import (
    Group,
    OnHosts,
    changed,
    check_existing,
    comma_separated,
    from_options,
    inherited,
    number,
    option,
    options_of,
    refuse_on_hosts,
    run_id,
    time_limit,
    whole_number,
    words_for_hosts,
    yes_or_no,
)
from madengine.errors import ConfigurationError


@dataclass(frozen=True)
class Base:
    """Options of a test."""

    name: str = option("--name", "-n", default="x", group=Group.RUN, help="h", on_hosts=OnHosts.FORWARDED)
    quick: bool = option("--quick", default=False, group=Group.RUN, help="h", on_hosts=OnHosts.FORWARDED)
    check: bool = option("--no-check", default=True, group=Group.RUN, help="h", on_hosts=OnHosts.FORWARDED)
    describe: bool | None = option(
        "--describe", default=None, group=Group.RUN, help="h", bare=True, on_hosts=OnHosts.FORWARDED
    )
    tags: tuple[str, ...] = option(
        "--tags", default=(), group=Group.RUN, help="h", many=True, on_hosts=OnHosts.FORWARDED
    )
    file: Path | None = option(
        "--file", default=None, group=Group.RUN, help="h", on_hosts=OnHosts.REFUSED, exists="file"
    )
    local: int = option("--local", default=1, group=Group.RUN, help="h")
    not_an_option: bool = False


@dataclass(frozen=True)
class Other(Base):
    """One default is another."""

    name: str = inherited(Base, "name", "y", help="other")


DEFAULTS = {name: default for name, (_, default) in options_of((Base,)).items()}


def test_a_subclass_changes_a_default_and_a_help_and_keeps_the_flags() -> None:
    declared, default = options_of((Other,))["name"]
    assert (declared.flags, declared.help, default) == (("--name", "-n"), "other", "y")
    assert "not_an_option" not in options_of((Other,))


def test_values_become_an_instance_and_more_fields_are_passed_on() -> None:
    assert from_options(Other, {"name": "z", "stray": 1}, not_an_option=True) == Other(name="z", not_an_option=True)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({}, ()),
        ({"name": "a b"}, ("--name=a b",)),
        ({"name": ""}, ("--name=",)),
        ({"quick": True}, ("--quick",)),
        ({"check": False}, ("--no-check",)),
        ({"describe": False}, ("--describe=false",)),
        ({"describe": True}, ("--describe=true",)),
        ({"tags": ("a", "b")}, ("--tags=a", "--tags=b")),
        ({"local": 2}, ()),
    ],
)
def test_hosts_get_what_differs_from_its_default_and_is_theirs(values: dict[str, Any], words: tuple[str, ...]) -> None:
    assert words_for_hosts((Base,), {**DEFAULTS, **values}) == words
    assert changed((Base,), {**DEFAULTS, **values}) == list(values)


def test_what_no_host_can_use_is_refused_by_name(tmp_path: Path) -> None:
    refuse_on_hosts((Base,), DEFAULTS)
    with pytest.raises(ConfigurationError, match=r"^--file f\.json: can't be combined with --host$"):
        refuse_on_hosts((Base,), {**DEFAULTS, "file": Path("f.json")})


def test_a_file_has_to_exist_before_the_first_step(tmp_path: Path) -> None:
    (tmp_path / "there").touch()
    check_existing(options_of((Base,)), {**DEFAULTS, "file": tmp_path / "there"})
    check_existing(options_of((Base,)), DEFAULTS)
    with pytest.raises(ConfigurationError, match=r"none: no such file; --file names an existing one$"):
        check_existing(options_of((Base,)), {**DEFAULTS, "file": tmp_path / "none"})


@pytest.mark.parametrize(
    ("parse", "text", "value"),
    [
        (time_limit, "-1", None),
        (time_limit, "0", 0),
        (time_limit, "60", 60),
        (whole_number("x", 1), "12", 12),
        (number("x", 0, 10), "0.5", 0.5),
        (yes_or_no, " Yes ", True),
        (yes_or_no, "0", False),
        (run_id, "", ""),
        (run_id, "2026-01_a.b", "2026-01_a.b"),
    ],
)
def test_values_are_parsed(parse: Callable[[str], Any], text: str, value: Any) -> None:
    assert parse(text) == value


@pytest.mark.parametrize(
    ("parse", "text"),
    [
        (time_limit, "-2"),
        (time_limit, "1.5"),
        (time_limit, "\u0663"),
        (time_limit, "9" * 5000),
        (whole_number("x", 1), "0"),
        (whole_number("x", 1, 5), "6"),
        (whole_number("x", 1), "9" * 5000),
        (whole_number("x", 0), "-0"),
        (number("x", 0, 10), "nan"),
        (number("x", 0, 10), "inf"),
        (number("x", 0, 10), "11"),
        (yes_or_no, "maybe"),
        (run_id, "../x"),
        (run_id, "-x"),
        (run_id, "a" * 101),
    ],
)
def test_wrong_values_are_refused_in_one_short_line(parse: Callable[[str], Any], text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError) as refusal:
        parse(text)
    assert len(str(refusal.value)) < 200


def test_lists_may_be_separated_by_commas_and_words() -> None:
    assert comma_separated(["a,b", " c ", ",", "d, e"]) == ("a", "b", "c", "d", "e")
