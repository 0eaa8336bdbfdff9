"""A package with the shapes of public ones, built and run as it is; heavy programs in its images are stand-ins."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from madengine.machine.lock_files import FOLDERS
from tests.bed.components import Engine, Outcome, Registry, outcome
from tests.bed.gpu_stand_ins import AmdNode, without_gpu_flags
from tests.conftest import StandIns
from tests.engine.trial import CHECKOUT, Done

# Of this process: containers of tests that run side by side must not have one name.
TAG = os.urandom(3).hex()
TOKEN = "hf_aBcDeFgHiJkL"
VLLM = "pyt_vllm_llama-3.1-8b_Llama-3.1-8B-Instruct"
PRIMUS = "primus_pyt_megatron_lm_train_llama-3.1-8b"
MAXTEXT = "jax-maxtext/jax_maxtext_train_llama-2-7b"
ROWS = [
    (f"{MAXTEXT}_fp8", "", "", "SKIPPED"),
    (f"{MAXTEXT}_nanoo_fp8_Llama-2-7B", "9876.5", "tokens_per_second_per_gpu", "SUCCESS"),
    (f"{PRIMUS}_Llama-3.1-8B", "", "TFLOPS_per_gpu", "FAILURE"),
    (f"{PRIMUS}_Llama-3.1-8B", "11234.5", "tok_per_s_per_gpu", "SUCCESS"),
    ("pyt_huggingface_gpt2", "185.25", "samples_per_second", "SUCCESS"),
    ("pyt_megatron_lm_train_llama-2-7b_Llama-2-7B", "415.25", "TFLOPS_per_gpu", "SUCCESS"),
    ("pyt_megatron_lm_train_llama-2-7b_Llama-2-7B", "610.5", "TFLOPS_per_gpu", "SUCCESS"),
    ("pyt_sglang_deepseek-r1", "1534.75", "tokens/s", "SUCCESS"),
    ("pyt_sglang_disagg_qwen3", "42.5", "requests_per_second", "SUCCESS"),
    *[(VLLM, f"1{size}.5", "tokens_per_second", "SUCCESS") for size in (128, 128, 128, 128, 2048, 2048)],
    ("rccl_all_reduce_all_gather", "300.5", "busbw_gbps", "SUCCESS"),
    ("rccl_all_reduce_all_reduce", "331.25", "busbw_gbps", "SUCCESS"),
]


@pytest.fixture
def gpus(engine: Engine, stand_ins: StandIns) -> Iterator[AmdNode]:
    """A machine with eight GPUs of AMD, of which the engine hands over none."""
    node = AmdNode()
    real = shutil.which(engine.name, path=os.environ["PATH"].partition(os.pathsep)[2])
    stand_ins.add(engine.name, without_gpu_flags(str(real)))
    stand_ins.add("amd-smi", node.amd_smi())
    yield node
    for folder in FOLDERS:
        for lock in node.lock_names:
            (folder / "madengine-gpus" / lock).unlink(missing_ok=True)


@pytest.fixture
def users_package(tmp_path: Path) -> Path:
    return Path(shutil.copytree(CHECKOUT / "tests/data/package", tmp_path / "package"))


@pytest.mark.usefixtures("gpus")
def test_a_package_of_madengine_2_builds_and_runs_as_it_is(
    engine: Engine, registry: Registry, base_image: str, users_package: Path, tmp_path: Path
) -> None:
    environment = {
        **engine.environment,
        "MADENGINE_ENGINE": engine.name,
        "PYTHONPATH": str(CHECKOUT),
        "MAD_SECRETS_HFTOKEN": TOKEN,
    }

    def madengine(*words: str) -> Outcome:
        command = [sys.executable, "-m", "madengine.distributed_cli", *words]
        return outcome(command, environment, cwd=users_package, check=False)

    context = json.dumps({"guest_os": "UBUNTU", "docker_build_arg": {"BASE_DOCKER": base_image}})
    built = madengine("build", "--tags", "all", "--registry", registry.address, "-c", context)
    assert built.code == 0, built.stderr
    for number in ("1", "2"):
        words = ["--workspace", str(tmp_path / "shared"), "--run-id", f"{TAG}-{number}", "--output", f"{number}.csv"]
        ran = madengine("run", "--manifest-file", "build_manifest.json", *words)
        (users_package / f"{number}.csv").rename(users_package / "perf.csv")
        rows = Done(*ran, users_package).rows
        outcomes = sorted((row["model"], row["performance"], row["metric"], row["status"]) for row in rows)
        assert outcomes == sorted(ROWS), ran.stderr
        # The one row without a number.
        assert ran.code == 3
        (log,) = users_package.glob(f"runs/{TAG}-{number}/pyt_vllm*/*.run.live.log")
        text = log.read_text()
        assert ("weights: cached" in text) == (number == "2")
        assert "export HF_TOKEN=[redacted]*****" in text
        assert TOKEN not in text
