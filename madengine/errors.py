"""What a user can mend, said in one line; each error knows the exit code of its kind."""

from __future__ import annotations

EXIT_DONE = 0
EXIT_FAILURE = 1
EXIT_BUILD_FAILED = 2
EXIT_RUN_FAILED = 3
EXIT_CONFIGURATION = 4
EXIT_WORSE = 5
EXIT_INTERRUPTED = 130


class MadengineError(Exception):
    """Something that the user can mend: one lower-case line with the value in it and what to do next."""

    exit_code = EXIT_FAILURE


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
    """A program that ended with an exit code that its caller did not expect.

    Attributes:
        code: the program's exit code; None where it was ended at its time limit.
        output: what it printed (stderr, else stdout), redacted.
    """

    def __init__(self, message: str, code: int | None = None, output: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.output = output
