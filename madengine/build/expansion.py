"""The variables in a Dockerfile's words, as BuildKit expands them: `$A`, `${A:-b}`, quotes, escapes, patterns."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

_NAME = re.compile(r"[A-Za-z_][A-Za-z_0-9]*|[0-9]+|[@*#?$!-]")
_OPERATOR = re.compile(r":[-+?]|[-+?]|##|#|%%|%|//|/")


def expand(word: str, values: Mapping[str, str], escape: str = "\\") -> str:
    """Return a word without its quotes and with its variables replaced; one without a value is empty."""
    return _Reader(word, values, escape).text_until("")


def words(text: str, escape: str = "\\") -> Iterator[str]:
    """Yield the words of an instruction's arguments, with their quotes."""
    escaped = re.escape(escape)
    pattern = rf"""(?:{escaped}.|"(?:{escaped}.|[^"])*"|'[^']*'|[^\s"'])+"""
    return (match[0] for match in re.finditer(pattern, text, re.DOTALL))


@dataclass
class _Reader:
    """Reads a word from left to right."""

    word: str
    values: Mapping[str, str]
    escape: str
    position: int = 0

    def text_until(self, end: str) -> str:
        """Return what comes before the character `end`, expanded, and skip that character."""
        parts = []
        while (character := self._next()) not in ("", end):
            parts.append(self._expanded(character))
        return "".join(parts)

    def _expanded(self, character: str) -> str:
        if character == "$":
            return self._variable()
        if character == "'":
            text, _, _ = self.word[self.position :].partition("'")
            self.position += len(text) + 1
            return text
        if character == '"':
            return self._double_quoted()
        return self._next() if character == self.escape else character

    def _double_quoted(self) -> str:
        parts = []
        while (character := self._next()) not in ("", '"'):
            if character == self.escape and self._peek() in ('"', "$", self.escape):
                parts.append(self._next())
            else:
                parts.append(self._variable() if character == "$" else character)
        return "".join(parts)

    def _variable(self) -> str:
        if self._peek() != "{":
            name = self._match(_NAME)
            return self.values.get(name, "") if name else "$"
        self.position += 1
        name, operator = self._match(_NAME), self._match(_OPERATOR)
        if operator.startswith("/"):
            pattern, replacement = self._pattern_until("/"), self.text_until("}")
            count = 0 if operator == "//" else 1
            return re.sub(_shell_pattern(pattern), lambda _: replacement, self.values.get(name, ""), count=count)
        if operator[:1] in ("#", "%"):
            return _trimmed(self.values.get(name, ""), operator, self._pattern_until("}"))
        return self._with_default(name, operator, self.text_until("}"))

    def _with_default(self, name: str, operator: str, word: str) -> str:
        value = self.values.get(name, "")
        is_set = bool(value) if operator.startswith(":") else name in self.values
        if operator.endswith("-"):
            return value if is_set else word
        return (word if is_set else "") if operator.endswith("+") else value

    def _pattern_until(self, end: str) -> str:
        """Return what comes before the character `end`, expanded but for escapes, and skip that character."""
        parts = []
        while (character := self._next()) not in ("", end):
            parts.append(character + self._next() if character == self.escape else self._expanded(character))
        return "".join(parts)

    def _match(self, pattern: re.Pattern[str]) -> str:
        match = pattern.match(self.word, self.position)
        if not match:
            return ""
        self.position = match.end()
        return match[0]

    def _peek(self) -> str:
        return self.word[self.position : self.position + 1]

    def _next(self) -> str:
        character = self._peek()
        self.position += 1
        return character


def _trimmed(value: str, operator: str, pattern: str) -> str:
    """Take the shortest or longest (`##`, `%%`) match of a pattern from the front (`#`) or the end (`%`)."""
    expression = re.compile(_shell_pattern(pattern), re.DOTALL)
    cuts = range(len(value) + 1)
    if operator.startswith("#"):
        ends = reversed(cuts) if operator == "##" else cuts
        return next((value[end:] for end in ends if expression.fullmatch(value[:end])), value)
    starts = cuts if operator == "%%" else reversed(cuts)
    return next((value[:start] for start in starts if expression.fullmatch(value[start:])), value)


def _shell_pattern(pattern: str) -> str:
    """Return a regular expression for a pattern with `*` and `?`."""
    wild = {"*": ".*", "?": "."}
    return "".join(
        wild.get(part) or re.escape(part[1:] if part.startswith("\\") and len(part) > 1 else part)
        for part in re.findall(r"\\.|.", pattern, re.DOTALL)
    )
