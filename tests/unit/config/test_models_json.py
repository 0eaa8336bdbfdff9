from __future__ import annotations

import json
from dataclasses import fields
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from madengine.config.entry_keys import refusal, unknown_keys, unsupported_keys
from madengine.config.models_json import entry_of, model_of
from madengine.config.values import shown
from madengine.errors import ConfigurationError
from madengine.records import Model

MINIMAL = {"name": "bert", "dockerfile": "docker/bert", "scripts": "scripts/bert/run.sh"}
WHERE = "models.json: [3] (bert)"
NESTED = json.loads("[" * 60 + "]" * 60)

# Null characters are refused, by a test of their own.
texts = st.text(st.characters(blacklist_characters="\0", blacklist_categories=["Cs"]))
filled = texts.filter(str.strip)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda children: st.lists(children) | st.dictionaries(texts, children),
    max_leaves=5,
)
known = {field.name for field in fields(Model)} - {"extra"}
models = st.builds(
    Model,
    name=filled,
    dockerfile=filled,
    scripts=filled,
    n_gpus=st.sampled_from([""]) | st.integers(-1, 10**9 - 1).map(str),
    args=texts,
    tags=st.lists(texts).map(tuple),
    owner=texts,
    training_precision=texts,
    url=texts,
    dockercontext=texts,
    data=texts,
    cred=texts,
    timeout=st.none() | st.integers(0, 10**9),
    multiple_results=texts,
    skip_gpu_arch=texts,
    additional_docker_run_options=texts,
    is_deprecated=st.booleans(),
    caches=st.lists(st.sampled_from(["/root/.cache", "hub"])).map(tuple),
    # Longer keys are refused.
    extra=st.dictionaries(texts.filter(lambda key: key not in known and len(json.dumps(key)) <= 1000), values),
)


@given(models)
def test_a_model_survives_its_json_form(original: Model) -> None:
    assert model_of(json.loads(json.dumps(entry_of(original))), WHERE) == original


def test_a_minimal_card_gets_the_defaults() -> None:
    assert model_of(MINIMAL, WHERE) == Model("bert", "docker/bert", "scripts/bert/run.sh")


def test_the_json_form_of_a_minimal_model_holds_what_older_madengine_requires() -> None:
    assert entry_of(Model("bert", "docker/bert", "run.sh")) == {
        "name": "bert",
        "dockerfile": "docker/bert",
        "scripts": "run.sh",
        "args": "",
        "tags": [],
    }


def test_unknown_keys_survive_untouched_even_null_and_extra() -> None:
    unknown = {"distributed": {"nnodes": 2}, "nothing": None, "extra": [1]}
    read = model_of({**MINIMAL, **unknown}, WHERE)
    assert read.extra == unknown
    assert {key: entry_of(read)[key] for key in unknown} == unknown


@pytest.mark.parametrize("key", sorted(known - {"name", "dockerfile", "scripts"}))
def test_null_is_an_absent_key(key: str) -> None:
    assert model_of({**MINIMAL, key: None}, WHERE) == model_of(MINIMAL, WHERE)


@pytest.mark.parametrize(
    ("value", "expected"), [("-1", "-1"), (-1, "-1"), (8, "8"), ("8", "8"), (" 08 ", "8"), (0, "0"), ("0", "0")]
)
def test_n_gpus_is_a_text_or_a_number(value: Any, expected: str) -> None:
    assert model_of({**MINIMAL, "n_gpus": value}, WHERE).n_gpus == expected


@pytest.mark.parametrize("alias", ["gpus_per_node", "gpu_count", "num_gpus", "ngpus"])
def test_an_alias_stands_in_for_n_gpus_and_stays_in_extra(alias: str) -> None:
    read = model_of({**MINIMAL, alias: 4}, WHERE)
    assert (read.n_gpus, read.extra) == ("4", {alias: 4})
    assert model_of(entry_of(read), WHERE) == read


def test_n_gpus_wins_over_its_aliases_and_they_keep_their_order() -> None:
    assert model_of({**MINIMAL, "ngpus": 4, "n_gpus": 2}, WHERE).n_gpus == "2"
    assert model_of({**MINIMAL, "ngpus": 4, "gpu_count": 3}, WHERE).n_gpus == "3"


@pytest.mark.parametrize(
    ("value", "expected"), [(["a", "b c"], ("a", "b c")), ("a, b,,c ", ("a", "b", "c")), ("", ()), ([], ())]
)
def test_tags_are_a_list_or_a_text_with_commas(value: Any, expected: tuple[str, ...]) -> None:
    assert model_of({**MINIMAL, "tags": value}, WHERE).tags == expected


@pytest.mark.parametrize(("value", "expected"), [(0, 0), (60, 60), (-1, None)])
def test_timeout_zero_is_no_limit_and_minus_one_is_unset(value: int, expected: int | None) -> None:
    assert model_of({**MINIMAL, "timeout": value}, WHERE).timeout == expected


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("name", 7),
        ("dockerfile", ["docker/bert"]),
        ("scripts", {"run": "run.sh"}),
        ("args", ["--x", "1"]),
        ("n_gpus", "eight"),
        ("n_gpus", "-2"),
        ("n_gpus", -2),
        ("n_gpus", 1.5),
        ("n_gpus", True),
        ("n_gpus", ""),
        ("n_gpus", "1_0"),
        ("n_gpus", "٣"),
        ("n_gpus", "9" * 5000),
        ("n_gpus", [8]),
        ("ngpus", "many"),
        ("tags", {"a": 1}),
        ("tags", ["a", 1]),
        ("tags", 5),
        ("timeout", "60"),
        ("timeout", 1.5),
        ("timeout", True),
        ("timeout", -2),
        ("timeout", 10**9 + 1),
        pytest.param("timeout", 10**5000, id="huge timeout"),
        pytest.param("n_gpus", 10**5000, id="huge n_gpus"),
        ("is_deprecated", "false"),
        ("is_deprecated", 0),
        ("owner", 1),
        ("training_precision", 16),
        ("url", ["x"]),
        ("dockercontext", False),
        ("data", ["imagenet"]),
        ("cred", 0),
        ("multiple_results", ["perf.csv"]),
        ("skip_gpu_arch", ["gfx90a"]),
        ("additional_docker_run_options", ["--x"]),
        ("caches", {"a": 1}),
        ("caches", "/"),
        ("caches", "../x"),
        ("caches", "/myworkspace"),
    ],
)
def test_a_wrong_value_is_named_with_its_place_and_key(key: str, value: Any) -> None:
    with pytest.raises(ConfigurationError) as caught:
        model_of({**MINIMAL, key: value}, WHERE)
    message = str(caught.value)
    assert message.startswith(f"{WHERE}: {key}: expected ")
    assert message.endswith(f", got {shown(value)}")
    assert len(message) < 200
    assert "\n" not in message


@pytest.mark.parametrize("key", ["name", "dockerfile", "scripts"])
def test_a_missing_key_is_named(key: str) -> None:
    for broken in ({k: v for k, v in MINIMAL.items() if k != key}, {**MINIMAL, key: None}):
        with pytest.raises(ConfigurationError, match=rf"models\.json: \[3\] \(bert\): {key} is missing"):
            model_of(broken, WHERE)


@pytest.mark.parametrize("key", ["name", "dockerfile", "scripts"])
def test_a_blank_key_is_named(key: str) -> None:
    with pytest.raises(ConfigurationError, match=f"{key}: expected a non-empty string, got ' '"):
        model_of({**MINIMAL, key: " "}, WHERE)


@pytest.mark.parametrize("entry", ["bert", 1, None, ["bert"]])
def test_an_entry_that_is_no_object_is_named(entry: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"models\.json: \[3\] \(bert\): expected an object, got "):
        model_of(entry, WHERE)


@pytest.mark.parametrize(
    ("extra", "unsupported", "unknown"),
    [
        ({}, (), ()),
        ({"slurm": {"nodes": 2}, "distributed": {}, "env_vars": {"A": "1"}}, (), ()),
        ({"env_vars": {"DOCKER_IMAGE_NAME": "r/x:1"}}, (), ()),
        ({"env_vars": None, "deprecated": True, "better": "lower"}, ("deprecated",), ()),
        ({"timeuot": 3, "colour": "red", "_why": "a comment", "off": False}, (), ("timeuot", "colour")),
        ({"ngpus": 4, "log_error_patterns": ["x"], "path": "/scripts/m"}, (), ()),
    ],
)
def test_keys_that_are_ignored_are_known(
    extra: dict[str, Any], unsupported: tuple[str, ...], unknown: tuple[str, ...]
) -> None:
    model = model_of({**MINIMAL, **extra}, WHERE)
    assert (unsupported_keys(model), unknown_keys(model)) == (unsupported, unknown)


def test_an_entry_for_several_nodes_is_not_refused() -> None:
    assert refusal(model_of({**MINIMAL, "distributed": {"launcher": "vllm", "nnodes": 2}}, WHERE)) == ""
    assert refusal(model_of({**MINIMAL, "distributed": {"launcher": "slurm_multi", "nnodes": 2}}, WHERE)) == ""


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("A=1", "env_vars: expected an object, got a string"),
        ({"A B": "1"}, "env_vars: invalid variable name 'A B'; use letters, digits and _"),
        ({"A": None}, "env_vars.A: expected a string, a number or true/false, got null"),
    ],
)
def test_variables_of_an_entry_are_checked(value: Any, message: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        model_of({**MINIMAL, "env_vars": value}, WHERE)
    assert str(caught.value) == f"{WHERE}: {message}"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"name": "a\0b"}, ": name: contains a null character or a lone surrogate; remove it"),
        ({"args": "\ud800"}, ": args: contains a null character or a lone surrogate; remove it"),
        ({"tags": ["a", "b\0"]}, ": tags.1: contains a null character or a lone surrogate; remove it"),
        ({"x" * 2000: 1}, ": the key 'xxxx"),
        ({"\ud800": 1}, ": the key '\\ud800' contains a null character or a lone surrogate; remove it"),
        ({"x": NESTED}, ": nested more than 50 levels deep"),
    ],
)
def test_what_no_program_can_be_passed_is_named(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        model_of({**MINIMAL, **values}, WHERE)
    assert str(caught.value).startswith(WHERE + message)
    assert len(str(caught.value)) < 200
