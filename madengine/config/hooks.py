"""What runs before, around and after a model's script: the context's hooks and tools, as one value."""

from __future__ import annotations

import difflib
import functools
import json
import os
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from madengine.config.artifacts import patterns
from madengine.config.context import Context
from madengine.config.package import template, template_names
from madengine.config.values import check_value, expected, is_passable, shown
from madengine.errors import ConfigurationError
from madengine.files import read_json

#: seconds that one of them may take; entry.sh enforces it
HOOK_SECONDS = 600
# Where the runner leaves what entry.sh needs for them, below the workspace.
HOOKS_FOLDER = ".hooks"
# The line of the log between the pre-scripts' output and the script's own.
SCRIPT_MARK = "entry.sh: script"
# A package's own definitions, and their scripts.
TOOLS_FILE = "scripts/common/tools.json"
SHARED_SCRIPTS = "scripts/common"
# The scripts of the catalogue, which have the names of older versions: commands of users' own tools call them too.
_SHIPPED = "tools/common"
# How many an error names.
_SHOWN_TOOLS = 12
# The artifacts of a tool that doesn't name any, as in older versions.
_OUTPUTS = ("*_output", "*_output.csv", "*_trace.csv")
#: the keys of a tool, and of a context's entry for it
TOOL_KEYS = ("name", "pre_scripts", "cmd", "env_vars", "post_scripts", "artifacts")


@dataclass(frozen=True)
class Script:
    """One script."""

    #: below the workspace unless absolute
    path: str
    #: its arguments
    words: tuple[str, ...] = ()


@dataclass(frozen=True)
class Hooks:
    """What a run does beside the script itself."""

    pre_scripts: tuple[Script, ...] = ()
    #: shell text before the script's command, read by a shell in the container and nowhere else
    wrapper: str = ""
    post_scripts: tuple[Script, ...] = ()
    #: variables that the tools set
    environment: Mapping[str, str] = field(default_factory=dict)
    #: globs of the files that the tools leave
    artifacts: tuple[str, ...] = ()
    #: what the GPUs' samples are written as, in the form of older versions: `power`, `vram`
    series: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        """Return whether entry.sh has to do anything for them."""
        return bool(self.pre_scripts or self.wrapper or self.post_scripts)

    @property
    def seconds(self) -> int:
        """How long they may take together."""
        return HOOK_SECONDS * len(self.scripts)

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
    series: str = ""


def resolve_hooks(context: Context, catalogue: Mapping[str, Any]) -> Hooks:
    """Return the hooks of a context: its tools around its own scripts, in the documented order, the last outermost.

    Raise ConfigurationError for a wrong value, and for a tool that is not in the catalogue, naming those that are.
    """
    tools = [_tool(entry, catalogue) for entry in _entries(context, catalogue)]
    # Two library traces may share their command; nested it would do everything twice.
    commands = dict.fromkeys(tool.cmd for tool in tools)
    wrappers = [*reversed(commands), str(context.values.get("encapsulate_script") or "")]
    return Hooks(
        pre_scripts=(
            *(script for tool in reversed(tools) for script in tool.pre_scripts),
            *_scripts(context.values.get("pre_scripts"), "context: pre_scripts"),
        ),
        wrapper=" ".join(filter(None, wrappers)),
        post_scripts=(
            *_scripts(context.values.get("post_scripts"), "context: post_scripts"),
            *(script for tool in tools for script in tool.post_scripts),
        ),
        environment={name: value for tool in tools for name, value in tool.env_vars.items()},
        artifacts=tuple(dict.fromkeys(pattern for tool in tools for pattern in tool.artifacts)),
        series=tuple(dict.fromkeys(tool.series for tool in tools if tool.series)),
    )


def hook_definitions(file: Path | None, root: Path | None) -> dict[str, Any]:
    """Return the tools that a tools.json defines, by name: this file's, else those of the package at `root`, if any.

    Raise ConfigurationError if it can't be read.
    """
    path = file or (root / TOOLS_FILE if root else None)
    if path is None or (file is None and not os.path.lexists(path)):
        return {}
    content = read_json(path)
    tools = content.get("tools") if isinstance(content, dict) else None
    if not isinstance(tools, dict):
        raise ConfigurationError(f'{path}: no object "tools"; write {{"tools": {{"name": {{"cmd": "…"}}}}}}')
    check_value(tools, f"{path}: tools")
    return tools


def tool_catalogue(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """Return the tools that come with madengine, and those of each layer in place of earlier ones of the same name."""
    return {name: tool for layer in (_shipped(), *layers) for name, tool in layer.items()}


def hook_texts(hooks: Hooks) -> dict[str, str]:
    """Return the files that entry.sh reads in HOOKS_FOLDER: hooks.sh, and our scripts if one of them is in use."""
    commands = " ".join([*(script.path for script in hooks.scripts), hooks.wrapper])
    names = template_names(_SHIPPED) if SHARED_SCRIPTS in commands else ()
    in_use = any(f"{SHARED_SCRIPTS}/{name}" in commands for name in names)
    return {
        "hooks.sh": _hooks_sh(hooks),
        **{f"workspace/{SHARED_SCRIPTS}/{name}": template(f"{_SHIPPED}/{name}") for name in names if in_use},
    }


def hook_files(hooks: Hooks, root: Path) -> dict[str, Path]:
    """Return the scripts that are files of the package at `root`, by their path in the workspace.

    A script's folder doesn't come with it, but SHARED_SCRIPTS does.
    """
    shared = {SHARED_SCRIPTS: root / SHARED_SCRIPTS} if (root / SHARED_SCRIPTS).is_dir() else {}
    paths = [script.path for script in hooks.scripts if not script.path.startswith(("/", f"{SHARED_SCRIPTS}/"))]
    return {**shared, **{path: root / path for path in paths if (root / path).is_file()}}


def _hooks_sh(hooks: Hooks) -> str:
    """Return the hooks for entry.sh, which reads nothing but shell; every value is one quoted word."""
    return "\n".join(
        [
            f"hook_limit={HOOK_SECONDS}",
            f"script_mark={shlex.quote(SCRIPT_MARK)}",
            f"wrapper={shlex.quote(hooks.wrapper)}",
            *_function("pre_scripts", "pre-script", hooks.pre_scripts),
            *_function("post_scripts", "post-script", hooks.post_scripts),
            "",
        ]
    )


def _function(name: str, kind: str, scripts: Iterable[Script]) -> list[str]:
    calls = ((json.dumps(f"{kind} {script.path}"), script.path, *script.words) for script in scripts)
    return [f"{name}() {{", "  :", *(f"  {shlex.join(['hook', kind, *words])}" for words in calls), "}"]


@functools.cache
def _shipped() -> Mapping[str, Any]:
    tools: dict[str, Any] = json.loads(template("tools/tools.json"))["tools"]
    return tools


def _entries(context: Context, catalogue: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the context's tools as objects with a name that the catalogue has."""
    tools = context.values.get("tools") or ()
    entries = [{"name": tool} if isinstance(tool, str) else tool for tool in tools]
    for entry in entries:
        if not isinstance(entry, Mapping) or not isinstance(entry.get("name"), str):
            raise expected("context: tools", "a name, or an object such as {'name': 'rocprof'}", entry)
    unknown = sorted({str(entry["name"]) for entry in entries} - catalogue.keys())
    if unknown:
        close = difflib.get_close_matches(unknown[0][:100], catalogue, n=_SHOWN_TOOLS, cutoff=0.0)
        raise ConfigurationError(
            f"context: tools: unknown tool {', '.join(map(shown, unknown[:5]))}; expected some of {', '.join(close)}"
            + ", …" * (len(catalogue) > _SHOWN_TOOLS)
        )
    return entries


def _tool(entry: Mapping[str, Any], catalogue: Mapping[str, Any]) -> Tool:
    """Return a tool as its tools.json defines it, with what the context's entry replaces."""
    name = str(entry["name"])
    where = f"tool {name}"
    definition = catalogue[name]
    if not isinstance(definition, Mapping):
        raise expected(where, "an object such as {'cmd': 'time'}", definition)
    if strays := [key for key in entry if key not in TOOL_KEYS]:
        raise ConfigurationError(
            f"context: tools: {name}: unknown key {shown(strays[0])}; expected one of {', '.join(TOOL_KEYS)}"
        )
    both = {**definition, **entry}
    cmd = both.get("cmd") or ""
    if not isinstance(cmd, str) or not is_passable(cmd):
        raise expected(f"{where}: cmd", "a string", cmd)
    return Tool(
        pre_scripts=_scripts(both.get("pre_scripts"), f"{where}: pre_scripts"),
        cmd=cmd.strip(),
        env_vars={**_variables(definition, where), **_variables(entry, f"context: {where}")},
        post_scripts=_scripts(both.get("post_scripts"), f"{where}: post_scripts"),
        artifacts=patterns(both["artifacts"], f"{where}: artifacts") if "artifacts" in both else _OUTPUTS,
        series=str(definition.get("series") or ""),
    )


def _variables(entry: Mapping[str, Any], where: str) -> dict[str, str]:
    variables = entry.get("env_vars") or {}
    if not isinstance(variables, Mapping):
        raise expected(f"{where}: env_vars", "an object", variables)
    for name, value in variables.items():
        if not name or "=" in name or not is_passable(name):
            raise ConfigurationError(f"{where}: env_vars: invalid variable name {shown(name)}")
        if not isinstance(value, str | bool | int | float) or not is_passable(str(value)):
            raise ConfigurationError(f"{where}: env_vars: {shown(name)}: expected a string or a number")
    return {name: str(value).lower() if isinstance(value, bool) else str(value) for name, value in variables.items()}


def _scripts(value: Any, where: str) -> tuple[Script, ...]:
    if not isinstance(value or [], list | tuple):
        raise expected(where, "a list such as [{'path': 'scripts/x.sh'}]", value)
    return tuple(_script(entry, f"{where}.{number}") for number, entry in enumerate(value or ()))


def _script(entry: Any, where: str) -> Script:
    values = {"path": entry} if isinstance(entry, str) else entry
    path = values.get("path") if isinstance(values, Mapping) else None
    args = (values.get("args") or "") if isinstance(values, Mapping) else None
    if strays := [key for key in (values if isinstance(values, Mapping) else ()) if key not in ("path", "args")]:
        raise ConfigurationError(f"{where}: unknown key {shown(strays[0])}; expected path and args")
    if not isinstance(path, str) or not path or not isinstance(args, str) or not is_passable(path + args):
        raise expected(where, "a path, or {'path': 'scripts/x.sh', 'args': '…'}", entry)
    if ".." in PurePosixPath(path).parts:
        raise ConfigurationError(f"{where}: {shown(path)} leads out of the package; write it relative to that")
    try:
        return Script(str(PurePosixPath(path)), tuple(shlex.split(args)))
    except ValueError as error:
        raise ConfigurationError(f"{where}: args {shown(args)}: {str(error).lower()}; close the quote") from error
