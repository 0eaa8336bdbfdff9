"""The parser: each command with its one-line description; the options of the one that is named are added to it.

Nothing heavy is imported before a command is named, so that --help and --version answer at once.
"""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from madengine import __version__
from madengine.cli.descriptions import DESCRIPTIONS, GENERATORS, REPORTERS
from madengine.cli.terminal import print_error
from madengine.errors import EXIT_CONFIGURATION, one_line

EXIT_CODES = (
    "exit codes: 0 done, 1 failure, 2 a build failed, 3 a run failed, 4 wrong arguments or configuration, "
    "5 something got worse, 130 interrupted"
)
_TOOLS = {"generate": GENERATORS, "report": REPORTERS}


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, with exit code 4."""

    def error(self, message: str) -> NoReturn:
        verb = self.prog.partition(" ")[2] or "madengine"
        print_error(f"{verb}: {one_line(message)}; see `{self.prog} --help`")
        sys.exit(EXIT_CONFIGURATION)


def command_parser(words: Sequence[str]) -> Parser:
    """The parser of these words: it knows every command, and the options of those that the words name."""
    parser = Parser(
        prog="madengine",
        description="Build the images of machine-learning models once, run them anywhere, collect the results.",
        epilog=EXIT_CODES,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"madengine {__version__}")
    commands = parser.add_subparsers(metavar="VERB", required=True, parser_class=Parser)
    for name, description in DESCRIPTIONS.items():
        tools = _TOOLS.get(name, {})
        # `report` also works on files, without a tool.
        if name == "generate" or (name in words and tools.keys() & set(words)):
            _add_tools(commands, name, description, tools, words)
        else:
            _add(commands, name, description, name in words)
    return parser


def _add_tools(commands: Any, verb: str, description: str, tools: Mapping[str, str], words: Sequence[str]) -> None:
    parser = commands.add_parser(verb, help=description, description=description, epilog=EXIT_CODES, allow_abbrev=False)
    subparsers = parser.add_subparsers(metavar="TOOL", required=True, parser_class=Parser)
    for name, text in tools.items():
        _add(subparsers, name, text, verb in words and name in words, f"{verb} {name}")


def _add(commands: Any, name: str, description: str, is_named: bool, verb_name: str = "") -> None:
    parser = commands.add_parser(name, help=description, description=description, epilog=EXIT_CODES, allow_abbrev=False)
    if not is_named:
        return
    from madengine.cli.commands import VERBS
    from madengine.cli.options import add_options

    verb = VERBS[verb_name or name]
    declared = add_options(parser, verb.options(), verb.without)
    parser.set_defaults(verb=verb, parser=parser, declared=declared)


def unknown_words(parser: argparse.ArgumentParser, words: Sequence[str]) -> str:
    """What is wrong with words that the parser doesn't know, with the closest option."""
    first = words[0].partition("=")[0]
    known = [name for action in parser._actions for name in action.option_strings]
    if not first.startswith("-"):
        hint = f" (did you mean --tags {' '.join(words)}?)" if "--tags" in known else ""
        return f"unexpected argument {' '.join(words)}{hint}"
    if first in known:
        return f"write {first} after the verb"
    close = difflib.get_close_matches(first, known, n=1, cutoff=0.75)
    return f"unknown option {' '.join(words)}" + (f" (did you mean {close[0]}?)" if close else "")
