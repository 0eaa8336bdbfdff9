from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from madengine.config.context import Context
from madengine.config.hooks import (
    HOOK_SECONDS,
    Hooks,
    Script,
    hook_definitions,
    hook_files,
    hook_texts,
    resolve_hooks,
    tool_catalogue,
)
from madengine.errors import ConfigurationError

A = {"pre_scripts": [{"path": "a.sh", "args": "pre A"}], "cmd": "A", "post_scripts": ["a.sh"], "env_vars": {"X": "a"}}
B = {
    "pre_scripts": [{"path": "b.sh"}],
    "cmd": "B ",
    "post_scripts": [{"path": "b.sh"}],
    "env_vars": {"X": 2, "Y": True},
}
OWN: dict[str, Any] = {
    "pre_scripts": [{"path": "own.sh"}],
    "post_scripts": [{"path": "own.sh"}],
    "encapsulate_script": "numactl -N 0",
}


def made(tools: list[Any], defined: dict[str, Any] | None = None, **more: Any) -> Hooks:
    return resolve_hooks(Context({"tools": tools, **more}), defined or {"A": A, "B": B})


def paths(scripts: tuple[Script, ...]) -> list[str]:
    return [script.path for script in scripts]


@pytest.mark.parametrize(
    ("tools", "before", "wrapper", "after"),
    [
        ([], ["own.sh"], "numactl -N 0", ["own.sh"]),
        (["A"], ["a.sh", "own.sh"], "A numactl -N 0", ["own.sh", "a.sh"]),
        (["A", "B"], ["b.sh", "a.sh", "own.sh"], "B A numactl -N 0", ["own.sh", "a.sh", "b.sh"]),
        (["B", {"name": "A"}], ["a.sh", "b.sh", "own.sh"], "A B numactl -N 0", ["own.sh", "b.sh", "a.sh"]),
    ],
)
def test_tools_lie_around_the_contexts_own_hooks_the_last_outermost(
    tools: list[Any], before: list[str], wrapper: str, after: list[str]
) -> None:
    hooks = made(tools, **OWN)
    assert (paths(hooks.pre_scripts), hooks.wrapper, paths(hooks.post_scripts)) == (before, wrapper, after)


def test_what_was_made_before_changes_nothing() -> None:
    context = Context({"tools": ["A", "B"], **OWN})
    assert [resolve_hooks(context, {"A": A, "B": B}) for _ in range(3)] == [
        resolve_hooks(context, {"A": A, "B": B})
    ] * 3
    assert context.values["pre_scripts"] == OWN["pre_scripts"]


def test_a_later_tools_variables_win_and_the_contexts_win_over_both() -> None:
    assert made(["A", "B"]).environment == {"X": "2", "Y": "true"}
    assert made(["A", {"name": "B", "env_vars": {"X": "mine"}}]).environment == {"X": "mine", "Y": "true"}
    assert made([{"name": "C", "env_vars": {"Z": 1}}], {"C": {}}).environment == {"Z": "1"}


def test_a_contexts_command_replaces_the_tools() -> None:
    assert made([{"name": "A", "cmd": "time"}]).wrapper == "time"


def test_a_command_that_two_tools_share_is_there_once() -> None:
    assert made(["a", "b", "c"], {"a": {"cmd": "trace"}, "b": {"cmd": "trace"}, "c": {"cmd": "x"}}).wrapper == "x trace"


def test_words_of_a_script_are_split_as_a_shell_does_and_nothing_is_expanded() -> None:
    (script,) = made([], pre_scripts=[{"path": "./x//y.sh", "args": "'a b' $HOME `id`"}]).pre_scripts
    assert script == Script("x/y.sh", ("a b", "$HOME", "`id`"))


def test_what_a_tool_leaves_is_its_own_list_or_what_older_versions_took() -> None:
    assert made(["a"], {"a": {"artifacts": "x,y*"}}).artifacts == ("x", "y*")
    assert made(["a", "b"], {"a": {}, "b": {}}).artifacts == ("*_output", "*_output.csv", "*_trace.csv")
    assert made([], **OWN).artifacts == ()


def test_an_unknown_tool_is_one_error_with_the_known_ones_the_closest_first() -> None:
    with pytest.raises(ConfigurationError) as error:
        made(["rocprfo", "A", "what"], {"A": A, "nsys": {}, "rocprof": {}})
    assert str(error.value) == "context: tools: unknown tool 'rocprfo', 'what'; expected some of rocprof, nsys, A"


@pytest.mark.parametrize(
    ("context", "message"),
    [
        ({"tools": [3]}, "context: tools: expected a name, or an object such as {'name': 'rocprof'}, got 3"),
        ({"tools": [{"nom": "A"}]}, "context: tools: expected a name, or an object such as"),
        (
            {"tools": [{"name": "A", "command": "x"}]},
            "context: tools: A: unknown key 'command'; expected one of name, pre_scripts, cmd",
        ),
        ({"tools": [{"name": "A", "cmd": 3}]}, "tool A: cmd: expected a string, got 3"),
        (
            {"tools": [{"name": "A", "env_vars": {"a=b": "c"}}]},
            "context: tool A: env_vars: invalid variable name 'a=b'",
        ),
        (
            {"tools": [{"name": "A", "env_vars": {"a": []}}]},
            "context: tool A: env_vars: 'a': expected a string or a number",
        ),
        ({"pre_scripts": [{"args": "x"}]}, "context: pre_scripts.0: expected a path, or {'path': 'scripts/x.sh'"),
        ({"post_scripts": ["a", {"path": "/a/../b"}]}, "context: post_scripts.1: '/a/../b' leads out of the package"),
        ({"pre_scripts": [{"path": "a", "args": "'x"}]}, 'context: pre_scripts.0: args "\'x": no closing quotation'),
        ({"tools": ["bad"]}, "tool bad: expected an object such as {'cmd': 'time'}, got []"),
    ],
)
def test_what_is_wrong_is_named(context: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError) as error:
        resolve_hooks(Context(context), {"A": A, "bad": []})
    assert str(error.value).startswith(message)


# --- where tools are defined ---


def test_a_packages_tools_come_before_those_of_madengine_and_a_named_file_before_both(tmp_path: Path) -> None:
    (tmp_path / "scripts/common").mkdir(parents=True)
    assert hook_definitions(None, tmp_path) == hook_definitions(None, None) == {}
    (tmp_path / "scripts/common/tools.json").write_text(json.dumps({"tools": {"rocprof": {"cmd": "mine"}}}))
    (tmp_path / "other.json").write_text(json.dumps({"tools": {"x": {}}}))
    assert hook_definitions(tmp_path / "other.json", tmp_path) == {"x": {}}
    both = tool_catalogue(hook_definitions(None, tmp_path))
    assert both["rocprof"] == {"cmd": "mine"}
    assert {"rocprofv3", "nsys", "rocblas_trace", "miopen_trace", "rccl_trace"} <= both.keys()


@pytest.mark.parametrize("text", ["[]", "{}", '{"tools": []}', "{"])
def test_a_broken_tools_json_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "t.json").write_text(text)
    with pytest.raises(ConfigurationError, match=r"t\.json"):
        hook_definitions(tmp_path / "t.json", None)
    with pytest.raises(ConfigurationError, match=r"nowhere\.json: no such file"):
        hook_definitions(tmp_path / "nowhere.json", tmp_path)


def test_every_tool_of_the_catalogue_is_whole() -> None:
    known = tool_catalogue()
    for name in known:
        hooks = resolve_hooks(Context({"tools": [name]}), known)
        shipped = {path.removeprefix("workspace/") for path in hook_texts(hooks)} - {"hooks.sh"}
        names = {script.path for script in hooks.scripts}
        names |= {word.removeprefix("../") for word in hooks.wrapper.split() if word.startswith("../")}
        assert names <= shipped, name
        assert bool(names) == bool(shipped), name


# --- what entry.sh gets ---


def test_hooks_sh_gives_a_shell_every_value_as_it_is() -> None:
    odd = 'it\'s `id` "$HOME"\nü'
    hooks = Hooks((Script("a b.sh", (odd, "")),), odd, (Script("p.sh"), Script("q.sh")))
    shell = f"""hook() {{ printf '%s\\0' "$@"; }}\n{hook_texts(hooks)["hooks.sh"]}
        printf '%s\\0' "$wrapper" "$hook_limit"; pre_scripts; echo; post_scripts"""
    output = subprocess.run(["sh", "-eu"], input=shell.encode(), capture_output=True, check=True).stdout.decode()
    assert output.split("\0") == [
        *(odd, str(HOOK_SECONDS), "pre-script", '"pre-script a b.sh"', "a b.sh", odd, ""),
        *("\npost-script", '"post-script p.sh"', "p.sh", "post-script", '"post-script q.sh"', "q.sh", ""),
    ]


def test_scripts_of_the_package_come_along_where_they_are_there(tmp_path: Path) -> None:
    for name in ("scripts/common/x.sh", "scripts/site/y.sh"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text("")
    hooks = Hooks(tuple(map(Script, ("scripts/common/x.sh", "scripts/site/y.sh", "none.sh", "/bin/true"))))
    assert hook_files(hooks, tmp_path) == {
        "scripts/common": tmp_path / "scripts/common",
        "scripts/site/y.sh": tmp_path / "scripts/site/y.sh",
    }
    assert hook_files(hooks, tmp_path / "scripts") == {}
