from __future__ import annotations

import pytest

from madengine.errors import CommandError, ConfigurationError, MadengineError


@pytest.mark.parametrize(
    ("message", "line"),
    [
        ("a: b", "a: b"),
        ("a\nb\r\nc", "a b c"),
        ("\x1b[31mred\t\0", "\\x1b[31mred\\t\\x00"),
        ("caf\udce9 \ud800", "caf\\udce9 \\ud800"),
        ("left\u202eright\u200f", "left\\u202eright\\u200f"),
        ("é 日本 🙂", "é 日本 🙂"),
        ("", ""),
    ],
)
@pytest.mark.parametrize("kind", [MadengineError, ConfigurationError, CommandError])
def test_a_message_is_one_line_for_a_terminal(kind: type[MadengineError], message: str, line: str) -> None:
    assert str(kind(message)) == line


def test_a_message_does_not_repeat_megabytes() -> None:
    message = str(ConfigurationError("a.json: expected a number, got " + "x" * 5_000_000 + "; write one"))
    assert message.startswith("a.json: expected a number, got xxx")
    assert message.endswith("xxx; write one")
    assert len(message) < 4000
