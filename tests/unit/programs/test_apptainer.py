"""apptainer: the lines that it gets, and the life of a container that has no daemon."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from madengine import programs
from madengine.errors import RunError
from madengine.programs.apptainer import Apptainer
from madengine.programs.engine import Container
from madengine.programs.engine_finder import engine_named, find_engine
from madengine.records import Gpu
from tests.conftest import StandIns
from tests.unit.programs.containers import DIGEST, REFERENCE, start, until

# Runs the words after the image's file, as if in a container.
STAND_IN = """
case $1 in
--version) echo apptainer version 1.4.5; exit ;;
pull) shift; while [ $# -gt 2 ]; do shift; done; echo image >"$1"; exit ;;
esac
while [ "${1%.sif}" = "$1" ]; do shift; done
shift
[ -z "${APPTAINERENV_WORD-}" ] || export WORD=$APPTAINERENV_WORD
exec "$@"
"""


@pytest.fixture
def engine(stand_ins: StandIns, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Apptainer:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("MADENGINE_SIF_FOLDER", str(tmp_path / "sif"))
    stand_ins.add("apptainer", STAND_IN)
    found = find_engine("apptainer")
    assert isinstance(found, Apptainer)
    return found


def test_an_image_is_pulled_once_to_a_file_of_its_digest(
    engine: Apptainer, stand_ins: StandIns, tmp_path: Path
) -> None:
    assert engine.images(REFERENCE) == []
    for _ in range(2):
        programs.ask(engine.pull(REFERENCE))
    [line] = [call for call in stand_ins.calls() if " pull " in call]
    assert line.endswith(f".part docker://{REFERENCE}")
    assert [path.name for path in (tmp_path / "sif").glob("*.sif*") if path.suffix != ".lock"] == [f"m-{DIGEST}.sif"]
    [record] = engine.images(REFERENCE, "other:1")
    assert record["Id"] == REFERENCE
    programs.ask(engine.pull("localhost:5000/m:1"))
    assert "--no-https" in stand_ins.calls()[-1]


def test_a_container_runs_and_leaves_its_exit_code(engine: Apptainer) -> None:
    words = ("sh", "-c", "echo $WORD-$SECRET; exit 3")
    start(engine, *words, environment={"WORD": "it's"}, secrets={"SECRET": "hidden"})
    programs.ask(engine.wait("m-1"))
    state = engine.state("m-1")
    assert state is not None
    assert (state.exit_code, state.running) == (3, False)
    assert programs.ask(engine.logs("m-1")) == "it's-\n"
    assert [(one.name, one.labels, one.running) for one in engine.containers("a=b c")] == [("m-1", {"a": "b c"}, False)]
    assert engine.containers("a=b") == engine.containers("a", running=True) == []
    programs.ask(engine.remove("m-1"))
    assert engine.state("m-1") is None


@pytest.mark.parametrize("how", ["stop", "kill", "remove"])
def test_a_container_ends_with_all_that_it_started(engine: Apptainer, tmp_path: Path, how: str) -> None:
    start(engine, "sh", "-c", f"trap '' TERM; sleep 60 & echo $! >{tmp_path}/child; wait; sleep 60")
    until(lambda: (tmp_path / "child").exists() and (tmp_path / "child").read_text().strip() != "")
    state = engine.state("m-1")
    assert state is not None
    assert state.running
    assert [one.name for one in engine.containers("a", running=True)] == ["m-1"]
    programs.ask(engine.stop("m-1", 1) if how == "stop" else getattr(engine, how)("m-1"))
    stat = Path(f"/proc/{(tmp_path / 'child').read_text().strip()}/stat")
    until(lambda: not stat.exists() or " Z " in stat.read_text())
    state = engine.state("m-1")
    assert state is None if how == "remove" else state is not None and (state.exit_code, state.running) == (137, False)


def test_another_process_of_the_same_number_is_left_alone(engine: Apptainer, tmp_path: Path) -> None:
    start(engine, "true")
    programs.ask(engine.wait("m-1"))
    other = subprocess.Popen(["sleep", "60"], start_new_session=True)
    try:
        group = engine.folder("m-1") / "group"
        group.write_text(f"{other.pid} {group.read_text().split()[1]}1\n")
        (engine.folder("m-1") / "code").unlink()
        state = engine.state("m-1")
        assert state is not None
        assert not state.running
        for command in (engine.wait("m-1"), engine.stop("m-1", 1), engine.kill("m-1"), engine.remove("m-1")):
            programs.ask(command)
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


def test_the_line_of_a_container(engine: Apptainer, stand_ins: StandIns) -> None:
    gpus = [Gpu("NVIDIA", 1, uuid="GPU-1"), Gpu("NVIDIA", 3, uuid="GPU-3")]
    container = Container(
        "m-2",
        REFERENCE,
        entrypoint="/opt/madengine/entry.sh",
        mounts=[("/a,b", "/myworkspace", False), ("/data", "/data", True)],
        devices=engine.devices(gpus, "auto"),
        options=["--privileged", "--group-add", "render", "--shm-size=64g", "-v", "/sys:/sys:ro", "--env", "A=1"],
    )
    words = engine.run(container).formulate()
    line = words[words.index("apptainer") :]
    assert [word for word in line if word != "--no-privs"] == [
        "apptainer", "exec", "--containall", "--writable-tmpfs",
        "--mount", '"type=bind","source=/a,b"'.replace('"type=bind"', "type=bind") + ",destination=/myworkspace",
        "--mount", "type=bind,source=/data,destination=/data,ro",
        "--nv", "--bind=/sys:/sys:ro", line[-2], "/opt/madengine/entry.sh",
    ]  # fmt: skip
    assert line[-2].endswith(f"/sif/m-{DIGEST}.sif")
    assert "APPTAINERENV_CUDA_VISIBLE_DEVICES=GPU-1,GPU-3" in programs.shell_line(engine.run(container))
    assert engine.devices([Gpu("AMD", 2)], "auto") == ["--rocm", "--env=ROCR_VISIBLE_DEVICES=2"]


def test_what_it_cannot_do_is_refused_by_name(engine: Apptainer, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="-m: apptainer has no such option; use docker or podman"):
        engine.run(Container("m", REFERENCE, options=["-m", "16g"]))
    with pytest.raises(RunError, match="apptainer builds no images"):
        engine.build(["t"], "Dockerfile", ".")
    with pytest.raises(RunError, match="takes images from a registry"):
        engine.load(tmp_path)
    with pytest.raises(RunError, match="no name of a container"):
        engine.remove("../..")
    assert engine_named("apptainer").name == "apptainer"
