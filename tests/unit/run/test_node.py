"""One run of a manifest's models on a machine: in which order, and on which GPUs, with an engine that only notes it."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from madengine.config.manifest import Manifest, save_manifest
from madengine.errors import EXIT_DONE, EXIT_INTERRUPTED, EXIT_RUN_FAILED
from madengine.machine import lock_files
from madengine.machine.gpu_locks import locked_gpus
from madengine.records import FAILURE, SKIPPED, SUCCESS, Gpu, Image, Model, RunResult
from madengine.run.node import LocalRun
from tests.conftest import StandIns, collect_messages
from tests.unit.run.stand_in_machine import docker, local_run

CHECKOUT = Path(__file__).parents[3]
DATA = Path(__file__).parents[2] / "data" / "smi"
ID = "sha256:" + "1" * 64
EIGHT = tuple(
    Gpu("NVIDIA", index, name="NVIDIA H100 80GB HBM3", architecture="H100", uuid=f"GPU-{index}") for index in range(8)
)
# A container that lives for as long as the file of its name says.
_START = """printf 'start %s %s\\n' "$slug" "$gpus" >> "$notes/events\""""
_WAIT = """
    sleep "$(cat "$notes/seconds-$slug")"
    printf 'performance: 3 tokens\\n' >> "$log"
    printf 'end %s\\n' "$slug" >> "$notes/events"
    leave 0
"""
_END = """printf '%s %s\\n' "$1" "$slug" >> "$notes/events\""""


class Node:
    """A machine with eight GPUs and a stand-in for docker; runs models, and says what happened when."""

    def __init__(self, folder: Path, stand_ins: StandIns) -> None:
        self.folder = folder
        self.stand_ins = stand_ins
        self.notes = folder / "notes"
        self.notes.mkdir()
        stand_ins.add("docker", docker(self.notes, _START, _WAIT, _END))
        stand_ins.add("nvidia-smi")
        self.messages = collect_messages()
        self.chosen: list[tuple[Model, Image | None]] = []

    def model(self, name: str, n_gpus: str, seconds: float = 0.3, **more: Any) -> None:
        (self.notes / f"seconds-{name}").write_text(str(seconds))
        model = Model(name=name, dockerfile=f"docker/{name}", scripts=f"scripts/{name}", n_gpus=n_gpus, **more)
        image = Image(key=f"ci-{name}", docker_image=f"ci-{name}", image_id=ID, self_contained=True)
        self.chosen.append((model, image))

    def run(self, gpus: Sequence[Gpu] = EIGHT, context: dict[str, Any] | None = None, **options: Any) -> LocalRun:
        run = local_run(self.chosen, self.folder, gpus, self.messages.append, context, **options)
        self.code = run.run()
        return run

    @property
    def events(self) -> list[list[str]]:
        """What happened, in order: `start m "device=…"`, `end m`, `stop m`, `rm m`."""
        file = self.notes / "events"
        return [line.split(" ", 2) for line in file.read_text().splitlines()] if file.exists() else []

    @property
    def started(self) -> list[str]:
        return [event[1] for event in self.events if event[0] == "start"]

    @property
    def most_at_once(self) -> int:
        running = most = 0
        for event in self.events:
            running += {"start": 1, "rm": -1}.get(event[0], 0)
            most = max(most, running)
        return most

    def gpus_of(self, name: str) -> set[str]:
        (words,) = [event[2] for event in self.events if event[:2] == ["start", name]]
        return set(re.findall(r"GPU-[\w-]+", words))

    def assert_each_gpu_had_one_run_at_a_time(self) -> None:
        holding: dict[str, set[str]] = {}
        for event in self.events:
            if event[0] == "start":
                mine = self.gpus_of(event[1])
                assert not mine.intersection(*[set().union(*holding.values())] if holding else [set()]), event
                holding[event[1]] = mine
            elif event[0] == "rm":
                holding.pop(event[1], None)


@pytest.fixture
def node(tmp_path: Path, stand_ins: StandIns, monkeypatch: pytest.MonkeyPatch) -> Node:
    monkeypatch.chdir(tmp_path)
    locks = tmp_path / "locks"
    locks.mkdir()
    locks.chmod(0o1777)
    monkeypatch.setattr(lock_files, "FOLDERS", (locks,))
    return Node(tmp_path, stand_ins)


def results(run: LocalRun) -> dict[str, RunResult]:
    return {result.model.name: result for result in run.results}


def rows() -> dict[str, dict[str, str]]:
    with Path("perf.csv").open(newline="") as file:
        return {row["model"]: row for row in csv.DictReader(file)}


# --- one after another ---


def test_without_pack_models_run_one_after_another_in_their_order(node: Node) -> None:
    for name in ("c", "a", "b"):
        node.model(name, "1", 0.1)
    run = node.run()
    assert node.started == ["c", "a", "b"]
    assert node.most_at_once == 1
    assert node.code == EXIT_DONE
    assert [result.packed for result in run.results] == [False] * 3
    assert {row["packed"] for row in rows().values()}.isdisjoint({"true", "True", "1", "yes"})


# --- side by side ---


def test_packed_models_run_side_by_side_on_gpus_of_their_own_the_largest_first(node: Node) -> None:
    for name, n_gpus in (("one", "1"), ("two", "2"), ("five", "5"), ("four", "4"), ("three", "3")):
        node.model(name, n_gpus)
    run = node.run(pack=True)
    assert node.code == EXIT_DONE
    assert sorted(node.started[:2]) == ["five", "three"]
    assert sorted(node.started[2:]) == ["four", "one", "two"]
    assert {name: len(node.gpus_of(name)) for name in node.started} == {
        "one": 1, "two": 2, "three": 3, "four": 4, "five": 5
    }  # fmt: skip
    node.assert_each_gpu_had_one_run_at_a_time()
    assert node.most_at_once >= 2
    assert {result.status for result in run.results} == {SUCCESS}
    assert all(result.packed for result in run.results)
    assert len(rows()) == 5


def test_rows_of_packed_models_say_so(node: Node) -> None:
    node.model("a", "1", 0.1)
    node.run()
    alone = rows()["a"]["packed"]
    Path("perf.csv").unlink()
    node.model("b", "1", 0.1)
    node.run(pack=True)
    packed = {row["packed"] for row in rows().values()}
    assert len(packed) == 1
    assert packed != {alone}


def test_a_model_that_wants_all_gpus_has_the_machine_for_itself(node: Node) -> None:
    node.model("small", "1")
    node.model("all", "-1")
    node.model("tiny", "1")
    node.run(pack=True)
    assert node.started[0] == "all"
    assert len(node.gpus_of("all")) == 8
    assert node.events[1][:2] in (["end", "all"], ["rm", "all"])
    node.assert_each_gpu_had_one_run_at_a_time()


def test_models_without_gpus_wait_for_none(node: Node) -> None:
    node.model("all", "8", 0.5)
    node.model("cpu", "0", 0.1)
    node.run(pack=True)
    ended = [event[1] for event in node.events if event[0] == "end"]
    assert ended == ["cpu", "all"]
    assert node.gpus_of("cpu") == set()


def test_only_the_gpus_that_the_context_leaves_are_packed(node: Node) -> None:
    for name in ("a", "b", "c"):
        node.model(name, "1")
    node.run(pack=True, context={"docker_gpus": "6-7"})
    assert set().union(*map(node.gpus_of, "abc")) == {"GPU-6", "GPU-7"}
    assert node.most_at_once <= 2
    node.assert_each_gpu_had_one_run_at_a_time()


def test_a_model_that_wants_too_many_fails_by_itself(node: Node) -> None:
    node.model("huge", "9")
    node.model("a", "4", 0.1)
    node.model("b", "4", 0.1)
    run = node.run(pack=True)
    assert node.code == EXIT_RUN_FAILED
    assert results(run)["huge"].status == FAILURE
    assert results(run)["huge"].reason == "too many GPUs requested: n_gpus is 9, this machine has 8"
    assert {results(run)[name].status for name in "ab"} == {SUCCESS}
    assert sorted(node.started) == ["a", "b"]


@pytest.mark.parametrize("gpus", [(), EIGHT], ids=["no GPUs", "one model"])
def test_where_there_is_nothing_to_pack_nothing_is_packed(node: Node, gpus: Sequence[Gpu]) -> None:
    """A row that says `packed` is not to be trusted as a benchmark, so it must not say it for nothing."""
    node.model("a", "0" if not gpus else "1", 0.1)
    if not gpus:
        node.model("b", "0", 0.1)
    run = node.run(gpus=gpus, pack=True)
    assert node.most_at_once == 1
    assert [result.packed for result in run.results] == [False] * len(node.chosen)


def test_a_gpu_that_another_run_holds_is_not_used(node: Node) -> None:
    node.model("a", "4", 0.1)
    node.model("b", "3", 0.1)
    with locked_gpus(EIGHT[2:3], 1, "other"):
        node.run(pack=True)
    assert node.code == EXIT_DONE
    assert "GPU-2" not in node.gpus_of("a") | node.gpus_of("b")


def test_a_waiting_run_gets_its_gpus_when_the_other_lets_go(node: Node) -> None:
    node.model("a", "8", 0.1)
    held, let_go = threading.Event(), threading.Event()

    def hold() -> None:
        with locked_gpus(EIGHT[2:3], 1, "other"):
            held.set()
            let_go.wait(20)

    other = threading.Thread(target=hold)
    other.start()
    held.wait(5)
    threading.Timer(0.5, let_go.set).start()
    run = node.run(gpu_wait=20)
    other.join()
    assert results(run)["a"].status == SUCCESS


# --- what is not run ---


def test_a_model_that_is_not_for_these_gpus_is_skipped_with_the_reason(node: Node) -> None:
    node.model("a", "1", skip_gpu_arch="gfx942, H100")
    node.model("b", "1", 0.1)
    run = node.run()
    assert results(run)["a"].status == SKIPPED
    assert results(run)["a"].reason == "skip_gpu_arch: it is not for H100; --disable-skip-gpu-arch runs it all the same"
    assert node.started == ["b"]
    assert node.code == EXIT_DONE


def test_a_model_that_is_not_for_these_gpus_can_be_run_all_the_same(node: Node) -> None:
    node.model("a", "1", 0.1, skip_gpu_arch="H100")
    run = node.run(skip_gpu_arch=False)
    assert results(run)["a"].status == SUCCESS


# --- Ctrl-C ---

CLI = """
import sys
from pathlib import Path
from madengine.machine import lock_files
from madengine.distributed_cli import main
lock_files.FOLDERS = (Path(sys.argv[1]),)
sys.exit(main(sys.argv[2:]))
"""


@pytest.mark.parametrize("pack", [[], ["--pack"]], ids=["one after another", "packed"])
def test_ctrl_c_ends_all_that_runs_and_keeps_their_rows(node: Node, pack: list[str]) -> None:
    node.stand_ins.add("nvidia-smi", f'[ "$*" = "-q -x" ] || exit 0\ncat {DATA}/nvidia-smi_q_x.xml')
    for name in ("a", "b"):
        node.model(name, "1", 60)
    save_manifest(
        Manifest(
            tuple(image for _, image in node.chosen if image),
            {image.key: model for model, image in node.chosen if image},
        ),
        Path("build_manifest.json"),
    )
    words = ["run", "--manifest-file", "build_manifest.json", "--engine", "docker", *pack]
    process = subprocess.Popen(
        [sys.executable, "-c", CLI, str(node.folder / "locks"), *words],
        env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    expected = 2 if pack else 1
    try:
        deadline = time.monotonic() + 20
        while len(node.started) < expected and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(0.3)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == EXIT_INTERRUPTED, err
    assert "Traceback" not in err + out
    running = sorted(node.started)
    assert len(running) == expected
    for name in running:
        assert ["stop", name] in node.events
        assert ["rm", name] in node.events
        assert rows()[name]["status"] == FAILURE
    (file,) = Path("runs").glob("*/results.json")
    assert "interrupted" in json.dumps(json.loads(file.read_text()))
