from __future__ import annotations

import pytest

from madengine.build.dockerfiles import declared_args, takes_secrets
from madengine.build.instructions import parse, without_triggers


def read(text: str) -> list[tuple[str, str]]:
    return [(instruction.name, instruction.arguments) for instruction in parse(text).instructions]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("FROM a", [("FROM", "a")]),
        ("  from\ta  \n\n# RUN x\n  # RUN y\nRun  b", [("FROM", "a"), ("RUN", "b")]),
        ("FROM a\r\nRUN b \\\r\n  c\r\n", [("FROM", "a"), ("RUN", "b   c")]),
        ("\ufeffFROM a", [("FROM", "a")]),
        ("FROM \\\n  a", [("FROM", "a")]),
        ("RUN a \\\n# comment\n  # comment\n\n   \n&& b\nFROM c", [("RUN", "a && b"), ("FROM", "c")]),
        ("RUN a \\  \n b", [("RUN", "a  b")]),
        ("RUN a \\\\\nFROM b", [("RUN", "a \\\\"), ("FROM", "b")]),
        ("# a comment \\\nFROM b", [("FROM", "b")]),
        ("RUN a \\", [("RUN", "a")]),
        ("\\\nFROM a", [("FROM", "a")]),
        ("# escape=`\nRUN dir C:\\\nFROM `\nb", [("RUN", "dir C:\\"), ("FROM", "b")]),
        ("# syntax=x/y:1\n#Escape = `\nFROM `\nb", [("FROM", "b")]),
        ("# CONTEXT {}\n# escape=`\nFROM \\\nb", [("FROM", "b")]),
        ("\n# escape=`\nFROM \\\nb", [("FROM", "b")]),
        ("FROM a\nRUN <<EOF\nFROM b\nEOF\nRUN c", [("FROM", "a"), ("RUN", "<<EOF"), ("RUN", "c")]),
        ("RUN <<-'EOF' cat\nFROM b\n\t\tEOF\nRUN c", [("RUN", "<<-'EOF' cat"), ("RUN", "c")]),
        ('COPY <<"A" <<B /x/\nFROM b\nB\nA\nFROM c\nB\nRUN c', [("COPY", '<<"A" <<B /x/'), ("RUN", "c")]),
        ("RUN 3<<EOF cat \\\n  <&3\n# FROM b\nFROM b \\\nEOF\nRUN c", [("RUN", "3<<EOF cat   <&3"), ("RUN", "c")]),
        ("ONBUILD RUN <<EOF\nFROM b\nEOF\nRUN c", [("ONBUILD", "RUN <<EOF"), ("RUN", "c")]),
        ('RUN ["cat", "<<EOF"]\nFROM b', [("RUN", '["cat", "<<EOF"]'), ("FROM", "b")]),
        ("RUN cat <<<EOF\nFROM b", [("RUN", "cat <<<EOF"), ("FROM", "b")]),
        ("RUN echo '<<EOF' \"x <<EOF\" $((1 << 2)) a<<EOF\nFROM b", [
            ("RUN", "echo '<<EOF' \"x <<EOF\" $((1 << 2)) a<<EOF"), ("FROM", "b"),
        ]),
        ("ENV X=<<EOF\nFROM b", [("ENV", "X=<<EOF"), ("FROM", "b")]),
        ("FROM --platform=linux/amd64 a AS b", [("FROM", "a AS b")]),
        ("RUN", [("RUN", "")]),
        ("RUN a\x0bb\x85c\u2028d\re", [("RUN", "a\x0bb\x85c\u2028d\re")]),
    ],
)  # fmt: skip
def test_a_dockerfile_is_read_as_its_reference_says(text: str, expected: list[tuple[str, str]]) -> None:
    assert read(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("RUN --mount=type=secret,id=x cat", True),
        ("RUN --network=none \\\n --mount=id=x,type=secret \\\n cat", True),
        ("ONBUILD RUN --mount=type=secret,id=x cat", True),
        ("# RUN --mount=type=secret,id=x cat", False),
        ("RUN echo --mount=type=secret,id=x", False),
        ("RUN --mount=type=cache,id=type=secret cat", False),
        ("RUN <<EOF\nRUN --mount=type=secret,id=x cat\nEOF", False),
    ],
)
def test_a_dockerfile_takes_secrets_where_a_step_mounts_one(text: str, expected: bool) -> None:
    assert takes_secrets(text) is expected


def test_every_name_of_an_arg_is_a_build_argument() -> None:
    text = "ARG A\nFROM a\narg B=1 C='x y' \\\n D\nRUN echo \\\nARG E\nONBUILD ARG F"
    assert declared_args(text) == ["A", "B", "C", "D", "F"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("FROM a\nRUN b\n", "FROM a\nRUN b\n"),
        ("FROM a\nONBUILD RUN b\nRUN c", "FROM a\nRUN c"),
        ("FROM a\r\nonbuild RUN b \\\r\n  # why\r\n  && d\r\nRUN c\r\n", "FROM a\r\nRUN c\r\n"),
        ("FROM a\nONBUILD RUN <<E\nONBUILD RUN x\nE\nRUN c\n", "FROM a\nRUN c\n"),
        ("FROM a\nRUN <<E\nONBUILD RUN x\nE\n", "FROM a\nRUN <<E\nONBUILD RUN x\nE\n"),
        ("FROM a AS b\nONBUILD RUN c\nFROM b\nONBUILD RUN d\n", "FROM a AS b\nONBUILD RUN c\nFROM b\n"),
        ("FROM a AS b\nONBUILD RUN c\nFROM b\n", "FROM a AS b\nONBUILD RUN c\nFROM b\n"),
        ("\ufeffFROM a\nONBUILD RUN b\n", "\ufeffFROM a\n"),
    ],
)
def test_triggers_of_the_last_stage_are_taken_out(text: str, expected: str) -> None:
    assert without_triggers(text) == expected
