from __future__ import annotations

import io
from typing import Any

import pytest

from madengine.config.log_errors import BENIGN, PATTERNS, LogErrors, log_errors, may_have_errors, unconfigured_errors
from madengine.errors import ConfigurationError

LOG = b"fine\nW FutureWarning: FAILED later\nRuntimeError: bad\nvalue 3 FAILED\n"


@pytest.mark.parametrize(
    ("entry", "context", "expected"),
    [
        ({}, {}, LogErrors()),
        ({"log_error_patterns": []}, {}, LogErrors()),
        ({"log_error_benign_patterns": ["x"]}, {}, LogErrors()),
        ({"log_error_patterns": ["a"]}, {}, LogErrors(("a",))),
        ({"log_error_patterns": ["a"]}, {"log_error_patterns": ["b"]}, LogErrors(("b",))),
        ({"log_error_patterns": ["a"]}, {"log_error_pattern_scan": False}, LogErrors()),
        ({"log_error_patterns": ["a"]}, {"log_error_pattern_scan": "0"}, LogErrors()),
        ({"log_error_pattern_scan": 1}, {}, LogErrors(PATTERNS, BENIGN)),
        (
            {"log_error_patterns": ["a"], "log_error_benign_patterns": ["x"]},
            {"log_error_benign_patterns": ["y"]},
            LogErrors(("a",), ("x", "y")),
        ),
    ],
)
def test_a_log_is_looked_at_only_where_that_is_asked_for(
    entry: dict[str, Any], context: dict[str, Any], expected: LogErrors
) -> None:
    assert log_errors(entry, context) == expected


@pytest.mark.parametrize(
    ("patterns", "benign", "reason"),
    [
        ((), (), ""),
        (("nothing",), (), ""),
        (("FAILED",), (), "log_error_patterns: 'FAILED' is in the log: W FutureWarning: FAILED later"),
        (("FAILED",), ("FutureWarning",), "log_error_patterns: 'FAILED' is in the log: value 3 FAILED"),
        (("Error:",), (), "log_error_patterns: 'Error:' is in the log: RuntimeError: bad"),
    ],
)
def test_the_first_line_that_is_an_error_is_the_reason(
    patterns: tuple[str, ...], benign: tuple[str, ...], reason: str
) -> None:
    assert LogErrors(patterns, benign).first_in(io.BytesIO(LOG)) == reason


def test_what_profilers_log_is_no_error_of_madengine_2s_list() -> None:
    errors = log_errors({"log_error_pattern_scan": True}, {})
    assert errors.first_in(io.BytesIO(b"E20260101 x generateRocpd.cpp:12 FAILED\n[rocprofv3] FAILED\n")) == ""
    assert errors.first_in(io.BytesIO(b"step FAILED\n")) != ""


@pytest.mark.parametrize("value", ["x", [3], [""]])
def test_what_is_no_list_of_texts_is_refused(value: Any) -> None:
    with pytest.raises(ConfigurationError, match="log_error_patterns: expected a list of strings such as"):
        log_errors({"log_error_patterns": value}, {})


@pytest.mark.parametrize(
    ("entry", "context", "expected"),
    [
        ({}, {}, LogErrors(PATTERNS, BENIGN)),
        ({"log_error_benign_patterns": ["x"]}, {}, LogErrors(PATTERNS, ("x", *BENIGN))),
        ({"log_error_pattern_scan": False}, {}, LogErrors()),
        ({}, {"log_error_pattern_scan": True}, LogErrors()),
        ({}, {"log_error_patterns": ["x"]}, LogErrors()),
    ],
)
def test_madengine_2_searches_where_nothing_is_set(
    entry: dict[str, Any], context: dict[str, Any], expected: LogErrors
) -> None:
    assert unconfigured_errors(entry, context) == expected


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("before", [0, (1 << 20) - 3])
def test_no_pattern_of_madengine_2_is_missed_by_the_fast_look(pattern: str, before: int) -> None:
    assert may_have_errors(io.BytesIO(b"x" * before + pattern.encode() + b"\n"))
    assert not may_have_errors(io.BytesIO(b"x" * before + b"a warning of an error that failed\n"))
