from __future__ import annotations

import copy
import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from madengine.config.context import Context, expanded, host_facts, load_context, matches, merge, mismatch, parse_header
from madengine.config.context_keys import GPU_COUNTS, JOB_FLAGS, KEYS, PLACES, Honoured, InManifest
from madengine.config.literals import parse_object
from madengine.config.validation import refuse_unsupported
from madengine.config.values import shown
from madengine.errors import ConfigurationError

# Null characters and half characters are refused, by a test of their own.
texts = st.text(st.characters(blacklist_characters="\0", blacklist_categories=["Cs"]), max_size=3)
leaves = st.none() | st.booleans() | st.integers() | texts | st.lists(st.integers(), max_size=2)
keys = st.sampled_from("abc")
# a busy machine is no reason to fail
unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
objects = st.dictionaries(
    keys,
    st.recursive(leaves, lambda inner: st.dictionaries(keys, inner, max_size=3), max_leaves=8),
    max_size=3,
)


def from_text(text: str) -> Context:
    return load_context({}, {}, None, text)


def error_of(text: str) -> str:
    with pytest.raises(ConfigurationError) as caught:
        from_text(text)
    return str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        '{"gpu_vendor": "AMD", "debug": true, "x": null}',
        "{'gpu_vendor': 'AMD', 'debug': True, 'x': None}",
        "\n {'gpu_vendor': 'AMD',\n 'debug': True, # why\n 'x': None,}\n",
    ],
)
def test_a_context_is_json_or_a_python_literal(text: str) -> None:
    assert parse_object(text, "here") == {"gpu_vendor": "AMD", "debug": True, "x": None}


def test_the_documents_own_example_parses() -> None:
    context = from_text("{'docker_build_arg':{'BASE_DOCKER':'custom:latest'}}")
    assert context.docker_build_arg == {"BASE_DOCKER": "custom:latest"}


def test_tuples_become_lists_so_that_a_manifest_can_hold_them() -> None:
    assert parse_object("{'tools': ({'name': 'x'}, 1)}", "here") == {"tools": [{"name": "x"}, 1]}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": 1,\n "b": }', "line 2 column 7: expecting value"),
        ("{'a': 1,\n 'b': }", "neither JSON nor a Python literal: line 2 column "),
        ("\n\n{'a': 1,\n 'b': }", "neither JSON nor a Python literal: line 4 column "),
        ("{'a': true}", "line 1 column 2: expecting property name enclosed in double quotes"),
        ("{'a': __import__('os').getpid()}", "line 1 column 2"),
        ('{"a": ' + "9" * 5000 + "}", "line 1 column 1: a number has too many digits"),
        ("[" * 100_000, "neither JSON nor a Python literal"),
        ("", "empty, expected an object"),
        (" \n", "empty, expected an object"),
        ("[1]", "expected an object such as {'docker_env_vars': {}}, got a list"),
        ("'x'", ", got a string"),
        ("null", ", got null"),
        ("1.5", ", got a number"),
        ("{'a': {1}}", "a: expected a value that JSON has, got a Python set"),
        ("{'a': [b'x']}", "a.0: expected a value that JSON has, got a Python bytes"),
        ("{'a': 1e999}", "a: expected a value that JSON has, got inf"),
        ('{"a": NaN}', "a: expected a value that JSON has, got nan"),
        ('{"a": ' + "9" * 400 + "}", "a: expected a value that JSON has, got a number of more than 300 digits"),
        ("{'a': 0x" + "f" * 5000 + "}", "a: expected a value that JSON has, got a number of more than 300 digits"),
        ("{'a': {1: 2}}", "a: expected a string as key, got 1; put it in quotes"),
        ('{"a": {"b": "x\\u0000y"}}', "a.b: contains a null character or a lone surrogate"),
        ('{"a": "\\ud800"}', "a: contains a null character or a lone surrogate"),
        ('{"a": {"\\u0000": 1}}', "a: the key '\\x00' contains a null character or a lone surrogate"),
        ('{"a": {"' + "k" * 1001 + '": 1}}', "a: the key 'kkk"),
        ('{"a": {"' + "\\u00e9" * 200 + '": 1}}', "a: the key 'ééé"),
        ('{"a":' * 60 + "1" + "}" * 60, "nested more than 50 levels deep"),
    ],
)
def test_a_broken_context_is_one_line_with_its_place(text: str, message: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse_object(text, "ctx.json")
    assert str(caught.value).startswith("ctx.json: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 200


def test_an_odd_backslash_in_a_literal_makes_no_noise(recwarn: pytest.WarningsRecorder) -> None:
    assert parse_object(r"{'a': '\d'}", "here") == {"a": r"\d"}
    assert not list(recwarn)


def test_a_broken_command_line_context_is_shown_by_its_first_characters() -> None:
    token = "a-long-token-that-must-not-appear"
    message = error_of("{'docker_env_vars': {'HF_TOKEN': '" + token + "'}")
    assert "{'docker_env_vars': {'HF_TO" in message
    assert token not in message


def test_later_layers_win_key_by_key(tmp_path: Path) -> None:
    file = tmp_path / "context.json"
    file.write_text('{"docker_env_vars": {"A": "file", "B": "file"}, "guest_os": "centos"}')
    context = load_context(
        {"host_os": "HOST_UBUNTU", "docker_env_vars": {"A": "detected", "C": 8}},
        {"guest_os": "UBUNTU", "docker_env_vars": {"A": "manifest", "D": "manifest"}},
        file,
        "{'docker_env_vars': {'B': 'text'}}",
    )
    assert context.docker_env_vars == {"A": "file", "B": "text", "C": "8", "D": "manifest"}
    assert context.guest_os == "CENTOS"
    assert context.values["host_os"] == "HOST_UBUNTU"


def test_a_partial_multi_node_args_keeps_the_other_defaults() -> None:
    detected = {"multi_node_args": {"RUNNER": "torchrun", "NNODES": 1, "MASTER_PORT": 6006}}
    context = load_context(detected, {}, None, "{'multi_node_args': {'NNODES': 2}}")
    assert context.values["multi_node_args"] == {"RUNNER": "torchrun", "NNODES": 2, "MASTER_PORT": 6006}


def test_nothing_given_is_an_empty_context() -> None:
    context = load_context({}, {}, None, None)
    assert context == Context({})
    assert (context.gpu_vendor, context.guest_os, context.docker_cpus, context.docker_gpus) == ("", "", "", "")
    assert (context.docker_env_vars, context.docker_mounts, context.docker_build_arg) == ({}, {}, {})
    assert context.model_args is None
    assert context.container_image == ""
    assert context == from_text("")


@pytest.mark.parametrize(
    ("value", "text"),
    [(2, "2"), (-1, "-1"), (1.5, "1.5"), (True, "true"), (False, "false"), ("", ""), ("$x 'y'", "$x 'y'")],
)
@pytest.mark.parametrize("key", ["docker_env_vars", "docker_build_arg"])
def test_variables_may_be_numbers_or_booleans(key: str, value: Any, text: str) -> None:
    assert getattr(load_context({}, {key: {"X": value}}, None, None), key) == {"X": text}


def test_the_remaining_keys_are_read() -> None:
    context = from_text(
        "{'docker_cpus': '0-3,8', 'docker_gpus': '0,2-4', 'model_args': '', 'MAD_CONTAINER_IMAGE': 'a:b',"
        " 'docker_mounts': {'/in': '/on host'}}"
    )
    assert (context.docker_cpus, context.docker_gpus, context.model_args) == ("0-3,8", "0,2-4", "")
    assert context.container_image == "a:b"
    assert context.docker_mounts == {"/in": "/on host"}


@pytest.mark.parametrize(
    ("text", "vendor"),
    [("amd", "AMD"), (" Nvidia ", "NVIDIA"), ("none", "NONE"), ("", ""), ("Unable to detect GPU vendor", "")],
)
def test_gpu_vendor_is_upper_case(text: str, vendor: str) -> None:
    assert load_context({}, {"gpu_vendor": text}, None, None).gpu_vendor == vendor


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{'gpu_vendor': 'intel'}", "gpu_vendor: Intel GPUs are not supported; use AMD, NVIDIA, NONE"),
        ("{'gpu_vendor': 'radeon'}", "gpu_vendor: expected one of AMD, NVIDIA, NONE, got 'radeon'"),
        ("{'gpu_vendor': 3}", "gpu_vendor: expected a string, got 3"),
        ("{'guest_os': ['UBUNTU']}", "guest_os: expected a string, got a list"),
        ("{'docker_gpus': 0}", "docker_gpus: expected a string, got 0"),
        ("{'docker_cpus': True}", "docker_cpus: expected a string, got true"),
        ("{'model_args': {'a': 1}}", "model_args: expected a string, got an object"),
        ("{'encapsulate_script': []}", "encapsulate_script: expected a string, got a list"),
        ("{'MAD_CONTAINER_IMAGE': 1}", "MAD_CONTAINER_IMAGE: expected a string, got 1"),
        ("{'tools': {'name': 'x'}}", "tools: expected a list, got an object"),
        ("{'pre_scripts': 'x.sh'}", "pre_scripts: expected a list, got 'x.sh'"),
        ("{'post_scripts': 'x.sh'}", "post_scripts: expected a list, got 'x.sh'"),
        ("{'docker_build_arg': 'A=b'}", "docker_build_arg: expected an object, got a string"),
        ("{'docker_env_vars': ['A=b']}", "docker_env_vars: expected an object, got a list"),
        ("{'docker_mounts': None}", "docker_mounts: expected an object, got null"),
        ("{'data': []}", "data: expected an object, got a list"),
        (
            "{'docker_env_vars': {'A': ['b']}}",
            "A: expected a string, a number or true/false, got a list",
        ),
        ("{'docker_env_vars': {'A': None}}", "docker_env_vars.A: expected a string, a number or true/false, got null"),
        (
            "{'docker_build_arg': {'A': {}}}",
            "A: expected a string, a number or true/false, got an object",
        ),
        ("{'docker_env_vars': {'A B': '1'}}", "docker_env_vars: invalid variable name 'A B'; use letters"),
        ("{'docker_env_vars': {'A\\n': '1'}}", "invalid variable name 'A\\n'"),
        ("{'docker_build_arg': {'1A': '1'}}", "invalid variable name '1A'"),
        ("{'docker_env_vars': {'': '1'}}", "invalid variable name ''"),
        (
            "{'docker_mounts': {'data': '/d'}}",
            "docker_mounts: expected an absolute path in the container as key, got",
        ),
        ("{'docker_mounts': {'/d': 1}}", "docker_mounts./d: expected a path on the host, got 1"),
        ("{'docker_mounts': {'/d': ''}}", "docker_mounts./d: expected a path on the host, got ''"),
    ],
)
def test_a_wrong_type_is_named_with_its_path_and_what_is_expected(text: str, message: str) -> None:
    assert error_of(text).startswith("--additional-context: ")
    assert message in error_of(text)
    assert len(error_of(text)) < 160


@pytest.mark.parametrize("docker_gpus", ["x-y", "any", "0,", "0-", "-1", "0;1", "1.5", "²", "9" * 5000])
def test_what_is_no_list_of_gpus_is_named(docker_gpus: str) -> None:
    message = error_of(json.dumps({"docker_gpus": docker_gpus}))
    assert message.startswith("--additional-context: docker_gpus: expected numbers and ranges such as '0,2-4,7', got ")
    assert message.endswith(f"got {shown(docker_gpus)}")


def test_the_value_of_a_variable_is_never_in_an_error() -> None:
    assert "hunter2" not in error_of("{'docker_env_vars': {'A': ['hunter2']}}")
    assert "hunter2" not in error_of("{'docker_env_vars': 'A=hunter2'}")


def test_a_wrong_layer_is_named_as_the_source(tmp_path: Path) -> None:
    file = tmp_path / "context.json"
    file.write_text('{"tools": 1}')
    with pytest.raises(ConfigurationError, match=r"context\.json: tools: expected a list, got 1"):
        load_context({}, {}, file, None)
    with pytest.raises(ConfigurationError, match="the manifest's context: tools: expected a list, got 1"):
        load_context({}, {"tools": 1}, None, None)


def test_a_context_file_that_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"nope\.json: no such file"):
        load_context({}, {}, tmp_path / "nope.json", None)
    with pytest.raises(ConfigurationError, match="can't be read: is a directory"):
        load_context({}, {}, tmp_path, None)
    (tmp_path / "latin.json").write_bytes(b'{"a": "\xe9"}')
    with pytest.raises(ConfigurationError, match=r"latin\.json: byte 7 is not UTF-8"):
        load_context({}, {}, tmp_path / "latin.json", None)


def test_a_context_file_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / "context.json").write_bytes(b'\xef\xbb\xbf{"guest_os": "UBUNTU"}')
    assert load_context({}, {}, tmp_path / "context.json", None).guest_os == "UBUNTU"


@unhurried
@given(st.lists(objects, max_size=4))
def test_merging_changes_no_layer_and_shares_nothing_with_one(layers: list[dict[str, Any]]) -> None:
    before = copy.deepcopy(layers)
    merged = merge(*layers)
    assert layers == before
    _scribble(merged)
    assert layers == before


def _scribble(value: Any) -> None:
    if isinstance(value, dict):
        for item in value.values():
            _scribble(item)
        value["scribbled"] = True
    elif isinstance(value, list):
        value.append("scribbled")


@unhurried
@given(objects)
def test_merging_with_nothing_or_itself_changes_nothing(layer: dict[str, Any]) -> None:
    assert merge(layer) == merge({}, layer) == merge(layer, {}) == merge(layer, layer) == layer


@unhurried
@given(objects, objects)
def test_each_leaf_of_a_merge_is_the_later_layers_if_it_has_one(below: dict[str, Any], above: dict[str, Any]) -> None:
    merged = merge(below, above)
    assert merged.keys() == below.keys() | above.keys()
    for key, value in merged.items():
        if key not in above:
            assert value == below[key]
        elif isinstance(above[key], dict) and isinstance(below.get(key), dict):
            assert value == merge(below[key], above[key])
        else:
            assert value == above[key]


@unhurried
@given(objects)
def test_json_and_literal_spellings_of_an_object_mean_the_same(value: dict[str, Any]) -> None:
    assert parse_object(json.dumps(value), "json") == parse_object(repr(value), "literal") == value


def test_host_facts_name_the_package_manager_found_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    _program(tmp_path / "zypper")
    assert host_facts({"PATH": str(tmp_path)})["host_os"] == "HOST_SLES"
    _program(tmp_path / "yum")
    assert host_facts({"PATH": str(tmp_path)})["host_os"] == "HOST_CENTOS"
    _program(tmp_path / "apt")
    assert host_facts({"PATH": str(tmp_path)})["host_os"] == "HOST_UBUNTU"


def _program(path: Path) -> None:
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)


def test_a_host_without_a_known_package_manager_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    facts = host_facts({"PATH": str(tmp_path), "MAD_SECRETS_TOKEN": "hunter2"})
    assert facts["host_os"] == "Unable to detect Host OS"
    assert facts["numa_balancing"] in ("0", "1", "2", "3", False)
    assert facts["ctx_test"] == "None"
    assert matches({"ctx_test": "None"}, Context(facts))
    assert not matches({"ctx_test": "0"}, Context(facts))
    assert "hunter2" not in repr(facts)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ("{}", None),
        ("{'gen_sys_env_details': True}", True),
        ("{'gen_sys_env_details': 'false'}", False),
        ("{'generate_sys_env_details': 0}", False),
    ],
)
def test_a_context_says_whether_containers_describe_themselves(values: str, expected: bool | None) -> None:
    assert from_text(values).describes_environment is expected


def test_keys_of_madengine_2_that_are_not_supported_are_known() -> None:
    assert from_text("{'vllm': {'a': 2}, 'debug': False, 'docker_gpus': '0'}").unsupported_keys == ("vllm",)
    unsupported = [name for name, key in KEYS.items() if key.honoured is Honoured.NOWHERE]
    values = {**dict.fromkeys(unsupported, "x"), **dict.fromkeys(JOB_FLAGS, False)}
    assert Context(values).unsupported_keys == tuple(unsupported)
    assert Context(dict.fromkeys(JOB_FLAGS, True)).unsupported_keys == ()
    assert {"vllm", "monitor", "timeout_multiplier"} <= {*unsupported}
    assert all(KEYS[name].instead for name in unsupported)


@pytest.mark.parametrize(
    ("values", "refused"),
    [
        ({"slurm": {"nodes": 1}, "k8s": {}, "deploy": "local"}, ["slurm"]),
        ({"kubernetes": {"gpu_count": 1}, "deploy": "k8s"}, ["kubernetes", "deploy"]),
        ({"deploy": " Docker "}, []),
        ({"distributed": {"launcher": "torchrun", "nnodes": 1}}, []),
        ({"distributed": {"nnodes": "2"}}, []),
        ({"distributed": {"launcher": "slurm-multi", "nnodes": 2}}, []),
        ({"deployment_config": {"target": "slurm", "env_file": "site.sh", "k8s": {}}}, ["deploy", "env_file"]),
        ({"deployment_config": {"target": "local", "slurm": {}, "debug": False}}, []),
    ],
)
def test_what_a_run_on_one_machine_cannot_do_is_refused(values: dict[str, Any], refused: list[str]) -> None:
    context = from_text(json.dumps(values))
    assert sorted(context.refusals) == sorted(refused)
    for name in refused:
        with pytest.raises(
            ConfigurationError, match=rf"^context: ({'|'.join(refused)}): .* (take the key out|all the same)"
        ):
            refuse_unsupported(Context({name: context.values[name]}))
    assert {"slurm", "k8s", "kubernetes", "deploy"}.isdisjoint(context.here.refusals)


def test_the_keys_of_a_deployment_config_count_where_the_context_lacks_them() -> None:
    config = {"target": "local", "env_vars": {"A": "1"}, "gpus_per_node": 8, "distributed": {}, "strange": 1}
    context = load_context({}, {"deployment_config": config, "env_vars": {"B": "2"}}, None, '{"ngpus": 1}')
    assert context.values == {"env_vars": {"B": "2"}, "deploy": "local", "gpus_per_node": 8, "strange": 1, "ngpus": 1}
    assert context.n_gpus == "8"
    assert context.unknown_keys == ("strange",)
    message = error_of('{"deployment_config": {"env_vars": "A=1"}}')
    assert message == "--additional-context: deployment_config: env_vars: expected an object, got a string"


def test_a_manifest_has_what_is_for_clusters_where_madengine_2_looks_for_it() -> None:
    values = {"slurm": {"nodes": 2}, "env_vars": {"A": "1"}, "deploy": "slurm", "debug": True, "timeout": 5}
    context = from_text(json.dumps(values))
    expected = {"slurm": {"nodes": 2}, "env_vars": {"A": "1"}, "target": "slurm", "debug": True}
    assert context.deployment_config == expected
    assert not context.for_manifest.keys() & {*values, "deployment_config"}
    assert load_context({}, {"deployment_config": expected}, None, None).values == {
        key: value for key, value in values.items() if key != "timeout"
    }


@pytest.mark.parametrize(
    ("values", "count"),
    [({}, ""), ({"n_gpus": 2}, "2"), ({"ngpus": " 4 ", "num_gpus": "-1"}, "-1"), ({"n_gpus": 0}, "0")],
)
def test_a_context_may_set_the_number_of_gpus(values: dict[str, Any], count: str) -> None:
    assert from_text(json.dumps(values)).n_gpus == count


@pytest.mark.parametrize("value", ["all", -2, True, 1.5, [1], None, "²"])
def test_another_number_of_gpus_is_refused(value: Any) -> None:
    assert error_of(json.dumps({"gpu_count": value})) == (
        f"--additional-context: gpu_count: expected a whole number of GPUs, or -1 for all, got {shown(value)}"
    )


@pytest.mark.parametrize(
    ("value", "text"),
    [("${HOME}/x", "/root/x"), ("a ${NONE} b", "a  b"), ("$HOME $(id) `id` ${HOME", "$HOME $(id) `id` ${HOME")],
)
def test_only_names_in_braces_are_replaced_in_env_vars(value: str, text: str) -> None:
    assert expanded(value, {"HOME": "/root"}) == text


# --- what a build leaves for its runs ---

VALUES: dict[str, Any] = {
    "gpu_vendor": "AMD",
    "guest_os": "UBUNTU",
    "docker_build_arg": {"A": 1},
    "docker_env_vars": {"B": "2"},
    "docker_mounts": {"/in": "/host"},
    "docker_cpus": "0-3",
    "docker_gpus": "0,2",
    "SHM_SIZE": "16g",
    "model_args": "",
    "multi_node_args": {"NNODES": 2},
    "data": {"x": {"local": {"path": "/data"}}},
    "tools": ["rocprof"],
    "pre_scripts": ["a.sh"],
    "post_scripts": [],
    "encapsulate_script": "numactl",
    "artifacts": "*.json",
    "workspace": "/data/mad",
    "log_error_pattern_scan": True,
    "log_error_patterns": ["FAILED"],
    "log_error_benign_patterns": ["fine"],
    "gen_sys_env_details": False,
    "generate_sys_env_details": "true",
    "rocenv_mode": "full",
    "require_pinned_image": True,
    **dict.fromkeys(GPU_COUNTS, 2),
}
OF_THE_BUILD = {"host_os": "HOST_SLES", "numa_balancing": "0", "ctx_test": "1", "MAD_CONTAINER_IMAGE": "r/x:1"}


def test_a_manifest_gets_each_key_that_a_run_reads_as_it_is() -> None:
    context = load_context(
        {"gpu_vendor": "NVIDIA"}, {}, None, json.dumps({**VALUES, **OF_THE_BUILD, "slurm": {"a": 1}})
    )
    assert context.for_manifest == VALUES
    honoured = {name for name, key in KEYS.items() if key.honoured in (Honoured.RUN, Honoured.BOTH)}
    assert {name for name, key in KEYS.items() if key.in_manifest is InManifest.IF_SET} <= honoured
    elsewhere = {
        "MAD_CONTAINER_IMAGE",
        "MAD_ROCM_PATH",
        "deployment_config",
        "env_file",
        "env_vars",
        "distributed",
        "debug",
        "shared_data",
        *PLACES,
    }
    assert honoured - VALUES.keys() == {*elsewhere, *PLACES}


def test_a_manifest_gets_nothing_that_was_only_detected() -> None:
    empty: dict[str, Any] = {"docker_build_arg": {}, "docker_env_vars": {}, "docker_mounts": {}}
    detected = {"gpu_vendor": "AMD", "host_os": "HOST_UBUNTU"}
    assert load_context(detected, {}, None, None).for_manifest == empty
    assert load_context(detected, {}, None, "{'gpu_vendor': 'AMD'}").for_manifest == {**empty, "gpu_vendor": "AMD"}
    assert load_context(detected, {}, None, "{'tools': None}").for_manifest == empty


@pytest.mark.parametrize("key", VALUES)
def test_a_runs_own_context_wins_over_its_manifests(key: str) -> None:
    manifest = from_text(json.dumps(VALUES)).for_manifest
    assert load_context({}, manifest, None, None).values[key] == VALUES[key]
    others: dict[Any, Any] = {dict: {"C": "3"}, list: ["x"], str: "x", bool: True, int: 8}
    own = {
        "generate_sys_env_details": "on",
        "gpu_vendor": "NVIDIA",
        "docker_gpus": "1",
        "SHM_SIZE": "1g",
        "docker_mounts": {"/c": "/d"},
    }
    other = own.get(key, others[type(VALUES[key])])
    merged = load_context({}, manifest, None, json.dumps({key: other})).values[key]
    assert merged == ({**VALUES[key], **other} if isinstance(other, dict) else other)


def test_pods_lack_what_is_an_engines_own() -> None:
    context = from_text(json.dumps({**VALUES, **OF_THE_BUILD, "k8s": {"a": 1}, "slurm": {"a": 1}}))
    assert context.ignored_in_pods == (
        *(
            "docker_cpus",
            "docker_gpus",
            "workspace",
            "generate_sys_env_details",
            "require_pinned_image",
            "rocenv_mode",
            "MAD_CONTAINER_IMAGE",
        ),
        "slurm",
    )


def test_ctx_test_is_the_content_of_the_file_of_that_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ctx_test").write_text("1\n")
    assert host_facts({})["ctx_test"] == "1"


@pytest.mark.parametrize(
    ("text", "header"),
    [
        (
            "# CONTEXT {'gpu_vendor': 'AMD', 'guest_os': 'UBUNTU'}\nFROM x\n",
            {"gpu_vendor": "AMD", "guest_os": "UBUNTU"},
        ),
        ("# CONTEXT {}\nFROM x\n", {}),
        ("# a\r\n# b\r\n# CONTEXT {'ctx_test': '0'}\r\n", {"ctx_test": "0"}),
        ("1\n2\n3\n4\n# CONTEXT {'a': 1}\n", {"a": 1}),
        ("1\n2\n3\n4\n5\n# CONTEXT {'a': 1}\n", None),
        ("# CONTEXT {'a': 1}\n# CONTEXT {'a': 2}\n", {"a": 1}),
        ("FROM x\n", None),
        ("# CONTEXT\nFROM x\n", None),
        ("", None),
    ],
)
def test_the_header_is_the_context_line_among_the_first_five(text: str, header: dict[str, Any] | None) -> None:
    assert parse_header(text, "x.Dockerfile") == header


@pytest.mark.parametrize("text", ["{'a': ", "AMD", "[1]", "", "{'a': print(1)}", "gpu_vendor=AMD"])
def test_a_header_that_is_no_literal_dict_is_named_with_its_line(text: str) -> None:
    with pytest.raises(
        ConfigurationError, match=r"docker/x\.Dockerfile:2: invalid CONTEXT header .*, expected a dict of literals"
    ):
        parse_header(f"# syntax\n# CONTEXT {text}\n", "docker/x.Dockerfile")


@pytest.mark.parametrize(
    ("header", "values", "phrase"),
    [
        ({}, {"gpu_vendor": "AMD"}, ""),
        ({"gpu_vendor": "AMD"}, {}, ""),
        ({"gpu_vendor": "AMD"}, {"gpu_vendor": ""}, ""),
        ({"gpu_vendor": "AMD"}, {"gpu_vendor": "Unable to detect GPU vendor"}, ""),
        ({"gpu_vendor": "amd", "guest_os": "Ubuntu"}, {"gpu_vendor": "AMD", "guest_os": "ubuntu"}, ""),
        ({"gpu_vendor": "AMD"}, {"gpu_vendor": "nvidia"}, "gpu_vendor is 'AMD', the context says 'NVIDIA'"),
        ({"ctx_test": "a"}, {"ctx_test": "A"}, "ctx_test is 'a', the context says 'A'"),
        ({"numa_balancing": "0"}, {"numa_balancing": False}, "numa_balancing is '0', the context says false"),
        (
            {"gpu_vendor": "AMD", "guest_os": "UBUNTU", "x": 1},
            {"gpu_vendor": "NONE", "guest_os": "CENTOS", "x": 1},
            "gpu_vendor is 'AMD', the context says 'NONE'; guest_os is 'UBUNTU', the context says 'CENTOS'",
        ),
    ],
)
def test_a_header_matches_where_no_key_contradicts_the_context(
    header: dict[str, Any], values: dict[str, Any], phrase: str
) -> None:
    assert mismatch(header, Context(values)) == phrase
    assert matches(header, Context(values)) == (not phrase)


def test_a_key_that_is_in_no_table_is_unknown_and_a_comment_is_not() -> None:
    values = {"toolz": [], "docker_build_args": {}, "tools": [], "host_os": "x", "my_own_header_key": 1, "_why": "x"}
    assert Context(values).unknown_keys == ("toolz", "docker_build_args", "my_own_header_key")


@pytest.mark.parametrize("size", ["16g", "16G", "512m", "1024", "1.5g", "64GB", "8 GiB", "", " 4g "])
def test_a_size_is_as_engines_take_it(size: str) -> None:
    assert from_text(json.dumps({"SHM_SIZE": size})).shm_size == size.strip()


@pytest.mark.parametrize("size", ["much", "-1", "1g g", "g", "9" * 5000, "1e9", "١g"])
def test_another_size_is_refused(size: str) -> None:
    assert error_of(json.dumps({"SHM_SIZE": size})) == (
        f"--additional-context: SHM_SIZE: expected a size such as '16g', got {shown(size)}"
    )


def test_a_context_file_that_would_never_end_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(ConfigurationError, match="fifo: can't be read: is a FIFO, expected a file"):
        load_context({}, {}, tmp_path / "fifo", None)
