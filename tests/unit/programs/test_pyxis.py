"""pyxis: the lines that srun, enroot and scancel get, and the life of a container that is a step of a job."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from plumbum import local

from madengine import programs
from madengine.errors import EngineError, RunError
from madengine.programs.engine import Container
from madengine.programs.engine_finder import find_engine
from madengine.programs.pyxis import Pyxis
from madengine.records import Gpu
from tests.conftest import StandIns
from tests.unit.programs.containers import DIGEST, REFERENCE, start, until

# Runs the step's command here, with the variables that it exports and Slurm's own, as a group of its own.
SRUN = """
[ "$1" != --help ] || { printf '%s\\n' "--container-image=PATH" "--container-env=NAME"; exit; }
kept=
while :; do
  case $1 in
  --job-name=*) name=${1#*=} ;;
  --output=*) output=${1#*=} ;;
  --export=*) for one in $(echo "${1#*=}" | tr , ' '); do kept="$kept $one=$(printenv "$one")"; done ;;
  --*) ;;
  *) break ;;
  esac
  shift
done
setsid env -i PATH="$PATH" SLURM_STEP_ID=0 CUDA_VISIBLE_DEVICES=0,1 $kept \\
  sh -c 'echo $$ >"$0.part"; mv "$0.part" "$0"; exec "$@"' "$STEPS/$name" "$@" >"${output%\\%t}0" 2>&1 &
step=$!
trap 'killed=yes; kill -KILL "-$(cat "$STEPS/$name")"' TERM
wait "$step"
code=$?
[ -z "${killed-}" ] || { wait "$step"; code=$?; }
rm -f "$STEPS/$name"
exit "$code"
"""
SQUEUE = """
for path in "$STEPS"/*; do [ ! -e "$path" ] || echo "71_2.${path##*-}|${path##*/}"; done
"""
SCANCEL = """
for path in "$STEPS"/*-"${2#*.}"; do kill "-${1#*=}" "-$(cat "$path")"; done
"""
ENROOT = """
case $1 in
version) echo 4.0.1 ;;
import) echo image >"$3"; env | grep '^ENROOT_ALLOW' >>"$3" || true ;;
esac
"""


@pytest.fixture
def engine(stand_ins: StandIns, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Pyxis]:
    for name, text in {"srun": SRUN, "squeue": SQUEUE, "scancel": SCANCEL, "enroot": ENROOT}.items():
        stand_ins.add(name, text)
    (tmp_path / "steps").mkdir()
    variables = {
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
        "XDG_CONFIG_HOME": str(tmp_path / "config"),
        "MADENGINE_SIF_FOLDER": str(tmp_path / "images"),
        "STEPS": str(tmp_path / "steps"),
        "HOME": "/home/ada",
        "SLURM_JOB_ID": "71",
        "SLURMD_NODENAME": "gpu-07",
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with local.env(**variables):
        engine = find_engine("pyxis")
        assert isinstance(engine, Pyxis)
        assert engine.version == "4.0.1"
        yield engine


@pytest.mark.parametrize(
    ("reference", "source"),
    [
        (REFERENCE, f"docker://reg.example.com:5000#org/m:sha256:{DIGEST}"),
        (f"reg.example.com/m:1@sha256:{DIGEST}", f"docker://reg.example.com#m:sha256:{DIGEST}"),
        ("reg.example.com/org/m:1.2", "docker://reg.example.com#org/m:1.2"),
        ("docker.io/org/m:1", "docker://registry-1.docker.io#org/m:1"),
        ("org/m", "docker://registry-1.docker.io#org/m:latest"),
        ("busybox:1", "docker://registry-1.docker.io#library/busybox:1"),
    ],
)
def test_what_enroot_imports(engine: Pyxis, reference: str, source: str) -> None:
    assert engine.image_source(reference) == source


def test_an_image_is_imported_once_to_a_file_of_its_digest(engine: Pyxis, stand_ins: StandIns, tmp_path: Path) -> None:
    assert engine.images(REFERENCE) == []
    for _ in range(2):
        programs.ask(engine.pull(REFERENCE))
    [line] = [call for call in stand_ins.calls() if " import " in call]
    assert line.startswith(f"enroot import --output {tmp_path}/images/m-{DIGEST}.sqsh.")
    assert line.endswith(f".part 'docker://reg.example.com:5000#org/m:sha256:{DIGEST}'")
    assert (tmp_path / f"images/m-{DIGEST}.sqsh").read_text() == "image\n"
    [record] = engine.images(REFERENCE, "other:1")
    assert record["Id"] == REFERENCE
    programs.ask(engine.pull("localhost:5000/m:1"))
    assert engine.image_file("localhost:5000/m:1").read_text() == "image\nENROOT_ALLOW_HTTP=yes\n"


def test_the_line_of_a_container(engine: Pyxis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENROOT_DATA_PATH", "/scratch")
    gpus = [Gpu("NVIDIA", 1, uuid="GPU-1"), Gpu("NVIDIA", 3, uuid="GPU-3")]
    container = Container(
        "m-2",
        REFERENCE,
        entrypoint="/opt/madengine/entry.sh",
        words=["--", "--batch", "8"],
        environment={"MAD_MODEL_NAME": "it's"},
        secrets={"MAD_SECRETS_HF": "hf_x"},
        mounts=[("/runs/1", "/myworkspace", False), ("/data", "/data", True)],
        devices=engine.devices(gpus, "auto"),
        options=["--privileged", "--group-add", "render", "--shm-size=64g", "-v", "/sys:/sys:ro,z", "--env", "A=1"],
        workdir="/myworkspace",
    )
    words = engine.run(container).formulate()
    line = words[words.index("srun") :]
    inside = line.index("sh")
    assert line[:inside] == [
        "srun", "--jobid=71", "--overlap", "--nodes=1", "--ntasks=1", "--nodelist=gpu-07", "--job-name=m-2", "--mem=0",
        "--cpu-bind=none", "--mpi=none", "--quiet", "--input=none", f"--output={engine.folder('m-2')}/output-%t",
        "--export=HOME,ENROOT_DATA_PATH,NVIDIA_VISIBLE_DEVICES,MAD_SECRETS_HF",
        f"--container-image={tmp_path}/images/m-{DIGEST}.sqsh", "--container-writable", "--container-remap-root",
        "--no-container-mount-home", "--no-container-entrypoint",
        "--container-mounts=/runs/1:/myworkspace,/data:/data:ro,/sys:/sys:ro", "--container-workdir=/myworkspace",
        "--container-env=NVIDIA_VISIBLE_DEVICES,MAD_SECRETS_HF",
    ]  # fmt: skip
    assert line[inside + 3 :] == [
        "sh", "/home/ada", "NVIDIA_VISIBLE_DEVICES=GPU-1,GPU-3", "MAD_MODEL_NAME=it's",
        "CUDA_VISIBLE_DEVICES=GPU-1,GPU-3", "A=1", "/opt/madengine/entry.sh", "--", "--batch", "8",
    ]  # fmt: skip
    printed = programs.shell_line(engine.run(container))
    assert printed.startswith("NVIDIA_VISIBLE_DEVICES=GPU-1,GPU-3 sh -c ")
    assert "hf_x" not in printed


def test_the_gpus_of_a_container(engine: Pyxis) -> None:
    assert engine.devices([], "auto") == []
    assert "NVIDIA_VISIBLE_DEVICES=void" in engine.run(Container("m", REFERENCE)).formulate()
    line = engine.run(Container("m", REFERENCE, devices=engine.devices([Gpu("AMD", 2)], "auto"))).formulate()
    assert "--container-mounts=/dev/kfd:/dev/kfd,/dev/dri:/dev/dri" in line
    assert line[-2:] == ["NVIDIA_VISIBLE_DEVICES=void", "ROCR_VISIBLE_DEVICES=2"]


def test_a_container_runs_and_leaves_its_exit_code(engine: Pyxis) -> None:
    script = "echo $WORD-$SECRET-$HOME-$CUDA_VISIBLE_DEVICES-${SLURM_STEP_ID-none}; exit 3"
    gpus = engine.devices([Gpu("NVIDIA", 5)], "auto")
    start(engine, "sh", "-c", script, environment={"WORD": "it's"}, secrets={"SECRET": "hidden"}, devices=gpus)
    programs.ask(engine.wait("m-1"))
    state = engine.state("m-1")
    assert state is not None
    assert (state.exit_code, state.running) == (3, False)
    assert programs.ask(engine.logs("m-1")) == "it's-hidden-/root-5-none\n"
    assert [(one.name, one.labels, one.running) for one in engine.containers("a=b c")] == [("m-1", {"a": "b c"}, False)]
    programs.ask(engine.remove("m-1"))
    assert engine.state("m-1") is None


@pytest.mark.parametrize("how", ["stop", "kill", "remove"])
def test_a_container_ends_with_all_that_it_started(engine: Pyxis, tmp_path: Path, how: str) -> None:
    start(engine, "sh", "-c", f"trap '' TERM; sleep 60 & echo $! >{tmp_path}/child; wait; sleep 60")
    until(lambda: (tmp_path / "child").exists() and (tmp_path / "child").read_text().strip() != "")
    assert [one.name for one in engine.containers("a", running=True)] == ["m-1"]
    programs.ask(engine.stop("m-1", 1) if how == "stop" else getattr(engine, how)("m-1"))
    stat = Path(f"/proc/{(tmp_path / 'child').read_text().strip()}/stat")
    until(lambda: not stat.exists() or " Z " in stat.read_text())
    state = engine.state("m-1")
    assert state is None if how == "remove" else state is not None and (state.exit_code, state.running) == (137, False)


def test_a_container_is_told_to_end_by_scancel(engine: Pyxis, stand_ins: StandIns, tmp_path: Path) -> None:
    start(engine, "sh", "-c", f"trap 'exit 143' TERM; echo >{tmp_path}/ready; while :; do sleep 0.05; done")
    until((tmp_path / "ready").exists)
    programs.ask(engine.stop("m-1", 10))
    state = engine.state("m-1")
    assert state is not None
    assert (state.exit_code, state.running) == (143, False)
    assert stand_ins.calls()[-2:] == [
        "squeue --noheader --steps --jobs=71 '--format=%i|%j'",
        "scancel --signal=TERM 71_2.1",
    ]


def test_a_login_comes_first_in_enroots_file_for_the_registry_and_its_tokens_host(
    engine: Pyxis, stand_ins: StandIns, tmp_path: Path
) -> None:
    own = tmp_path / "config/enroot"
    own.mkdir(parents=True)
    (own / ".credentials").write_text("machine nvcr.io login $oauthtoken password x\n")
    (own / "mounts.d").mkdir()
    stand_ins.add(
        "curl", "printf 'HTTP/2 401\\r\\nwww-authenticate: Bearer realm=\"https://auth.example.com:443/token\"\\r\\n'"
    )
    folder = tmp_path / "private"
    folder.mkdir()
    private = replace(engine, environment=engine.login_environment(folder, ["reg.example.com:5000"]))
    programs.ask(private.login("reg.example.com:5000", "ci"), stdin="secret")
    assert (folder / ".credentials").read_text() == (
        "machine reg.example.com login ci password secret\n"
        "machine auth.example.com login ci password secret\n"
        "machine nvcr.io login $oauthtoken password x\n"
    )
    assert (folder / ".credentials").stat().st_mode & 0o777 == 0o600
    assert (folder / "mounts.d").is_dir()
    assert "https://reg.example.com:5000/v2/" in stand_ins.calls()[-1]
    for password in ("two words", "$(id)", '"x'):
        answer = programs.attempt(private.login("reg.example.com", "ci"), stdin=password)
        assert (answer.code, "can't hold a password" in answer.err) == (1, True)


def test_without_a_job_or_the_plugin_one_line_says_so(
    engine: Pyxis, stand_ins: StandIns, monkeypatch: pytest.MonkeyPatch
) -> None:
    for options, missing in (("", "image"), ("--container-image=PATH", "env")):
        stand_ins.add("srun", f"echo '{options}'")
        with pytest.raises(EngineError, match=f"srun has no --container-{missing} on this node"):
            find_engine("pyxis")
    for name in ("SLURMD_NODENAME", "SLURM_JOB_ID"):
        monkeypatch.delenv(name)
        with pytest.raises(EngineError, match="steps of a Slurm job, and this is no node of one"):
            find_engine("pyxis")
        with pytest.raises(RunError, match="deploy --target slurm"):
            engine.run(Container("m", REFERENCE))


@pytest.mark.parametrize(
    ("container", "message"),
    [
        (Container("m", REFERENCE, options=["-m", "16g"]), "-m: pyxis has no such option; use docker or podman"),
        (Container("m", REFERENCE, options=["-v", "cache:/cache"]), "expected /HOST:/INSIDE"),
        (Container("m", REFERENCE, mounts=[("/a,b", "/x", False)]), "pyxis can't mount a path with"),
        (Container("m", REFERENCE, mounts=[("/a", "/x y", False)]), "pyxis can't mount a path with"),
        (Container("../..", REFERENCE), "no name of a container"),
    ],
)
def test_what_it_cannot_do_is_refused_by_name(engine: Pyxis, container: Container, message: str) -> None:
    with pytest.raises(RunError, match=message):
        engine.run(container)
    with pytest.raises(RunError, match="pyxis builds no images"):
        engine.build(["t"], "Dockerfile", ".")
