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
