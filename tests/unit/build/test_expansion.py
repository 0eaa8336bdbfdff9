"""Words as BuildKit's own tests expand them (frontend/dockerfile/shell/envVarTest and docs)."""

from __future__ import annotations

import pytest

from madengine.build.expansion import expand, words

VALUES = {"A": "a", "EMPTY": "", "PATH_": "foo.bar.baz", "V": "22.04", "TREE": "/usr/local/lib", "X9": "nine"}


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("plain", "plain"),
        ("$A", "a"),
        ("${A}b", "ab"),
        ("$X9-$Ab", "nine-"),
        ("$A.$V", "a.22.04"),
        ("$", "$"),
        ("a$", "a$"),
        ("${A:-x}${EMPTY:-x}${NONE:-x}", "axx"),
        ("${A-x}${EMPTY-x}${NONE-x}", "ax"),
        ("${A:+x}${EMPTY:+x}${NONE:+x}", "x"),
        ("${A+x}${EMPTY+x}${NONE+x}", "xx"),
        ("${A:?x}${A?x}", "aa"),
        ("${NONE:-${ALSO:-$V}}", "22.04"),
        ("${NONE:-'$V'}", "$V"),
        ("${NONE:-a}b}", "ab}"),
        ("'$A'", "$A"),
        ('"$A"', "a"),
        ("\"'$A'\"", "'a'"),
        ("'\"'", '"'),
        (r"\$A", "$A"),
        (r'"\$A\x\""', r'$A\x"'),
        (r"a\b", "ab"),
        ("$$", ""),
        ("${PATH_#*.}", "bar.baz"),
        ("${PATH_##*.}", "baz"),
        ("${PATH_%.*}", "foo.bar"),
        ("${PATH_%%.*}", "foo"),
        ("${PATH_#f?o}", ".bar.baz"),
        (r"${PATH_#\*}", "foo.bar.baz"),
        ("${PATH_/b/x}", "foo.xar.baz"),
        ("${PATH_//b/$A}", "foo.aar.aaz"),
        ("${TREE//\\//-}", "-usr-local-lib"),
    ],
)
def test_a_word_is_expanded(word: str, expected: str) -> None:
    assert expand(word, VALUES) == expected


def test_the_escape_character_is_the_files_own() -> None:
    assert expand(r"C:\$A`$A", VALUES, escape="`") == r"C:\a$A"


def test_words_keep_their_quotes() -> None:
    assert list(words("""a "b c" d='e f'g\t\\ h""")) == ["a", '"b c"', "d='e f'g", "\\ h"]
