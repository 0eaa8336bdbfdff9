"""entry.sh, under each shell that an image may have for it."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.bed.components import Engine, Outcome, Registry
from tests.engine.trial import CHECKOUT, METRIC, ODD_ARGUMENTS, wait_for
from tests.engine.trial import trial as make_trial

ENTRY = "/opt/madengine/entry.sh"
LOG = "/myworkspace/log"


@dataclass(frozen=True)
class Container:
    """Starts entry.sh in a container, under one shell."""

    engine: Engine
    shell: str
    folder: Path
    images: dict[str, Any] = field(repr=False)

    def __call__(self, script: str, *options: str, image: str = "any", before: str = "", **environment: str) -> Outcome:
        """Run a script as the model; `options` are the engine's, `before` is a command that goes before entry.sh."""
        words = self.words(script, *options, image=image, **environment)
        if before:
            entry = words.index(f"--entrypoint={self.shell}")
            line = f"{before}; exec {shlex.join([self.shell, *words[entry + 2 :]])}"
            words[entry:] = ["--entrypoint=/bin/sh", words[entry + 1], "-c", line]
        return self.engine(*words, check=False)

    def words(self, script: str, *options: str, image: str = "any", **environment: str) -> list[str]:
        settings = [word for key, value in environment.items() for word in ("--env", f"{key}={value}")]
        mounts = ["--volume", f"{self.workspace}:/myworkspace", *_dash(self.shell)]
        words = ["run", "--rm", "--init", *mounts, *settings, *options, f"--entrypoint={self.shell}"]
        return [*words, self.images[f"ci-{image}_ubuntu_cpu"]["image_id"], ENTRY, *(["--", script] if script else [])]

    @property
    def workspace(self) -> Path:
        return self.folder

    @property
    def log(self) -> bytes:
        return (self.workspace / "log").read_bytes()

    @property
    def entry(self) -> dict[str, Any]:
        """What entry.sh left in entry.json."""
        found: dict[str, Any] = json.loads((self.workspace / "entry.json").read_text())
        return found


def _dash(shell: str) -> list[str]:
    """The machine's dash and its libraries, for an image that has none."""
    if shell != "/bin/dash":
        return []
    listed = subprocess.run(["ldd", shell], capture_output=True, text=True, check=True).stdout.split()
    files = [shell, *(word for word in listed if word.startswith("/"))]
    return [word for file in files for word in ("--volume", f"{Path(file).resolve()}:{file}:ro")]


# The base image's sh is busybox.
pytestmark = pytest.mark.parametrize(
    ("engine", "shell"),
    [("docker", "/bin/sh"), ("docker", "/bin/bash"), ("docker", "/bin/dash"), ("podman", "/bin/sh")],
    indirect=["engine"],
)


@pytest.fixture
def container(
    shell: str,
    engine: Engine,
    base_image: str,
    registry: Registry,
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Container:
    trial = make_trial(engine, base_image, registry, tmp_path, tmp_path_factory.getbasetemp())
    return Container(engine, shell, trial.folder, trial.built["built_images"])


@pytest.fixture
def impatient(container: Container, tmp_path: Path) -> list[str]:
    """The engine's options for an entry.sh that waits 1 s where it waits 10."""
    text = (CHECKOUT / "templates/image/entry.sh").read_text()
    assert "\ngrace=10 " in text
    hasty = tmp_path / "entry.sh"
    hasty.write_text(text.replace("\ngrace=10 ", "\ngrace=1 "))
    hasty.chmod(0o755)
    return ["--volume", f"{hasty}:{ENTRY}:ro"]


def test_without_a_log_file_everything_is_on_stdout(container: Container) -> None:
    ended = container("echo out; echo err >&2; exit 3")
    assert (ended.code, ended.stdout, ended.stderr) == (3, "out\nerr\n", "")


def test_with_a_log_file_everything_is_there_and_entry_json_says_how_it_ended(container: Container) -> None:
    ended = container("echo out; echo err >&2; sleep 0.3; exit 3", MADENGINE_LOG=LOG)
    assert (ended.code, ended.stdout, ended.stderr, container.log) == (3, "", "", b"out\nerr\n")
    assert {"exit_code": 3, "timed_out": False, "log_complete": True}.items() <= container.entry.items()
    assert 0.25 < container.entry["ended"] - container.entry["started"] < 5


def test_arguments_of_the_card_arrive_exactly(container: Container) -> None:
    ended = container("", image="odd")
    assert (ended.code, ended.stdout) == (0, "performance: 1 tokens_per_second\n")
    assert (container.workspace / "words").read_bytes().decode().split("\0")[:-1] == list(ODD_ARGUMENTS)
    assert not list(container.workspace.rglob("canary"))


def test_no_arguments_are_other_than_the_cards(container: Container) -> None:
    words = [*container.words("", image="odd"), "--"]
    assert container.engine(*words).code == 0
    assert (container.workspace / "words").read_bytes() == b""


def test_a_script_sees_an_empty_stdin_and_the_model_directory(container: Container) -> None:
    ended = container("cat; pwd; ls; echo $MAD_MODEL_NAME $JENKINS_BUILD_NUMBER")
    assert ended.stdout == "/myworkspace/run_directory\nrun.sh\nstale.csv\nany 0\n"


def test_the_log_is_not_cut_off_by_a_script_that_opens_stdout_and_stderr_itself(container: Container) -> None:
    ended = container("echo 1; echo 2 > /dev/stderr; echo 3 > /dev/stdout; echo 4", MADENGINE_LOG=LOG)
    assert (ended.code, container.log) == (0, b"1\n2\n3\n4\n")


def test_the_log_without_mkfifo_is_written_directly(container: Container) -> None:
    assert container("echo 1; exit 4", before="rm /bin/mkfifo", MADENGINE_LOG=LOG).code == 4
    assert container.log == b"1\n"


def test_nothing_of_the_last_moment_is_lost(container: Container) -> None:
    loop = f"""
        for i in $(seq 50); do
            MADENGINE_LOG=/tmp/log {container.shell} {ENTRY} -- 'head -c 100000 /dev/zero; printf last' || exit 1
            [ "$(tail -c 4 /tmp/log)" = last ] || exit 2
            [ "$(wc -c </tmp/log)" = 100004 ] || exit 3
            rm /tmp/log
        done
        exit 0"""
    assert container("", before=loop).code == 0


def test_the_end_waits_for_a_slow_disk(container: Container) -> None:
    slow = r"rm /bin/cat; printf '#!/bin/sh\nsleep 0.5\nexec busybox cat\n' >/bin/cat; chmod +x /bin/cat"
    assert container("echo all", before=slow, MADENGINE_LOG=LOG).code == 0
    assert container.log == b"all\n"
    assert container.entry["log_complete"] is True


def test_at_the_limit_the_script_and_what_it_started_get_a_chance_to_end(container: Container) -> None:
    child = 'trap "echo child; exit" TERM; while :; do sleep 0.1; done'
    script = f"sh -c '{child}' & trap 'wait; echo parent; exit' TERM; wait"
    began = time.monotonic()
    ended = container(script, MADENGINE_LOG=LOG, MADENGINE_TIMEOUT="1")
    assert ended.code == 124
    assert time.monotonic() - began < 6
    assert container.log.splitlines()[-2:] == [b"child", b"parent"]
    assert (container.entry["exit_code"], container.entry["timed_out"]) == (124, True)


def test_a_script_that_ignores_term_is_killed(container: Container, impatient: list[str]) -> None:
    ended = container("trap '' TERM; echo on; while :; do sleep 0.1; done", *impatient, MADENGINE_TIMEOUT="1")
    assert (ended.code, ended.stdout) == (124, "on\n")
    assert container.entry["timed_out"] is True


def hooks_sh(container: Container, pre: str, post: str = "") -> None:
    """Hooks that may take a second."""
    folder = container.workspace / ".hooks"
    folder.mkdir()
    (folder / "hooks.sh").write_text(
        f"""hook_limit=1 wrapper='WRAPPED=yes env' script_mark='script:'
pre_scripts() {{ hook pre-script '"pre-script x"' run.sh {shlex.quote(pre)}; }}
post_scripts() {{ hook post-script '"post-script y"' run.sh {shlex.quote(post)}; }}
"""
    )


def test_a_hook_that_takes_too_long_is_ended_with_what_it_started_and_the_rest_goes_on(container: Container) -> None:
    hooks_sh(container, "sleep 61 & sleep 62; wait", "ps")
    ended = container("touch ../ran", MADENGINE_LOG=LOG)
    assert ended.code == 124
    assert (container.entry["failed_hook"], container.entry["timed_out"]) == ("pre-script x", False)
    assert b"sleep 6" not in container.log
    assert not (container.workspace / "ran").exists()


def test_hooks_and_the_wrapper_are_around_the_script(container: Container) -> None:
    hooks_sh(container, "echo before", "echo after; exit 7")
    ended = container("echo $WRAPPED; exit 3", MADENGINE_LOG=LOG)
    assert (ended.code, container.entry["failed_hook"]) == (3, None)
    lines = [line for line in container.log.decode().splitlines() if not line.startswith("entry.sh")]
    assert lines == ["before", "script:", "yes", "after"]


def test_a_stopped_container_runs_no_post_scripts(container: Container) -> None:
    name = f"hooked-{container.engine.name}-{Path(container.shell).name}"
    hooks_sh(container, "true", "echo after")
    script = "trap 'exit 9' TERM; echo started; while :; do sleep 0.05; done"
    container.engine(*container.words(script, "--detach", f"--name={name}", MADENGINE_LOG=LOG))
    wait_for(lambda: (container.workspace / "log").exists() and b"started" in container.log)
    container.engine("stop", "--time=20", name)
    wait_for(lambda: (container.workspace / "entry.json").exists())
    assert (container.entry["exit_code"], container.entry["failed_hook"]) == (9, None)
    assert b"after" not in container.log


def test_a_limit_of_zero_is_none(container: Container) -> None:
    assert container("sleep 0.2; exit 5", MADENGINE_TIMEOUT="0").code == 5


def test_the_cards_limit_holds_where_none_is_given(container: Container) -> None:
    assert container("", "--env", "MADENGINE_TIMEOUT=", image="odd").code == 0
    refused = container("exit", MADENGINE_TIMEOUT="1h")
    assert refused.code == 125
    assert "MADENGINE_TIMEOUT is '1h', not a number of seconds" in refused.stderr


def test_a_process_left_behind_does_not_hold_up_the_end_for_long(container: Container, impatient: list[str]) -> None:
    began = time.monotonic()
    ended = container("sleep 300 & echo done", *impatient, MADENGINE_LOG=LOG)
    assert (ended.code, container.log) == (0, b"done\n")
    assert container.entry["log_complete"] is True
    assert time.monotonic() - began < 5


def test_a_stopped_container_lets_the_script_tidy_up(container: Container) -> None:
    name = f"stopped-{container.engine.name}-{Path(container.shell).name}"
    script = "trap 'echo tidy; exit 9' TERM; echo started; while :; do sleep 0.05; done"
    container.engine(*container.words(script, "--detach", f"--name={name}", MADENGINE_LOG=LOG))
    wait_for(lambda: (container.workspace / "log").exists() and b"started" in container.log)
    container.engine("stop", "--time=20", name)
    assert container.log.splitlines()[-1] == b"tidy"
    wait_for(lambda: (container.workspace / "entry.json").exists())
    assert container.entry["exit_code"] == 9


def test_a_stopped_script_that_ignores_term_is_killed_in_time_to_hand_over_its_files(container: Container) -> None:
    name = f"stubborn-{container.engine.name}-{Path(container.shell).name}"
    script = "trap '' TERM; touch mine; echo started; while :; do sleep 0.05; done"
    container.engine(*container.words(script, "--detach", f"--name={name}", MADENGINE_LOG=LOG))
    wait_for(lambda: (container.workspace / "log").exists() and b"started" in container.log)
    container.engine("stop", "--time=10", name)
    wait_for(lambda: (container.workspace / "entry.json").exists(), 1)
    assert container.entry["exit_code"] == 137


def test_what_is_left_belongs_to_the_owner_of_the_workspace(container: Container) -> None:
    os.chown(container.workspace, 1234, 1235)
    assert container("mkdir -p a/b; touch a/b/c; ln -s /etc d; touch ../e", MADENGINE_LOG=LOG).code == 0
    left = list(container.workspace.rglob("*"))
    assert {"run_directory", "a", "b", "c", "d", "e", "log", "entry.json"} <= {path.name for path in left}
    assert {(path.lstat().st_uid, path.lstat().st_gid) for path in left} == {(1234, 1235)}


def test_results_of_a_former_run_that_were_packed_with_the_scripts_are_no_results(container: Container) -> None:
    results = "sed -i s/^model_results=.*/model_results=stale.csv/ /opt/madengine/model.sh"
    assert container("ls", before=results, MADENGINE_LOG=LOG).code == 0
    assert container.log == b"run.sh\n"


def test_a_script_runs_under_sh_where_there_is_no_bash(container: Container) -> None:
    if container.shell == "/bin/bash":
        assert container("", image="bashless").code != 0
        return
    assert container("echo $0", image="bashless").stdout == "run.sh\n"


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        ("rm /opt/madengine/scripts/run.sh", "run.sh: not in the payload"),
        ("rm /opt/madengine/model.sh", "/opt/madengine/model.sh: not in this image"),
        ("sed -i s/=bash/=python9/ /opt/madengine/model.sh", "python9: not in this image"),
        ("rm -r /opt/madengine/scripts", "the scripts can't be copied there"),
    ],
)
def test_what_entry_sh_misses_it_names(container: Container, damage: str, said: str) -> None:
    ended = container("", before=damage)
    assert said in ended.stderr
    assert ended.code == 125
    assert not (container.workspace / "entry.json").exists()


def test_an_image_without_sleep_keeps_no_limit_but_runs(container: Container) -> None:
    ended = container("read -t 1 <>/dev/zero; echo on", before="rm /bin/sleep")
    assert ended.code == 0
    assert ended.stdout.endswith("on\n")


def test_the_models_metric_is_the_same_by_hand(container: Container) -> None:
    assert container(METRIC).stdout == "performance: 1 tokens_per_second\n"
