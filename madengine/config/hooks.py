"""What runs before, around and after a model's script: the context's hooks and tools, as one value."""

from __future__ import annotations

import difflib
import functools
import json
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from madengine.config.artifacts import patterns
from madengine.config.context import Context
from madengine.config.package import template, template_names
from madengine.errors import ConfigurationError
from madengine.files import read_json

# How long one of them may take, in seconds; entry.sh keeps to it.
SECONDS = 600
# Where the runner leaves what entry.sh needs for them, below the workspace.
HOOKS_FOLDER = ".hooks"
# The line of the log after which the script's own output comes, and not a pre-script's.
SCRIPT_MARK = "entry.sh: script"
# A package's own definitions, and its scripts for them.
TOOLS_FILE = "scripts/common/tools.json"
SHARED_SCRIPTS = "scripts/common"
# Where the scripts of the catalogue that comes with madengine are in a container; a package has its own beside it.
_SHIPPED = f"{SHARED_SCRIPTS}/madengine"
# What older versions brought back of a tool that doesn't say what it leaves.
_OUTPUTS = ("*_output", "*_output.csv", "*_trace.csv")
_TOOL_KEYS = ("name", "pre_scripts", "cmd", "env_vars", "post_scripts", "artifacts")


@dataclass(frozen=True)
class Script:
    """One script: its path (below the workspace unless absolute) and its arguments."""

    path: str
    words: tuple[str, ...] = ()


@dataclass(frozen=True)
class Hooks:
    """What a run does beside the script itself.

    `wrapper` is shell text that goes before the script's command, read by a shell in the container and nowhere else;
    `environment` is what the tools set, `artifacts` the globs of what they leave.
    """

    pre_scripts: tuple[Script, ...] = ()
    wrapper: str = ""
    post_scripts: tuple[Script, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    artifacts: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        """Whether entry.sh has something to do for them."""
        return bool(self.pre_scripts or self.wrapper or self.post_scripts)

    @property
    def seconds(self) -> int:
        """How long they may take all together."""
        return SECONDS * len(self.scripts)

    @property
    def scripts(self) -> tuple[Script, ...]:
        return self.pre_scripts + self.post_scripts


@dataclass(frozen=True)
class Tool:
    """One entry of a tools.json."""

    pre_scripts: tuple[Script, ...] = ()
    cmd: str = ""
    env_vars: Mapping[str, str] = field(default_factory=dict)
    post_scripts: tuple[Script, ...] = ()
    artifacts: tuple[str, ...] = _OUTPUTS


def resolve_hooks(context: Context, catalogue: Mapping[str, Any]) -> Hooks:
    """The hooks of a context: its tools around its own scripts, in the documented order, the last tool outermost.

    Raises ConfigurationError for a tool that the catalogue doesn't have, naming those it has, and for what is wrong.
    """
    tools = [_tool(asked, catalogue) for asked in _asked(context, catalogue)]
    # Two library traces may share their command; nested it would do everything twice.
    commands = [tool.cmd for number, tool in enumerate(tools) if tool.cmd not in [one.cmd for one in tools[:number]]]
    around = [*reversed(commands), str(context.values.get("encapsulate_script") or "")]
    return Hooks(
        pre_scripts=(
            *(script for tool in reversed(tools) for script in tool.pre_scripts),
            *_scripts(context.values.get("pre_scripts"), "context: pre_scripts"),
        ),
        wrapper=" ".join(filter(None, around)),
        post_scripts=(
            *_scripts(context.values.get("post_scripts"), "context: post_scripts"),
            *(script for tool in tools for script in tool.post_scripts),
        ),
        environment={name: value for tool in tools for name, value in tool.env_vars.items()},
        artifacts=tuple(dict.fromkeys(pattern for tool in tools for pattern in tool.artifacts)),
    )


def hook_definitions(named: Path | None, root: Path | None) -> dict[str, Any]:
    """The tools that a tools.json defines, by name: the file that was named, or the package's; none without either.

    Raises ConfigurationError where it can't be read.
    """
    path = named or (root / TOOLS_FILE if root else None)
    if path is None or (named is None and not path.is_file()):
        return {}
    found = read_json(path)
    tools = found.get("tools") if isinstance(found, dict) else None
    if not isinstance(tools, dict):
        raise ConfigurationError(f'{path}: no object "tools"; write {{"tools": {{"name": {{"cmd": "…"}}}}}}')
    return tools


def tool_catalogue(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """The tools that come with madengine, and those of each layer in place of earlier ones of the same name."""
    return {name: tool for layer in (_shipped(), *layers) for name, tool in layer.items()}


def hook_texts(hooks: Hooks) -> dict[str, str]:
    """The files that entry.sh looks for in `FOLDER`: hooks.sh, and the scripts of our catalogue that are asked for."""
    mentioned = " ".join([*(script.path for script in hooks.scripts), hooks.wrapper])
    names = template_names("tools") if mentioned.strip() else ()
    ours = {name: f"{_SHIPPED}/{name}" for name in names if name.endswith(".sh")}
    return {
        "hooks.sh": _hooks_sh(hooks),
        **{f"workspace/{path}": template(f"tools/{name}") for name, path in ours.items() if path in mentioned},
    }


def hook_files(hooks: Hooks, root: Path) -> dict[str, Path]:
    """The scripts that are files of the package at `root`, by their path in the workspace.

    A folder that a script lies in doesn't come with it, but that of all of them (`SCRIPTS`) does.
    """
    shared = {SHARED_SCRIPTS: root / SHARED_SCRIPTS} if (root / SHARED_SCRIPTS).is_dir() else {}
    paths = [script.path for script in hooks.scripts if not script.path.startswith(("/", f"{SHARED_SCRIPTS}/"))]
    return {**shared, **{path: root / path for path in paths if (root / path).is_file()}}


def _hooks_sh(hooks: Hooks) -> str:
    """The hooks for entry.sh, which reads nothing but shell; every value is one quoted word."""
    return "\n".join(
        [
            f"hook_limit={SECONDS}",
            f"script_mark={shlex.quote(SCRIPT_MARK)}",
            f"wrapper={shlex.quote(hooks.wrapper)}",
            *_function("pre_scripts", "pre-script", hooks.pre_scripts),
            *_function("post_scripts", "post-script", hooks.post_scripts),
            "",
        ]
    )


def _function(name: str, kind: str, scripts: Iterable[Script]) -> list[str]:
    named = ((json.dumps(f"{kind} {script.path}"), script.path, *script.words) for script in scripts)
    return [f"{name}() {{", "  :", *(f"  {shlex.join(['hook', kind, *words])}" for words in named), "}"]


@functools.cache
def _shipped() -> Mapping[str, Any]:
    tools: dict[str, Any] = json.loads(template("tools/tools.json"))["tools"]
    return tools


def _asked(context: Context, catalogue: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The context's entries, each with its name, which the catalogue has."""
    found = []
    for entry in context.values.get("tools") or ():
        asked = {"name": entry} if isinstance(entry, str) else entry
        if not isinstance(asked, Mapping) or not isinstance(asked.get("name"), str):
            raise ConfigurationError(f"context: tools: {_shown(entry)} is wrong: write {{'name': 'rocprof'}}")
        found.append(asked)
    unknown = sorted({str(asked["name"]) for asked in found} - catalogue.keys())
    if unknown:
        close = difflib.get_close_matches(unknown[0], catalogue, n=len(catalogue), cutoff=0.0)
        raise ConfigurationError(
            f"context: tools: no tool {', '.join(map(repr, unknown))}; there are {', '.join(close)}"
        )
    return found


def _tool(asked: Mapping[str, Any], catalogue: Mapping[str, Any]) -> Tool:
    """A tool as its tools.json defines it, with what the context says in place of that."""
    name = str(asked["name"])
    where = f"tool {name}"
    defined = catalogue[name]
    if not isinstance(defined, Mapping):
        raise ConfigurationError(f"{where}: {_shown(defined)} is wrong: it is an object, like {{'cmd': 'time'}}")
    if strays := [key for key in asked if key not in _TOOL_KEYS]:
        raise ConfigurationError(f"context: tools: {name}: {strays[0]!r} is none of {', '.join(_TOOL_KEYS)}")
    both = {**defined, **asked}
    cmd = both.get("cmd") or ""
    if not isinstance(cmd, str) or "\0" in cmd:
        raise ConfigurationError(f"{where}: cmd: {_shown(cmd)} is wrong: it is a text")
    return Tool(
        pre_scripts=_scripts(both.get("pre_scripts"), f"{where}: pre_scripts"),
        cmd=cmd.strip(),
        env_vars={**_variables(defined, where), **_variables(asked, f"context: {where}")},
        post_scripts=_scripts(both.get("post_scripts"), f"{where}: post_scripts"),
        artifacts=patterns(both["artifacts"], f"{where}: artifacts") if "artifacts" in both else _OUTPUTS,
    )


def _variables(entry: Mapping[str, Any], where: str) -> dict[str, str]:
    found = entry.get("env_vars") or {}
    if not isinstance(found, Mapping):
        raise ConfigurationError(f"{where}: env_vars: {_shown(found)} is wrong: it is an object")
    for name, value in found.items():
        if not name or "=" in name or "\0" in f"{name}{value}" or not isinstance(value, str | bool | int | float):
            raise ConfigurationError(f"{where}: env_vars: {name!r} is no variable with a text or a number")
    return {name: str(value).lower() if isinstance(value, bool) else str(value) for name, value in found.items()}


def _scripts(value: Any, where: str) -> tuple[Script, ...]:
    if not isinstance(value or [], list | tuple):
        raise ConfigurationError(f"{where}: {_shown(value)} is wrong: it is a list, like [{{'path': 'scripts/x.sh'}}]")
    return tuple(_script(entry, f"{where}.{number}") for number, entry in enumerate(value or ()))


def _script(entry: Any, where: str) -> Script:
    asked = {"path": entry} if isinstance(entry, str) else entry
    path = asked.get("path") if isinstance(asked, Mapping) else None
    args = (asked.get("args") or "") if isinstance(asked, Mapping) else None
    if not isinstance(path, str) or not path or not isinstance(args, str) or "\0" in path + args:
        raise ConfigurationError(f"{where}: {_shown(entry)} is wrong: write {{'path': 'scripts/x.sh', 'args': '…'}}")
    if ".." in PurePosixPath(path).parts:
        raise ConfigurationError(f"{where}: {path!r} leads out of the package; write it relative to that")
    try:
        return Script(str(PurePosixPath(path)), tuple(shlex.split(args)))
    except ValueError as error:
        raise ConfigurationError(f"{where}: args {args!r}: {str(error).lower()}; close the quote") from error


def _shown(value: Any) -> str:
    text = json.dumps(value, default=repr)
    return text if len(text) <= 60 else f"{text[:57]}…"
