"""The course that every target takes."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from madengine.config.option import options_of
from madengine.deploy.target import TARGETS, Prepared, Target, run_on, target_class
from madengine.errors import EXIT_INTERRUPTED, EXIT_RUN_FAILED, ConfigurationError, MadengineError
from tests.conftest import collect_messages


@dataclass
class Recorder:
    """A target that notes its steps, and raises in one of them."""

    failing: str = ""
    error: BaseException | None = None
    code: int = 0
    steps: list[str] = field(default_factory=list)

    def check(self) -> None:
        self._step("check")

    def prepare(self) -> Prepared:
        self._step("prepare")
        return Prepared(warnings=("mind the gap",))

    def start(self) -> None:
        self._step("start")

    def follow(self) -> None:
        self._step("follow")

    def collect(self) -> int:
        self._step("collect")
        return self.code

    def stop(self) -> None:
        self._step("stop")

    def _step(self, name: str) -> None:
        self.steps.append(name)
        if name == self.failing and self.error:
            raise self.error


def run(target: Recorder) -> int:
    as_target: Target = target
    return run_on(as_target)


def test_every_step_follows_the_one_before_and_the_last_gives_the_exit_code() -> None:
    messages = collect_messages()
    target = Recorder(code=EXIT_RUN_FAILED)
    assert run(target) == EXIT_RUN_FAILED
    assert target.steps == ["check", "prepare", "start", "follow", "collect"]
    assert messages == ["mind the gap"]


@pytest.mark.parametrize("step", ["check", "prepare"])
def test_nothing_is_started_after_a_check_that_fails(step: str) -> None:
    target = Recorder(step, ConfigurationError("no"))
    with pytest.raises(ConfigurationError):
        run(target)
    assert target.steps[-1] == step


@pytest.mark.parametrize("step", ["start", "follow"])
def test_ctrl_c_stops_and_collects(step: str) -> None:
    target = Recorder(step, KeyboardInterrupt())
    assert run(target) == EXIT_INTERRUPTED
    assert target.steps[-3:] == [step, "stop", "collect"]


@pytest.mark.parametrize("step", ["start", "follow"])
def test_what_there_is_is_collected_after_a_failure_too(step: str) -> None:
    target = Recorder(step, MadengineError("broken"))
    with pytest.raises(MadengineError, match="broken"):
        run(target)
    assert target.steps[-2:] == [step, "collect"]


@pytest.mark.parametrize("name", TARGETS)
def test_every_target_of_the_list_has_options_and_can_be_made_of_them(name: str) -> None:
    target = target_class(name)
    assert options_of(target.OPTIONS)
    assert callable(target.from_values)
