"""Shell completion, out of the declarations of the options."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from madengine.cli.commands import VERBS
from madengine.cli.options import MessageOptions
from madengine.cli.parser import DESCRIPTIONS, GENERATORS
from madengine.config.option import Option, options_of

_ZSH = "autoload -U +X bashcompinit && bashcompinit\n"
_SCRIPT = """\
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
  esac
  if [[ $word == -* || -n $words && $COMP_CWORD -le 2 || $words != *--* ]]; then
    COMPREPLY=($(compgen -W "$words" -- "$word")) || true
  fi
}}
complete -o default -F _madengine madengine
"""


def completion_script(shell: str) -> str:
    """Return the script that completes verbs, options, and the values of options that have a fixed set of them."""
    script = _SCRIPT.format(
        verbs=_quoted([*DESCRIPTIONS]),
        tools=_quoted([*GENERATORS]),
        cases="\n".join(f"    *:{shlex.quote(name)}) words={_quoted(_flags(name))} ;;" for name in VERBS),
        values="\n".join(line for name in VERBS for line in _values(name)),
    )
    return _ZSH + script if shell == "zsh" else script


def _options(name: str) -> list[Option]:
    verb = VERBS[name]
    declared = options_of((*verb.options(), MessageOptions))
    return [option for key, (option, _) in declared.items() if key not in verb.without]


def _flags(name: str) -> list[str]:
    return [flag for option in _options(name) for flag in option.flags if flag.startswith("--")]


def _values(name: str) -> Iterator[str]:
    for option in _options(name):
        if option.choices:
            patterns = " | ".join(f"{shlex.quote(name)}:{flag}" for flag in option.flags)
            yield f"    {patterns}) words={_quoted(option.choices)} ;;"


def _quoted(words: list[str] | tuple[str, ...]) -> str:
    return shlex.quote(" ".join(words))
