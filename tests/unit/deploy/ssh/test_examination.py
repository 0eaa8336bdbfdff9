"""What a node says of itself."""

from __future__ import annotations

import json

import pytest

from madengine.deploy.ssh.examination import Examination, parse_examination
from madengine.deploy.ssh.transfer import UnusableError

GOOD = {
    "python": "3.11.2",
    "machine": "boot net",
    "has": ["madengine.pyz"],
    "free_bytes": 10**9,
    "port_problem": "",
    "has_images": True,
}


def test_the_last_line_counts_whatever_a_login_prints_before() -> None:
    output = f"Welcome to {{host}}!\n[1]\n{{}}\n{json.dumps(GOOD)}\n"
    assert parse_examination(output) == Examination("3.11.2", "", "boot net", ("madengine.pyz",), 10**9, "", True)


@pytest.mark.parametrize("output", ["", "bash: python3: command not found", "[" * 200_000, '{"python": NaN}', "null"])
def test_another_answer_is_none(output: str) -> None:
    assert parse_examination(output) is None


@pytest.mark.parametrize(
    ("field", "value", "problem"),
    [
        ("python", 3, "python: expected str, got '3'"),
        ("has", "madengine.pyz", "has: expected list, got 'madengine.pyz'"),
        ("has", [1], "has: expected a list of strings"),
        ("free_bytes", "many", "free_bytes: expected int, got 'many'"),
        ("free_bytes", True, "free_bytes: expected int, got 'True'"),
        ("has_images", "yes", "has_images: expected bool, got 'yes'"),
        ("problem", {}, "problem: expected str, got '{}'"),
    ],
)
def test_a_value_of_another_type_is_refused(field: str, value: object, problem: str) -> None:
    with pytest.raises(UnusableError) as error:
        parse_examination(json.dumps({**GOOD, field: value}))
    assert str(error.value) == f"the host's answer is unusable: {problem}"


@pytest.mark.parametrize(("python", "version"), [("3.9.1", (3, 9)), ("3.x", (3,)), ("٣.٤", ()), ("", ())])
def test_a_version_is_compared_as_numbers(python: str, version: tuple[int, ...]) -> None:
    assert Examination(python).version == version
