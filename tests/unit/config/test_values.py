from __future__ import annotations

from typing import Any

import pytest

from madengine.config.values import check_value, expected, is_passable, kind_of, place, shown
from madengine.errors import ConfigurationError


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "null"),
        (True, "true"),
        (3, "3"),
        ("a'b", '"a\'b"'),
        ([1, "x"], '[1, "x"]'),
        ({"a": {2}}, '{"a": "a Python set"}'),
        ("x" * 58, "'" + "x" * 58 + "'"),
        ("x" * 59, "'" + "x" * 57 + "…'"),
        ([0] * 50, "[" + "0, " * 19 + "…"),
        ("\n\0é", "'\\n\\x00é'"),
        pytest.param(10**5000, "a number", id="too large a number"),
        pytest.param({1: "x", (2, 3): 1}, "an object", id="keys that JSON doesn't have"),
    ],
)
def test_a_value_is_shown_as_far_as_sixty_characters(value: Any, text: str) -> None:
    assert shown(value) == text
    assert len(text) <= 60


def test_an_error_says_the_place_what_is_expected_and_what_there_is() -> None:
    assert str(expected(place("m.json", "a", "b"), "a string", 3)) == "m.json: a.b: expected a string, got 3"
    assert str(expected(place("m.json"), "a string", 3)) == "m.json: expected a string, got 3"
    assert len(place("m.json", "x" * 5000, "y")) < 75


@pytest.mark.parametrize(
    ("value", "kind"),
    [(None, "null"), (False, "true/false"), (1.5, "a number"), ("", "a string"), ({}, "an object"), ((), "a list")],
)
def test_kinds_have_the_names_of_json(value: Any, kind: str) -> None:
    assert kind_of(value) == kind


@pytest.mark.parametrize(("text", "passable"), [("é", True), ("caf\udce9", True), ("\ud800", False), ("a\0", False)])
def test_a_byte_of_a_files_name_is_passable_and_half_a_character_is_not(text: str, passable: bool) -> None:
    assert is_passable(text) is passable


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"a": ["\0"]}, "w: a.0: contains a null character or a lone surrogate; remove it"),
        ({"a": {"\0": 1}}, "w: a: the key '\\x00' contains a null character or a lone surrogate; remove it"),
        ({"a": {2: 1}}, "w: a: expected a string as key, got 2; put it in quotes"),
        ({"k" * 1001: 1}, "w: the key '" + "k" * 57 + "…' is too long, expected at most 1000 characters"),
    ],
)
def test_what_can_not_be_passed_on_is_refused_with_its_place(value: Any, message: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        check_value(value, "w")
    assert str(caught.value) == message
