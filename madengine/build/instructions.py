"""A Dockerfile's text as instructions, read as BuildKit reads it: https://docs.docker.com/reference/dockerfile/"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from madengine.build.expansion import expand, words

_DIRECTIVE = re.compile(r"#\s*([A-Za-z][A-Za-z0-9]*)\s*=\s*(.+?)\s*$")
_FLAG = re.compile(r"""(--(?:"[^"]*"|'[^']*'|\S)+)\s*""")
_HERE_DOCUMENT = re.compile(r"\d*<<(-?)([^<]+)")
_TAKE_HERE_DOCUMENTS = ("ADD", "COPY", "RUN")


@dataclass(frozen=True)
class Instruction:
    """One instruction, its continued lines joined."""

    #: In upper case, such as FROM.
    name: str
    #: Those before the arguments, such as --platform=linux/amd64.
    flags: tuple[str, ...]
    arguments: str
    #: Its first line's number, from 0, and that of the line after its last.
    lines: tuple[int, int] = field(default=(0, 0), repr=False, compare=False)

    @property
    def own(self) -> Instruction:
        """The instruction that an ONBUILD holds; itself for any other."""
        return _instruction(self.arguments) if self.name == "ONBUILD" and self.arguments else self


@dataclass(frozen=True)
class Dockerfile:
    """What a Dockerfile consists of."""

    #: The character that continues a line and escapes another: a backslash, unless `# escape=` says otherwise.
    escape: str
    instructions: Sequence[Instruction]


def parse(text: str) -> Dockerfile:
    """Return the instructions of a Dockerfile's text; comments and contents of here-documents are none."""
    lines = [line.removesuffix("\r") for line in text.removeprefix("\ufeff").split("\n")]
    escape = _escape(lines)
    return Dockerfile(escape, tuple(_instructions(_Lines(lines), escape)))


def without_triggers(text: str) -> str:
    """Return a Dockerfile's text without the ONBUILD instructions of its last stage; the text itself if it has none."""
    instructions = parse(text).instructions
    last_stage = max((index for index, one in enumerate(instructions) if one.name == "FROM"), default=0)
    triggers = [one.lines for one in instructions[last_stage:] if one.name == "ONBUILD"]
    lines = re.split(r"(?<=\n)", text) if triggers else []
    dropped = {number for first, end in triggers for number in range(first, end)}
    return "".join(line for number, line in enumerate(lines) if number not in dropped) or text


class _Lines(Iterator[str]):
    """Lines, and how many of them have been taken."""

    def __init__(self, lines: Sequence[str]) -> None:
        self._lines = lines
        self.position = 0

    def __next__(self) -> str:
        if self.position == len(self._lines):
            raise StopIteration
        self.position += 1
        return self._lines[self.position - 1]


def _escape(lines: Sequence[str]) -> str:
    """Return what the directives at the top of the file say; any other line ends them."""
    for line in lines:
        directive = _DIRECTIVE.match(line.lstrip())
        if not directive:
            break
        if directive[1].lower() == "escape":
            return directive[2]
    return "\\"


def _instructions(lines: _Lines, escape: str) -> Iterator[Instruction]:
    for line in lines:
        first = lines.position - 1
        joined = _joined(line, lines, escape).strip()
        if joined:
            instruction = _instruction(joined)
            _skip_here_documents(instruction.own, lines, escape)
            yield replace(instruction, lines=(first, lines.position))


def _joined(first: str, lines: Iterator[str], escape: str) -> str:
    """Return a line with those that continue it, taken from `lines`; empty for a comment."""
    if first.lstrip().startswith("#"):
        return ""
    continued = re.compile(rf"(?<!{re.escape(escape)}){re.escape(escape)}[ \t]*$")
    text = continued.sub("", first)
    is_continued = text != first
    while is_continued:
        line = next(lines, None)
        if line is None:
            break
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        text += continued.sub("", line)
        is_continued = bool(continued.search(line))
    return text


def _instruction(line: str) -> Instruction:
    name, _, rest = re.sub(r"\s+", " ", line, count=1).strip().partition(" ")
    flags = []
    rest = rest.lstrip()
    while flag := _FLAG.match(rest):
        flags.append(flag[1])
        rest = rest[flag.end() :]
    return Instruction(name.upper(), tuple(flags), rest)


def _skip_here_documents(instruction: Instruction, lines: Iterator[str], escape: str) -> None:
    if instruction.name not in _TAKE_HERE_DOCUMENTS or _is_json(instruction.arguments):
        return
    for word in words(instruction.arguments, escape):
        match = _HERE_DOCUMENT.fullmatch(word)
        end = expand(match[2], {}) if match else ""
        if match and end:
            next((line for line in lines if (line.lstrip("\t") if match[1] else line) == end), None)


def _is_json(arguments: str) -> bool:
    try:
        return isinstance(json.loads(arguments), list)
    except ValueError:
        return False
