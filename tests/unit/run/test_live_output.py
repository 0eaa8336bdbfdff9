"""What a model prints colours the terminal at most."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from madengine.run.live_output import LiveOutput


def shown(capfdbinary: pytest.CaptureFixture[bytes], *chunks: bytes) -> bytes:
    capfdbinary.readouterr()
    live = LiveOutput()
    for chunk in chunks:
        live(chunk)
    return capfdbinary.readouterr().err


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"a\tb\r50%\r\nc", b"a\tb\r50%\r\nc"),
        (b"\x1b[1;31mred\x1b[0m \x1b[38:5:1mx", b"\x1b[1;31mred\x1b[0m \x1b[38:5:1mx"),
        (b"\x1b[2J", rb"\x1b[2J"),
        (b"\x1b]0;title\x07", rb"\x1b]0;title\x07"),
        (b"\x1bP1$r\x1b\\", rb"\x1bP1$r\x1b" + b"\\"),
        ("\x9b2J é \xff".encode(), rb"\x9b2J " + "é ÿ".encode()),
        (b"\xff\xfe\x00\x08", b"\xff\xfe\x00" + rb"\x08"),
    ],
)
def test_only_colours_pass(capfdbinary: pytest.CaptureFixture[bytes], text: bytes, expected: bytes) -> None:
    assert shown(capfdbinary, text) == expected
    assert shown(capfdbinary, *[text[at : at + 1] for at in range(len(text))]) == expected


@given(chunks=st.lists(st.binary(max_size=5) | st.sampled_from([b"\x1b", b"[", b"2J", b"31m", b"\xc2", b"\x9b"])))
def test_however_it_is_split_no_other_sequence_arrives(chunks: list[bytes]) -> None:
    written: list[bytes] = []

    class Buffer:
        write = staticmethod(written.append)

        @staticmethod
        def flush() -> None:
            pass

    class Stderr:
        buffer = Buffer

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.stderr", Stderr)
        live = LiveOutput()
        for chunk in chunks:
            live(chunk)
    text = b"".join(written)
    for part in text.split(b"\x1b")[1:]:
        assert part.startswith(b"[") and part.lstrip(b"[0123456789;:").startswith(b"m")
    assert b"\xc2\x9b" not in text
