"""The command line: its options, what it says, and how it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

from madengine import __version__
from madengine.distributed_cli import main
from tests.conftest import StandIns

CHECKOUT = Path(__file__).parents[2]
CARD: dict[str, object] = {
    "name": "dummy",
    "dockerfile": "docker/dummy",
    "scripts": "scripts/dummy",
    "tags": ["dummies", "test"],
}

_SELECTION = ("--tags", "--ignore-deprecated")
_CONTEXT = ("--additional-context", "--additional-context-file")
_BUILDING = (
    *_SELECTION,
    *_CONTEXT,
    "--engine",
    "--dry-run",
    "--registry",
    "--clean-docker-cache",
    "--manifest-output",
    "--summary-output",
    "--live-output",
    "--jobs",
    "--target-archs",
    "--use-image",
    "--tools-json-file-name",
)
_RUNNING = (
    "--output",
    "--timeout",
    "--keep-alive",
    "--keep-model-dir",
    "--skip-model-run",
    "--data-config-file-name",
    "--force-mirror-local",
    "--generate-sys-env-details",
    "--isolation",
)
VERBS = {
    "build": (*_BUILDING, "--batch-manifest"),
    "push": ("--manifest-file", "--registry", "--engine", "--dry-run"),
    "run": (*_BUILDING, *_RUNNING, "--manifest-file"),
    "full": (*_BUILDING, *_RUNNING),
    "export-config": (*_SELECTION, *_CONTEXT, "--output"),
    "discover": (*_SELECTION, "--format"),
    "init": (),
}
HEAVY = ("plumbum", "jinja2", "yaml", "tabulate", "fastjsonschema", "subprocess", "concurrent.futures")


class Said(NamedTuple):
    """What a command line left: its exit code, its results and its messages."""

    code: int
    out: str
    err: str


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, a model package of one model."""
    return in_folder(tmp_path / "package", monkeypatch, [CARD])


@pytest.fixture
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, without a model package."""
    return in_folder(tmp_path / "nowhere", monkeypatch, [])


def in_folder(folder: Path, monkeypatch: pytest.MonkeyPatch, cards: list[dict[str, object]]) -> Path:
    for name in ("MODEL_DIR", "MADENGINE_ENGINE"):
        monkeypatch.delenv(name, raising=False)
    (folder / "scripts/dummy").mkdir(parents=True)
    (folder / "docker").mkdir()
    (folder / "scripts/dummy/run.sh").write_text("echo performance: 1 s\n")
    (folder / "docker/dummy.ubuntu.cpu.Dockerfile").write_text("# CONTEXT {'gpu_vendor': 'NONE'}\nFROM ubuntu\n")
    if cards:
        (folder / "models.json").write_text(json.dumps(cards))
    monkeypatch.chdir(folder)
    return folder


def said(capfd: pytest.CaptureFixture[str], *words: str) -> Said:
    try:
        code = main(words)
    except SystemExit as stopped:
        code = int(stopped.code or 0)
    return Said(code, *capfd.readouterr())


def started(*words: str, cwd: Path, stdout: int | None = None, stderr: int | None = None) -> subprocess.Popen[str]:
    """The command line as a program of its own."""
    # An empty PYTHONUNBUFFERED is an unset one: what is printed waits in a buffer, as it does by default.
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT), "PYTHONDONTWRITEBYTECODE": "1", "PYTHONUNBUFFERED": ""}
    words = (sys.executable, "-m", "madengine.distributed_cli", *words)
    return subprocess.Popen(words, cwd=cwd, env=environment, text=True, stdout=stdout, stderr=stderr)


def options_in(text: str) -> set[str]:
    return {word.strip(",[]") for word in text.split() if word.strip(",[]").startswith("--")}


# --- help and version ---


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_its_options_and_names_the_exit_codes(verb: str, capfd: pytest.CaptureFixture[str]) -> None:
    help_text = said(capfd, verb, "--help")
    assert help_text.code == 0
    assert options_in(help_text.out) >= {*VERBS[verb], "--verbose", "--help"}
    codes = ("0 done", "1 failure", "2 a build failed", "3 a run failed", "4 wrong arguments", "5 something got worse")
    meanings = (*codes, "130 interrupted")
    assert all(meaning in " ".join(help_text.out.split()) for meaning in meanings)


@pytest.mark.parametrize("verb", ["run", "deploy", "ship", "fetch", "doctor"])
def test_only_what_copies_to_hosts_may_copy_credentials(verb: str, capfd: pytest.CaptureFixture[str]) -> None:
    options = options_in(said(capfd, verb, "--help").out)
    assert {"--host", "--hosts-file", "--forks", "--remote-path", "--remote-python", "--ssh-config"} <= options
    assert ("--ship-credentials" in options) == (verb in ("run", "deploy", "ship"))


def test_the_help_lists_every_verb(capfd: pytest.CaptureFixture[str]) -> None:
    help_text = said(capfd, "--help")
    assert all(verb in help_text.out for verb in VERBS)
    assert "130 interrupted" in " ".join(help_text.out.split())


def test_the_version_is_the_packages(capfd: pytest.CaptureFixture[str]) -> None:
    assert said(capfd, "--version") == Said(0, f"madengine {__version__}\n", "")


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["run", "--help"], ["build", "--timeuot"]])
def test_help_and_refusals_import_nothing_heavy(words: Sequence[str]) -> None:
    script = (
        "import sys\n"
        "from madengine.distributed_cli import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit: pass\n"
        f"print('loaded:', sorted(set({HEAVY!r}) & set(sys.modules)))\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    # -S: the site's own .pth files may load anything.
    done = subprocess.run(
        [sys.executable, "-S", "-c", script, *words], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "loaded: []"


# --- tags ---

PAIR = [{**CARD, "name": "a", "tags": ["x"]}, {**CARD, "name": "b", "tags": ["x"]}, {**CARD, "name": "c", "tags": []}]


@pytest.mark.parametrize(
    ("words", "names"),
    [
        ([], ["a", "b", "c"]),
        (["--tags", "a", "b"], ["a", "b"]),
        (["--tags", "a,b"], ["a", "b"]),
        (["--tags=a,b"], ["a", "b"]),
        (["--tags", "a", "--tags", "b"], ["a", "b"]),
        (["-t", "a, c", "b"], ["a", "b", "c"]),
        (["--tags", "x"], ["a", "b"]),
        (["--tags", "all"], ["a", "b", "c"]),
    ],
)
def test_tags_may_be_written_in_every_way(
    package: Path, capfd: pytest.CaptureFixture[str], words: list[str], names: list[str]
) -> None:
    (package / "models.json").write_text(json.dumps(PAIR))
    assert said(capfd, "discover", "--format=names", *words) == Said(0, "\n".join(names) + "\n", "")


def test_an_unknown_tag_is_one_line_with_the_closest(package: Path, capfd: pytest.CaptureFixture[str]) -> None:
    found = said(capfd, "discover", "--tags", "dumy")
    assert found == Said(1, "", "madengine: error: no model has the name or tag 'dumy'; did you mean dummy?\n")


def test_empty_tags_are_not_all(package: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert said(capfd, "discover", "--tags", ",").code == 4


# --- wrong arguments ---


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["build", "--tgas=dummy"], "build: unknown option --tgas=dummy (did you mean --tags?)"),
        (["run", "--manifest", "m.json"], "run: unknown option --manifest m.json (did you mean --manifest-file?)"),
        (["run", "--xyzzy"], "run: unknown option --xyzzy"),
        (["build", "--timeout", "3"], "build: unknown option --timeout 3; see"),
        (["build", "dummy"], "build: unexpected argument dummy (did you mean --tags dummy?)"),
        (["--verbose", "discover"], "discover: write --verbose after the verb"),
        (["run", "--timeout", "-2"], "run: argument --timeout: expected a number of seconds (0 is no limit), got '-2'"),
        (
            ["run", "--timeout", "abc"],
            "run: argument --timeout: expected a number of seconds (0 is no limit), got 'abc'",
        ),
        (
            ["full", "--timeout=1.5"],
            "full: argument --timeout: expected a number of seconds (0 is no limit), got '1.5'",
        ),
        (["build", "--jobs", "0"], "build: argument --jobs/-j: expected a number of jobs, 1 or more, got '0'"),
        (["build", "--engine", "dokcer"], "build: argument --engine: invalid choice: 'dokcer' (choose from "),
        (["biuld"], "madengine: argument VERB: invalid choice: 'biuld' (choose from "),
        ([], "madengine: the following arguments are required: VERB"),
        (
            ["run", "--generate-sys-env-details=x"],
            "run: argument --generate-sys-env-details/--sys-env-details: expected true or false, got 'x'",
        ),
        (["run", "--isolation", "none"], "run: argument --isolation: invalid choice: 'none' (choose from "),
        (["init"], "init: the following arguments are required: DIR"),
        (["discover", "--tags"], "discover: argument --tags/-t: expected at least one argument"),
    ],
)
def test_wrong_arguments_are_one_line_and_exit_4(
    package: Path, capfd: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    found = said(capfd, *words)
    assert (found.code, found.out) == (4, "")
    assert found.err.startswith(message)
    assert found.err.count("\n") == 1
    assert "--help`" in found.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["build", "--target-archs", "gfx942,a b"],
            "--target-archs: invalid architecture 'a b'; expected a name such as gfx942",
        ),
        (["build", "--batch-manifest", "no.json"], "no.json: no such file"),
        (["build", "--batch-manifest", "b.json", "--tags", "x"], "--tags x: not together with --batch-manifest"),
        (["build", "--batch-manifest", "b.json", "--use-image", "i"], "i: not together with --batch-manifest"),
        (["build", "--use-image", "auto"], "--use-image auto: model 'dummy' names no image"),
        (["full", "--tools-json-file-name", "no.json"], "no.json: no such file"),
        (
            ["run", "--host=h", "--tools-config", "t.json"],
            "--tools-json-file-name t.json: can't be combined with --host",
        ),
    ],
)
def test_what_can_not_be_meant_is_one_line_and_exits_4(
    package: Path, capfd: pytest.CaptureFixture[str], stand_ins: StandIns, words: list[str], message: str
) -> None:
    stand_ins.add("docker", "echo 27.0.0")
    (package / "b.json").write_text('[{"model_name": "dummy"}]')
    (package / "t.json").write_text("{}")
    found = said(capfd, *words, *([] if "--host=h" in words else ["--engine=docker"]))
    assert (found.code, found.out) == (4, "")
    assert found.err.splitlines()[-1].startswith(f"madengine: error: {message}")


def test_a_host_is_told_what_was_said_here(
    package: Path, capfd: pytest.CaptureFixture[str], stand_ins: StandIns
) -> None:
    (package / "m.json").write_text(
        '{"built_images": {"k": {"docker_image": "r.example/k", "registry_image": "r.example/k"}}}'
    )
    words = ["run", "--host=h", "-m", "m.json", "--dry-run", "--sys-env-details=false", "--isolation=compat"]
    found = said(capfd, *words)
    assert (found.code, found.err) == (0, "")
    assert "--generate-sys-env-details=false --isolation=compat" in found.out


@pytest.mark.parametrize("verb", ["build", "run", "full", "export-config"])
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--additional-context", "{'gpu_vendor': 'VOODOO'}"], "--additional-context: gpu_vendor: expected one of"),
        (["--additional-context", "{'docker_gpus': 'x-y'}"], "--additional-context: docker_gpus: expected numbers"),
        (["--additional-context", "{"], "--additional-context: '{' is neither JSON nor a Python literal: line 1"),
        (["--additional-context-file", "nope.json"], "nope.json: no such file; --additional-context-file"),
    ],
)
def test_a_bad_context_is_one_line_and_exits_4(
    package: Path, capfd: pytest.CaptureFixture[str], verb: str, words: list[str], message: str
) -> None:
    found = said(capfd, verb, *words)
    assert (found.code, found.out) == (4, "")
    assert found.err.splitlines()[-1].startswith(f"madengine: error: {message}")


# --- the engine ---


def test_the_environment_names_the_engine(
    package: Path, capfd: pytest.CaptureFixture[str], stand_ins: StandIns, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("docker", "podman"):
        stand_ins.add(name, "echo 9.9")
    monkeypatch.setenv("MADENGINE_ENGINE", "podman")
    assert said(capfd, "build", "--dry-run").code == 0
    assert {call.split()[0] for call in stand_ins.calls()} == {"podman"}


def test_the_option_wins_over_the_environment(
    package: Path, capfd: pytest.CaptureFixture[str], stand_ins: StandIns, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("docker", "podman"):
        stand_ins.add(name, "echo 9.9")
    monkeypatch.setenv("MADENGINE_ENGINE", "dokcer")
    assert said(capfd, "build", "--dry-run", "--engine=docker").code == 0
    assert {call.split()[0] for call in stand_ins.calls()} == {"docker"}


@pytest.mark.parametrize("verb", ["build", "push", "run", "full"])
def test_an_engine_in_the_environment_that_is_none_is_named(
    package: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    monkeypatch.setenv("MADENGINE_ENGINE", "dokcer")
    assert said(capfd, verb) == Said(
        4,
        "",
        "madengine: error: MADENGINE_ENGINE=dokcer: no such engine; expected one of auto, docker, podman, nerdctl, "
        "apptainer, pyxis\n",
    )


def test_an_engine_that_does_not_answer_is_one_line_and_exits_1(
    package: Path, capfd: pytest.CaptureFixture[str], stand_ins: StandIns
) -> None:
    stand_ins.add("podman", "echo 'Error: no storage' >&2; exit 125")
    found = said(capfd, "build", "--engine=podman")
    assert found.code == 1
    assert found.err == (
        "madengine: error: podman doesn't answer: no storage; install or start it, or choose another with --engine\n"
    )


# --- run is smart ---


def test_run_of_a_manifest_says_that_nothing_is_built(nowhere: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (nowhere / "m.json").write_text('{"built_images": {}}')
    found = said(capfd, "run", "--manifest-file", "m.json")
    assert found.code == 4
    assert found.err.splitlines() == [
        "m.json exists: running it, nothing is built",
        "madengine: error: m.json: holds no images; `madengine build` again",
    ]


@pytest.mark.parametrize("more", [(), ("--quiet",), ("--host", "nowhere.invalid")])
def test_run_of_a_manifest_names_the_options_that_only_a_build_uses(
    nowhere: Path, capfd: pytest.CaptureFixture[str], stand_ins: StandIns, more: Sequence[str]
) -> None:
    stand_ins.add("ssh", "exit 255")
    (nowhere / "m.json").write_text('{"built_images": {}}')
    ignored_keys = (
        "--use-image=x",
        "--target-archs",
        "gfx942",
        "--jobs=2",
        "--clean-docker-cache",
        "--ignore-deprecated",
    )
    others = ("--manifest-output=n.json", "--credentials-as-build-args", "--live-output", "--timeout=3")
    found = said(capfd, "run", "--manifest-file", "m.json", *ignored_keys, *others, *more)
    assert found.code != 0
    assert found.err.splitlines()[0] == (
        "--ignore-deprecated, --manifest-output, --jobs, --clean-docker-cache, --target-archs, --use-image,"
        " --credentials-as-build-args ignored: m.json exists, so nothing is built"
    )


def test_a_build_uses_what_only_a_build_uses(
    package: Path, capfd: pytest.CaptureFixture[str], stand_ins: StandIns
) -> None:
    stand_ins.add("podman", "echo 9.9")
    found = said(capfd, "run", "--engine=podman", "--dry-run", "--jobs=2", "--target-archs=gfx942")
    assert "ignored" not in found.err
    assert "_gfx942" in found.out


def test_a_missing_manifest_is_built_where_there_is_a_package(
    package: Path, capfd: pytest.CaptureFixture[str], stand_ins: StandIns
) -> None:
    stand_ins.add("podman", "echo 9.9")
    found = said(capfd, "run", "--manifest-file", "out/m.json", "--engine=podman", "--dry-run")
    assert found.code == 0
    assert (
        found.err.splitlines()[0] == "out/m.json does not exist: building first; the manifest is written to out/m.json"
    )
    assert "podman build " in found.out


def test_run_without_a_manifest_says_why_it_builds(
    package: Path, capfd: pytest.CaptureFixture[str], stand_ins: StandIns
) -> None:
    stand_ins.add("podman", "echo 9.9")
    found = said(capfd, "run", "--engine=podman", "--dry-run", "--manifest-output", "mine.json")
    assert found.code == 0
    assert found.err.splitlines()[0] == "no --manifest-file: building first; the manifest is written to mine.json"


@pytest.mark.parametrize(
    "words", [["--nodes=2"], ["-c", '{"distributed": {"nnodes": 2}}'], ["--manifest-file=out/m.json", "--nodes=2"]]
)
def test_several_nodes_without_hosts_are_refused_before_anything_is_built(
    package: Path, capfd: pytest.CaptureFixture[str], stand_ins: StandIns, words: list[str]
) -> None:
    stand_ins.add("podman", "echo 9.9")
    found = said(capfd, "run", "--engine=podman", *words)
    assert (found.code, found.out) == (4, "")
    [line] = found.err.splitlines()
    assert "2: this run is on one node; name that many hosts with --host" in line


def test_the_starter_never_stands_in_for_a_mistyped_manifest(nowhere: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert said(capfd, "run", "--manifest-file", "nope.json") == Said(
        4,
        "",
        "madengine: error: nope.json: no such manifest, and no models.json here to build from;"
        " name an existing manifest\n",
    )


@pytest.mark.parametrize("name", ["x" * 300, "file/m.json"])
def test_a_manifest_name_that_cannot_be_is_one_line(
    nowhere: Path, capfd: pytest.CaptureFixture[str], name: str
) -> None:
    (nowhere / "file").touch()
    found = said(capfd, "run", "--manifest-file", name)
    assert found.code == 4
    assert found.err.count("\n") == 1


def test_push_never_mentions_the_starter(nowhere: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert said(capfd, "push") == Said(
        4, "", "madengine: error: build_manifest.json: no such manifest; `madengine build` writes one\n"
    )


def test_other_verbs_say_that_the_starter_stands_in(nowhere: Path, capfd: pytest.CaptureFixture[str]) -> None:
    found = said(capfd, "discover", "--format=names")
    assert (found.code, found.out) == (0, "dummy\n")
    assert found.err == (
        f"no models.json in {nowhere}: using the bundled starter package; `madengine init DIR` writes it for you\n"
    )


def test_a_model_dir_without_models_is_named(
    nowhere: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODEL_DIR", "elsewhere")
    found = said(capfd, "discover")
    assert found.code == 4
    assert found.err.startswith("madengine: error: MODEL_DIR=elsewhere: no models.json there")


# --- init, export-config ---


def test_init_writes_the_starter_package_and_lists_its_files(
    nowhere: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = said(capfd, "init", "mine")
    assert found.code == 0
    assert all(Path(path).is_file() for path in found.out.split())
    assert "starter package written to mine" in found.err
    monkeypatch.chdir("mine")
    assert said(capfd, "discover", "--format=names") == Said(0, "dummy\n", "")


def test_export_config_needs_no_engine(
    package: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    found = said(capfd, "export-config", "--output", "c.json")
    assert (found.code, found.out) == (0, "")
    assert json.loads((package / "c.json").read_text())["models"][0]["name"] == "dummy"


def test_an_output_that_cannot_be_written_is_one_line(package: Path, capfd: pytest.CaptureFixture[str]) -> None:
    found = said(capfd, "export-config", "--output", "models.json/c.json")
    assert found.code == 1
    assert found.err.startswith("madengine: error: models.json/c.json: can't be written: ")
    assert found.err.count("\n") == 1


# --- errors ---


@pytest.mark.parametrize("words", [["discover"], ["doctor"], ["collect", "x"], ["run", "--manifest-file", "/m.json"]])
def test_a_current_folder_that_was_removed_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], words: list[str]
) -> None:
    folder = tmp_path / "gone"
    folder.mkdir()
    monkeypatch.chdir(folder)
    folder.rmdir()
    try:
        assert main(words) == 4
    finally:
        os.chdir(tmp_path)
    assert capfd.readouterr().err == (
        "madengine: error: the current folder can't be used: No such file or directory; cd to one that exists\n"
    )


def test_an_error_is_one_line_whatever_it_holds(package: Path, capfd: pytest.CaptureFixture[str]) -> None:
    found = said(capfd, "run", "--manifest-file", "a\nb.json", "--tags", "dummy", "-c", "{'gpu_vendor': 'X\nY'}")
    errors = [line for line in found.err.splitlines() if line.startswith("madengine: error: ")]
    assert found.code == 4
    assert found.err.endswith(f"{errors[-1]}\n")


def test_verbose_adds_the_traceback(package: Path, capfd: pytest.CaptureFixture[str]) -> None:
    quiet = said(capfd, "discover", "--tags", "nope")
    loud = said(capfd, "discover", "--tags", "nope", "--verbose")
    assert "Traceback" not in quiet.err
    assert loud.err.startswith("Traceback (most recent call last)")
    assert loud.err.endswith(quiet.err)
    assert loud.code == quiet.code == 1


def test_a_full_disk_is_one_line_and_exits_1(package: Path) -> None:
    with open("/dev/full", "w") as full:
        process = started("discover", cwd=package, stdout=full.fileno(), stderr=subprocess.PIPE)
        _, err = process.communicate()
    assert err == "madengine: error: stdout: can't be written: No space left on device\n"
    assert process.returncode == 1


# --- readers that go away ---


def test_a_reader_of_results_that_has_gone_is_no_error(package: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    process = started("discover", cwd=package, stdout=writing, stderr=subprocess.PIPE)
    os.close(writing)
    assert process.communicate()[1] == ""
    assert process.returncode == 0


def test_a_reader_of_results_that_has_enough_is_no_error(package: Path) -> None:
    cards = [{**CARD, "name": f"model{number}"} for number in range(5000)]
    (package / "models.json").write_text(json.dumps(cards))
    process = started("discover", cwd=package, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == ""
    process.stderr.close()
    assert process.wait(20) == 0


def test_the_work_goes_on_when_nobody_reads_the_messages(package: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    process = started("export-config", cwd=package, stdout=subprocess.DEVNULL, stderr=writing)
    os.close(writing)
    assert process.wait(20) == 0
    assert (package / "execution_config.json").exists()


def test_results_that_the_terminal_cannot_show_are_escaped(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (package / "models.json").write_text(json.dumps([{**CARD, "name": "modèle"}]))
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    process = started("discover", "--format=names", cwd=package, stdout=subprocess.PIPE)
    assert process.communicate()[0] == "mod\\xe8le\n"
    assert process.returncode == 0


# --- interruption ---


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_ctrl_c_term_and_a_lost_terminal_exit_130(
    package: Path, stand_ins: StandIns, tmp_path: Path, number: signal.Signals
) -> None:
    pid = tmp_path / "pid"
    stand_ins.add("podman", f"echo $$ >{pid}.new; mv {pid}.new {pid}; exec sleep 60")
    process = started("build", "--engine=podman", cwd=package, stderr=subprocess.PIPE)
    limit = time.monotonic() + 20
    while not pid.exists() and time.monotonic() < limit:
        time.sleep(0.02)
    process.send_signal(number)
    assert process.communicate(timeout=20)[1] == "interrupted\n"
    assert process.returncode == 130
    assert not Path(f"/proc/{pid.read_text().strip()}").exists()


def test_the_code_that_a_killed_build_had_fetched_is_removed_by_the_next_one(
    package: Path, stand_ins: StandIns, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pid, temporary = tmp_path / "pid", tmp_path / "tmp"
    temporary.mkdir()
    (package / "docker").mkdir(exist_ok=True)
    (package / "docker/dummy.ubuntu.Dockerfile").write_text("# CONTEXT {}\nFROM scratch\n")
    monkeypatch.setenv("TMPDIR", str(temporary))
    build = f"echo $$ >{pid}.new; mv {pid}.new {pid}; exec sleep 60"
    stand_ins.add("docker", f'case "$1" in version) echo 20.10 ;; build) {build} ;; esac')
    words = ("build", "--engine=docker")
    process = started(*words, cwd=package, stderr=subprocess.DEVNULL)
    limit = time.monotonic() + 20
    while not pid.exists() and time.monotonic() < limit:
        time.sleep(0.02)
    process.kill()
    process.wait(20)
    os.kill(int(pid.read_text()), signal.SIGKILL)
    left = list(temporary.glob("madengine-private-*"))
    assert left
    again = started(*words, "--dry-run", cwd=package, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    assert again.communicate(timeout=20)[1] == ""
    assert not any(folder.exists() for folder in left)


def test_a_second_ctrl_c_does_not_stop_the_tidying_up(package: Path, stand_ins: StandIns, tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    ending = tmp_path / "ending"
    stand_ins.add("podman", f"trap 'touch {ending}; sleep 1; exit' TERM; touch {pid}; sleep 60 & wait")
    process = started("build", "--engine=podman", cwd=package, stderr=subprocess.PIPE)
    for sign in (pid, ending):
        limit = time.monotonic() + 20
        while not sign.exists() and time.monotonic() < limit:
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
    err = process.communicate(timeout=20)[1]
    assert err == "already stopping; a container gets some seconds to end\ninterrupted\n"
    assert process.returncode == 130


def test_the_callers_own_signal_handlers_are_back_afterwards(package: Path, capfd: pytest.CaptureFixture[str]) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    assert said(capfd, "discover").code == 0
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)] == before


def test_a_failed_host_without_its_run_is_one_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["collect", ".", "--failed", "h9=down"]) == 4
    assert capsys.readouterr().err == "madengine: error: --failed: name the run with --run-id\n"
    assert list(tmp_path.iterdir()) == []
