"""Shell completion, out of the declarations of the options."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence

from madengine.config.option import Option

_ZSH = "autoload -U +X bashcompinit && bashcompinit\n"
_SCRIPT = """\
# compgen expands its words: a name with anything else in it could be a command.
_madengine_plain() {{
  grep -x '[A-Za-z0-9._/:@-]*' || true
}}
_madengine_ssh_hosts() {{
  sed -n 's/^[[:space:]]*[Hh]ost[[:space:]=]\\+//p' ~/.ssh/config 2>/dev/null | tr ' ' '\\n' | grep -v '[*?!]' || true
}}
_madengine() {{
  local word=${{COMP_WORDS[COMP_CWORD]}} previous=${{COMP_WORDS[COMP_CWORD - 1]}} words=''
  local verb=${{COMP_WORDS[1]}}
  [[ $verb != generate ]] || verb="generate ${{COMP_WORDS[2]}}"
  case $COMP_CWORD:$verb in
    1:*) words={verbs} ;;
    2:generate*) words={tools} ;;
{cases}
  esac
  case $verb:$previous in
{values}
{models}) words=$(madengine discover --format words 2>/dev/null | _madengine_plain) ;;
{hosts}) words=$( (compgen -A hostname; _madengine_ssh_hosts) | _madengine_plain) ;;
  esac
  if [[ $word == -* || -n $words && $COMP_CWORD -le 2 || $words != *--* ]]; then
    COMPREPLY=($(compgen -W "$words" -- "$word")) || true
  fi
}}
complete -o default -F _madengine madengine
"""


def completion_script(shell: str, options: Mapping[str, Sequence[Option]]) -> str:
    """Return the script for bash or zsh: commands, options, and their values: models, tags, hosts, files and choices.

    `options` has them by command: `run`, `generate k8s`.
    """
    script = _SCRIPT.format(
        verbs=_quoted(dict.fromkeys(name.partition(" ")[0] for name in options)),
        tools=_quoted(name.partition(" ")[2] for name in options if name.startswith("generate ")),
        cases="\n".join(f"    *:{shlex.quote(name)}) words={_quoted(_flags(options[name]))} ;;" for name in options),
        values="\n".join(line for name in options for line in _values(name, options[name])),
        models=_patterns(options, "TAG"),
        hosts=_patterns(options, "HOST"),
    )
    return _ZSH + script if shell == "zsh" else script


def _patterns(options: Mapping[str, Sequence[Option]], metavar: str) -> str:
    """Return a pattern of the flags that take such a value."""
    flags = {flag for declared in options.values() for one in declared if one.metavar == metavar for flag in one.flags}
    return "    " + " | ".join(f"*:{flag}" for flag in sorted(flags) if flag.startswith("-"))


def _flags(options: Iterable[Option]) -> Iterator[str]:
    return (flag for option in options for flag in option.flags if flag.startswith("--"))


def _values(name: str, options: Iterable[Option]) -> Iterator[str]:
    for option in options:
        if option.choices:
            patterns = " | ".join(f"{shlex.quote(name)}:{flag}" for flag in option.flags)
            yield f"    {patterns}) words={_quoted(option.choices)} ;;"


def _quoted(words: Iterable[str]) -> str:
    return shlex.quote(" ".join(words))
