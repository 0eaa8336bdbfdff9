"""entry.sh, under each shell that an image may have for it."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from madengine.process import boot_id
from madengine.run.owner_pipe import owner_pipe
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
        mounts = ["--volume", f"{self.workspace}:/myworkspace", *_mounted(self.shell)]
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
        entry: dict[str, Any] = json.loads((self.workspace / "entry.json").read_text())
        return entry

    def by_hand(self, *words: str, options: Sequence[str] = ()) -> Outcome:
        """Run a program in the image without entry.sh."""
        image = self.images["ci-any_ubuntu_cpu"]["image_id"]
        return self.engine("run", "--rm", "--init", *options, f"--entrypoint={words[0]}", image, *words[1:])


def _mounted(shell: str) -> list[str]:
    """The machine's own shell and its libraries, for an image that has none."""
    if shell not in ("/bin/dash", "/bin/mksh"):
        return []
    if not Path(shell).exists():
        pytest.skip(f"{shell} is not installed")
    listed = subprocess.run(["ldd", shell], capture_output=True, text=True, check=True).stdout.split()
    files = [shell, *(word for word in listed if word.startswith("/"))]
    return [word for file in files for word in ("--volume", f"{Path(file).resolve()}:{file}:ro")]


# The base image's sh is busybox.
pytestmark = pytest.mark.parametrize(
    ("engine", "shell"),
    [*(("docker", f"/bin/{shell}") for shell in ("sh", "bash", "dash", "mksh")), ("podman", "/bin/sh")],
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
    """The engine's options for an entry.sh that waits 1 s where it waits 10 or 60."""
    text = (CHECKOUT / "templates/image/entry.sh").read_text()
    for name, seconds in (("grace", 10), ("owner_wait", 60)):
        assert f"\n_madengine_{name}={seconds} " in text
        text = text.replace(f"\n_madengine_{name}={seconds} ", f"\n_madengine_{name}=1 ")
    hasty = tmp_path / "entry.sh"
    hasty.write_text(text)
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


# Names that entry.sh, hooks.sh or a shell could want for themselves, or that no shell can hold. SECONDS is not here: it
# counts on in bash and mksh.
VARIABLES = (
    "limit=1000", "results=/data/out", "code=main", "model_name=llama", "hooks=no", "wrapper=w", "status=", "shell=zsh",
    "_madengine_limit=1", "hook_limit=5", "arguments=all", "a.b=dots", "c-d=dash", "PWD=/nowhere", "OLDPWD=/old",
    "SHLVL=7", "IFS=:", "OPTIND=4", "LINENO=3", "PS4=> ", "_=under", "RANDOM=12", "two=one\ntwo\n",
    "quote=it's \"$HOME\" \\ *", "MAD_DATAHOME=/data", "MADENGINE_ENGINE=docker", "wide=naïve Ω",
)  # fmt: skip


def test_a_script_has_the_environment_of_its_image_byte_for_byte(container: Container) -> None:
    hooks_sh(container, "cat /proc/$$/environ >../hook", wrapper="")
    options = ["--hostname=h", *(word for variable in VARIABLES for word in ("--env", variable))]
    by_hand = container.by_hand("cat", "/proc/self/environ", options=options).stdout
    assert container("cat /proc/$$/environ >../script", *options, MADENGINE_LOG=LOG, MADENGINE_TIMEOUT="5").code == 0
    expected = {*by_hand.split("\0"), "MAD_MODEL_NAME=any", "JENKINS_BUILD_NUMBER=0"} - {""}
    assert {*VARIABLES} < expected
    for name in ("script", "hook"):
        environment = (container.workspace / name).read_bytes().decode(errors="surrogateescape")
        assert sorted({*environment.split("\0")} - {""}) == sorted(expected), name


def test_a_script_has_the_signals_umask_limits_and_files_of_a_bare_container(container: Container) -> None:
    look = "grep -E '^(Sig(Ign|Blk|Cgt)|Umask)' /proc/self/status; cat /proc/self/limits; ls /proc/self/fd"
    hooks_sh(container, f"({look}) >../hook")
    expected = container.by_hand("bash", "-c", look).stdout
    assert "SigIgn:\t0000000000000000\n" in expected
    assert container(f"({look}) >../script", MADENGINE_LOG=LOG).code == 0
    assert (container.workspace / "script").read_text() == expected
    assert (container.workspace / "hook").read_text() == expected


@pytest.mark.parametrize("missing", ["setsid", "mkfifo", "env", "tr"])
def test_an_image_without_one_of_the_programs_runs_the_script_all_the_same(container: Container, missing: str) -> None:
    ended = container("echo $two; exit 3", "--env=two=2", before=f"rm /bin/{missing}", MADENGINE_LOG=LOG)
    assert (ended.code, container.log) == (3, b"2\n")


@pytest.mark.parametrize("number", ["INT", "QUIT"])
def test_a_script_can_trap_the_signals_of_the_keyboard(container: Container, number: str) -> None:
    ended = container(f"trap 'echo trapped' {number}; kill -{number} $$; sleep 0.1; echo on")
    assert ended.stdout == "trapped\non\n"


@pytest.mark.parametrize(
    ("script", "code"),
    [("kill -INT $$", 130), ("kill -TERM $$", 143), ("kill -KILL $$", 137), ("kill -SEGV $$", 139), ("kill -9 0", 137)],
)
def test_a_script_that_a_signal_ends_is_reported_by_it(container: Container, script: str, code: int) -> None:
    assert container(f"echo on; {script}; sleep 5", MADENGINE_LOG=LOG).code == code
    assert container.entry["exit_code"] == code
    assert container.log == b"on\n"


def test_what_is_mounted_below_the_workspace_keeps_its_owner(container: Container, tmp_path: Path) -> None:
    options, files = [], [tmp_path / "single"]
    mounts = {"run_directory/single": files[0]}
    for number, inside in enumerate(("data", "run_directory/a b/\\deep", "run_directory/.hidden/in")):
        mounts[inside] = tmp_path / f"host{number}"
        mounts[inside].mkdir()
        files.append(mounts[inside] / "file")
    for file in files:
        file.touch()
        os.chown(file, 1234, 5678)
    for inside, host in mounts.items():
        options += ["--mount", f"type=bind,source={host},target=/myworkspace/{inside}"]
    os.chown(container.workspace, 1000, 1001)
    assert container("mkdir -p '../x y'; touch ../own '../x y/z' 'a b/own' .hidden/own", *options).code == 0
    assert {owner(path) for path in files} == {(1234, 5678)}
    own = ("own", "x y/z", "run_directory/a b/own", "run_directory/.hidden/own", "run_directory/run.sh", "entry.json")
    assert {owner(container.workspace / name) for name in own} == {(1000, 1001)}


def owner(path: Path) -> tuple[int, int]:
    return path.stat().st_uid, path.stat().st_gid


def test_the_log_is_not_cut_off_by_a_script_that_opens_stdout_and_stderr_itself(container: Container) -> None:
    ended = container("echo 1; echo 2 > /dev/stderr; echo 3 > /dev/stdout; echo 4", MADENGINE_LOG=LOG)
    assert (ended.code, container.log) == (0, b"1\n2\n3\n4\n")


@pytest.mark.parametrize("before", ["rm /bin/mkfifo", "ln -sf false /bin/mkfifo"])
def test_the_log_without_pipes_is_written_directly(container: Container, before: str) -> None:
    """An image without mkfifo, or a file system that has no pipes."""
    assert container("echo 1; exit 4", before=before, MADENGINE_LOG=LOG).code == 4
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
    slow = r"""rm /bin/cat; printf '#!/bin/sh\nsleep 0.5\nexec busybox cat "$@"\n' >/bin/cat; chmod +x /bin/cat"""
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


def hooks_sh(container: Container, pre: str, post: str = "", wrapper: str = "WRAPPED=yes env") -> None:
    """Hooks that may take a second."""
    folder = container.workspace / ".hooks"
    folder.mkdir()
    (folder / "hooks.sh").write_text(
        f"""hook_limit=1 wrapper={shlex.quote(wrapper)} script_mark='script:'
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
    assert "MADENGINE_TIMEOUT: expected a number of seconds, got '1h'" in refused.stderr


def test_a_script_ends_with_the_owner_of_its_pipe(container: Container, impatient: list[str]) -> None:
    name = f"owned-{container.engine.name}-{Path(container.shell).name}"
    script = "cd ..; ls -A; trap 'echo tidy; exit 9' TERM; while :; do sleep 0.05; done"
    with owner_pipe(container.workspace):
        container.engine(*container.words(script, "--detach", f"--name={name}", *impatient, MADENGINE_LOG=LOG))
        time.sleep(1.5)
        assert container.engine("ps", "--quiet", f"--filter=name={name}").stdout
    wait_for((container.workspace / "entry.json").exists)
    assert (container.entry["stopped"], container.entry["exit_code"]) == (True, 9)
    assert container.log.splitlines()[-1] == b"tidy"
    assert b".owner" not in container.log
    # Killed before the container has opened the pipe.
    pipe = container.workspace / f".owner-{boot_id()}"
    os.mkfifo(pipe)
    ended = container("exec sleep 30", *impatient)
    assert (ended.code, container.entry["stopped"]) == (143, True)


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
    results = "sed -i s/^_madengine_model_results=.*/_madengine_model_results=stale.csv/ /opt/madengine/model.sh"
    assert container("ls", before=results, MADENGINE_LOG=LOG).code == 0
    assert container.log == b"run.sh\n"


def test_a_script_runs_under_sh_where_there_is_no_bash(container: Container) -> None:
    if container.shell == "/bin/bash":
        assert container("", image="bashless").code != 0
        return
    assert container("echo $0", image="bashless").stdout == "run.sh\n"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("rm /opt/madengine/scripts/run.sh", "run.sh: not in the payload"),
        ("rm /opt/madengine/model.sh", "/opt/madengine/model.sh: not in this image"),
        ("sed -i s/=bash/=python9/ /opt/madengine/model.sh", "python9: not in this image"),
        ("rm -r /opt/madengine/scripts", "the scripts can't be copied there"),
    ],
)
def test_what_entry_sh_misses_it_names(container: Container, damage: str, message: str) -> None:
    ended = container("", before=damage)
    assert message in ended.stderr
    assert ended.code == 125
    assert not (container.workspace / "entry.json").exists()


def test_an_image_without_sleep_keeps_no_limit_but_runs(container: Container) -> None:
    ended = container("read -t 1 <>/dev/zero; echo on", before="rm /bin/sleep")
    assert ended.code == 0
    assert ended.stdout.endswith("on\n")


def test_the_models_metric_is_the_same_by_hand(container: Container) -> None:
    assert container(METRIC).stdout == "performance: 1 tokens_per_second\n"
