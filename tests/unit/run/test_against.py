"""Two manifests in turn: the order, the pairs, the verdict and its exit code, and what differs, named first."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from madengine.errors import EXIT_CONFIGURATION, EXIT_DONE, EXIT_RUN_FAILED, EXIT_WORSE, ConfigurationError
from madengine.records import SKIPPED, Image, Model
from madengine.results.against import Pair, manifest_differences, pairs_of_models
from madengine.results.compare_options import CompareOptions
from madengine.results.comparison import compare_results
from madengine.run.against import AgainstRun
from madengine.run.node import LocalRun
from madengine.run.options import RunOptions
from madengine.run.rounds import RepeatedModel, Round
from madengine.run.runner import ContainerRunner
from tests.bench.drift import KINDS, false_alarms
from tests.unit.run.stand_in_machine import GPUS, Machine, cells, table

Entry = tuple[Model, Image | None]
OLD = Path("old.json")


def against(
    machine: Machine,
    base: Sequence[Entry],
    new: Sequence[Entry],
    contexts: tuple[Mapping[str, Any], Mapping[str, Any]] = ({}, {}),
    **options: Any,
) -> AgainstRun:
    options = {"against": OLD, "run_id": "r", **options}
    sides = [
        machine.local_run(chosen, context=context, **options)
        for chosen, context in zip((base, new), contexts, strict=True)
    ]
    return AgainstRun(sides[0], sides[1], ("old.json", "new.json"))


def noisy(seed: str, count: int, mean: float) -> str:
    """What a machine measures whose speed wanders by 20 %, and which adds 2 % of noise to each run."""
    drift, noise = random.Random("drift"), random.Random(seed)
    speeds = [1.0]
    for _ in range(count - 1):
        speeds.append(min(1.2, max(0.8, speeds[-1] + drift.gauss(0, 0.05))))
    return " ".join(f"{mean * speed * noise.gauss(1, 0.02):.3f}" for speed in speeds)


# --- the verdict ---


def test_a_slow_down_of_10_percent_is_worse_and_exits_with_5(machine: Machine) -> None:
    base = machine.model("a", noisy("base", 10, 100), image=1)
    new = machine.model("a", noisy("new", 10, 90), image=2)
    assert against(machine, [base], [new], seed=1).run() == EXIT_WORSE
    shown = machine.tables[-1]
    assert re.search(r"^a +performance +higher +10 / 10 .* worse$", shown, re.MULTILINE) or "worse" in shown
    assert "exact Wilcoxon signed-rank test of pairs" in shown
    assert "image_digest sha256:111111111111… -> sha256:222222222222…" in shown
    named = next(number for number, one in enumerate(machine.messages) if "a: image_digest: sha256:1" in one)
    began = next(number for number, one in enumerate(machine.messages) if "running a" in one)
    assert named < began
    assert sorted(cells("side", "repeat")) == sorted((side, str(n)) for side in ("base", "new") for n in range(1, 11))


def test_two_runs_of_the_same_are_not_worse(machine: Machine) -> None:
    base = machine.model("a", noisy("base", 20, 100))
    assert against(machine, [base], [base], seed=2).run() == EXIT_DONE
    assert "a: nothing differs: base and new are the same" in "".join(machine.messages)
    assert "worse" not in machine.tables[-1]


def test_what_has_run_can_be_compared_again(machine: Machine) -> None:
    base = machine.model("a", noisy("base", 10, 100), image=1)
    new = machine.model("a", noisy("new", 10, 90), image=2)
    against(machine, [base], [new], seed=0, json=True).run()
    shown = json.loads(machine.tables[-1])
    assert table()[0]["side"] == "new", "which side runs first does not decide which is the base"
    again = compare_results(CompareOptions(sources=("r",), by="side", paired=True))
    (series,) = shown["series"]
    (compared,) = again.series
    assert series["verdict"] == compared.judgement.verdict == "worse"
    assert series["n"] == [10, 10] == list(compared.judgement.n)
    assert series["p"] == pytest.approx(compared.judgement.p, rel=1e-4)
    assert shown["test"] == "wilcoxon"


@pytest.mark.parametrize(("fail_on", "code"), [("never", EXIT_DONE), ("worse", EXIT_WORSE), ("unclear", EXIT_WORSE)])
def test_fail_on_decides_on_the_exit_code(machine: Machine, fail_on: str, code: int) -> None:
    base, new = machine.model("a", "10 " * 6, image=1), machine.model("a", "9 " * 6, image=2)
    assert against(machine, [base], [new], repeat=6, fail_on=fail_on).run() == code


def test_a_lower_value_is_better_where_the_user_says_so(machine: Machine) -> None:
    base, new = machine.model("a", "10 " * 6, image=1), machine.model("a", "9 " * 6, image=2)
    assert against(machine, [base], [new], repeat=6, lower_is_better=("tokens",)).run() == EXIT_DONE
    assert "better" in machine.tables[-1]


def test_other_arguments_are_one_series_too(machine: Machine) -> None:
    base = machine.model("a", "10 " * 6, image=1, args="--batch 1", training_precision="fp16")
    new = machine.model("a", "9 " * 6, image=2, args="--batch 2", training_precision="fp8")
    assert against(machine, [base], [new], repeat=6).run() == EXIT_WORSE
    shown = machine.tables[-1]
    assert "args --batch 1 -> --batch 2" in shown
    assert "training_precision fp16 -> fp8" in shown


def test_a_model_with_two_arguments_has_two_series(machine: Machine) -> None:
    entries = []
    for side, numbers in enumerate(("10", "9"), 1):
        for args in ("--batch 1", "--batch 2"):
            model, image = machine.model("a", f"{numbers} " * 16, image=side, args=args)
            entries.append((model, replace(image, key=f"ci-a-{args[-1]}", dockerfile="docker/a.Dockerfile")))
    assert against(machine, entries[:2], entries[2:], repeat=8).run() == EXIT_WORSE
    assert machine.tables[-1].count(" worse") == 2


# --- the order ---


def test_the_order_is_random_and_a_seed_repeats_it(machine: Machine) -> None:
    orders: list[str] = []
    for seed in (3, 3, 4):
        base, new = machine.model("a", "1 " * 6, image=1), machine.model("a", "2 " * 6, image=2)
        (machine.folder / "started").unlink(missing_ok=True)
        against(machine, [base], [new], repeat=6, seed=seed, run_id=f"r{len(orders)}").run()
        orders.append("".join(word for _, word, _ in machine.started))
    assert orders[0] == orders[1] != orders[2]
    rounds = re.findall("..", orders[0])
    assert set(rounds) == {"12", "21"}
    assert any("--seed 3 repeats" in one for one in machine.messages)


def test_both_sides_of_a_pair_have_the_same_gpus(machine: Machine) -> None:
    base, new = machine.model("a", "1 " * 3, "2", image=1), machine.model("a", "2 " * 3, "2", image=2)
    run = against(machine, [base], [new], repeat=3)
    run.run()
    assert {result.gpus for result in run.new.results} == {GPUS[:2]}
    assert len(run.new.results) == 6


def test_warm_ups_of_both_sides_come_first(machine: Machine) -> None:
    base, new = machine.model("a", "99 10 10", image=1), machine.model("a", "99 9 9", image=2)
    against(machine, [base], [new], repeat=2, warmup=1).run()
    assert [word for _, word, _ in machine.started[:2]] == ["99", "99"]
    assert {row["performance"] for row in table()} == {"10", "9"}


def test_a_dry_run_shows_every_run_in_its_order(machine: Machine) -> None:
    base, new = machine.model("a", "", "0", image=1), machine.model("a", "", "0", image=2)
    assert against(machine, [base], [new], repeat=2, seed=3, dry_run=True).show_lines() == EXIT_DONE
    sides = [line for line in machine.tables if line.startswith(("# base", "# new"))]
    assert sorted(sides) == ["# base, repeat 1", "# base, repeat 2", "# new, repeat 1", "# new, repeat 2"]
    names = re.findall(r"--name (\S+)", " ".join(machine.tables))
    assert names == ["madengine-r-a", "madengine-r-a_2", "madengine-r-a_3", "madengine-r-a_4"]


# --- what can go wrong ---


def test_a_pair_of_which_one_side_fails_is_not_run_again(machine: Machine) -> None:
    base, new = machine.model("a", "10 " * 9, image=1), machine.model("a", "fail " * 9, image=2)
    others = machine.model("b", "20 " * 9, image=1), machine.model("b", "20 " * 9, image=2)
    assert against(machine, [base, others[0]], [new, others[1]], repeat=6).run() == EXIT_RUN_FAILED
    assert sorted(row["side"] for row in table() if row["model"] == "a") == ["base", "new"]
    assert sum(row["model"] == "b" for row in table()) == 12
    shown = machine.tables[-1]
    assert re.search(r"new +a +1 ", shown) and "same" in shown


def test_worse_counts_more_than_another_models_failure(machine: Machine) -> None:
    base, new = machine.model("a", "10 " * 6, image=1), machine.model("a", "9 " * 6, image=2)
    others = machine.model("b", "20 " * 6, image=1), machine.model("b", "fail " * 6, image=2)
    assert against(machine, [base, others[0]], [new, others[1]], repeat=6).run() == EXIT_WORSE


def test_a_model_of_one_manifest_only_is_skipped(machine: Machine) -> None:
    base, new = machine.model("a", "10 " * 6, image=1), machine.model("a", "10 " * 6, image=2)
    old, added = machine.model("b", "1", image=1), machine.model("c", "1", image=2)
    assert against(machine, [base, old], [new, added], repeat=6).run() == EXIT_DONE
    skipped = [(row["model"], row["side"], row["reason"]) for row in table() if row["status"] == SKIPPED]
    reason = "--against: the other manifest has no run of it"
    assert skipped == [("b", "base", reason), ("c", "new", reason)]


def test_two_manifests_without_a_common_model_are_refused(machine: Machine) -> None:
    base, new = machine.model("a", "1"), machine.model("b", "1")
    with pytest.raises(ConfigurationError, match=r"none of its models is in new\.json") as error:
        against(machine, [base], [new]).run()
    assert error.value.exit_code == EXIT_CONFIGURATION
    assert not Path("perf.csv").exists()


def test_ctrl_c_shows_what_was_measured(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    base, new = machine.model("a", "10 " * 9, image=1), machine.model("a", "9 " * 9, image=2)
    run_one = LocalRun.run_one

    def interrupted(self: LocalRun, runner: ContainerRunner, entry: RepeatedModel, turn: Round) -> None:
        if turn.number == 8:
            raise KeyboardInterrupt
        run_one(self, runner, entry, turn)

    monkeypatch.setattr(LocalRun, "run_one", interrupted)
    with pytest.raises(KeyboardInterrupt):
        against(machine, [base], [new]).run()
    assert len(table()) == 14
    assert "7 / 7" in machine.tables[-1] and "worse" in machine.tables[-1]
    assert len(json.loads(Path("runs/r/results.json").read_text())["results"]) == 14


def test_skip_model_run_pulls_both_and_judges_nothing(machine: Machine) -> None:
    base, new = machine.model("a", "", image=1), machine.model("a", "", image=2)
    assert against(machine, [base], [new], skip_model_run=True).run() == EXIT_DONE
    assert cells("side", "status") in ([("base", SKIPPED), ("new", SKIPPED)], [("new", SKIPPED), ("base", SKIPPED)])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seed": 1}, "--seed: only with --against"),
        ({"fail_on": "never"}, "--fail-on: only with --against"),
        ({"json": True}, "--json: only with --against"),
        ({"against": OLD, "pack": True}, "--pack: can't be combined with --against"),
        ({"against": OLD, "until_stable": 1.0}, "--until-stable: can't be combined with --against"),
        ({"against": OLD, "resume": Path("perf.csv")}, "--resume: can't be combined"),
    ],
)
def test_options_that_contradict_one_another_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(message)):
        RunOptions(**options)


# --- what differs ---

MODEL = Model(name="m", dockerfile="docker/m", scripts="scripts/m", args="--x", timeout=5)
IMAGE = Image(
    "ci-m", "ci-m", base_docker="ubuntu:22.04", image_id="sha256:1", git_commit="abc", dockerfile="docker/m.Dockerfile"
)


def test_every_difference_of_the_manifests_is_named() -> None:
    image = replace(IMAGE, image_id="sha256:2", base_docker="ubuntu:24.04", git_commit="def")
    model = replace(MODEL, args="--y", n_gpus="2", timeout=6, extra={"env_vars": {"A": "1"}})
    contexts = (
        {"docker_env_vars": {"A": "1", "B": "2"}},
        {"docker_env_vars": {"A": "0", "C": "3"}, "docker_cpus": "0-3"},
    )
    pair = Pair((MODEL, IMAGE), (model, image))
    assert {(one.column, *one.base, "->", *one.new) for one in manifest_differences(pair, *contexts)} == {
        ("image_digest", "sha256:1", "->", "sha256:2"),
        ("base_docker", "ubuntu:22.04", "->", "ubuntu:24.04"),
        ("git_commit", "abc", "->", "def"),
        ("args", "--x", "->", "--y"),
        ("n_gpus", "->", "2"),
        ("timeout", "5", "->", "6"),
        ("env_vars.A", "->", "1"),
        ("context.docker_env_vars.A", "1", "->", "0"),
        ("context.docker_env_vars.B", "2", "->"),
        ("context.docker_env_vars.C", "->", "3"),
        ("context.docker_cpus", "->", "0-3"),
    }
    assert manifest_differences(Pair((MODEL, IMAGE), (MODEL, IMAGE)), {}, {}) == []


@pytest.mark.parametrize("name", ["HF_TOKEN", "API_KEY", "db_password", "MAD_SECRETS_X", "cred", "HFTOKEN"])
def test_the_values_of_secrets_are_not_named(name: str) -> None:
    contexts = {"docker_env_vars": {name: "hunter2"}}, {"docker_env_vars": {name: "hunter3"}}
    (one,) = manifest_differences(Pair((MODEL, IMAGE), (MODEL, IMAGE)), *contexts)
    assert one[:3] == (f"context.docker_env_vars.{name}", ("(hidden)",), ("(another)",))


@pytest.mark.parametrize("name", ["MAX_TOKENS", "MONKEY_BARS", "AUTHORS"])
def test_other_values_are_named(name: str) -> None:
    contexts = {"docker_env_vars": {name: "1"}}, {"docker_env_vars": {name: "2"}}
    (one,) = manifest_differences(Pair((MODEL, IMAGE), (MODEL, IMAGE)), *contexts)
    assert (one.base, one.new) == (("1",), ("2",))


def test_models_are_matched_by_their_images_key_else_by_a_name_of_their_own() -> None:
    entries = {
        key: (replace(MODEL, name=name), replace(IMAGE, key=key))
        for key, name in (("a1", "a"), ("a2", "a"), ("a3", "a"), ("b1", "b"), ("b2", "b"), ("c", "c"), ("d", "d"))
    }
    pairs = pairs_of_models(
        [entries[key] for key in ("a1", "a2", "b1", "c")], [entries[key] for key in ("a2", "a3", "b2", "d")]
    )
    assert [(pair.base[1].key, pair.new[1].key) for pair in pairs] == [("a2", "a2"), ("b1", "b2")]


# --- why in turn ---


@pytest.mark.parametrize("kind", KINDS)
def test_drift_deceives_one_after_the_other_and_not_in_turn(kind: str) -> None:
    """AAA BBB calls the same version worse on a machine that gets slower; pairs in random order don't."""
    blocks, turns = false_alarms(kind, 400)
    assert turns <= 0.05
    assert (blocks <= 0.05) == (kind == "steady")
    if kind != "steady":
        assert blocks > 0.4
