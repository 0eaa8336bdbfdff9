"""The state of a bisection: whole, and of this bisection only."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from madengine.bisect.options import BisectOptions
from madengine.bisect.report import as_json, as_table, is_decided
from madengine.bisect.search import BAD, GOOD, SKIPPED
from madengine.bisect.state import BisectState, Step, Version, load_state, save_state
from madengine.errors import ConfigurationError

EVIDENCE: dict[str, Any] = {
    "n": [8, 8],
    "median": [100.0, 90.0],
    "change_percent": -10.0,
    "interval_percent": [-11.0, None],
    "p": 0.0078,
    "differences": [{"column": "git_commit", "base": ["a" * 40], "new": ["\x1b[2J"]}],
}
STATE = BisectState(
    question={"good": "v1", "bad": "v2"},
    versions=(Version("a" * 40, "first"), Version("b" * 40, "\x1b[2Jx\ny"), Version("c" * 40, "last")),
    steps={0: Step(GOOD), 1: Step(SKIPPED, "build: exit code 1"), 2: Step(BAD, evidence=EVIDENCE)},
    series={"model": "m", "metric": "tokens/s"},
    threshold=5.0,
)


def test_a_state_is_read_back_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    assert load_state(path, STATE.question) is None
    save_state(path, STATE)
    assert load_state(path, STATE.question) == STATE
    assert [file.name for file in tmp_path.iterdir()] == ["state.json"]


def test_another_bisection_does_not_go_on_there(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    save_state(path, STATE)
    with pytest.raises(ConfigurationError, match="holds a bisection with other values of bad; name another"):
        load_state(path, {"good": "v1", "bad": "v3"})


@given(data=st.data())
def test_a_broken_state_is_one_line(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    path = tmp_path_factory.mktemp("state") / "state.json"
    save_state(path, STATE)
    document = json.loads(path.read_text())
    odd: Any = data.draw(st.sampled_from([None, [], 7, "x", {}, {"x": {}}, [7]]))
    place = data.draw(st.sampled_from([*document, ""]))
    path.write_text(json.dumps({**document, place: odd} if place else odd))
    try:
        load_state(path, STATE.question)
    except ConfigurationError as error:
        assert "state.json" in str(error)


def test_what_was_skipped_is_not_called_the_first_bad_version() -> None:
    assert not is_decided(STATE)
    assert (as_json(STATE)["first_bad"], as_json(STATE)["suspects"]) == (None, ["b" * 40, "c" * 40])
    text = as_table(STATE)
    assert "the first bad version is one of these, the others could not be tried:\n  bbb" in text
    assert "skipped: build: exit code 1" in text
    assert "\x1b" not in text


def test_the_first_bad_version_comes_with_its_evidence() -> None:
    decided = STATE.with_step(1, Step(GOOD, evidence=EVIDENCE))
    assert is_decided(decided)
    assert (as_json(decided)["first_bad"], as_json(decided)["last_good"]) == ("c" * 40, "b" * 40)
    text = as_table(decided)
    assert f"first bad version: {'c' * 40} last\n  last good version: {'b' * 40} " in text
    assert f"\n  git_commit {'a' * 40} -> " in text
    assert "\x1b" not in text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"good": "a"}, "name a version that is as it should be with --good"),
        ({"good": "a", "bad": "b", "values": ("a", "b")}, "--build-arg and --values"),
        ({"good": "a", "bad": "b", "build_arg": "X"}, "--build-arg and --values"),
        ({"good": "a", "bad": "c", "build_arg": "X", "values": ("a", "b")}, "expected 'c' once among them, got a b"),
        ({"good": "a", "bad": "b", "build_arg": "X", "values": ("a", "b", "a")}, "expected 'a' once"),
        ({"good": "b", "bad": "a", "build_arg": "X", "values": ("a", "b")}, "expected b before a"),
    ],
)
def test_options_that_make_no_bisection_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        BisectOptions(**options)
