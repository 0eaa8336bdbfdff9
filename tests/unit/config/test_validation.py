from __future__ import annotations

from madengine.config.context import Context
from madengine.config.ignored_keys import ignored_keys, log_ignored_keys
from madengine.records import Model
from tests.conftest import collect_messages


def model(name: str, **extra: object) -> Model:
    return Model(name, "docker/m", "scripts/m", extra=extra)


def test_keys_that_a_target_honours_are_not_named() -> None:
    context = Context({"env_file": "a.sh", "monitor": False, "vllm": {"a": 1}})
    assert [line.split(":")[1] for line in ignored_keys(context, (), honoured=("env_file", "monitor"))] == [" vllm"]


def test_ignored_keys_are_named_with_the_known_ones_that_they_look_like() -> None:
    messages = collect_messages()
    models = [model(name, vllm={"gpu_count": 2}, timeuot=3) for name in "abcd"]
    values = {
        "k8s": {"x": 1},
        "env_file": "a.sh",
        "monitor": False,
        "vllm": {},
        "toolz": [],
        "docker_build_args": {},
        "site": 1,
        "_note": "x",
    }
    log_ignored_keys(Context(values), [*models, models[0], model("e", colour="red", vllm={})])
    assert messages == [
        "context: env_file: is sourced by no pod; use --env-secret with its variables, and take the key out",
        "context: unsupported key monitor ignored; it is for jobs of Slurm",
        "context: unknown key 'toolz' ignored; did you mean 'tools'?",
        "context: unknown key 'docker_build_args' ignored; did you mean 'docker_build_arg'?",
        "context: unknown key 'site' ignored, except in CONTEXT headers",
        "a, b, c and 1 more: unsupported key 'vllm' ignored; use env_vars",
        "a, b, c and 1 more: unknown key 'timeuot' ignored; did you mean 'timeout'?",
        "e: unknown key 'colour' ignored",
    ]


def test_thousands_of_unknown_keys_are_some_lines() -> None:
    messages = collect_messages()
    keys = {f"{number}{'x' * 900}": 1 for number in range(20_000)}
    log_ignored_keys(Context(keys), [model("a", **keys)])
    assert len(messages) == 40
    assert max(map(len, messages)) < 130


def test_nothing_is_logged_where_nothing_is_ignored() -> None:
    messages = collect_messages()
    log_ignored_keys(Context({"tools": [], "slurm": {}}), [model("a", env_vars={"DOCKER_IMAGE_NAME": "r/x"})])
    assert messages == []
