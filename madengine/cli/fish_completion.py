"""Completion for fish, out of the declarations of the options."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from madengine.config.option import Option

_HEAD = """\
function __madengine_is
    set -l words (commandline -opc)
    set -e words[1]
    test "$words" = "$argv"; or string match -q -- "$argv *" "$words"
end
function __madengine_words
    command madengine discover --format words 2>/dev/null
end
complete -c madengine -f
"""
#: What the value of an option is completed by, by the word that stands for it in the help.
_VALUES = {"TAG": "(__madengine_words)", "MODEL": "(__madengine_words)", "HOST": "(__fish_print_hostnames)"}
_FILES = ("FILE", "DIR", "RESULTS", "PATH")


def fish_script(options: Mapping[str, Sequence[Option]], descriptions: Mapping[str, str]) -> str:
    """Return the script that completes commands, options, and their values: models, tags, hosts, files and choices."""
    lines = [*_commands(options, descriptions)]
    lines += [_line(name, option) for name, declared in options.items() for option in declared]
    return _HEAD + "\n".join(lines) + "\n"


def _commands(options: Mapping[str, Sequence[Option]], descriptions: Mapping[str, str]) -> Iterator[str]:
    for name, description in descriptions.items():
        yield f"complete -c madengine -n __fish_use_subcommand -a {_quoted(name)} -d {_quoted(description)}"
    for name in options:
        verb, _, second = name.partition(" ")
        if second:
            yield f"complete -c madengine -n {_quoted(f'__madengine_is {verb}')} -a {_quoted(second)}"


def _line(name: str, option: Option) -> str:
    spellings = [
        f"-l {_quoted(flag[2:])}" if flag.startswith("--") else f"-s {flag[1:]}"
        for flag in option.flags
        if flag.startswith("-")
    ]
    words = ["complete -c madengine -n", _quoted(f"__madengine_is {name}"), *spellings, *_value(option)]
    return " ".join([*words, "-d", _quoted(option.help.replace("%%", "%"))])


def _value(option: Option) -> Iterator[str]:
    is_option = option.flag.startswith("-")
    if option.choices:
        yield f"{'-x ' if is_option else ''}-a {_quoted(' '.join(option.choices))}"
    elif option.metavar in _VALUES:
        yield f"{'-x ' if is_option else ''}-a {_quoted(_VALUES[option.metavar])}"
    elif option.metavar in _FILES:
        yield "-r -F" if is_option else "-F"
    elif option.metavar:
        yield "-x"


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"
