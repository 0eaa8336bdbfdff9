"""Hypothesis strategies that several tests share."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

TEXTS = st.text(st.characters(), max_size=8)
NUMBERS = st.integers(-(10**20), 10**20) | st.floats(allow_nan=False, allow_infinity=False)
JSON = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)


@st.composite
def altered(draw: st.DrawFn, value: Any) -> Any:
    """A valid content with something else in one of its places, or beside them."""
    if draw(st.integers(0, 5)) == 0:
        return draw(JSON)
    if isinstance(value, dict) and value:
        key = draw(st.sampled_from(sorted(value)))
        extra = draw(st.dictionaries(TEXTS, JSON, max_size=1))
        return {**value, **extra, key: draw(altered(value[key]))}
    if isinstance(value, list) and value:
        return [*value[:-1], draw(altered(value[-1]))]
    return draw(JSON)


@st.composite
def altered_bytes(draw: st.DrawFn, content: bytes) -> bytes:
    """A valid content with some of its bytes replaced, repeated, left out or cut off."""
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(content)))
        end = draw(st.integers(start, min(len(content), start + 40)))
        odd = [b"", b"\0", b"\xff", b"\n", b'"', b",", b"-", b"9" * 400, b"1e999", b"NaN", b"[" * 99, b"\x1b[2J", b"{}"]
        middle = draw(st.sampled_from(odd) | st.binary(max_size=4) | st.just(content[start:end] * 3))
        content = content[:start] + middle + content[end:]
    return content[: draw(st.integers(0, len(content)))] if draw(st.integers(0, 4)) == 0 else content
