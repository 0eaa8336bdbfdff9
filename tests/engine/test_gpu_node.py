"""A node with eight GPUs: stand-ins tell of them, a real engine runs the containers without their flags."""

from __future__ import annotations

import csv
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from madengine.machine.lock_files import FOLDERS
from tests.bed import gpu_stand_ins as bed_gpus
from tests.bed.components import Engine, Outcome, Registry, outcome
from tests.bed.gpu_stand_ins import AmdNode, NvidiaNode
from tests.conftest import StandIns
from tests.engine.trial import METRIC, Done, Started, Trial, wait_for
from tests.engine.trial import trial as make_trial

# Long enough for a sampler at 10 Hz to see every figure that the stand-ins have.
SAMPLED = f"sleep 1.5; {METRIC}"
# The program with the times that a tool may take or be silent cut down.
IMPATIENT = (
    "from madengine.machine import telemetry; from madengine.programs import smi; "
    "telemetry.SILENT_SECONDS = smi.SECONDS = 0.5; from madengine.distributed_cli import main; raise SystemExit(main())"
)
# The program that asks AMD's tools as often as --sample-hz says.
EAGER = (
    "from madengine.programs import amd_smi, rocm_smi; amd_smi.SAMPLE_SECONDS = rocm_smi.SAMPLE_SECONDS = 0.1; "
    "from madengine.distributed_cli import main; raise SystemExit(main())"
)
TOOLS = ("nvidia-smi", "amd-smi", "rocm-smi")
FIGURES = (
    "peak_gpu_memory_mib",
    "idle_gpu_memory_mib",
    "mean_gpu_utilization",
    "p95_gpu_utilization",
    "energy_j",
    "mean_power_w",
    "peak_power_w",
    "peak_temperature_c",
    "throttled_percent",
    "sample_hz",
    "telemetry_source",
)


@dataclass(frozen=True)
class Node:
    """A machine of stand-ins: its engine hands over nothing, and notes what it was asked for."""

    trial: Trial
    stand_ins: StandIns
    lock_names: list[str] = field(default_factory=list)

    def has(self, gpus: NvidiaNode | AmdNode, **replaced: str) -> None:
        """Put GPUs into the machine; `replaced` are scripts in the place of answers of their tool."""
        self.lock_names.extend(gpus.lock_names)
        if isinstance(gpus, NvidiaNode):
            self.stand_ins.add("nvidia-smi", gpus.nvidia_smi(**replaced))
        else:
            self.stand_ins.add("amd-smi", gpus.amd_smi(**replaced))

    def run(
        self, script: str, *options: str, n_gpus: str = "-1", card: Mapping[str, Any] | None = None, **m: Any
    ) -> Done:
        """Run a script as a model that wants so many GPUs."""
        return self.trial.run(script, *options, card={"n_gpus": n_gpus, **(card or {})}, **m)

    def start(self, script: str, *options: str, n_gpus: str = "-1") -> Started:
        """Start a script as a model that wants so many GPUs; gives madengine when it has said `started`."""
        return self.trial.start(script, *options, card={"n_gpus": n_gpus})

    def elsewhere(self, name: str) -> Node:
        """The same machine with another current folder, as of somebody else."""
        folder = self.trial.folder.with_name(name)
        folder.mkdir()
        return replace(self, trial=replace(self.trial, folder=folder))

    def words_of(self, script: str, models: Mapping[str, str], *options: str) -> list[str]:
        """The command line that runs models (n_gpus by name) out of one manifest, all with the same script."""
        (image,), (card,) = (self.trial.built[section].values() for section in ("built_images", "built_models"))
        images = {f"ci-{name}": image for name in models}
        cards = {f"ci-{name}": {**card, "name": name, "n_gpus": n_gpus} for name, n_gpus in models.items()}
        path = self.trial.folder / "several.json"
        path.write_text(json.dumps({**self.trial.built, "built_images": images, "built_models": cards}))
        asked = json.dumps({"model_args": shlex.quote(script)})
        return [*self.trial.program, "run", "--manifest-file", str(path), "--additional-context", asked, *options]

    def pack(self, script: str, models: Mapping[str, str]) -> Done:
        """Run models (n_gpus by name) side by side, all with the same script."""
        return self.command(self.words_of(script, models, "--pack"))

    def command(self, words: Sequence[str]) -> Done:
        """Run a command line of madengine to its end."""
        return self.trial.done(*outcome([*words], self.trial.environment(), cwd=self.trial.folder, check=False))

    @contextmanager
    def beside(self, words: Sequence[str]) -> Iterator[Started]:
        """A command line of madengine that runs while the test does something else."""
        trial = self.trial
        with (trial.folder / "stdout").open("wb") as out, (trial.folder / "stderr").open("wb") as err:
            process = subprocess.Popen(
                words, env=trial.whole(), cwd=trial.folder, stdin=subprocess.DEVNULL, stdout=out, stderr=err
            )
        try:
            yield Started(trial, process)
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()

    def impatient(self, *words: str) -> Done:
        """Run madengine with a short time limit for the tools."""
        return self.command([sys.executable, "-c", IMPATIENT, *words])

    def sampled(self, script: str, n_gpus: str = "-1", **m: Any) -> Done:
        """Run a script as a model whose GPUs are sampled ten times a second, by whichever tool it is."""
        words = self.trial.words(script, "--sample-hz", "10", card={"n_gpus": n_gpus}, **m)
        return self.command([sys.executable, "-c", EAGER, *words[len(self.trial.program) :]])

    def waiting_words(self) -> list[str]:
        """The command line of a model that waits for all GPUs."""
        return self.trial.words(METRIC, "--gpu-wait", "30", card={"n_gpus": "-1"})

    @property
    def begun(self) -> int:
        """How many models have said `started` so far."""
        return sum("started" in log.read_text() for log in self.trial.folder.glob("runs/*/*/*.run.live.log"))

    @property
    def started(self) -> list[list[str]]:
        """The words of every `run` of the engine."""
        calls = map(shlex.split, self.stand_ins.calls())
        return [words for words in calls if words[:2] == [self.trial.engine.name, "run"]]

    @property
    def handed_over(self) -> list[list[str]]:
        """The words about GPUs in every `run` of the engine."""
        return [_gpu_words(words) for words in self.started]


def _gpu_words(words: list[str]) -> list[str]:
    kept = [word for word in words if word.startswith(("--device=", "--group-add=", "--env=NVIDIA"))]
    return [*words[words.index("--gpus") :][:2], *kept] if "--gpus" in words else kept


def _request(*uuids: str) -> list[str]:
    """What docker has to be told for these GPUs."""
    return ["--gpus", f'"device={",".join(uuids)}"']


@pytest.fixture
def trial(
    engine: Engine, base_image: str, registry: Registry, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> Trial:
    whole = make_trial(engine, base_image, registry, tmp_path, tmp_path_factory.getbasetemp())
    only = {
        name: {"ci-any_ubuntu_cpu": whole.built[name]["ci-any_ubuntu_cpu"]} for name in ("built_images", "built_models")
    }
    return replace(whole, built={**whole.built, **only})


@pytest.fixture
def node(trial: Trial, stand_ins: StandIns) -> Iterator[Node]:
    """A machine without GPUs, whose engine notes how it is called."""
    name = trial.engine.name
    real = shutil.which(name, path=os.environ["PATH"].partition(os.pathsep)[2])
    stand_ins.add(name, bed_gpus.without_gpu_flags(str(real)))
    for tool in TOOLS:
        stand_ins.add(tool)
    machine = Node(trial, stand_ins)
    yield machine
    for folder in FOLDERS:
        for lock in machine.lock_names:
            (folder / "madengine-gpus" / lock).unlink(missing_ok=True)


@pytest.fixture
def nvidia(node: Node) -> NvidiaNode:
    """Eight GPUs of NVIDIA in that machine."""
    gpus = NvidiaNode()
    node.has(gpus)
    return gpus


@pytest.fixture
def amd(node: Node) -> AmdNode:
    """Eight GPUs of AMD in that machine, of which amd-smi alone tells."""
    gpus = AmdNode()
    node.has(gpus)
    return gpus


only_docker = pytest.mark.parametrize("engine", ["docker"], indirect=True)


def series(done: Done) -> list[dict[str, str]]:
    """The samples of the only model."""
    with (done.workspace / "gpu_series.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def of_gpu(samples: list[dict[str, str]], gpu: int, figure: str) -> list[tuple[float, float]]:
    """One GPU's figures with their times."""
    return [(float(one["time"]), float(one[figure])) for one in samples if one["gpu"] == str(gpu)]


def area(points: list[tuple[float, float]]) -> float:
    """What is under the curve."""
    return sum((b[0] - a[0]) * (a[1] + b[1]) / 2 for a, b in pairwise(points))


def mean(samples: list[dict[str, str]], figure: str) -> float:
    """A figure over the time, of the first two GPUs."""
    curves = [of_gpu(samples, gpu, figure) for gpu in (0, 1)]
    return sum(area(curve) / (curve[-1][0] - curve[0][0]) for curve in curves) / 2


# --- what a run leaves ---


@only_docker
def test_the_dummy_s_row_on_an_nvidia_node_carries_every_figure(
    node: Node, nvidia: NvidiaNode, package: Path, madengine: Callable[..., Outcome], base_image: str
) -> None:
    base = json.dumps({"docker_build_arg": {"BASE_DOCKER": base_image}})
    madengine("build", "--additional-context", base, cwd=package)
    code, stdout, stderr = madengine(
        "run", "--manifest-file", "build_manifest.json", "--sample-hz", "10", cwd=package, check=False
    )
    done = Done(code, stdout, stderr, package)
    assert done.code == 0, stderr
    assert "nvidia" in done.row["docker_file"]
    skipped = {one["image"]: one["reason"] for one in done.summary["skipped_runs"]}
    assert sorted(skipped.values()) == [
        "it is for gpu_vendor AMD, this machine is NVIDIA",
        "it is for gpu_vendor NONE, this machine is NVIDIA",
    ]
    assert node.handed_over == [_request(*nvidia.uuids)]
    row = done.row
    assert {"n_gpus": "8", "gpus": "0,1,2,3,4,5,6,7", "gpu_architecture": "H100"}.items() <= row.items()
    assert {
        "foreign_processes": "0",
        "contaminated": "false",
        "packed": "",
        "telemetry_source": "nvidia-smi",
    }.items() <= row.items()
    assert {
        "peak_gpu_memory_mib": "2144.0",
        "idle_gpu_memory_mib": "32.0",
        "peak_power_w": "4004.0",
        "peak_temperature_c": "70.0",
    }.items() <= row.items()
    assert all(row[name] for name in FIGURES)
    (one,) = done.summary["successful_runs"]
    assert one["gpu_used"] == "GPU-0,GPU-1,GPU-2,GPU-3,GPU-4,GPU-5,GPU-6,GPU-7"
    assert one["peak_gpu_memory"] == "2.25GB"
    whole = json.loads((done.directory / "results.json").read_text())
    assert row["environment_id"] == whole["environment"]["environment_id"]
    assert [gpu["driver"] for gpu in whole["environment"]["gpus"]] == ["580.65.06"] * 8
    (result,) = whole["results"]
    assert [gpu["uuid"] for gpu in result["gpus"]] == list(nvidia.uuids)
    assert result["cost"]["peak_gpu_memory_mib_per_gpu"] == {str(gpu): 268.0 for gpu in range(8)}


def test_the_figures_are_those_of_the_series_beside_the_log(node: Node, nvidia: NvidiaNode) -> None:
    done = node.run(SAMPLED, "--gpu-mode", "devices", "--sample-hz", "10", n_gpus="2")
    assert done.code == 0, done.stderr
    samples, row = series(done), done.row
    assert {one["gpu"] for one in samples} == {"0", "1"}
    assert float(row["mean_gpu_utilization"]) == pytest.approx(mean(samples, "utilization_percent"), abs=0.06)
    assert float(row["p95_gpu_utilization"]) in (90, 100)
    energy = sum(area(of_gpu(samples, gpu, "power_w")) for gpu in (0, 1))
    moments = [float(one["time"]) for one in samples]
    assert float(row["energy_j"]) == pytest.approx(energy, rel=0.02)
    assert float(row["mean_power_w"]) == pytest.approx(energy / (max(moments) - min(moments)), rel=0.02)
    assert float(row["throttled_percent"]) == pytest.approx(100 * mean(samples, "throttled"), abs=0.06)
    assert sum(int(one["throttled"]) for one in samples) == 2
    assert 3 < float(row["sample_hz"]) < 11
    assert (row["peak_gpu_memory_mib"], row["peak_power_w"]) == ("536.0", "1001.0")


@only_docker
def test_a_run_that_is_too_short_for_its_samples_has_no_figures_but_the_idle_memory(
    node: Node, nvidia: NvidiaNode
) -> None:
    done = node.run(METRIC, "--sample-hz", "0.1")
    assert (done.code, done.row["status"]) == (0, "SUCCESS"), done.stderr
    given = {name: done.row[name] for name in FIGURES if done.row[name]}
    assert given == {"idle_gpu_memory_mib": "32.0", "telemetry_source": "nvidia-smi"}
    assert done.results[0]["cost"]["peak_gpu_memory_mib_per_gpu"] == {}
    assert len(series(done)) == 2 * 8
    assert "s apart are too few for so short a run; raise --sample-hz (at most 10)" in done.stderr


# --- which GPUs ---


@only_docker
def test_a_subset_is_the_first_free_gpus_and_the_whole_command_line_is_known(node: Node, nvidia: NvidiaNode) -> None:
    done = node.run(METRIC, n_gpus="2")
    assert done.code == 0, done.stderr
    (words,) = node.started
    (name,) = (path.name for path in (done.folder / "runs").iterdir())
    image = node.trial.built["built_images"]["ci-any_ubuntu_cpu"]
    position = words.index("--gpus")
    before, after = words[:position], words[position + 2 :]
    assert words[position : position + 2] == _request(*nvidia.uuids[:2])
    assert before[:5] == ["docker", "run", "--detach", "--init", "--name"]
    assert before[5] == f"madengine-{name}-any"
    assert not _gpu_words(before) and not _gpu_words(after)
    assert after[-3].endswith(f"@{image['registry_digest']}")
    assert after[-2:] == ["--", METRIC]
    assert done.row["gpus"] == "0,1"
    assert (done.row["n_gpus"], done.row["gpus_per_node"]) == ("2", "2")


@pytest.mark.parametrize(
    ("context", "env"),
    [
        ({"docker_gpus": "6,2-3"}, {"CUDA_VISIBLE_DEVICES": "0"}),
        ({}, {"CUDA_VISIBLE_DEVICES": "6,2,3", "NVIDIA_VISIBLE_DEVICES": "all"}),
    ],
    ids=["docker_gpus", "variables"],
)
def test_docker_gpus_or_variables_say_which_ones_and_in_which_order(
    node: Node, nvidia: NvidiaNode, context: dict[str, str], env: dict[str, str]
) -> None:
    done = node.run(METRIC, "--gpu-mode", "devices", context=context, env=env)
    assert done.code == 0, done.stderr
    (handed,) = node.handed_over
    given = [word.removeprefix("--device=/dev/nvidia") for word in handed if word.startswith("--device=")]
    assert [number for number in given if number.isdigit()] == ["6", "2", "3"]
    visible = ",".join(nvidia.uuids[gpu] for gpu in (6, 2, 3))
    assert handed[-1] == f"--env=NVIDIA_VISIBLE_DEVICES={visible}"
    assert (done.row["gpus"], done.row["n_gpus"]) == ("6,2,3", "3")


@only_docker
@pytest.mark.parametrize(
    ("n_gpus", "docker_gpus", "said"),
    [
        ("16", "", "too many GPUs requested: n_gpus is 16, this machine has 8"),
        (
            "4",
            "0-2",
            "too many GPUs requested: n_gpus is 4, this machine has 8, docker_gpus or *_VISIBLE_DEVICES allow 3",
        ),
    ],
)
def test_too_many_gpus_are_a_failure_that_says_how_many_there_are(
    node: Node, nvidia: NvidiaNode, n_gpus: str, docker_gpus: str, said: str
) -> None:
    done = node.run(METRIC, n_gpus=n_gpus, context={"docker_gpus": docker_gpus})
    assert done.code == 3
    assert done.reason == said
    assert (done.row["n_gpus"], done.row["gpus"]) == (n_gpus, "")
    assert not node.started


@only_docker
def test_a_card_with_no_gpus_gets_none(node: Node, nvidia: NvidiaNode) -> None:
    done = node.run(f'echo "<$MAD_RUNTIME_NGPUS $MAD_SYSTEM_NGPUS>"; {METRIC}', n_gpus="0")
    assert done.code == 0, done.stderr
    assert b"<0 8>" in done.log
    assert node.handed_over == [["--env=NVIDIA_VISIBLE_DEVICES=void"]]
    assert all(done.row[name] == "" for name in FIGURES)


VARIABLES = "env | grep ^MAD_ | sort; " + METRIC


def variables(done: Done) -> dict[str, str]:
    """The MAD_ variables that the script printed."""
    return dict(line.split("=", 1) for line in done.log.decode().splitlines() if line.startswith("MAD_"))


@only_docker
def test_a_script_is_told_of_the_machine_and_of_its_part(node: Node, nvidia: NvidiaNode) -> None:
    done = node.run(VARIABLES, n_gpus="2")
    assert variables(done) == {
        "MAD_GPU_VENDOR": "NVIDIA",
        "MAD_GUEST_OS": "UBUNTU",
        "MAD_MODEL_NAME": "any",
        "MAD_MULTI_NODE_RUNNER": "torchrun --standalone --nproc_per_node=2",
        "MAD_RUNTIME_NGPUS": "2",
        "MAD_SYSTEM_GPU_ARCHITECTURE": "NVIDIA H100 80GB HBM3",
        "MAD_SYSTEM_GPU_PRODUCT_NAME": "NVIDIA H100 80GB HBM3",
        "MAD_SYSTEM_HIP_VERSION": "13.0",
        "MAD_SYSTEM_NGPUS": "8",
    }


# --- skip_gpu_arch ---


@only_docker
def test_a_card_that_is_not_for_this_architecture_is_skipped(node: Node, nvidia: NvidiaNode) -> None:
    done = node.run(METRIC, card={"skip_gpu_arch": "A100, H100"})
    assert done.code == 0, done.stderr
    assert done.row["status"] == "SKIPPED"
    assert done.row["reason"] == "skip_gpu_arch: it is not for H100; --disable-skip-gpu-arch runs it all the same"
    assert not node.started
    (one,) = done.summary["skipped_runs"]
    assert one["model_name"] == "any"


@only_docker
def test_disable_skip_gpu_arch_runs_it_all_the_same(node: Node, nvidia: NvidiaNode) -> None:
    done = node.run(METRIC, "--disable-skip-gpu-arch", card={"skip_gpu_arch": "A100, H100"})
    assert (done.code, done.row["status"]) == (0, "SUCCESS")


# --- one run at a time ---


@only_docker
def test_a_second_run_fails_naming_the_holder(node: Node, nvidia: NvidiaNode) -> None:
    first = node.start("echo started; sleep 60")
    second = node.elsewhere("second").run(METRIC, n_gpus="1")
    assert second.code == 3
    assert second.reason.startswith(f"1 GPUs needed, 0 free: GPU 0 is in use by process {first.process.pid} of ")
    assert "(model 'any')" in second.reason
    assert second.reason.endswith("--gpu-wait SECONDS waits for them")
    first.send(signal.SIGINT)
    assert first.end().row["reason"] == "interrupted"


# A CI container that has the host's engine, and a /run/lock and a /tmp/madengine-gpus of its own.
IN_A_CONTAINER = (
    "unshare", "--mount", "sh", "-c",
    'mount --make-rprivate / && mount -t tmpfs tmpfs /run/lock && chmod 1777 /run/lock && exec "$@"', "sh",
)  # fmt: skip


@only_docker
def test_a_run_in_a_ci_container_meets_those_of_the_host(node: Node, nvidia: NvidiaNode) -> None:
    first = node.start("echo started; sleep 60", n_gpus="7")
    second = node.elsewhere("second")
    words = second.trial.words(METRIC, card={"n_gpus": "2"})
    done = second.command([*IN_A_CONTAINER, *words])
    assert done.code == 3, done.stderr
    assert done.reason.startswith(
        f"2 GPUs needed, 1 free: GPU 0 is in use by the container {first.container}; GPU 1 is"
    )
    third = node.elsewhere("third")
    assert third.command([*IN_A_CONTAINER, *third.trial.words(METRIC, card={"n_gpus": "1"})]).row["gpus"] == "7"
    first.send(signal.SIGINT)
    assert first.end().row["gpus"] == "0,1,2,3,4,5,6"


@only_docker
def test_a_second_run_waits_and_ctrl_c_of_the_first_releases_the_gpus(node: Node, nvidia: NvidiaNode) -> None:
    first = node.start("echo started; sleep 60")
    waiting = node.elsewhere("second")
    with waiting.beside(waiting.waiting_words()) as second:
        wait_for(lambda: "running any" in (waiting.trial.folder / "stderr").read_text())
        time.sleep(0.5)
        assert len(node.started) == 1, "the second has to wait"
        first.send(signal.SIGINT)
        done = second.end()
    assert (done.code, done.row["status"]) == (0, "SUCCESS"), done.stderr
    assert first.end().code == 130


@only_docker
def test_two_runs_share_a_machine_that_has_enough_for_both(node: Node, nvidia: NvidiaNode) -> None:
    first = node.start("echo started; sleep 60", n_gpus="3")
    second = node.elsewhere("second").run(METRIC, n_gpus="5")
    first.send(signal.SIGINT)
    assert second.code == 0, second.stderr
    assert node.handed_over == [_request(*nvidia.uuids[:3]), _request(*nvidia.uuids[3:])]
    assert first.end().row["gpus"] == "0,1,2"


@only_docker
def test_kill_9_releases_the_gpus_at_once_and_the_next_run_removes_the_container(
    node: Node, nvidia: NvidiaNode
) -> None:
    first = node.start("echo started; sleep 60")
    assert first.container in node.trial.containers()
    first.send(signal.SIGKILL)
    first.process.wait()
    second = node.elsewhere("second").run(METRIC)
    assert second.code == 0, second.stderr
    # It may also have been another test's run that came first; which of them says so is told in test_owner.
    wait_for(lambda: not node.trial.containers())


@only_docker
def test_who_waits_removes_the_container_of_a_killed_holder_before_it_starts(node: Node, nvidia: NvidiaNode) -> None:
    first = node.start("echo started; sleep 60")
    container = first.container
    waiting = node.elsewhere("second")
    with waiting.beside(waiting.waiting_words()) as second:
        wait_for(lambda: "running any" in (waiting.trial.folder / "stderr").read_text())
        time.sleep(0.3)
        first.send(signal.SIGKILL)
        first.process.wait()
        done = second.end()
    assert (done.code, done.row["status"]) == (0, "SUCCESS"), done.stderr
    calls = [words for words in map(shlex.split, node.stand_ins.calls()) if words[1] in ("run", "rm")]
    # Another test's run on this engine may have removed it first; ours then finds nothing to remove.
    removed = [number for number, words in enumerate(calls) if words[1] == "rm" and words[-1] == container]
    started = max(number for number, words in enumerate(calls) if words[1] == "run")
    assert all(number < started for number in removed)
    assert not node.trial.containers()


# --- several models at once ---


@only_docker
def test_packed_models_run_side_by_side_on_gpus_of_their_own(node: Node, nvidia: NvidiaNode) -> None:
    models = {"one": "1", "two": "2", "deux": "2", "four": "4"}
    done = node.pack(f"cut -d' ' -f1 /proc/uptime; sleep 1.5; cut -d' ' -f1 /proc/uptime; {METRIC}", models)
    assert done.code == 0, done.stderr
    rows = {row["model"]: row for row in done.rows}
    assert all(row["packed"] == "true" and row["status"] == "SUCCESS" for row in rows.values())
    held = {name: set(row["gpus"].split(",")) for name, row in rows.items()}
    assert {name: str(len(gpus)) for name, gpus in held.items()} == models
    # The three largest fill the machine; the smallest comes when one of them has gone.
    assert len(held["four"] | held["two"] | held["deux"]) == 8
    numbered = {uuid: str(number) for number, uuid in enumerate(nvidia.uuids)}
    handed = [
        {numbered[uuid] for uuid in words[1].strip('"').partition("=")[2].split(",")} for words in node.handed_over
    ]
    assert sorted(map(sorted, handed)) == sorted(map(sorted, held.values()))
    assert handed[-1] == held["one"]
    times = {name: tuple(map(float, _log_of(done, name).split()[:2])) for name in models}
    assert max(times[name][0] for name in ("four", "two", "deux")) < min(
        times[name][1] for name in ("four", "two", "deux")
    )
    before = next(name for name in ("four", "two", "deux") if held["one"] <= held[name])
    assert times["one"][0] > times[before][1]


@only_docker
def test_packing_goes_on_beside_a_model_that_asks_for_too_many(node: Node, nvidia: NvidiaNode) -> None:
    done = node.pack(METRIC, {"huge": "9", "small": "8"})
    assert done.code == 3
    assert {row["model"]: row["status"] for row in done.rows} == {"huge": "FAILURE", "small": "SUCCESS"}


@only_docker
def test_ctrl_c_ends_all_packed_models_and_each_has_its_row(node: Node, nvidia: NvidiaNode) -> None:
    words = node.words_of("echo started; sleep 60", {"left": "4", "right": "4"}, "--pack")
    with node.beside(words) as both:
        wait_for(lambda: both.process.poll() is not None or node.begun == 2)
        both.send(signal.SIGINT)
        done = both.end()
    assert done.code == 130
    rows = {row["model"]: (row["status"], row["reason"], row["packed"]) for row in done.rows}
    assert rows == dict.fromkeys(("left", "right"), ("FAILURE", "interrupted", "true"))
    assert not node.trial.containers()
    assert node.elsewhere("second").run(METRIC).code == 0


def _log_of(done: Done, model: str) -> str:
    (log,) = (done.directory / model).glob("*.run.live.log")
    return log.read_text()


# --- what disturbs ---


@only_docker
@pytest.mark.parametrize(
    ("processes", "count", "said"),
    [
        ([(4242, 0), (4243, 1), (4243, 0), (4244, 5)], 2, "2 processes of others use GPUs of this run: "),
        ([(4243, 1), (4243, 0), (4244, 5)], 1, "1 process of others uses GPUs of this run: "),
    ],
)
def test_processes_of_others_are_warned_of_and_counted(
    node: Node, processes: list[tuple[int, int]], count: int, said: str
) -> None:
    node.has(NvidiaNode(processes=processes))
    done = node.run(METRIC, n_gpus="2")
    assert done.code == 0, done.stderr
    assert said in done.stderr
    assert (done.row["foreign_processes"], done.row["contaminated"]) == (str(count), "true")
    (result,) = done.results
    assert result["foreign_processes"] == count


@only_docker
def test_a_process_that_comes_after_the_start_is_named(node: Node, tmp_path: Path) -> None:
    gpus, asked = NvidiaNode(), tmp_path / "asked-before"
    line = f"{os.getpid()}, {gpus.uuids[0]}, 512, /usr/bin/python3"
    node.has(gpus, processes=f"if [ -e {asked} ]; then echo '{line}'; else : > {asked}; fi")
    done = node.run(f"sleep 1; {METRIC}")
    assert done.code == 0, done.stderr
    assert (done.row["foreign_processes"], done.row["contaminated"]) == ("0", "true")
    assert f"distorted: /usr/bin/python3 ({os.getpid()})" in done.stderr
    (result,) = done.results
    assert [stranger["pid"] for stranger in result["strangers"]] == [os.getpid()]


@only_docker
def test_what_nobody_can_tell_of_processes_stays_empty(node: Node) -> None:
    gpus = NvidiaNode()
    node.has(gpus, processes="echo 'Insufficient Permissions'; exit 4")
    done = node.run(METRIC)
    assert done.code == 0, done.stderr
    assert (done.row["foreign_processes"], done.row["contaminated"]) == ("", "")


@only_docker
@pytest.mark.parametrize(
    "broken",
    [
        pytest.param({"watch": bed_gpus.HANGS}, id="it hangs"),
        pytest.param({"watch": "trap '' TERM; sleep 60"}, id="it hangs and won't end"),
        pytest.param({"watch": "exit 9"}, id="it dies at once"),
        pytest.param({"watch": "kill -9 $$"}, id="it is killed"),
        pytest.param(
            {"watch": "echo 'Unable to determine the device handle: GPU is lost'; exit 15"}, id="a GPU is lost"
        ),
        pytest.param({"watch": "while echo garbage, 1, 2; do sleep 0.05; done"}, id="garbage"),
        pytest.param({"watch": "head -c 300000 /dev/zero; sleep 1"}, id="zeros without a line's end"),
        pytest.param({"help": "exit 1"}, id="it knows no fields"),
    ],
)
def test_a_sampler_that_fails_costs_the_figures_and_nothing_else(node: Node, broken: dict[str, str]) -> None:
    node.has(NvidiaNode(), **broken)
    done = node.run(METRIC)
    assert (done.code, done.row["status"], done.row["gpus"]) == (0, "SUCCESS", "0,1,2,3,4,5,6,7"), done.stderr
    assert {name: done.row[name] for name in FIGURES} == dict.fromkeys(FIGURES, "")
    (one,) = done.summary["successful_runs"]
    assert one["peak_gpu_memory"] == ""
    assert series(done) == []


@only_docker
def test_a_sampler_that_ends_before_the_run_gives_no_figures_for_a_part_of_it(node: Node) -> None:
    gpus = NvidiaNode()
    node.has(gpus, watch=gpus.frames() + "\nexit 15")
    done = node.run(SAMPLED, "--sample-hz", "10")
    assert (done.code, done.row["status"]) == (0, "SUCCESS"), done.stderr
    assert {name: done.row[name] for name in FIGURES} == dict.fromkeys(FIGURES, "")
    assert len(series(done)) == 8 * len(bed_gpus.MEMORY_MIB)
    assert "nvidia-smi ended before the run" in done.stderr


@only_docker
def test_a_sampler_that_falls_silent_gives_no_figures_either(node: Node) -> None:
    gpus = NvidiaNode()
    node.has(gpus, watch=gpus.frames() + "\nexec sleep 60")
    words = node.trial.words(f"sleep 1.5; {METRIC}", "--sample-hz", "10", card={"n_gpus": "-1"})
    done = node.impatient(*words[len(node.trial.program) :])
    assert (done.code, done.row["status"]) == (0, "SUCCESS"), done.stderr
    assert {name: done.row[name] for name in FIGURES} == dict.fromkeys(FIGURES, "")
    assert "GPU telemetry incomplete: no sample in the last" in done.stderr


@only_docker
def test_figures_that_a_gpu_does_not_have_are_empty_and_the_others_are_there(node: Node) -> None:
    gpus = NvidiaNode()
    lines = "\n".join(
        f"echo \"$(date '+%Y/%m/%d %H:%M:%S.%3N'), {index}, {uuid}, 00000000:{0x1B + 8 * index:02X}:00.0, "
        '[N/A], 40, [N/A], [N/A], 50, [N/A]"'
        for index, uuid in enumerate(gpus.uuids)
    )
    node.has(gpus, watch=f"while :; do\n{lines}\nsleep 0.1\ndone", now=lines)
    done = node.run(SAMPLED, "--sample-hz", "10")
    given = {name: done.row[name] for name in FIGURES if done.row[name]}
    assert {name: given[name] for name in given if name != "sample_hz"} == {
        "mean_gpu_utilization": "40.0",
        "p95_gpu_utilization": "40.0",
        "peak_temperature_c": "50.0",
        "telemetry_source": "nvidia-smi",
    }


# --- AMD ---


def test_an_amd_node_hands_over_kfd_and_the_render_nodes(node: Node, amd: AmdNode) -> None:
    done = node.sampled(f"sleep 1.5; {VARIABLES}", "2", image={"gpu_vendor": "AMD"}, context={"docker_gpus": "3-5"})
    assert done.code == 0, done.stderr
    (handed,) = node.handed_over
    assert [word for word in handed if not word.startswith("--group-add=")] == [
        "--device=/dev/kfd",
        f"--device={amd.render_nodes[3]}",
        f"--device={amd.render_nodes[4]}",
    ]
    told = variables(done)
    assert (told["MAD_GPU_VENDOR"], told["MAD_SYSTEM_GPU_ARCHITECTURE"]) == ("AMD", "gfx942")
    assert (told["MAD_SYSTEM_NGPUS"], told["MAD_RUNTIME_NGPUS"]) == ("8", "2")
    assert told["MAD_SYSTEM_GPU_PRODUCT_NAME"] == "AMD Instinct MI300X"
    row = done.row
    assert (row["gpus"], row["gpu_architecture"], row["telemetry_source"]) == ("3,4", "gfx942", "amd-smi")
    assert (row["idle_gpu_memory_mib"], row["peak_gpu_memory_mib"]) == ("8.0", "536.0")
    assert (row["peak_power_w"], row["peak_temperature_c"], row["throttled_percent"]) == ("1001.0", "70.0", "0.0")
    assert row["foreign_processes"] == "0"


@only_docker
def test_the_image_for_amd_is_chosen_on_an_amd_node(node: Node, amd: AmdNode) -> None:
    done = node.run(METRIC, image={"gpu_vendor": "NVIDIA"})
    assert done.code == 3
    assert done.row["reason"] == "it is for gpu_vendor NVIDIA, this machine is AMD"
    assert not node.started


@only_docker
def test_rocm_smi_gives_the_figures_where_amd_smi_has_none(node: Node) -> None:
    gpus = AmdNode(processes=[(4242, 7), (4243, 0)])
    node.has(gpus, metric="echo 'ERROR: not supported'; exit 1")
    node.stand_ins.add("rocm-smi", gpus.rocm_smi())
    done = node.sampled(SAMPLED)
    assert done.code == 0, done.stderr
    assert (done.row["telemetry_source"], done.row["peak_gpu_memory_mib"]) == ("rocm-smi", "2144.0")
    assert done.row["throttled_percent"] == ""
    assert done.row["foreign_processes"] == "2"


@only_docker
def test_gpus_without_a_known_render_node_are_a_failure_that_says_what_to_do(node: Node) -> None:
    node.stand_ins.add("rocm-smi", AmdNode().rocm_smi())
    done = node.run(METRIC, image={"gpu_vendor": "AMD"})
    assert done.code == 3
    assert done.reason == "GPU 0: unknown render node (no /sys/class/kfd); load the amdgpu driver"


# --- a machine without GPUs, or whose tools fail ---


@only_docker
@pytest.mark.parametrize("vendor", ["AMD", "NVIDIA", "NONE"])
def test_the_context_says_which_image_runs_on_a_machine_without_gpus(node: Node, vendor: str) -> None:
    done = node.run(VARIABLES, image={"gpu_vendor": vendor}, context={"gpu_vendor": vendor})
    assert done.code == 0, done.stderr
    assert node.handed_over == [["--env=NVIDIA_VISIBLE_DEVICES=void"]]
    told = variables(done)
    assert (told["MAD_GPU_VENDOR"], told["MAD_SYSTEM_NGPUS"], told["MAD_RUNTIME_NGPUS"]) == (vendor, "0", "0")
    assert "MAD_SYSTEM_GPU_ARCHITECTURE" not in told
    assert (done.row["n_gpus"], done.row["gpus"]) == ("0", "")
    assert not (done.workspace / "gpu_series.csv").exists()


@only_docker
@pytest.mark.parametrize("vendor", ["AMD", "NONE"])
def test_no_gpus_of_another_vendor_than_the_context_says_are_handed_over(
    node: Node, nvidia: NvidiaNode, vendor: str
) -> None:
    done = node.run(VARIABLES, image={"gpu_vendor": vendor}, context={"gpu_vendor": vendor})
    assert done.code == 0, done.stderr
    assert node.handed_over == [["--env=NVIDIA_VISIBLE_DEVICES=void"]]
    assert variables(done)["MAD_SYSTEM_NGPUS"] == "0"
    assert (done.row["gpus"], done.row["gpu_architecture"]) == ("", "")


@only_docker
def test_of_two_vendors_in_one_machine_the_context_chooses(node: Node, nvidia: NvidiaNode, amd: AmdNode) -> None:
    done = node.run(METRIC, n_gpus="1", context={"gpu_vendor": "AMD"})
    assert done.code == 0, done.stderr
    assert node.handed_over[0][:2] == ["--device=/dev/kfd", f"--device={amd.render_nodes[0]}"]


@only_docker
def test_a_model_that_needs_a_gpu_fails_on_a_machine_without(node: Node) -> None:
    done = node.run(METRIC, n_gpus="1")
    assert done.code == 3
    assert done.reason == "too many GPUs requested: n_gpus is 1, this machine has none"


@only_docker
@pytest.mark.parametrize(
    ("script", "problem"),
    [
        (bed_gpus.HANGS, "nvidia-smi -q -x: no answer in 0.5 s: no output"),
        ("echo 'Driver/library version mismatch'; exit 18", "exit code 18: Driver/library version mismatch"),
    ],
    ids=["hangs", "fails"],
)
def test_a_tool_that_fails_measures_nothing_on_the_cpu_unless_the_context_says_none(
    node: Node, script: str, problem: str
) -> None:
    node.stand_ins.add("nvidia-smi", script)
    words = node.trial.words(METRIC, image={"gpu_vendor": "NONE"}, card={"n_gpus": "-1"})[len(node.trial.program) :]
    done = node.impatient(*words)
    assert done.code == 3 and problem in done.reason, done.stderr
    assert node.started == []
    doctor = node.impatient("doctor", "--json")
    assert doctor.code == 1 and _check(doctor, "nvidia-smi")["status"] == "FAILED"
    assert _check(doctor, "nvidia-smi")["result"].endswith(problem)
    words = node.trial.words(METRIC, context={"gpu_vendor": "NONE"}, image={"gpu_vendor": "NONE"})
    done = node.impatient(*words[len(node.trial.program) :])
    assert (done.code, done.rows[-1]["status"]) == (0, "SUCCESS"), done.stderr


@only_docker
def test_the_next_source_is_asked_where_a_tool_fails(node: Node, amd: AmdNode) -> None:
    node.stand_ins.add("nvidia-smi", "echo 'NVIDIA-SMI has failed because it could not reach the driver'; exit 9")
    done = node.run(METRIC)
    assert (done.code, done.row["telemetry_source"]) == (0, "amd-smi"), done.stderr
    found = _check(node.impatient("doctor", "--json"), "nvidia-smi")["result"]
    assert "could not reach the driver" in found


@only_docker
def test_warnings_around_the_answer_do_no_harm(node: Node, nvidia: NvidiaNode) -> None:
    program = node.stand_ins.folder / "nvidia-smi"
    loud = program.with_name("nvidia-smi.quiet")
    program.rename(loud)
    warning = "echo 'WARNING: infoROM is corrupted at gpu 0000:1B:00.0'"
    node.stand_ins.add("nvidia-smi", f'{warning}\n{warning} >&2\n{loud} "$@"\n{warning}')
    done = node.run(SAMPLED, "--sample-hz", "10")
    assert (done.code, done.row["n_gpus"], done.row["peak_gpu_memory_mib"]) == (0, "8", "2144.0"), done.stderr


@only_docker
def test_doctor_counts_the_gpus_and_says_how_they_are_handed_over(node: Node, nvidia: NvidiaNode) -> None:
    checks = node.trial.done(
        *outcome(
            [*node.trial.program, "doctor", "--json"], node.trial.environment(), cwd=node.trial.folder, check=False
        )
    )
    assert _check(checks, "GPUs")["result"].startswith("8 × NVIDIA (0: NVIDIA H100 80GB HBM3")
    assert _check(checks, "nvidia-smi")["result"] == "8 × NVIDIA H100 80GB HBM3 (driver 580.65.06, 13.0)"
    # The bed's docker has no runtime for them, so no run on them could start.
    assert _check(checks, "container toolkit")["status"] == "FAILED"
    assert checks.code == 1


@only_docker
@pytest.mark.parametrize(
    ("gpus", "status", "found"),
    [
        (NvidiaNode(), "ok", "starts with the GPUs, without the driver's nvidia-smi to test them ("),
        (AmdNode(), "FAILED", "opening /dev/kfd and the render nodes: /dev/kfd: missing"),
    ],
    ids=["NVIDIA", "AMD"],
)
def test_doctor_tries_the_gpus_in_a_container(node: Node, gpus: NvidiaNode | AmdNode, status: str, found: str) -> None:
    """This machine's engine hands over nothing."""
    node.has(gpus)
    assert node.run(METRIC, image={"gpu_vendor": ""}).code == 0
    told = _check(node.command([*node.trial.program, "doctor", "--json"]), "container")
    assert told["status"] == status
    assert told["result"].startswith(found)


def _check(doctor: Done, name: str) -> dict[str, str]:
    checks: list[dict[str, str]] = json.loads(doctor.stdout)["checks"]
    (found,) = (check for check in checks if check["name"] == name)
    return found


@only_docker
def test_the_gpu_profilers_of_madengine_2_write_our_samples_in_their_form(node: Node, amd: AmdNode) -> None:
    context = {"tools": ["gpu_info_power_profiler", {"name": "gpu_info_vram_profiler"}]}
    done = node.sampled(SAMPLED, context=context)
    assert done.code == 0, done.stderr
    columns = {"power": "Power(Watt) GPU", "vram": "vram(%) GPU"}
    for kind, column in columns.items():
        with (done.workspace / f"gpu_info_{kind}_profiler_output.csv").open() as file:
            rows = list(csv.DictReader(file))
        assert [*rows[0]] == ["time", *(f"{column}{index}" for index in range(8))]
        assert all(float(row[f"{column}7"]) >= 0 for row in rows[:2])
    names = [entry["path"] for entry in done.results[0]["artifacts"]]
    assert names == ["gpu_info_power_profiler_output.csv", "gpu_info_vram_profiler_output.csv"]
