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

# Control characters, line separators, half characters, and what changes the direction of text.
_UNPRINTABLE = re.compile("[\0-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\u200e\u200f\u202a-\u202e\u2066-\u2069]")


class MadengineError(Exception):
    """Something that the user can fix: one lower-case line with the value in it and what to do next.

    Lines of the message are joined, and its control characters become escapes.
    """

    exit_code = EXIT_FAILURE

    def __init__(self, message: str) -> None:
        super().__init__(_UNPRINTABLE.sub(_escape, " ".join(message.splitlines())))


def _escape(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape").decode()


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
