"""Tools of the catalogue, and users' own commands that call its scripts: what they leave comes home."""

from __future__ import annotations

import csv
import os
from pathlib import Path
from typing import Any

import pytest

from tests.bed.components import Engine, Registry
from tests.engine.everything import spoken
from tests.engine.test_hooks import brought
from tests.engine.trial import METRIC, Done, Trial
from tests.engine.trial import trial as make_trial

# A stand-in for rocprofv3, which no image here has: it notes its options, and writes as rocprofv3 does.
PROFILER = """#!/bin/sh
echo "rocprofv3 $*"
folder=. counters=
while [ "$1" != -- ]; do
  case $1 in
    -d | --output-directory) folder=$2 ;;
    -i) cat "$2" >/dev/null || exit 66 ;;
  esac
  shift
done
shift
mkdir -p "$folder/host1"
"$@"
code=$?
echo data >"$folder/host1/7_results.db"
echo trace >"$folder/host1/7_kernel_trace.csv"
exit $code
"""
ROCPROF = [
    "rocprof",
    "rocprof_hip_only",
    "rocprof_sys",
    "rocprofv3",
    *("rocprofv3_" + name for name in ("compute", "memory", "communication", "full", "lightweight", "agent")),
    *("rocprofv3_" + name for name in ("agent_counter", "perfetto", "api_overhead", "pc_sampling")),
]

# Of this process: containers of tests that run side by side must not have one name.
TAG = os.urandom(3).hex()

pytestmark = pytest.mark.parametrize("engine", ["docker"], indirect=True)


@pytest.fixture
def trial(
    engine: Engine, base_image: str, registry: Registry, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> Trial:
    made = make_trial(engine, base_image, registry, tmp_path, tmp_path_factory.getbasetemp())
    stand_in = made.folder / "rocprofv3"
    stand_in.write_text(PROFILER)
    stand_in.chmod(0o755)
    return made


def profiled(trial: Trial, script: str, *tools: Any, **context: Any) -> Done:
    """Run a script with tools, in a container that has the profiler."""
    mounts = {"/opt/rocm/bin/rocprofv3": str(trial.folder / "rocprofv3")}
    return trial.run(script, context={"tools": [*tools], "docker_mounts": mounts, **context})


OWN = "PATH=$PATH:/opt/rocm/bin rocprofv3 --sys-trace --"


def test_what_a_users_own_command_leaves_comes_home_though_success_removes_the_models_directory(trial: Trial) -> None:
    script = (
        f"mkdir -p a/b; for name in x.pftrace results.json y.nsys-rep log.txt; do echo n >a/b/$name; done; {METRIC}"
    )
    done = profiled(trial, script, {"name": "nsys", "cmd": OWN})
    assert done.code == 0, done.stderr
    assert sorted(brought(done)) == [
        *("a/b/results.json", "a/b/x.pftrace", "a/b/y.nsys-rep", "host1/7_kernel_trace.csv", "host1/7_results.db")
    ]
    assert not (done.workspace / "run_directory").exists()


def test_what_a_wrapper_leaves_comes_home_after_a_failure_too_and_nothing_without_a_tool(trial: Trial) -> None:
    script = "mkdir -p a; echo n >a/x.db; echo n >weights.db; exit 3"
    done = profiled(trial, script, encapsulate_script="env A=1")
    assert done.code == 3
    assert sorted(brought(done)) == ["a/x.db", "weights.db"]
    done = trial.run(f"echo n >x.db; {METRIC}", "--run-id", f"{TAG}-plain")
    assert not list(trial.folder.glob(f"runs/{TAG}-plain/*/artifacts"))


def test_a_file_that_the_image_carries_is_no_output(trial: Trial) -> None:
    # stale.csv is one of the package's scripts
    done = profiled(trial, f"cp stale.csv new_results.csv; {METRIC}", encapsulate_script="env A=1")
    assert list(brought(done)) == ["new_results.csv"]


@pytest.mark.parametrize("tool", ROCPROF)
def test_each_rocprof_of_the_catalogue_brings_its_output(trial: Trial, tool: str) -> None:
    done = profiled(trial, METRIC, tool)
    assert done.code == 0, done.stderr
    (line,) = (line for line in done.log.decode().splitlines() if line.startswith("rocprofv3 "))
    assert "--hip-trace" in line or "--runtime-trace" in line or "--sys-trace" in line
    assert line.endswith(" -- bash run.sh " + line.rpartition(" run.sh ")[2])
    assert {"rocprof_output/host1/7_results.db", "rocprof_output/rocprofv3_output_kernel_trace.csv"} <= brought(
        done
    ).keys()


def test_commands_of_users_own_find_the_scripts_of_madengine_2(trial: Trial) -> None:
    own = {
        "name": "rocprof",
        "cmd": "bash ../scripts/common/tools/rocprof_wrapper.sh --sys-trace -d mine --",
        "pre_scripts": [{"path": "scripts/common/pre_scripts/gpu_info_pre.sh"}],
        "post_scripts": [{"path": "scripts/common/post_scripts/trace.sh", "args": "rocprof"}],
    }
    hooks = {
        "pre_scripts": [{"path": "scripts/common/test_echo.sh", "args": "before"}],
        "post_scripts": [{"path": "scripts/common/post_scripts/gpu_info_post.sh", "args": "gpu_info_power_profiler"}],
    }
    done = profiled(trial, METRIC, own, **hooks)
    assert done.code == 0, done.stderr
    assert b"rocprofv3 --output-format csv --sys-trace -d mine -- bash run.sh" in done.log
    assert "mine/host1/7_results.db" in brought(done) or "rocprof_output/host1/7_results.db" in brought(done)
    assert spoken(done.log)[0] == "before"


def test_a_command_that_is_shell_text_works(trial: Trial) -> None:
    tools = [{"name": "test_tools_A", "cmd": "echo a; B=2 && export B &&"}, {"name": "nsys", "cmd": "echo c | cat &&"}]
    done = profiled(trial, f"echo script $B; {METRIC}", *tools)
    assert done.code == 0, done.stderr
    assert spoken(done.log)[1:4] == ["c", "a", "script 2"]


CALLS = """
echo './rocblas-bench -f gemm -m 8 --a "1,2"' >&2; echo './rocblas-bench -f gemm -m 8 --a "1,2"'
echo '- { rocblas_function: "rocblas_sgemm", atomics: 0 }'
echo 'hipblaslt-bench --api_method c -m 8'
echo 'MIOpen(HIP): Command [LogCmdConvolution] ./bin/MIOpenDriver conv -n 1'
echo 'Running kernel: Cijk_Ailk_Bljk_SB'
echo 'NCCL INFO AllReduce: opCount 0'
"""


def test_the_library_traces_count_calls_in_one_file(trial: Trial) -> None:
    show = "echo $ROCBLAS_LAYER $HIPBLASLT_LOG_MASK $MIOPEN_ENABLE_LOGGING_CMD $TENSILE_DB $NCCL_DEBUG"
    tools = [f"{name}_trace" for name in ("rocblas", "hipblaslt", "miopen", "tensile", "rccl")]
    done = trial.run(f"{show}; {CALLS} {METRIC}; exit 0", context={"tools": tools})
    assert done.code == 0, done.stderr
    assert spoken(done.log) == [
        *("6 32 1 0x8000 INFO", "NCCL INFO AllReduce: opCount 0", "performance: 1 tokens_per_second")
    ]
    rows = list(csv.DictReader(brought(done)["library_trace.csv"].splitlines()))
    assert {(row["library"], row["config"], row["calls"]) for row in rows} == {
        ("rocblas", './rocblas-bench -f gemm -m 8 --a "1,2"', "2"),
        ("rocblas_function", '- { rocblas_function: "rocblas_sgemm", atomics: 0 }', "1"),
        ("hipblaslt", "hipblaslt-bench --api_method c -m 8", "1"),
        ("miopen", "./bin/MIOpenDriver conv -n 1", "1"),
        ("tensile", "Cijk_Ailk_Bljk_SB", "1"),
    }
    assert {(row["jobid"], row["model"]) for row in rows} == {("0", "any")}


@pytest.mark.parametrize(("end", "reason"), [("exit 3", "exit code 3"), ("sleep 60", "timeout: ")])
def test_a_library_trace_keeps_the_exit_code_and_counts_what_came_before_the_end(
    trial: Trial, end: str, reason: str
) -> None:
    done = trial.run(f"{CALLS} {end}", "--timeout", "3", context={"tools": ["rocblas_trace"]})
    assert done.reason.startswith(reason)
    assert "gemm" in brought(done)["library_trace.csv"]


def test_therock_check_says_what_the_image_has(trial: Trial) -> None:
    root = trial.folder / "rock/share/therock"
    root.mkdir(parents=True)
    (root / "therock_manifest.json").write_text("{}")
    done = trial.run(METRIC, "--run-id", f"{TAG}-1", context={"tools": ["therock_check"]})
    assert spoken(done.log)[0] == "TheRock: no; ROCm not found"
    context = {"tools": ["therock_check"], "docker_mounts": {"/opt/rocm": str(trial.folder / "rock")}}
    done = trial.run(METRIC, "--run-id", f"{TAG}-2", context=context)
    (log,) = done.folder.glob(f"runs/{TAG}-2/*/*.run.live.log")
    assert b"TheRock: yes, /opt/rocm (share/therock/therock_manifest.json)" in log.read_bytes()
