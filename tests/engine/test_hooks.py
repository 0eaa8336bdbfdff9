"""What runs before, around and after a script, and what it leaves, in real containers."""

from __future__ import annotations

import csv
import json
import os
import shlex
from pathlib import Path
from typing import Any

import pytest

from tests.bed.components import Engine, Registry
from tests.engine.everything import Everything, spoken
from tests.engine.packages import read_json
from tests.engine.trial import CHECKOUT, METRIC, Done, Trial
from tests.engine.trial import trial as make_trial


@pytest.fixture
def trial(
    engine: Engine, base_image: str, registry: Registry, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> Trial:
    return make_trial(engine, base_image, registry, tmp_path, tmp_path_factory.getbasetemp())


# What no engine does in its own way: podman takes its time.
on_docker = pytest.mark.parametrize("engine", ["docker"], indirect=True)


def hook(script: str) -> dict[str, str]:
    """A hook that is a shell text: the trial's script runs its first argument."""
    return {"path": "run.sh", "args": shlex.quote(script)}


def test_tools_and_hooks_run_in_the_documented_order(trial: Trial) -> None:
    context = {
        "tools": [{"name": "test_tools_A"}, {"name": "test_tools_B", "env_vars": {"LEVEL": 3}}],
        "pre_scripts": [hook("echo own pre")],
        "post_scripts": [hook("echo own post $LEVEL")],
        "encapsulate_script": "env WRAPPED=yes",
    }
    done = trial.run(f"echo script $WRAPPED; {METRIC}", context=context)
    assert spoken(done.log) == [
        *("pre_script B", "pre_script A", "own pre", "cmd_B", "cmd_A", "script yes"),
        *("performance: 1 tokens_per_second", "own post 3", "post_script A", "post_script B"),
    ]
    assert (done.code, done.row["status"], done.row["performance"]) == (0, "SUCCESS", "1")
    assert not (done.workspace / ".hooks").exists()
    assert not (done.workspace / "scripts").exists()


@on_docker
def test_arguments_arrive_exactly_through_a_wrapper_and_nothing_is_run_on_this_machine(trial: Trial) -> None:
    words = ["two  words", "$(touch canary)", "it's", "", "*"]
    script = f'shift; printf "%s\\n" "$@" | od -c | head -n 3; {METRIC}'
    context = {"model_args": shlex.join([script, *words]), "encapsulate_script": "echo `touch here` &&"}
    done = trial.run("", context=context)
    assert done.code == 0, done.stderr
    plain = trial.run_manifest(
        trial.manifest(), "--additional-context", json.dumps({"model_args": context["model_args"]})
    )
    assert len(plain.rows) == 2
    logs = [log.read_bytes() for log in sorted(trial.folder.glob("runs/*/*/*.log"), key=os.path.getmtime)]
    assert [spoken(log)[-4:] for log in logs] == [spoken(logs[1])[-4:]] * 2
    assert not list(trial.folder.glob("canary")) + list(trial.folder.glob("here"))


@on_docker
def test_a_pre_script_that_fails_is_the_reason_and_the_script_does_not_run(trial: Trial) -> None:
    context = {"pre_scripts": [hook("exit 3"), hook("echo second")], "post_scripts": [hook("echo tidied")]}
    done = trial.run(f"echo script; {METRIC}", context=context)
    assert (done.code, done.reason) == (3, "pre-script run.sh: exit code 3")
    assert spoken(done.log) == ["tidied"]
    assert done.row["exit_code"] == "3"


@on_docker
def test_a_hook_that_is_nowhere_is_named(trial: Trial) -> None:
    done = trial.run(METRIC, context={"pre_scripts": [{"path": "scripts/common/nowhere.sh"}]})
    assert done.reason == "pre-script scripts/common/nowhere.sh (no such script): exit code 127"
    assert b"entry.sh: scripts/common/nowhere.sh: no such script, neither in the image nor in the package" in done.log


@on_docker
@pytest.mark.parametrize(
    ("script", "options", "reason"),
    [
        ("echo on; exit 7", (), "exit code 7"),
        ("echo on; exec sleep 60", ("--timeout", "1"), "timeout: the script ran longer than 1 s"),
        ("echo on", (), 'no line "performance: <number> <metric>" in the log'),
    ],
)
def test_post_scripts_run_also_after_a_failure(
    trial: Trial, script: str, options: tuple[str, ...], reason: str
) -> None:
    context = {"post_scripts": [hook("echo first; exit 9"), hook("echo second")]}
    done = trial.run(script, *options, context=context)
    assert spoken(done.log)[:3] == ["on", "first", "second"]
    assert done.reason == ("post-script run.sh: exit code 9" if script == "echo on" else reason)


@on_docker
def test_a_failing_post_script_fails_a_run_that_was_measured(trial: Trial) -> None:
    done = trial.run(METRIC, context={"post_scripts": [hook("exit 5")]})
    assert (done.reason, done.row["performance"]) == ("post-script run.sh: exit code 5", "")


@on_docker
def test_a_warm_up_before_the_script_is_no_measurement(trial: Trial) -> None:
    context = {"pre_scripts": [hook("echo performance: 999 tokens")]}
    done = trial.run(METRIC, context=context)
    assert done.row["performance"] == "1"


@on_docker
def test_hooks_by_an_entry_script_that_knows_none_are_no_success(trial: Trial, tmp_path: Path) -> None:
    old = tmp_path / "entry.sh"
    text = (CHECKOUT / "templates/image/entry.sh").read_text()
    assert '"failed_hook": %s, ' in text
    old.write_text(text.replace('"failed_hook": %s, ', '"other": %s, '))
    old.chmod(0o755)
    context = {"post_scripts": [hook("echo on")], "docker_mounts": {"/opt/madengine/entry.sh": str(old)}}
    assert "entry.sh is of an older madengine" in trial.run(METRIC, context=context).reason


@on_docker
def test_what_a_container_is_like_is_left_beside_the_log_without_its_variables(trial: Trial) -> None:
    done = trial.run(METRIC, env={"MAD_SECRETS_X": "canary-5150"})
    file = done.workspace / "any_env.csv"
    with file.open(newline="") as lines:
        told = list(csv.DictReader(lines))
    assert {"kernel", "cpu", "memory"} <= {row["what"] for row in told}
    assert not [row for row in told if "No such file" in row["line"] or "can't open" in row["line"]]
    assert "canary-5150" not in file.read_text()
    for option in ("--generate-sys-env-details=false", "--sys-env-details=false"):
        again = trial.run(METRIC, option, "--run-id", option[2:5])
        assert not list((trial.folder / "runs" / option[2:5]).rglob("*_env.csv"))
        assert again.code == 0


@on_docker
@pytest.mark.parametrize(
    ("context", "whats"),
    [({}, {"kernel"}), ({"rocenv_mode": "full"}, {"kernel", "dpkg"}), ({"gen_sys_env_details": False}, set())],
)
def test_the_context_says_how_much_of_a_container_is_described(
    trial: Trial, context: dict[str, Any], whats: set[str]
) -> None:
    packages = trial.folder / "dpkg-query"
    packages.write_text("#!/bin/sh\necho bash 5.2\n")
    packages.chmod(0o755)
    done = trial.run(METRIC, context={**context, "docker_mounts": {"/bin/dpkg-query": str(packages)}})
    assert done.code == 0, done.stderr
    told = "".join(path.read_text() for path in done.workspace.glob("any_env.csv"))
    assert {what for what in ("kernel", "dpkg") if f"\n{what}," in told} == whats


# --- what a script leaves ---


def brought(done: Done) -> dict[str, str]:
    folder = done.workspace / "artifacts"
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


@on_docker
@pytest.mark.parametrize("end", [METRIC, "exit 4"])
def test_artifacts_come_back_from_both_folders_whatever_came_of_the_run(trial: Trial, end: str) -> None:
    script = f"mkdir -p out/deep; echo a >out/deep/a.bin; echo b >b.json; echo c >../c.json; echo d >../b.json; {end}"
    done = trial.run(script, card={"artifacts": "*.json, out"}, context={"artifacts": ["nothing*"]})
    expected = {"out/deep/a.bin": "a\n", "b.json": "d\n", "c.json": "c\n", "run_directory/b.json": "b\n"}
    assert brought(done) == expected
    kept = {entry["path"]: entry["size_bytes"] for entry in done.results[0]["artifacts"]}
    assert kept == {f"artifacts/{name}": 2 for name in expected}
    assert f"any: 4 artifacts, 8 bytes, in {done.workspace.relative_to(trial.folder)}/artifacts" in done.stderr
    assert (done.workspace / "run_directory").exists() == (end != METRIC)


@on_docker
def test_artifacts_never_lead_out_of_the_workspace(trial: Trial, tmp_path: Path) -> None:
    secret = tmp_path / "secret.json"
    secret.write_text("canary")
    script = f"ln -s {secret} a.json; ln -s {tmp_path} outside; ln -s b.json c.json; echo b >b.json; mkfifo d.json"
    done = trial.run(f"{script}; {METRIC}", card={"artifacts": ["*.json", "outside/*.json", "outside"]})
    assert brought(done) == {"b.json": "b\n", "c.json": "b\n"}
    assert "a.json: not brought back: leads out of its folder" in done.stderr


# A stand-in for rocprofv3, which no image here has.
PROFILER = """#!/bin/sh
mkdir -p rocprof_output
echo "$*" >rocprof_output/words
while [ $1 != -- ]; do shift; done
shift
exec "$@"
"""


@on_docker
def test_a_tool_of_the_catalogue_brings_back_what_it_leaves(trial: Trial) -> None:
    script = f"echo $ROCBLAS_LAYER $NCCL_DEBUG; echo trace >$CUBLAS_LOGDEST_DBG; {METRIC}"
    stand_in = trial.folder / "rocprofv3"
    stand_in.write_text(PROFILER)
    stand_in.chmod(0o755)
    context = {
        "tools": [
            "rocprof",
            "rocblas_trace",
            {"name": "rccl_trace", "env_vars": {"NCCL_DEBUG": "WARN"}},
            "cublas_trace",
        ],
        "docker_mounts": {"/opt/rocm/bin/rocprofv3": str(stand_in)},
    }
    done = trial.run(script, context=context)
    assert done.code == 0, done.stderr
    assert spoken(done.log)[0] == "6 WARN"
    left = brought(done)
    assert left["cublas_trace.log"] == "trace\n"
    assert left["rocprof_output/words"].startswith(
        "--output-directory rocprof_output --output-format csv --runtime-trace -- "
    )


@on_docker
def test_a_profiler_that_the_image_does_not_have_is_named(trial: Trial) -> None:
    done = trial.run(METRIC, context={"tools": [{"name": "rocprofv3"}]})
    assert done.reason == "exit code 127"
    assert b"rocprof_wrapper.sh: neither rocprofv3 nor rocprof in this image" in done.log


@on_docker
def test_a_line_says_where_madengine_2_would_see_a_failure(trial: Trial) -> None:
    script = f"echo 'W FutureWarning: FAILED'; echo 'ValueError: odd'; {METRIC}"
    done = trial.run(script)
    assert (done.code, done.row["status"]) == (0, "SUCCESS")
    line = "any: 'ValueError:' is in the log: ValueError: odd; a FAILURE for madengine 2, and here with "
    assert line in done.stderr
    for scan, status in (("true", "FAILURE"), (False, "SUCCESS")):
        done = trial.run(script, context={"log_error_pattern_scan": scan})
        assert (done.rows[-1]["status"], line in done.stderr) == (status, False)


@on_docker
def test_error_patterns_count_only_where_they_are_asked_for(trial: Trial) -> None:
    script = f"echo 'RuntimeError: harmless'; echo 'RuntimeError: bad'; {METRIC}"
    assert trial.run(script, "--run-id", "a").code == 0
    patterns = {"log_error_patterns": ["RuntimeError:"], "log_error_benign_patterns": ["harmless"]}
    trial.run(script, "--run-id", "b", card=patterns)
    done = trial.run(script, "--run-id", "c", card=patterns, context={"log_error_pattern_scan": False})
    assert [row["status"] for row in done.rows] == ["SUCCESS", "FAILURE", "SUCCESS"]
    assert done.rows[1]["reason"] == "log_error_patterns: 'RuntimeError:' is in the log: RuntimeError: bad"


@on_docker
def test_several_processes_are_started_on_what_the_run_was_given(trial: Trial) -> None:
    context = {"multi_node_args": {"NNODES": 2, "NODE_RANK": "1", "NCCL_SOCKET_IFNAME": "ib0"}}
    # What the variable says, and that a shell takes it as it is.
    script = f"echo $MAD_MULTI_NODE_RUNNER; torchrun() {{ :; }}; ${{MAD_MULTI_NODE_RUNNER%%torchrun*}} env; {METRIC}"
    done = trial.run(script, context=context)
    lines = spoken(done.log)
    assert lines[0] == (
        "env NCCL_SOCKET_IFNAME=ib0 torchrun --nproc_per_node 1 --nnodes 2 --node_rank 1 "
        "--master_addr localhost --master_port 6006"
    )
    assert "NCCL_SOCKET_IFNAME=ib0" in lines
    # It stays as the image has it.
    assert not any(line.startswith("GLOO_SOCKET_IFNAME") for line in lines)
    assert (done.row["nnodes"], done.row["gpus_per_node"]) == ("2", "0")


@on_docker
def test_a_script_gets_the_variables_of_its_launcher(trial: Trial) -> None:
    script = f"echo $MAD_MULTI_NODE_RUNNER,$VLLM_TENSOR_PARALLEL_SIZE,$NPROC_PER_NODE; {METRIC}"
    settings = {"launcher": "vllm", "nproc_per_node": 4}
    done = trial.run(script, card={"distributed": settings}, context={"env_vars": {"NPROC_PER_NODE": "mine"}})
    assert spoken(done.log)[0] == ",4,mine"
    assert (done.row["launcher"], done.row["status"]) == ("vllm", "SUCCESS")
    refused = trial.run(METRIC, context={"distributed": {"launcher": "sglang_disagg"}})
    assert refused.code == 3
    assert "launcher sglang-disagg: it needs several nodes, and this run is on one" in refused.rows[-1]["reason"]


@on_docker
def test_an_older_manifests_runner_is_not_taken_for_this_machines(trial: Trial) -> None:
    variables = {"MAD_MULTI_NODE_RUNNER": "torchrun --nproc_per_node 8", "MAD_SYSTEM_NGPUS": "8", "MINE": "kept"}
    path = trial.manifest(context={"docker_env_vars": variables}, madengine_version=None)
    script = f"echo $MAD_MULTI_NODE_RUNNER; echo $MAD_SYSTEM_NGPUS $MINE; {METRIC}"
    asked = json.dumps({"model_args": shlex.quote(script)})
    done = trial.run_manifest(path, "--additional-context", asked)
    assert "--nproc_per_node=1" in spoken(done.log)[0]
    assert spoken(done.log)[1] == "0 kept"


@on_docker
def test_compat_gives_the_flags_of_older_madengine(trial: Trial) -> None:
    script = f"grep -E '^(CapEff|Seccomp):' /proc/self/status; ls /sys/class/net | sort; {METRIC}"
    path = trial.manifest()
    asked = json.dumps({"model_args": shlex.quote(script), "gpu_vendor": "NONE"})
    shown = trial.run_manifest(path, "--additional-context", asked, "--isolation", "compat", "--dry-run").stdout
    (line,) = [line for line in shown.splitlines() if f"{trial.engine.name} run" in line]
    words = shlex.split(line)
    assert [word for word in words if word in COMPAT] == COMPAT
    assert not [word for word in words if word.startswith(("--shm-size", "--ulimit"))]
    assert "--shm-size=1g" in shlex.split(
        trial.run_manifest(
            path, "--additional-context", '{"SHM_SIZE": "1g"}', "--isolation", "compat", "--dry-run"
        ).stdout
    )


COMPAT = [
    *("--cap-add=SYS_PTRACE", "--cap-add=SYS_ADMIN", "--cap-add=SYS_NICE", "--device=/dev/fuse"),
    *("--security-opt=seccomp=unconfined", "--security-opt=apparmor=unconfined", "--network=host", "--ipc=host"),
]


# --- a package that asks for everything ---


@pytest.fixture
def everything(engine: Engine, base_image: str, tmp_path: Path) -> Everything:
    return Everything(engine, base_image, tmp_path, os.urandom(4).hex())


@on_docker
def test_images_that_are_there_already_run_in_place_of_built_ones(everything: Everything, base_image: str) -> None:
    mine = f"every-{os.urandom(4).hex()}:1"
    everything.engine("tag", base_image, mine)
    try:
        ended = everything.madengine(
            everything.folder,
            "run",
            "--tags",
            "every",
            "--additional-context",
            json.dumps({"MAD_CONTAINER_IMAGE": mine}),
        )
        done = Done(*ended, everything.folder)
        assert done.code == 0, done.stderr
        assert {row["docker_image"] for row in done.rows} == {mine}
        manifest = read_json(everything.folder / "build_manifest.json")
        assert set(manifest["built_images"]) == {"local-every/one", "local-every/two"}
        prebuilt = everything.build("--tags", "every", "--use-image", mine)
        assert {key: entry["docker_image"] for key, entry in prebuilt["built_images"].items()} == {
            "every/one": mine,
            "every/two": mine,
        }
    finally:
        everything.engine("rmi", mine, check=False)


def test_a_batch_manifest_says_what_is_built_and_what_is_only_named(everything: Everything, registry: Registry) -> None:
    first = everything.build("--tags", "every/one", "--registry", registry.address)
    (old,) = first["built_images"].values()
    batch = [
        {"model_name": "every/one", "build_new": False, "registry_image": old["registry_image"]},
        {"model_name": "every/two", "build_new": True, "registry": registry.address},
    ]
    everything.write("batch.json", json.dumps(batch))
    ended = everything.madengine(everything.folder, "build", "--batch-manifest", "batch.json", "--tags", "old")
    assert (ended.code, "not together with --batch-manifest" in ended.stderr) == (4, True)
    both = everything.build("--batch-manifest", "batch.json")["built_images"]
    taken, built = both["ci-every_one_os"], both["ci-every_two_os"]
    assert (taken["registry_digest"], taken["self_contained"]) == (old["registry_digest"], True)
    assert built["registry_image"] == f"{registry.address}/ci-every_two_os"
    assert list((everything.folder / "build_logs").glob("*one*.build.skipped.log"))
    assert everything.run().code == 0


@on_docker
def test_an_image_for_each_architecture(everything: Everything, base_image: str) -> None:
    step = "ARG MAD_SYSTEM_GPU_ARCHITECTURE\nRUN echo $MAD_SYSTEM_GPU_ARCHITECTURE >/arch\n"
    everything.write("docker/m0.os.Dockerfile", f"# CONTEXT {{}}\nFROM {base_image}\n{step}")
    manifest = everything.build("--tags", "every/one", "--target-archs", "gfx90a,MI300X")
    images = manifest["built_images"]
    assert {key: image["gpu_architecture"] for key, image in images.items()} == {
        "ci-every_one_os_gfx90a": "gfx90a",
        "ci-every_one_os_gfx942": "gfx942",
    }
    found = [everything.engine("run", "--rm", "--entrypoint=cat", name, "/arch").stdout for name in images]
    assert found == ["gfx90a\n", "gfx942\n"]
