"""What users of madengine 2 have written runs as it is, or is refused by name: on real engines."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.bed.components import Engine, Outcome, Registry, outcome
from tests.bed.gpu_stand_ins import AmdNode
from tests.conftest import StandIns
from tests.engine.packages import Package, images, read_json
from tests.engine.trial import CHECKOUT, METRIC, Trial
from tests.engine.trial import trial as make_trial


@pytest.fixture
def trial(
    engine: Engine, base_image: str, registry: Registry, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> Trial:
    return make_trial(engine, base_image, registry, tmp_path, tmp_path_factory.getbasetemp())


# --- keys ---


def test_variables_of_the_entry_the_manifest_and_the_context_reach_the_script(trial: Trial) -> None:
    done = trial.run(
        f'echo "$A $B $C $D $E"; {METRIC}',
        card={"env_vars": {"A": "entry", "B": "entry", "C": "entry", "D": "entry", "DOCKER_IMAGE_NAME": "x/y"}},
        deployment_config={"target": "local", "env_vars": {"B": "manifest", "C": "manifest"}, "debug": False},
        context={"env_vars": {"C": "${SITE}/$B", "E": True}, "docker_env_vars": {"D": "docker"}},
        env={"SITE": "/site"},
    )
    assert done.code == 0, done.stderr
    assert done.log.splitlines()[0] == b"entry manifest /site/$B docker true"
    assert "ignored" not in done.stderr


def test_what_asks_for_several_nodes_is_no_result(trial: Trial) -> None:
    refused = trial.run(METRIC, deployment_config={"target": "slurm", "slurm": {"nodes": 2}})
    assert (refused.code, refused.stdout) == (1, "")
    assert "target: slurm: the manifest has `slurm` and `deploy`; --target overrides it" in refused.stderr
    assert "madengine: error: sbatch" in refused.stderr  # no Slurm is set up here
    assert not (trial.folder / "runs").exists()
    done = trial.run(METRIC, card={"distributed": {"launcher": "torchrun", "nnodes": 2}})
    assert done.code == 3
    assert done.reason.startswith("distributed: nnodes 2: this run is on one node; name that many hosts")
    assert trial.containers(done.row["run_id"]) == []


def test_what_no_table_has_is_named(trial: Trial) -> None:
    done = trial.run(METRIC, card={"timeuot": 3}, image={"size": 3}, context={"toolz": []}, site="here")
    assert done.code == 0, done.stderr
    for line in (
        "context: unknown key 'toolz' ignored; did you mean 'tools'?",
        "any: unknown key 'timeuot' ignored; did you mean 'timeout'?",
        "manifest: unknown key 'site' ignored",
        "built_images.ci-any_ubuntu_cpu: unknown key 'size' ignored",
    ):
        assert line in done.stderr


# --- data ---


@pytest.mark.parametrize("content", ['{"huggingface": {}}', None])
def test_a_script_that_fetches_its_data_itself_needs_no_provider(trial: Trial, content: str | None) -> None:
    if content:
        (trial.folder / "data.json").write_text(content)
    done = trial.run(f"echo data $MAD_DATANAME ${{MAD_DATAHOME-unset}}; {METRIC}", card={"data": "huggingface"})
    assert done.code == 0, done.stderr
    assert done.log.splitlines()[0] == b"data huggingface unset"
    assert (done.row["dataname"], done.row["data_provider_type"], done.row["data_size"]) == ("huggingface", "", "")
    assert ("the script of any has to fetch it" in done.stderr) == (content is None)


def test_a_node_without_the_data_file_of_the_build_is_no_result(package: Path, engine: Engine, base_image: str) -> None:
    models = json.loads((package / "models.json").read_text())
    (package / "models.json").write_text(json.dumps([{**models[0], "data": "huggingface, set"}]))
    (package / "data.json").write_text(json.dumps({"huggingface": {}, "set": {"local": {"path": str(package)}}}))
    program = [sys.executable, "-m", "madengine.distributed_cli"]
    environment = {**engine.environment, "MADENGINE_ENGINE": engine.name, "PYTHONPATH": str(CHECKOUT)}
    context = json.dumps({"gpu_vendor": "NONE", "docker_build_arg": {"BASE_DOCKER": base_image}})
    outcome([*program, "build", "-c", context], environment, cwd=package)
    (package / "data.json").unlink()
    ended = outcome([*program, "run", "-m", "build_manifest.json"], environment, cwd=package, check=False)
    assert ended.code == 3
    assert "needs data 'set', and there is no" in ended.stderr


# --- what images are built for ---


def test_a_run_without_a_manifest_builds_for_the_gpus_of_this_machine(
    madengine: Callable[..., Outcome], engine: Engine, base_image: str, stand_ins: StandIns, tmp_path: Path
) -> None:
    stand_ins.add("amd-smi", AmdNode(count=2).amd_smi())
    own = Package(tmp_path / "own", base_image)
    step = "ARG MAD_SYSTEM_GPU_ARCHITECTURE\nRUN echo built for $MAD_SYSTEM_GPU_ARCHITECTURE >/arch\n"
    own.add("asks", step, f"cat /arch; {METRIC}\n", n_gpus="0")
    own.add("silent", "RUN env >/arch\n", f"cat /arch; {METRIC}\n", n_gpus="0")
    madengine("run", cwd=own.folder)
    asks, silent = sorted(own.folder.glob("runs/*/*/*.run.live.log"))
    assert b"built for gfx942\n" in asks.read_bytes()
    assert b"GPU_ARCH" not in silent.read_bytes()
    assert read_json(own.folder / "build_manifest.json")["context"]["docker_build_arg"] == {}
    context = "{'docker_build_arg': {'MAD_SYSTEM_GPU_ARCHITECTURE': 'gfx90a'}}"
    madengine("full", "--tags", "asks", "-c", context, cwd=own.folder)
    assert any(b"built for gfx90a\n" in log.read_bytes() for log in own.folder.glob("runs/*/asks/*.run.live.log"))
    lines = madengine("build", "--dry-run", cwd=own.folder).stdout  # for any machine
    assert "gfx" not in lines


# --- named contexts ---


STEPS = "COPY --from=tools setup.sh /setup\nCOPY --from=scripts m0/run.sh /scripts/\nCOPY --from=extra . /extra/\n"


def test_dockerfiles_take_files_from_the_folders_that_madengine_2_hands_over(
    madengine: Callable[..., Outcome], engine: Engine, base_image: str, tmp_path: Path
) -> None:
    own = Package(tmp_path / "own", base_image)
    script = f"cat /setup /extra/note; ls /scripts; {METRIC}\n"
    own.add("named", STEPS, script, n_gpus="0", build_contexts={"extra": "data/extra", "unused": "nowhere"})
    own.add("stage", f"FROM {base_image} AS tools\nRUN echo stage >/x\nFROM {base_image}\nCOPY --from=tools /x /\n")
    for name, text in (("docker/common/setup.sh", "tool one\n"), ("data/extra/note", "extra one\n")):
        (own.folder / name).parent.mkdir(parents=True)
        (own.folder / name).write_text(text)
    if has_named_contexts(engine):
        expect_files_of_named_contexts(madengine, own)
    else:
        expect_no_named_contexts(madengine, own)


def has_named_contexts(engine: Engine) -> bool:
    return engine.name != "docker" or engine("buildx", "version", check=False).code == 0


def expect_no_named_contexts(madengine: Callable[..., Outcome], own: Package) -> None:
    failed = madengine("build", cwd=own.folder, check=False)
    assert failed.code == 2
    assert list(images(own.folder)) == ["ci-stage_os"]
    (line,) = (line for line in failed.stderr.splitlines() if "takes no named contexts" in line)
    assert line.startswith("ci-named_os: docker ")
    assert line.endswith("install docker 23 or later with docker-buildx-plugin, or use --engine podman")


def expect_files_of_named_contexts(madengine: Callable[..., Outcome], own: Package) -> None:
    for text in ("one", "two"):
        (own.folder / "docker/common/setup.sh").write_text(f"tool {text}\n")
        madengine("run", "--tags", "named", cwd=own.folder)
        log = max(own.folder.glob("runs/*/named/*.run.live.log"), key=lambda path: path.stat().st_mtime)
        assert log.read_text().splitlines()[:3] == [f"tool {text}", "extra one", "run.sh"]
    lines = madengine("build", "--dry-run", cwd=own.folder).stdout
    assert lines.count("--build-context") == 3
    (own.folder / "data/extra/note").unlink()
    (own.folder / "data/extra").rmdir()
    failed = madengine("build", "--tags", "named", cwd=own.folder, check=False)
    assert failed.code == 2
    assert "data/extra: no such folder; 'named' names it as build_contexts.extra" in failed.stderr


# --- the environment of a container ---


def test_a_container_has_its_guest_os_and_what_a_launcher_has_set(trial: Trial) -> None:
    launched = {"MASTER_ADDR": "n1", "NODE_RANK": "1", "NNODES": "2", "RANK": "1", "NCCL_DEBUG": "INFO"}
    script = f'echo "$MAD_GUEST_OS $MASTER_ADDR $RANK $NCCL_DEBUG ${{HIP_VISIBLE_DEVICES-none}}"; env; {METRIC}'
    done = trial.run(script, env={**launched, "HIP_VISIBLE_DEVICES": "0"})
    assert done.code == 0, done.stderr
    lines = done.log.decode().splitlines()
    assert lines[0] == "UBUNTU n1 1 INFO none"
    assert "containers get from this environment: MASTER_ADDR, NCCL_DEBUG, NNODES, NODE_RANK, RANK\n" in done.stderr
    (runner,) = (line for line in lines if line.startswith("MAD_MULTI_NODE_RUNNER="))
    assert "--nnodes 2 --node_rank 1 --master_addr n1" in runner
    assert done.row["nnodes"] == "2"
    assert not [line for line in lines if line.startswith("ROCM_PATH=")]


@pytest.mark.parametrize(
    ("variables", "made", "path"),
    [
        ({}, "opt/rocm-7.1/bin/rocminfo", "/opt/rocm-7.1"),
        ({}, "root/therock/share/therock/therock_manifest.json", "/root/therock"),
        ({"ROCM_PATH": "/mine"}, "opt/rocm/bin/amd-smi", "/mine"),
        ({"MAD_ROCM_PATH": "/theirs", "ROCM_PATH": "/mine"}, "opt/rocm/bin/amd-smi", "/theirs"),
        ({}, "nothing", "/opt/rocm"),
    ],
)
def test_a_container_for_amd_gpus_knows_where_rocm_is(
    madengine: Callable[..., Outcome],
    base_image: str,
    stand_ins: StandIns,
    tmp_path: Path,
    variables: dict[str, str],
    made: str,
    path: str,
) -> None:
    stand_ins.add("amd-smi", AmdNode(count=1).amd_smi())
    own = Package(tmp_path / "own", base_image)
    step = f"RUN mkdir -p /{Path(made).parent} && touch /{made}\nENV HOME=/root\n"
    own.add("rocm", step, f"echo $ROCM_PATH; {METRIC}\n", "# CONTEXT {'gpu_vendor': 'AMD'}", n_gpus="0")
    madengine("run", "-c", json.dumps({"docker_env_vars": variables}), cwd=own.folder)
    (log,) = own.folder.glob("runs/*/*/*.run.live.log")
    lines = log.read_text().splitlines()
    assert path in lines[:2]
    assert ("entry.sh: no ROCm in this image: ROCM_PATH is /opt/rocm" in lines) == (made == "nothing")
    (record,) = own.folder.glob("runs/*/*/rocm_env.csv")
    assert f'rocm_path,"{path}"' in record.read_text()


def test_the_context_says_where_this_machines_rocm_is(trial: Trial, stand_ins: StandIns, tmp_path: Path) -> None:
    tool = stand_ins.add("amd-smi", AmdNode(count=1).amd_smi())
    root = tmp_path / "rocm"
    (root / "bin").mkdir(parents=True)
    tool.rename(root / "bin/amd-smi")
    (root / "share/therock").mkdir(parents=True)
    (root / "share/therock/dist_info.json").write_text("{}")
    done = trial.run(METRIC, context={"MAD_ROCM_PATH": str(root)})
    assert done.code == 0, done.stderr
    machine = json.loads(done.directory.joinpath("results.json").read_text())
    assert '"rocm": ' + json.dumps({"root": str(root), "kind": "therock", "version": ""}) in json.dumps(machine)


def test_an_image_without_a_digest_is_refused_where_one_is_required(trial: Trial) -> None:
    assert trial.run(METRIC, "--require-pinned-image").code == 0
    done = trial.run(METRIC, "--run-id", "x", image={"registry_digest": None}, context={"require_pinned_image": True})
    assert done.code == 3
    assert done.rows[-1]["reason"] == (
        "--require-pinned-image: the manifest has no registry digest of ci-any_ubuntu_cpu; build with --registry"
    )
