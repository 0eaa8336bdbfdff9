"""The command line: options in, one command, exit code out."""

from __future__ import annotations

from madengine.cli import first_signals  # before all others

# isort: split
import atexit
import gc
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from madengine.cli.parser import command_parser, unknown_words
from madengine.cli.terminal import signals_interrupt
from madengine.errors import EXIT_FAILURE, EXIT_INTERRUPTED, ConfigurationError, MadengineError


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line; returns its exit code."""
    # Else the interpreter looks at every object once more before it ends, which takes as long as a program's start.
    atexit.register(gc.freeze)
    words = list(sys.argv[1:] if argv is None else argv)
    options, unknown = command_parser(words).parse_known_args(words)
    if unknown:
        options.parser.error(unknown_words(options.parser, unknown))
    from madengine.cli.logs import configure_logging, log_error, logger
    from madengine.cli.options import values_of
    from madengine.config.option import check_existing
    from madengine.process import remove_abandoned_folders

    configure_logging(options.verbosity, options.log_format)
    with signals_interrupt():
        try:
            _check_current_folder()
            values = values_of(options, options.declared)
            check_existing(options.declared, values)
            if options.verb.tidies:
                remove_abandoned_folders()
            with _live_view(values, options):
                code: int = options.verb.run(values)
        except MadengineError as error:
            log_error(error, options.verbosity)
            return error.exit_code
        except OSError as error:
            log_error(error, options.verbosity)
            return EXIT_FAILURE
        except (KeyboardInterrupt, RuntimeError) as error:
            if not _is_interrupt(error):
                raise
            logger.info("interrupted")
            # An interrupt inside an exec(), which creates dataclasses, would make the exit code the signal's; the
            # interpreter forgets it at the next one.
            exec("")
            return EXIT_INTERRUPTED
    return code


@contextmanager
def _live_view(values: Mapping[str, Any], options: Any) -> Iterator[None]:
    """Draw what the command does, where a person is looking; messages are above it, results after it."""
    if not sys.stderr.isatty():
        yield
        return
    from madengine.cli.live_view import live_view
    from madengine.cli.logs import log_above
    from madengine.cli.terminal import before_output

    with live_view({**values, "verbosity": options.verbosity, "log_format": options.log_format}) as view:
        log_above(view)
        if view:
            before_output.append(view.stop)
        try:
            yield
        finally:
            before_output.clear()
            log_above(None)


def _is_interrupt(error: BaseException) -> bool:
    """Whether it was Ctrl-C, which comes as a cause where it hits the creation of a class (before Python 3.12)."""
    return isinstance(error, KeyboardInterrupt) or isinstance(error.__cause__, KeyboardInterrupt)


def _check_current_folder() -> None:
    """Raise ConfigurationError if the current folder was removed, or can't be entered any more."""
    from pathlib import Path

    try:
        Path.cwd()
    except OSError as error:
        raise ConfigurationError(
            f"the current folder can't be used: {error.strerror}; cd to one that exists"
        ) from error


__all__ = ["first_signals", "main"]

if __name__ == "__main__":
    sys.exit(main())
