"""Errors that a user can fix, each one line; the class decides the command's exit code."""

from __future__ import annotations

import re

EXIT_DONE = 0
EXIT_FAILURE = 1
EXIT_BUILD_FAILED = 2
EXIT_RUN_FAILED = 3
EXIT_CONFIGURATION = 4
EXIT_WORSE = 5
EXIT_INTERRUPTED = 130

#: characters; what a message repeats may be megabytes
MESSAGE_LIMIT = 4000
# Control characters, line separators, half characters, and what changes the direction of text.
_UNPRINTABLE = re.compile("[\0-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\u200e\u200f\u202a-\u202e\u2066-\u2069]")


class MadengineError(Exception):
    """Something that the user can fix: one lower-case line with the value in it and what to do next.

    Lines of the message are joined, its control characters become escapes, and the middle of a long one is left out.
    """

    exit_code = EXIT_FAILURE

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))


def one_line(message: str) -> str:
    """Return a message in one line of at most MESSAGE_LIMIT characters, its control characters as escapes."""
    if len(message) > MESSAGE_LIMIT:
        message = f"{message[: MESSAGE_LIMIT - 1000]} … {message[-900:]}"
    return escaped(" ".join(message.splitlines()), but="")


def escaped(text: str, but: str = "\n\t") -> str:
    """Return a text that does not control a terminal: its control characters become escapes, except those in `but`."""
    return _UNPRINTABLE.sub(lambda match: match[0] if match[0] in but else _escape(match[0]), text)


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode()


class DiscoveryError(MadengineError):
    """A model package that can't be read, or a tag that selects nothing."""


class EngineError(MadengineError):
    """No container engine, or one that doesn't answer.

    Attributes:
        fix: the command that gives the user access to it, if that is what is missing.
    """

    def __init__(self, message: str, fix: str = "") -> None:
        super().__init__(message)
        self.fix = fix


class ConfigurationError(MadengineError):
    """A wrong argument, context, credential or manifest."""

    exit_code = EXIT_CONFIGURATION


class BuildError(MadengineError):
    """An image that could not be built or pushed."""

    exit_code = EXIT_BUILD_FAILED


class RunError(MadengineError):
    """A model that could not be run."""

    exit_code = EXIT_RUN_FAILED


class CommandError(MadengineError):
    """A program that ended with an exit code that its caller did not expect."""

    def __init__(self, message: str, code: int | None = None, output: str = "") -> None:
        super().__init__(message)
        #: the program's exit code; None where it was ended at its time limit
        self.code = code
        #: what it printed (stderr, else stdout), redacted
        self.output = output
