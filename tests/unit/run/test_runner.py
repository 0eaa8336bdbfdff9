from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from madengine.config.context import Context
from madengine.config.credentials import Credentials
from madengine.config.hooks import Hooks, Script
from madengine.config.package import template_names
from madengine.data_sets.mounts import Data
from madengine.process import own_process_id
from madengine.programs.engine import Docker
from madengine.records import Gpu, Image, Model, RunResult
from madengine.run import container_run
from madengine.run.container_setup import Setup
from madengine.run.options import RunOptions
from madengine.run.orphans import OWNER_LABEL
from madengine.run.runner import ContainerRunner
from tests.conftest import StandIns, collect_messages

ID = "sha256:" + "1" * 64
DIGEST = "sha256:" + "2" * 64
MODEL = Model(name="m", dockerfile="docker/m", scripts="scripts/m", n_gpus="0")
HERE = Image(
    key="ci-m_ubuntu", docker_image="ci-m_ubuntu", dockerfile="m.ubuntu.Dockerfile", image_id=ID, self_contained=True
)
PUSHED = replace(HERE, registry_image="r.example:5000/ci-m_ubuntu:v1", registry_digest=DIGEST)
ENTRY = {"exit_code": 0, "timed_out": False, "started": 10.0, "ended": 12.5, "log_complete": True}
EXITED = {"Status": "exited", "ExitCode": 0, "OOMKilled": False, "Error": ""}


class Engine:
    """A stand-in for docker whose container has done its work as soon as it has started."""

    def __init__(self, stand_ins: StandIns) -> None:
        self.stand_ins = stand_ins
        self.folder = stand_ins.folder
        self.log = "performance: 3 tokens\n"
        self.entry = json.dumps(ENTRY)
        self.state = json.dumps(EXITED)
        self.scripts = {
            "pull": "",
            "run": "",
            "wait": "echo 0",
            "inspect": f"cat {self.folder}/state",
            "rm": "",
            "logs": "",
        }
        self.images = f'echo \'[{{"Id": "{ID}"}}]\''

    def add(self) -> Docker:
        for name in ("log", "entry", "state"):
            (self.folder / name).write_text(getattr(self, name))
        start = f"""
            for word; do
                case $word in
                    type=bind,source=*,target=/myworkspace) to=${{word#*source=}} to=${{to%,target=*}} ;;
                    MADENGINE_LOG=*) log=${{word##*/}} ;;
                esac
            done
            cat {self.folder}/log >> "$to/$log"
            [ ! -s {self.folder}/entry ] || cp {self.folder}/entry "$to/entry.json"
            {self.scripts["run"]}"""
        cases = {
            "image": self.images,
            "run": start,
            "container": self.scripts["inspect"],
            **{name: self.scripts[name] for name in ("pull", "wait", "rm", "logs")},
        }
        lines = "".join(f"{name}) {script or ':'}\n;;\n" for name, script in cases.items())
        self.stand_ins.add("docker", f"case $1 in\n{lines}esac\n")
        return Docker(version="1.0")

    def calls(self, verb: str) -> list[list[str]]:
        words = [shlex.split(line)[1:] for line in self.stand_ins.calls()]
        return [call for call in words if call[0] == verb]


@pytest.fixture
def engine(stand_ins: StandIns) -> Engine:
    return Engine(stand_ins)


class Runs:
    """Runs models in a folder of the test's own; collects results and messages."""

    def __init__(self, folder: Path, engine: Engine) -> None:
        self.folder = folder
        self.engine = engine
        self.results: list[RunResult] = []
        self.messages = collect_messages()

    def runner(self, values: dict[str, Any] | None = None, **options: Any) -> ContainerRunner:
        of_setup = {field.name: options.pop(field.name) for field in fields(Setup) if field.name in options}
        of_run = {field.name: options.pop(field.name) for field in fields(RunOptions) if field.name in options}
        context = Context({"gpu_vendor": "NONE", **(values or {})})
        setup = Setup(self.engine.add(), "r1", context, options=RunOptions(**of_run), **of_setup)
        return ContainerRunner(setup, self.folder / "runs/r1", data=Data(), **{"done": self.results.append, **options})

    def run(self, model: Model = MODEL, image: Image = HERE, **options: Any) -> RunResult:
        self.runner(**options).run(model, image)
        return self.results[-1]

    def words(self, model: Model = MODEL, image: Image = HERE, **options: Any) -> list[str]:
        """The command line of the container, out of a dry run."""
        lines = list(self.runner(**options).shell_lines(model, image))
        return shlex.split(next(line for line in lines if line.startswith("docker run")))


@pytest.fixture
def runs(tmp_path: Path, engine: Engine) -> Runs:
    return Runs(tmp_path, engine)


# --- names ---


def test_models_whose_names_look_alike_have_folders_of_their_own(runs: Runs) -> None:
    folders = [runs.run(replace(MODEL, name=name)).directory for name in ("a/b", "a_b", "../..", "a b")]
    assert [Path(folder).name for folder in folders] == ["a_b", "a_b_2", "model", "a_b_3"]
    assert {Path(folder).parent for folder in folders} == {runs.folder / "runs/r1"}


# --- what the container gets ---


def test_data_are_copied_to_the_folder_of_the_option_else_of_the_context(runs: Runs) -> None:
    context = {"shared_data": "/nfs"}
    assert runs.runner(context).setup.mirror == "/nfs"
    assert runs.runner(context, force_mirror_local="/scratch").setup.mirror == "/scratch"
    assert not runs.runner().setup.mirror


@pytest.mark.parametrize(
    ("option", "entry", "expected"),
    [(None, None, 7200), (None, 60, 60), (None, 0, 0), (5, 60, 5), (0, 60, 0), (7200, 60, 7200)],
)
def test_the_limit_is_the_options_then_the_cards_then_two_hours(
    runs: Runs, option: int | None, entry: int | None, expected: int
) -> None:
    words = runs.words(replace(MODEL, timeout=entry), timeout=option)
    assert f"MADENGINE_TIMEOUT={expected}" in words


@pytest.mark.parametrize("option", ["--ipc=host", "--shm-size 1g", "--shm-size=1g"])
def test_half_of_the_memory_is_shared_unless_the_card_says_otherwise(runs: Runs, option: str) -> None:
    def shared(words: list[str]) -> list[str]:
        return [word for word in words if word.startswith("--shm-size=") and word != option]

    assert len(shared(runs.words())) == 1
    assert not shared(runs.words(replace(MODEL, additional_docker_run_options=option)))


def test_secrets_are_handed_over_by_name(runs: Runs) -> None:
    words = runs.words(credentials=Credentials(secrets={"MAD_SECRETS_A": "x y"}))
    assert words[words.index("MAD_SECRETS_A") - 1] == "--env"


def test_a_container_knows_its_owner_unless_it_is_to_stay(runs: Runs, engine: Engine) -> None:
    runs.run()
    label = f"{OWNER_LABEL}={own_process_id()}"
    assert label in engine.calls("run")[-1]
    assert label not in runs.words()
    engine.state = json.dumps({**EXITED, "Status": "running"})
    runs.run(keep_alive=True)
    assert label not in engine.calls("run")[-1]


def test_the_arguments_of_the_context_replace_the_cards_also_with_none(runs: Runs) -> None:
    model = replace(MODEL, args="--from entry")
    assert runs.words(model)[-1].startswith(ID)
    assert runs.words(model, values={"model_args": "--a 'b c'"})[-3:] == ["--", "--a", "b c"]
    assert runs.words(model, values={"model_args": ""})[-1] == "--"


def test_the_row_has_the_arguments_that_ran(runs: Runs) -> None:
    assert runs.run(replace(MODEL, args="--entry"), values={"model_args": "--context"}).model.args == "--context"


@pytest.mark.parametrize(
    ("vendor", "shm_size", "expected"),
    [
        (
            "AMD",
            "",
            "--network=host --group-add=video --cap-add=SYS_PTRACE --cap-add=SYS_ADMIN --device=/dev/fuse "
            "--security-opt=seccomp=unconfined --security-opt=apparmor=unconfined --ipc=host",
        ),
        (
            "NVIDIA",
            "16g",
            "--cap-add=SYS_PTRACE --cap-add=SYS_ADMIN --cap-add=SYS_NICE --device=/dev/fuse "
            "--security-opt=seccomp=unconfined --security-opt=apparmor=unconfined --network=host --shm-size=16g",
        ),
    ],
)
def test_compat_is_the_flags_of_older_madengine_and_the_cards_come_after(
    runs: Runs, vendor: str, shm_size: str, expected: str
) -> None:
    values = {"gpu_vendor": vendor, "SHM_SIZE": shm_size}
    words = runs.words(replace(MODEL, additional_docker_run_options="--mine"), isolation="compat", values=values)
    assert shlex.split(expected) == words[words.index("--mine") - 8 : words.index("--mine")]
    assert not [word for word in words if word.startswith("--ulimit")]
    assert [word for word in words if word.startswith("--shm-size")] == ([f"--shm-size={shm_size}"] if shm_size else [])


def test_each_model_starts_its_processes_on_the_gpus_that_it_gets(runs: Runs) -> None:
    gpus = tuple(Gpu("NVIDIA", index, uuid=f"GPU-{index}") for index in range(4))
    runner = runs.runner({"gpu_vendor": "NVIDIA", "multi_node_args": {"NNODES": 2}}, gpus=gpus)
    options = []
    for n_gpus in ("1", "4", "2", "-1"):
        words = shlex.split("\n".join(runner.shell_lines(replace(MODEL, n_gpus=n_gpus), HERE)))
        (variable,) = [word for word in words if word.startswith("MAD_MULTI_NODE_RUNNER=")]
        options.append(re.search(r"--nproc_per_node (\d+) --nnodes (\d+)", variable))
    assert [match and match.groups() for match in options] == [("1", "2"), ("4", "2"), ("2", "2"), ("4", "2")]


def test_a_dry_run_writes_the_hooks_too(runs: Runs, tmp_path: Path) -> None:
    hooks = Hooks((Script("scripts/common/test_echo.sh", ("it's",)),), "time")
    lines = list(runs.runner(hooks=hooks).shell_lines(MODEL, HERE))
    before = lines[: next(number for number, line in enumerate(lines) if line.startswith("docker run"))]
    subprocess.run(["sh", "-e"], input="\n".join(before), encoding="utf-8", cwd=tmp_path, check=True)
    folder = runs.folder / "runs/r1/m/.hooks"
    shipped = {f"workspace/scripts/common/{name}" for name in template_names("tools/common")}
    assert {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()} == {"hooks.sh", *shipped}


# --- which image ---


def test_a_pushed_image_is_named_by_its_digest_alone(runs: Runs, engine: Engine) -> None:
    result = runs.run(image=PUSHED)
    assert f"r.example:5000/ci-m_ubuntu@{DIGEST}" in engine.calls("run")[-1]
    assert (result.image_digest, engine.calls("pull")) == (DIGEST, [])


def test_a_pull_is_retried_after_a_network_error(runs: Runs, engine: Engine) -> None:
    engine.images = "exit 1"
    tried = engine.folder / "tried"
    engine.scripts["pull"] = (
        f"[ -e {tried} ] || {{ touch {tried}; echo 'read tcp: connection reset by peer' >&2; exit 1; }}"
    )
    assert runs.run(image=PUSHED).status == "SUCCESS"
    assert len(engine.calls("pull")) == 2
    assert any("connection reset by peer; retry in 1 s" in line for line in runs.messages)


def test_a_pull_that_is_refused_is_not_tried_again(runs: Runs, engine: Engine) -> None:
    engine.images = "exit 1"
    engine.scripts["pull"] = "echo 'Error response from daemon: unauthorized: who are you' >&2; exit 1"
    result = runs.run(image=PUSHED)
    assert (result.status, len(engine.calls("pull"))) == ("FAILURE", 1)
    assert result.reason.endswith("unauthorized: who are you")
    assert engine.calls("run") == []


def test_an_engine_that_does_not_answer_is_not_taken_for_a_missing_image(runs: Runs, engine: Engine) -> None:
    engine.images = "echo 'Cannot connect to the Docker daemon at unix:///x. Is it running?' >&2; exit 1"
    for image in (HERE, PUSHED):
        assert "Cannot connect to the Docker daemon" in runs.run(image=image).reason
    assert engine.calls("pull") == []


def test_an_image_by_name_only_is_pulled_and_the_row_says_which_it_was(runs: Runs, engine: Engine) -> None:
    result = runs.run(image=replace(PUSHED, image_id="", registry_digest=""))
    assert engine.calls("pull") == [["pull", "r.example:5000/ci-m_ubuntu:v1"]]
    assert (result.image_digest, engine.calls("run")[-1][-1]) == (ID, ID)


# --- how it ends ---


def test_a_result_has_what_the_container_left(runs: Runs) -> None:
    result = runs.run()
    assert (result.status, result.reason, result.exit_code, result.test_duration) == ("SUCCESS", "", 0, 2.5)
    assert [(metric.performance, metric.metric) for metric in result.metrics] == [("3", "tokens")]


@pytest.mark.parametrize(
    ("entry", "state", "reason"),
    [
        ({"exit_code": 7}, {}, "exit code 7"),
        ({"exit_code": 139}, {}, "exit code 139 (SIGSEGV)"),
        ({"exit_code": 255}, {}, "exit code 255"),
        ({"exit_code": 124, "timed_out": True}, {}, "timeout: the script ran longer than 7200 s"),
        ({"exit_code": 137, "out_of_memory": True}, {}, "out of memory: the kernel killed it"),
        ({"exit_code": 137}, {"OOMKilled": True}, "out of memory: the kernel killed it"),
        ({"exit_code": 0, "out_of_memory": True}, {"OOMKilled": True}, ""),
        (
            {"exit_code": 1, "log_complete": False},
            {},
            "exit code 1; the log is incomplete, it could not be written to the end",
        ),
    ],
)
def test_the_reason_is_what_the_container_says(
    runs: Runs, engine: Engine, entry: dict[str, Any], state: dict[str, Any], reason: str
) -> None:
    engine.entry, engine.state = json.dumps({**ENTRY, **entry}), json.dumps({**EXITED, **state})
    result = runs.run()
    assert (result.reason, result.status) == (reason, "FAILURE" if reason else "SUCCESS")


def test_without_an_entry_json_the_container_ended_too_early(runs: Runs, engine: Engine) -> None:
    engine.entry, engine.state = "", json.dumps({**EXITED, "ExitCode": 137})
    assert runs.run().reason == "the container ended before its script did (exit code 137 (SIGKILL))"


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ("[]", "expected an object, got []"),
        ("{}", "exit_code: expected a number from 0 to 255, got None"),
        (json.dumps({**ENTRY, "exit_code": "0"}), "exit_code: expected a number from 0 to 255, got '0'"),
        (json.dumps({**ENTRY, "exit_code": True}), "exit_code: expected a number from 0 to 255, got True"),
        (json.dumps({**ENTRY, "exit_code": 0.5}), "exit_code: expected an integer, got 0.5"),
        (json.dumps({**ENTRY, "ended": -1}), "ended: expected a number from 0 to 1000000000000, got -1"),
        ('{"exit_code": 0, "started": NaN, "ended": 1}', "invalid number NaN"),
        ('{"exit_code": 0, "started": 1, "ended": 1e999}', "a number is too large for a float"),
        ('{"exit_code": %s}' % ("9" * 4000), "a number has more than 300 digits"),
        ('{"a":' * 9_000 + "1" + "}" * 9_000, "nested more than 50 levels deep"),
        ("\x00", "Expecting value"),
        ("{", "Expecting property name"),
        ("\x1b[2J", "Expecting value"),
        ("x" * 100_000, "larger than 65.5kB"),
    ],
)
def test_something_else_in_place_of_entry_json_is_no_success(
    runs: Runs, engine: Engine, entry: str, reason: str
) -> None:
    engine.entry = entry
    result = runs.run()
    assert (result.status, result.reason.startswith(f"entry.json: {reason}")) == ("FAILURE", True), result.reason


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("mkfifo entry.json", "not a regular file"),
        ("ln -s /dev/zero entry.json", "a symbolic link, expected a file"),
        ("mkdir entry.json", "not a regular file"),
        ("ln -s entry.json entry.json", "a symbolic link, expected a file"),
        ("truncate -s 1T entry.json", "larger than 65.5kB"),
    ],
)
def test_what_a_container_puts_in_place_of_entry_json_is_not_followed(
    runs: Runs, engine: Engine, script: str, reason: str
) -> None:
    engine.entry, engine.scripts["run"] = "", f'cd "$to" && {script}'
    assert runs.run().reason == f"entry.json: {reason}"


@pytest.mark.parametrize(
    ("script", "results"),
    [
        ("ln -s $outside artifacts", "r.csv"),
        ("mkdir artifacts && ln -s $outside/victim artifacts/evil.txt", "r.csv"),
        ("mkdir artifacts && ln -s $outside artifacts/deep && mkdir deep && echo evil >deep/f", "r.csv"),
        ("ln -s $outside out && mkdir -p run_directory/out && cp r.csv run_directory/out/f.csv", "out/f.csv"),
        ("ln -s $outside out", "out/secret.csv"),
        ("ln -s $outside run_directory2; ln -sfn $outside run_directory", "r.csv"),
    ],
)
def test_no_link_of_a_container_leads_a_result_out_of_its_workspace(
    runs: Runs, engine: Engine, tmp_path: Path, script: str, results: str
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "victim").write_text("untouched")
    (outside / "secret.csv").write_text("model,performance,metric\nsecret,1,x\n")
    before = {path.name: path.read_text() for path in outside.iterdir()}
    table = "printf 'model,performance,metric\\na,1,x\\n' >r.csv"
    engine.scripts["run"] = f'outside={outside}; cd "$to"; echo evil >evil.txt; {table}; {script}'
    result = runs.run(replace(MODEL, artifacts=("evil.txt", "deep", "out/*"), multiple_results=results))
    assert {path.name: path.read_text() for path in outside.iterdir()} == before
    assert "secret" not in repr(result.metrics)
    copies = [path for path in Path(result.directory).rglob("*") if path.is_file() and not path.is_symlink()]
    assert not any("secret" in path.read_text(errors="replace") for path in copies if outside not in path.parents)
    assert (Path(result.directory) / "artifacts/evil.txt").read_text() == "evil\n"


def test_a_containers_rights_end_with_it(runs: Runs, engine: Engine) -> None:
    engine.scripts["run"] = 'cd "$to"; cp /bin/true root; chmod 6755 root; mkdir open; chmod 777 open . '
    folder = Path(runs.run().directory)
    modes = [oct(path.stat().st_mode & 0o7777) for path in (folder, folder / "root", folder / "open")]
    assert modes == ["0o775", "0o755", "0o775"]


def test_the_engines_own_words_are_in_the_reason_and_in_the_log(runs: Runs, engine: Engine) -> None:
    engine.entry, engine.log = "", ""
    engine.scripts["logs"] = "echo first; echo 'exec /opt/madengine/entry.sh: no such file' >&2"
    engine.state = json.dumps({**EXITED, "ExitCode": 127})
    result = runs.run()
    assert result.reason.endswith("(exit code 127): exec /opt/madengine/entry.sh: no such file")
    assert Path(result.log_file).read_text() == "first\nexec /opt/madengine/entry.sh: no such file\n"


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ({"failed_hook": None}, ""),
        ({"failed_hook": "pre-script a.sh", "exit_code": 3}, "pre-script a.sh: exit code 3"),
        ({}, "the image's entry.sh is of an older madengine, which ran no hooks and no tools; build the image again"),
    ],
)
def test_a_hook_that_failed_or_did_not_run_is_the_reason(
    runs: Runs, engine: Engine, entry: dict[str, Any], reason: str
) -> None:
    engine.entry = json.dumps({**ENTRY, **entry})
    assert runs.run(hooks=Hooks(post_scripts=(Script("a.sh"),))).reason == reason


def test_a_container_that_can_not_be_started_is_removed_and_the_row_says_why(runs: Runs, engine: Engine) -> None:
    engine.scripts["run"] = "echo 'docker: Error response from daemon: no such device: gpu9.' >&2; exit 125"
    result = runs.run()
    assert result.reason == "docker could not start the container (exit code 125): no such device: gpu9."
    assert [call[-1] for call in engine.calls("rm")] == ["madengine-r1-m"]


@pytest.mark.parametrize(
    "problem",
    [
        "Error: container-init binary not found on the host: stat /x/catatonit: no such file or directory",
        'Error: lookup init binary: could not find "catatonit" in one of [/usr/libexec/podman]',
        'error mounting "/x/docker-init" to rootfs at "/sbin/docker-init": stat /x/docker-init: no such file',
        'exec: "tini": executable file not found in $PATH',
    ],
)
def test_an_engine_without_an_init_starts_containers_without_one_and_one_line_says_so(
    runs: Runs, engine: Engine, monkeypatch: pytest.MonkeyPatch, problem: str
) -> None:
    monkeypatch.setattr(container_run, "_without_init", set())
    engine.scripts["run"] = f"case \" $* \" in *' --init '*) echo '{problem}' >&2; exit 125 ;; esac"
    assert [runs.run().status, runs.run().status] == ["SUCCESS", "SUCCESS"]
    assert ["--init" in call for call in engine.calls("run")] == [True, False, False]
    (message,) = [line for line in runs.messages if "init" in line]
    assert message.startswith("docker has no init: containers start without one (")


def test_a_container_that_goes_on_when_the_engine_lost_sight_of_it_is_followed_to_its_end(
    runs: Runs, engine: Engine
) -> None:
    running = json.dumps({**EXITED, "Status": "running"})
    seen = engine.folder / "seen"
    engine.scripts["inspect"] = f"[ -e {seen} ] && cat {engine.folder}/state || {{ touch {seen}; echo '{running}'; }}"
    assert runs.run().status == "SUCCESS"
    assert len(engine.calls("wait")) == 2


def test_an_engine_that_is_restarted_is_asked_again(runs: Runs, engine: Engine) -> None:
    seen = engine.folder / "seen"
    engine.scripts["inspect"] = (
        f"[ -e {seen} ] && cat {engine.folder}/state || {{ touch {seen}; echo 'Cannot connect' >&2; exit 1; }}"
    )
    assert runs.run().status == "SUCCESS"


def test_a_container_that_can_not_be_removed_is_said_with_the_command(runs: Runs, engine: Engine) -> None:
    engine.scripts["rm"] = "echo 'device or resource busy' >&2; exit 1"
    assert runs.run().status == "SUCCESS"
    assert runs.messages == [
        "madengine-r1-m could not be removed: device or resource busy; `docker rm --force madengine-r1-m`"
    ]


def test_live_output_is_the_log(runs: Runs, engine: Engine, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    engine.log = "\x1b[1mone\x00\nperformance: 3 tokens"
    runs.run(live_output=True)
    assert capfdbinary.readouterr() == (b"", engine.log.encode())


def test_the_last_lines_of_a_failed_run_are_said(runs: Runs, engine: Engine) -> None:
    engine.log = "".join(f"line {number}\n" for number in range(100)) + "x" * 1000
    engine.entry = json.dumps({**ENTRY, "exit_code": 1})
    result = runs.run()
    lines = runs.messages[0].splitlines()
    assert lines[0] == "  | line 81"
    assert lines[-2] == f"  | {'x' * 300}"
    assert lines[-1] == f"  the whole log: {result.log_file}"


# --- errors of any kind ---

_ERRORS = [TypeError("no such\nattribute"), OSError(28, "No space left on device", "/run/x"), RecursionError("deep")]


@pytest.mark.parametrize("error", _ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize(
    ("place", "removed"),
    [
        ("madengine.run.runner.new_folder", 0),
        ("madengine.run.runner.foreign_processes", 0),
        ("madengine.run.container_setup.Setup.container", 0),
        ("madengine.machine.telemetry.sampled", 0),
        ("madengine.programs.pause", 1),
        ("madengine.programs.engine.Docker.wait", 1),
        ("madengine.programs.engine.Docker.state", 1),
        ("madengine.run.runner.run_outcome", 1),
        ("madengine.run.runner.tidy_workspace", 1),
    ],
)
def test_whatever_goes_wrong_the_row_is_a_failure_with_a_reason_and_the_container_is_gone(
    runs: Runs, engine: Engine, monkeypatch: pytest.MonkeyPatch, error: Exception, place: str, removed: int
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    engine.scripts["wait"] = "sleep 0.2; echo 0"
    runner = runs.runner()
    monkeypatch.setattr(place, fail)
    runner.run(MODEL, HERE)
    (result,) = runs.results
    assert (result.status, "\n" in result.reason) == ("FAILURE", False)
    named = "No space left" if isinstance(error, OSError) else f"unexpected error: {type(error).__name__}: "
    assert named in result.reason
    assert len(engine.calls("rm")) == removed
    runner.run(MODEL, HERE)
    assert len(runs.results) == 2, "the next model runs"


# --- interruptions ---


@pytest.fixture
def interruptible() -> Iterator[None]:
    """As the command line does it: a signal raises KeyboardInterrupt."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("when", ["pull", "run", "wait"])
def test_an_interruption_gives_a_result_and_goes_on_up(
    runs: Runs, engine: Engine, interruptible: None, when: str
) -> None:
    engine.images = "exit 1"
    engine.scripts[when] = "sleep 0.3; kill -INT $PPID; sleep 5"
    with pytest.raises(KeyboardInterrupt):
        runs.run(image=PUSHED)
    (result,) = runs.results
    assert (result.status, result.reason) == ("FAILURE", "interrupted")
    assert len(engine.calls("rm")) == (0 if when == "pull" else 1)


def test_a_signal_while_a_result_is_kept_waits(runs: Runs, interruptible: None) -> None:
    statuses: list[str] = []

    def done(result: RunResult) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        statuses.append(result.status)

    with pytest.raises(KeyboardInterrupt):
        runs.run(done=done)
    assert statuses == ["SUCCESS"]
