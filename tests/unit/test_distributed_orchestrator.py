"""The phases end to end, with stand-ins for the engine: what is chosen, refused, named and kept."""

from __future__ import annotations

import csv
import json
import shlex
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from madengine.build.options import BuildOptions
from madengine.distributed_orchestrator import DistributedOrchestrator
from madengine.errors import ConfigurationError, MadengineError
from madengine.records import Gpu, Reading
from madengine.run.options import RunOptions
from madengine.session import Session, open_session
from tests.conftest import StandIns, collect_messages

REGISTRY = "reg.example.com:5000"
DIGEST = "sha256:" + "d" * 64
IMAGE_ID = "sha256:" + "1" * 64

# Writes the image's id where a build is told to.
ID_FILE = f"""while [ $# -gt 0 ]; do [ "$1" != --iidfile ] || printf %s {IMAGE_ID} >"$2"; shift; done"""

# Every image is on this machine, and nothing is ever started.
DOCKER = f"""
case "$1" in
build) {ID_FILE} ;;
version) echo 24.0.5 ;;
image) printf '[{{"Id": "{IMAGE_ID}", "RepoDigests": []}}]' ;;
push) echo "latest: digest: {DIGEST} size: 528" ;;
esac
"""


@dataclass
class Command:
    """An orchestrator in the current folder, and what it said and showed."""

    orchestrator: DistributedOrchestrator
    said: list[str] = field(default_factory=list)
    shown: list[str] = field(default_factory=list)

    def run(self, manifest: str = "m.json", **options: Any) -> int:
        return self.orchestrator.run_phase(Path(manifest), RunOptions(**options), gpus=())

    def refusal(self, call: Callable[[], object]) -> str:
        with pytest.raises(ConfigurationError) as caught:
            call()
        assert "\n" not in str(caught.value)
        return str(caught.value)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, without a package."""
    for name in ("MAD_DOCKERHUB_USER", "MAD_DOCKERHUB_PASSWORD", "MAD_DOCKERHUB_REPO"):
        monkeypatch.delenv(name, raising=False)
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def docker(stand_ins: StandIns) -> StandIns:
    stand_ins.add("docker", DOCKER)
    return stand_ins


def command(context: str | None = "{'gpu_vendor': 'NONE'}", **more: Any) -> Command:
    said = collect_messages()
    shown: list[str] = []
    settings = {"root": Path.cwd(), "show": shown.append, "context_text": context, "engine_name": "docker", **more}
    return Command(DistributedOrchestrator(Session(**settings)), said, shown)


def card(name: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "dockerfile": f"docker/{name}", "scripts": "scripts/dummy", "n_gpus": "-1", **more}


def image(key: str, **more: Any) -> dict[str, Any]:
    entry = {"docker_image": key, "image_id": IMAGE_ID, "self_contained": True}
    return {**entry, "registry_image": f"{REGISTRY}/{key}", "registry_digest": DIGEST, **more}


def manifest(images: dict[str, dict[str, Any]], models: dict[str, dict[str, Any]], **more: Any) -> Path:
    path = Path("m.json")
    path.write_text(json.dumps({"built_images": images, "built_models": models, "registry": REGISTRY, **more}))
    return path


def three_vendors() -> Path:
    images = {
        f"ci-dummy_ubuntu_{suffix}": image(f"ci-dummy_ubuntu_{suffix}", gpu_vendor=vendor, guest_os="UBUNTU")
        for suffix, vendor in (("amd", "AMD"), ("nvidia", "NVIDIA"), ("cpu", "NONE"))
    }
    return manifest(images, dict.fromkeys(images, card("dummy")))


def package(root: Path, *cards: dict[str, Any]) -> None:
    (root / "models.json").write_text(json.dumps(cards))
    (root / "scripts/dummy").mkdir(parents=True, exist_ok=True)
    (root / "scripts/dummy/run.sh").write_text("echo 'performance: 1 s'\n")
    for entry in cards:
        dockerfile = root / f"{entry['dockerfile']}.ubuntu.cpu.Dockerfile"
        dockerfile.parent.mkdir(parents=True, exist_ok=True)
        dockerfile.write_text("# CONTEXT {}\nFROM ubuntu:22.04\n")


def pulled(shown: list[str]) -> list[str]:
    return [shlex.split(line)[-1] for line in shown if " pull " in line]


def models_run(shown: list[str]) -> list[str]:
    runs = [shlex.split(line) for line in shown if line.startswith("docker run ")]
    return [
        word.removeprefix("madengine.model=") for run in runs for word in run if word.startswith("madengine.model=")
    ]


def rows(path: str = "perf.csv") -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


# --- which images run here ---


@pytest.mark.parametrize(
    ("vendor", "suffix"), [("AMD", "amd"), ("NVIDIA", "nvidia"), ("NONE", "cpu"), ("nvidia", "nvidia")]
)
def test_the_vendor_chooses_the_images(folder: Path, docker: StandIns, vendor: str, suffix: str) -> None:
    three_vendors()
    wanted = command(f"{{'gpu_vendor': '{vendor}'}}")
    assert wanted.run(dry_run=True) == 0
    assert pulled(wanted.shown) == [f"{REGISTRY}/ci-dummy_ubuntu_{suffix}@{DIGEST}"]


TWO_GPUS = tuple(Gpu("NVIDIA", index, name="H100", uuid=f"GPU-{index}") for index in range(2))


@pytest.mark.parametrize(
    ("environ", "context", "suffix", "device"),
    [
        ({}, None, "nvidia", "device=GPU-0,GPU-1"),
        ({"CUDA_VISIBLE_DEVICES": "1"}, None, "nvidia", "device=GPU-1"),
        ({"CUDA_VISIBLE_DEVICES": "GPU-1,GPU-0"}, None, "nvidia", "device=GPU-1,GPU-0"),
        ({"CUDA_VISIBLE_DEVICES": "1"}, "{'docker_gpus': '0'}", "nvidia", "device=GPU-0"),
        ({"CUDA_VISIBLE_DEVICES": ""}, None, "cpu", ""),
        ({"CUDA_VISIBLE_DEVICES": "1"}, "{'gpu_vendor': 'NONE'}", "cpu", ""),
    ],
)
def test_the_callers_visible_devices_count_as_docker_gpus_does(
    folder: Path, docker: StandIns, environ: dict[str, str], context: str | None, suffix: str, device: str
) -> None:
    docker.add("docker", DOCKER.replace("24.0.5", "28.3.0"))
    three_vendors()
    wanted = command(context, environ=environ)
    assert wanted.orchestrator.run_phase(Path("m.json"), RunOptions(dry_run=True), gpus=TWO_GPUS) == 0
    assert pulled(wanted.shown) == [f"{REGISTRY}/ci-dummy_ubuntu_{suffix}@{DIGEST}"]
    assert (f'"{device}"' in "\n".join(wanted.shown)) == bool(device)


def test_visible_devices_that_are_not_there_are_refused_before_anything_starts(folder: Path, docker: StandIns) -> None:
    three_vendors()
    wanted = command(None, environ={"CUDA_VISIBLE_DEVICES": "2"})
    problem = wanted.refusal(lambda: wanted.orchestrator.run_phase(Path("m.json"), RunOptions(), gpus=TWO_GPUS))
    assert problem.startswith("CUDA_VISIBLE_DEVICES=2: names no GPU that can be used: this machine has GPUs 0,1")
    assert not Path("perf.csv").exists()


MISMATCH = "echo 'Failed to initialize NVML: Driver/library version mismatch'; exit 18"


@pytest.mark.parametrize(
    ("n_gpus", "vendors", "status"),
    [
        ("-1", ("NVIDIA", "NONE"), "FAILURE"),
        ("0", ("NVIDIA", "NONE"), "FAILURE"),
        ("", ("",), "FAILURE"),
        ("2", ("NONE",), "FAILURE"),
        ("0", ("NONE",), "SKIPPED"),
        ("0", ("",), "SKIPPED"),
        ("", ("NONE",), "SKIPPED"),
    ],
)
@pytest.mark.parametrize("vendor", ["", "NVIDIA", "NONE"])
def test_what_wants_gpus_fails_where_their_tool_does_unless_the_context_says_none(
    folder: Path, docker: StandIns, n_gpus: str, vendors: tuple[str, ...], status: str, vendor: str
) -> None:
    docker.add("nvidia-smi", MISMATCH)
    without = {key: value for key, value in card("m").items() if key != "n_gpus"}
    images = {f"ci-m_{number}": image(f"ci-m_{number}", gpu_vendor=name) for number, name in enumerate(vendors)}
    manifest(images, dict.fromkeys(images, card("m", n_gpus=n_gpus) if n_gpus else without))
    context = f"{{'gpu_vendor': '{vendor}'}}" if vendor else None
    status = "SKIPPED" if vendor == "NONE" else status
    code = command(context).orchestrator.run_phase(Path("m.json"), RunOptions(skip_model_run=True))
    assert {row["status"] for row in rows()} == {status}
    assert code == (3 if status == "FAILURE" or (vendors == ("NONE",) and vendor == "NVIDIA") else 0)
    assert all(("version mismatch" in row["reason"]) == (status == "FAILURE") for row in rows())


def test_a_full_run_builds_for_no_guessed_vendor_where_the_tool_fails(folder: Path, docker: StandIns) -> None:
    docker.add("nvidia-smi", MISMATCH)
    package(folder, card("dummy"))
    (folder / "docker/dummy.ubuntu.gpu.Dockerfile").write_text("# CONTEXT {'gpu_vendor': 'NVIDIA'}\nFROM ubuntu\n")
    assert command(None).orchestrator.full_phase(BuildOptions(), RunOptions()) == 3
    assert len(json.loads(Path("build_manifest.json").read_text())["built_images"]) == 2
    assert [row["status"] for row in rows()] == ["FAILURE"]


@pytest.mark.parametrize(
    ("architecture", "runs"),
    [("gfx90a", ["gfx90a", ""]), ("gfx942", ["gfx942", ""]), ("gfx1100", [""]), ("", ["gfx90a", "gfx942", ""])],
)
def test_an_image_for_another_architecture_does_not_run(
    folder: Path, docker: StandIns, architecture: str, runs: list[str]
) -> None:
    built = {"gfx90a": "gfx90a:sramecc+:xnack-", "gfx942": "gfx942", "": ""}
    images = {f"k{name}": image(f"k{name}", gpu_architecture=full) for name, full in built.items()}
    manifest(images, dict.fromkeys(images, card("dummy")))
    wanted = command("{'gpu_vendor': 'AMD'}")
    gpus = (Gpu("AMD", 0, architecture=architecture, render_node="/dev/dri/renderD128"),)
    assert wanted.orchestrator.run_phase(Path("m.json"), RunOptions(dry_run=True), gpus=gpus) == 0
    assert pulled(wanted.shown) == [f"{REGISTRY}/k{name}@{DIGEST}" for name in runs]


def test_a_manifest_says_what_its_build_was_told_of_hooks_and_tools(folder: Path, docker: StandIns) -> None:
    package(folder, card("dummy"))
    (folder / "scripts/common").mkdir()
    (folder / "scripts/common/tools.json").write_text('{"tools": {"mine": {"cmd": "time"}}}')
    asked = {"tools": ["mine"], "pre_scripts": [{"path": "a.sh"}], "artifacts": "*.json"}
    docker.add(
        "docker",
        f"""case $1 in build) {ID_FILE} ;; version) echo 27 ;; image) echo '[{{"Id": "{IMAGE_ID}"}}]' ;; esac""",
    )
    command(json.dumps(asked)).orchestrator.build_phase(BuildOptions())
    kept = json.loads((folder / "build_manifest.json").read_text())
    empty: dict[str, Any] = {"docker_build_arg": {}, "docker_env_vars": {}, "docker_mounts": {}}
    assert (kept["context"], kept["tools"]) == ({**empty, **asked}, {"mine": {"cmd": "time"}})
    (folder / "node").mkdir()
    wanted = command("{'gpu_vendor': 'NONE', 'pre_scripts': []}", root=folder / "node", has_package=False)
    assert wanted.run("build_manifest.json", dry_run=True) == 0
    assert "wrapper=time\n" in "\n".join(wanted.shown)


def test_a_builds_context_counts_in_its_runs_below_their_own(folder: Path, docker: StandIns) -> None:
    package(folder, card("dummy"))
    docker.add(
        "docker",
        f"""case $1 in build) {ID_FILE} ;; version) echo 27 ;; image) echo '[{{"Id": "{IMAGE_ID}"}}]' ;; esac""",
    )
    context = {"gpu_vendor": "NONE", "SHM_SIZE": "3g", "docker_cpus": "0-1", "model_args": "--batch 16"}
    command(json.dumps({**context, "timeout": 2, "toolz": []})).orchestrator.build_phase(BuildOptions())
    wanted = command(None)
    assert wanted.run("build_manifest.json", dry_run=True) == 0
    (line,) = (line for line in wanted.shown if line.startswith("docker run "))
    assert " --shm-size=3g " in line
    assert " --cpuset-cpus=0-1 " in line
    assert line.endswith(" -- --batch 16")
    assert not [line for line in wanted.said if "ignored" in line]
    own = command('{"SHM_SIZE": "5g", "model_args": ""}')
    assert own.run("build_manifest.json", dry_run=True) == 0
    (line,) = (line for line in own.shown if line.startswith("docker run "))
    assert " --shm-size=5g " in line
    assert line.endswith(" --")


@pytest.mark.parametrize("verb", ["build", "run", "export"])
def test_keys_that_are_ignored_are_named_by_each_command(folder: Path, docker: StandIns, verb: str) -> None:
    entry = card("dummy", distributed={"launcher": "vllm"}, env_vars={"A": "1"}, timeuot=3)
    package(folder, entry)
    wanted = command("{'gpu_vendor': 'NONE', 'data_sources': {'a': 1}, 'mirrorlocal': '/x', 'toolz': [], 'mine': 1}")
    if verb == "build":
        wanted.orchestrator.build_phase(BuildOptions(dry_run=True))
    elif verb == "run":
        manifest({"ci-a": image("ci-a")}, {"ci-a": entry})
        wanted.run(dry_run=True)
    else:
        wanted.orchestrator.export_config((), Path("c.json"), False)
    assert [line for line in wanted.said if "ignored" in line] == [
        "context: unsupported key mirrorlocal ignored; use --force-mirror-local",
        "context: unsupported key data_sources ignored; write `data`",
        "context: unknown key 'toolz' ignored; did you mean 'tools'?",
        "context: unknown key 'mine' ignored, except in CONTEXT headers",
        "dummy: unknown key 'timeuot' ignored; did you mean 'timeout'?",
    ]


@pytest.mark.parametrize(
    ("vendor", "here", "runs"),
    [
        ("AMD", ["AMD"], "amd"),
        ("AMD", ["NVIDIA"], "nvidia"),
        ("AMD", [], "cpu"),
        ("AMD", ["NVIDIA", "AMD"], "amd"),
        ("NONE", ["NVIDIA"], "cpu"),
        ("", ["NVIDIA"], "nvidia"),
        ("Unable to detect GPU vendor", ["AMD"], "amd"),
    ],
)
def test_a_builds_vendor_counts_where_a_machine_has_its_gpus(
    folder: Path, docker: StandIns, monkeypatch: pytest.MonkeyPatch, vendor: str, here: list[str], runs: str
) -> None:
    gpus = [Gpu(each, 0, uuid=f"GPU-{each}", render_node="/dev/dri/renderD128") for each in here]
    monkeypatch.setattr(
        "madengine.run.phase.find_gpus",
        lambda wanted="": Reading(tuple(gpu for gpu in gpus if gpu.vendor == (wanted or here[0]))),
    )
    path = three_vendors()
    path.write_text(json.dumps({**json.loads(path.read_text()), "context": {"gpu_vendor": vendor}}))
    wanted = command(None)
    assert wanted.orchestrator.run_phase(path, RunOptions(dry_run=True)) == 0
    assert pulled(wanted.shown) == [f"{REGISTRY}/ci-dummy_ubuntu_{runs}@{DIGEST}"]


def test_an_architecture_of_the_context_is_the_only_one(folder: Path, docker: StandIns) -> None:
    package(folder, card("dummy"))
    for context, tags in (("{}", {"k_gfx90a", "k_gfx942"}), ("{'MAD_SYSTEM_GPU_ARCHITECTURE': 'gfx1100'}", {"k"})):
        wanted = command(f"{{'docker_build_arg': {context}}}")
        options = BuildOptions(architectures=("gfx90a", "gfx942"), dry_run=True)
        assert wanted.orchestrator.build_phase(options).exit_code == 0
        made = {
            word for line in wanted.shown for word in line.split() if word.startswith("ci-dummy") and ":" not in word
        }
        assert made == {tag.replace("k", "ci-dummy_ubuntu_cpu") for tag in tags}
        assert [line for line in wanted.said if "ignored" in line] == (
            []
            if context == "{}"
            else ["--target-archs: ignored: docker_build_arg sets MAD_SYSTEM_GPU_ARCHITECTURE to gfx1100"]
        )


def test_the_contexts_image_takes_the_place_of_every_built_one(folder: Path, docker: StandIns) -> None:
    three_vendors()
    package(folder, card("dummy"))
    docker.add("docker", "[ $1 = version ] && echo 27.0.0; [ $1 != image ] || { echo '[]'; exit 1; }")
    wanted = command("{'gpu_vendor': 'NONE', 'MAD_CONTAINER_IMAGE': 'r.example/x:1', 'mirrorlocal': '/x'}")
    assert wanted.run(dry_run=True) == 0
    assert (pulled(wanted.shown), models_run(wanted.shown)) == (["r.example/x:1"], ["dummy"])
    assert "context: unsupported key mirrorlocal ignored; use --force-mirror-local" in wanted.said


def test_without_a_vendor_in_the_context_this_machine_decides(folder: Path, docker: StandIns) -> None:
    three_vendors()
    wanted = command(None)
    assert wanted.run(dry_run=True) == 0
    assert pulled(wanted.shown) == [f"{REGISTRY}/ci-dummy_ubuntu_cpu@{DIGEST}"]


def test_the_others_are_in_the_summary_with_the_reason(folder: Path, docker: StandIns) -> None:
    three_vendors()
    wanted = command()
    assert wanted.run(skip_model_run=True) == 0
    summary = json.loads((folder / "run_summary.json").read_text())
    reasons = {entry["image"]: entry["reason"] for entry in summary["skipped_runs"]}
    assert reasons == {
        f"{REGISTRY}/ci-dummy_ubuntu_cpu": "--skip-model-run",
        f"{REGISTRY}/ci-dummy_ubuntu_amd": "it is for gpu_vendor AMD, this machine is NONE",
        f"{REGISTRY}/ci-dummy_ubuntu_nvidia": "it is for gpu_vendor NVIDIA, this machine is NONE",
    }
    assert "skipped ci-dummy_ubuntu_amd: it is for gpu_vendor AMD, this machine is NONE" in wanted.said
    assert [(row["model"], row["status"], row["reason"]) for row in rows()] == [
        ("dummy", "SKIPPED", "--skip-model-run")
    ]


def test_a_model_without_an_image_for_this_machine_still_has_a_row(folder: Path, docker: StandIns) -> None:
    images = {"ci-a_amd": image("ci-a_amd", gpu_vendor="AMD")}
    manifest(images, {"ci-a_amd": card("a")})
    wanted = command()
    assert wanted.run() == 3
    assert [(row["model"], row["status"], row["performance"], row["reason"]) for row in rows()] == [
        ("a", "SKIPPED", "", "it is for gpu_vendor AMD, this machine is NONE")
    ]
    assert "no image in the manifest matches this machine" in wanted.said


def test_the_guest_os_of_the_context_chooses_too(folder: Path, docker: StandIns) -> None:
    images = {
        key: image(key, gpu_vendor="NONE", guest_os=guest)
        for key, guest in (("ci-a_ubuntu", "UBUNTU"), ("ci-a_centos", "CENTOS"), ("ci-a_any", ""))
    }
    manifest(images, dict.fromkeys(images, card("a")))
    wanted = command("{'gpu_vendor': 'NONE', 'guest_os': 'centos'}")
    assert wanted.run(dry_run=True) == 0
    assert pulled(wanted.shown) == [f"{REGISTRY}/ci-a_{suffix}@{DIGEST}" for suffix in ("centos", "any")]
    skipping = command("{'gpu_vendor': 'NONE', 'guest_os': 'centos'}")
    skipping.run(skip_model_run=True)
    assert "skipped ci-a_ubuntu: it is for guest_os UBUNTU, the context says CENTOS" in skipping.said


def test_an_older_manifest_says_the_vendor_in_the_dockerfiles_name(folder: Path, docker: StandIns) -> None:
    images = {
        key: image(key, dockerfile=f"docker/{key}.Dockerfile")
        for key in ("a.ubuntu.amd", "a.ubuntu.nvidia", "a.ubuntu")
    }
    manifest(images, dict.fromkeys(images, card("a")))
    wanted = command("{'gpu_vendor': 'AMD'}")
    assert wanted.run(dry_run=True) == 0
    assert pulled(wanted.shown) == [f"{REGISTRY}/{key}@{DIGEST}" for key in ("a.ubuntu.amd", "a.ubuntu")]


def test_the_manifests_context_reaches_the_container_and_the_callers_wins(folder: Path, docker: StandIns) -> None:
    context = {"docker_env_vars": {"A": "manifest", "B": "manifest"}, "docker_mounts": {}, "docker_build_arg": {}}
    manifest({"ci-a": image("ci-a")}, {"ci-a": card("a")}, context=context)
    wanted = command("{'gpu_vendor': 'NONE', 'docker_env_vars': {'B': 'caller'}}")
    assert wanted.run(dry_run=True) == 0
    [started] = [line for line in wanted.shown if " run " in line]
    assert " --env A=manifest " in started
    assert " --env B=caller " in started
    assert "B=manifest" not in started


# --- tags on a manifest ---


def tagged() -> Path:
    images = {f"ci-{name}": image(f"ci-{name}") for name in ("a", "b", "c")}
    models = {"ci-a": card("a", tags=["x"]), "ci-b": card("b", tags=["x"]), "ci-c": card("c", url="https://x/y.git")}
    return manifest(images, models)


@pytest.mark.parametrize(
    ("tags", "names"), [(("a",), ["a"]), (("x",), ["a", "b"]), (("b", "a"), ["a", "b"]), (("a", "x"), ["a", "b"])]
)
def test_tags_choose_from_a_manifest_by_name_and_by_tag(
    folder: Path, docker: StandIns, tags: tuple[str, ...], names: list[str]
) -> None:
    tagged()
    wanted = command()
    assert wanted.run(tags=tags, dry_run=True) == 0
    assert models_run(wanted.shown) == names


def test_a_tag_that_the_manifest_does_not_know_is_named_with_what_it_has(folder: Path, docker: StandIns) -> None:
    tagged()
    wanted = command()
    assert wanted.refusal(lambda: wanted.run(tags=("a", "y"))) == "m.json: no model named or tagged 'y'; it has a, b, c"
    assert wanted.refusal(lambda: wanted.run(tags=("a:x=1",))).endswith(
        "it has a, b, c; arguments are chosen when it is built"
    )


# --- registries ---


@pytest.mark.parametrize(
    ("entry", "registry", "expected"),
    [
        ({}, "other:5000", f"other:5000/ci-a@{DIGEST}"),
        ({}, "other.example.com/team", f"other.example.com/team/ci-a@{DIGEST}"),
        ({}, "dockerhub", f"ci-a@{DIGEST}"),
        ({"registry_image": "org/repo:ci-a"}, "other:5000", f"other:5000/org/repo@{DIGEST}"),
        ({"registry_image": f"{REGISTRY}/team/ci-a"}, "other:5000", f"other:5000/team/ci-a@{DIGEST}"),
    ],
)
def test_registry_means_the_same_images_elsewhere(
    folder: Path, docker: StandIns, entry: dict[str, Any], registry: str, expected: str
) -> None:
    manifest({"ci-a": image("ci-a", **entry)}, {"ci-a": card("a")})
    wanted = command()
    assert wanted.run(registry=registry, dry_run=True) == 0
    assert pulled(wanted.shown) == [expected]


def test_a_registry_that_is_none_is_named(folder: Path, docker: StandIns) -> None:
    tagged()
    wanted = command()
    assert "invalid registry 'http://other:5000'; write other:5000" in wanted.refusal(
        lambda: wanted.run(registry="http://other:5000")
    )


def logins(docker: StandIns) -> list[str]:
    return [call for call in docker.calls() if " login " in call]


def test_each_registry_is_logged_in_at_once_with_the_credentials_of_this_folder(folder: Path, docker: StandIns) -> None:
    entry = {"username": "ann", "password": "hunter2"}
    (folder / "credential.json").write_text(json.dumps({REGISTRY: entry, "dockerhub": entry}))
    (folder / "credential.json").chmod(0o600)
    images = {"ci-a": image("ci-a"), "ci-b": image("ci-b"), "ci-c": image("ci-c", registry_image="org/repo:ci-c")}
    manifest(images, {key: card(key.removeprefix("ci-")) for key in images})
    wanted = command(has_package=False)
    assert wanted.run(skip_model_run=True) == 0
    assert logins(docker) == [
        f"docker login --username ann --password-stdin {REGISTRY}",
        "docker login --username ann --password-stdin",
    ]


def test_an_entry_for_a_registry_with_a_path_is_found_by_the_manifests_registry(folder: Path, docker: StandIns) -> None:
    registry = f"{REGISTRY}/team"
    (folder / "credential.json").write_text(json.dumps({registry: {"username": "ann", "password": "hunter2"}}))
    manifest({"ci-a": image("ci-a", registry_image=f"{registry}/ci-a")}, {"ci-a": card("a")}, registry=registry)
    assert command().run(skip_model_run=True) == 0
    assert logins(docker) == [f"docker login --username ann --password-stdin {REGISTRY}"]


def test_a_registry_without_credentials_is_not_logged_in_at(folder: Path, docker: StandIns) -> None:
    tagged()
    assert command().run(tags=("a",), skip_model_run=True) == 0
    assert logins(docker) == []


# --- older manifests ---


def legacy(*keys: str) -> Path:
    path = Path("m.json")
    path.write_text(json.dumps({"built_images": {key: {"docker_image": key} for key in keys}}))
    return path


def test_an_older_manifest_takes_the_local_model_with_the_longest_fitting_name(folder: Path, docker: StandIns) -> None:
    package(folder, card("dummy"), card("dummy_big"), card("Team/dummy"))
    legacy("ci-dummy_big_ubuntu_cpu", "ci-dummy_dummy.ubuntu.cpu", "ci-dummy", "ci-team_dummy_dummy.ubuntu.cpu")
    wanted = command()
    assert wanted.run(dry_run=True) == 0
    assert models_run(wanted.shown) == ["dummy_big", "dummy", "dummy", "Team/dummy"]


def test_a_name_that_only_begins_alike_is_another_model(folder: Path, docker: StandIns) -> None:
    package(folder, card("dummy"))
    legacy("ci-dummy2_ubuntu_cpu")
    wanted = command()
    assert wanted.refusal(lambda: wanted.run(dry_run=True)) == (
        "m.json: ci-dummy2_ubuntu_cpu: no model of this package has that name (it has dummy)"
    )


def test_an_older_manifest_without_a_package_says_where_to_run_it(folder: Path, docker: StandIns) -> None:
    legacy("ci-dummy_ubuntu_cpu")
    wanted = command(has_package=False)
    said = wanted.refusal(lambda: wanted.run(dry_run=True))
    assert said.startswith("m.json: no model for ci-dummy_ubuntu_cpu (an older manifest), and there")
    assert said.endswith("run it in its package's folder, or set MODEL_DIR")


def test_a_manifest_without_images_is_refused(folder: Path, docker: StandIns) -> None:
    manifest({}, {})
    wanted = command()
    assert wanted.refusal(wanted.run) == "m.json: holds no images; `madengine build` again"


# --- what this version refuses ---


@pytest.mark.parametrize(
    ("context", "said"),
    [
        (
            "{'tools': [{'name': 'rocprfo'}]}",
            "context: tools: unknown tool 'rocprfo'; expected some of rocprof, rocprofv3, ",
        ),
        ("{'pre_scripts': [{'path': '../a.sh'}]}", "context: pre_scripts.0: '../a.sh' leads out of the package"),
        (
            "{'multi_node_args': {'NODES': 2}}",
            "context: multi_node_args: unknown key 'NODES'; expected one of RUNNER, ",
        ),
        ("{'artifacts': '/etc/*'}", "context: artifacts: '/etc/*' leads out of the workspace"),
        ("{'log_error_patterns': 'x'}", "--additional-context: log_error_patterns: expected a list, got 'x'"),
    ],
)
def test_what_is_wrong_in_a_context_is_said_before_anything_starts(
    folder: Path, docker: StandIns, context: str, said: str
) -> None:
    package(folder, card("a"))
    tagged()
    wanted = command(context)
    assert wanted.refusal(lambda: wanted.run(tags=("a",))).startswith(said)
    assert wanted.refusal(lambda: wanted.orchestrator.build_phase(BuildOptions())).startswith(said)
    assert all(call.startswith("docker version ") for call in docker.calls())


def test_a_missing_credential_is_one_failure_that_names_the_owner_and_other_models_go_on(
    folder: Path, docker: StandIns
) -> None:
    cards = card("a"), card("b", cred="AMD_GITHUB", owner="ann@example.com")
    package(folder, *cards)
    manifest({"ci-a": image("ci-a"), "ci-b": image("ci-b")}, dict(zip(("ci-a", "ci-b"), cards, strict=True)))
    expected = "no entry 'AMD_GITHUB', which model b needs; add it or ask the model's owner, ann@example.com"
    wanted = command()
    assert wanted.orchestrator.build_phase(BuildOptions(dry_run=True)).exit_code == 2
    assert any(line.endswith(expected) for line in wanted.said)
    assert wanted.refusal(lambda: wanted.run(dry_run=True)).endswith(expected)


def test_a_credential_may_come_from_the_environment(folder: Path, docker: StandIns) -> None:
    package(folder, card("b", cred="AMD_GITHUB"))
    (folder / "token").write_text("hunter22\n")
    environ = {"AMD_GITHUB_USERNAME": "ann", "AMD_GITHUB_PASSWORD_FILE": str(folder / "token")}
    wanted = command(environ=environ)
    assert wanted.orchestrator.build_phase(BuildOptions(dry_run=True)).exit_code == 0


def test_a_url_with_a_password_is_refused_without_saying_it(folder: Path, docker: StandIns) -> None:
    package(folder, card("b", url="https://ann:hunter22@git.example.com/x"))
    wanted = command()
    assert wanted.orchestrator.build_phase(BuildOptions(dry_run=True)).exit_code == 2
    assert any("url of 'b': holds a password; put it into credential.json" in line for line in wanted.said)
    assert not any("hunter22" in line for line in [*wanted.said, *wanted.shown])


def test_the_lines_of_a_build_clone_the_models_code(folder: Path, docker: StandIns) -> None:
    package(folder, card("b", url="https://git.example.com/x", cred="AMD_GITHUB"))
    (folder / "credential.json").write_text('{"AMD_GITHUB": {"username": "ann", "password": "hunter22"}}')
    wanted = command()
    assert wanted.orchestrator.build_phase(BuildOptions(dry_run=True)).exit_code == 0
    assert " clone --quiet --depth=1 -- https://git.example.com/x .madengine-ci-b_ubuntu_cpu/payload/code" in "\n".join(
        wanted.shown
    )
    assert not any("hunter22" in line for line in [*wanted.said, *wanted.shown])


def test_a_perf_csv_that_is_something_else_is_refused_before_anything_starts(folder: Path, docker: StandIns) -> None:
    tagged()
    (folder / "perf.csv").write_text("name,age\n")
    wanted = command()
    assert "perf.csv: not a perf.csv" in wanted.refusal(lambda: wanted.run(tags=("a",)))
    assert docker.calls() == []


def test_a_manifest_that_lists_no_gpus_is_refused_before_anything_starts(folder: Path, docker: StandIns) -> None:
    manifest({"ci-a": image("ci-a")}, {"ci-a": card("a")}, context={"docker_gpus": "x-y"})
    wanted = command()
    assert wanted.refusal(wanted.run) == (
        "m.json: context: docker_gpus: expected numbers and ranges such as '0,2-4,7', got 'x-y'"
    )
    assert docker.calls() == []
    assert not list(folder.glob("perf.csv"))


def test_a_data_file_that_is_not_there_is_named(folder: Path, docker: StandIns) -> None:
    tagged()
    wanted = command()
    call = lambda: wanted.run(tags=("a",), data_file=Path("sets.json"))  # noqa: E731
    assert wanted.refusal(call) == "sets.json: no such file; --data-config-file-name names a data.json"


# --- rows are never lost ---


def test_what_was_not_built_has_a_row_too(folder: Path, stand_ins: StandIns) -> None:
    stand_ins.add("docker", 'case "$1" in version) echo 24.0.5 ;; build) echo "no space left" >&2; exit 1 ;; esac')
    package(folder, card("a"), card("b", dockerfile="docker/nothing"))
    (folder / "docker/nothing.ubuntu.cpu.Dockerfile").unlink()
    wanted = command()
    assert wanted.orchestrator.full_phase(BuildOptions(), RunOptions(summary_output=Path("full.json"))) == 2
    found = {row["model"]: (row["status"], row["performance"], row["reason"]) for row in rows()}
    assert found.keys() == {"a", "b"}
    assert all(found[name][:2] == ("FAILURE", "") for name in found)
    assert "no space left" in found["a"][2]
    assert "no Dockerfile docker/nothing.*.Dockerfile" in found["b"][2]
    summary = json.loads((folder / "full.json").read_text())
    assert summary.keys() == {"build_phase", "run_phase", "overall_success"}
    assert summary["overall_success"] is False
    assert len(summary["build_phase"]["failed_builds"]) == len(summary["run_phase"]["failed_runs"]) == 2
    assert sorted(path.name for path in folder.glob("*.json")) == ["build_manifest.json", "full.json", "models.json"]


def test_a_run_that_built_first_names_the_summary_that_stays(folder: Path, docker: StandIns) -> None:
    package(folder, card("a"))
    wanted = command()
    assert wanted.orchestrator.full_phase(BuildOptions(), RunOptions(skip_model_run=True)) == 0
    assert [line for line in wanted.said if "summary" in line] == ["summary: run_summary.json"]


def test_a_run_that_is_interrupted_after_its_build_leaves_one_summary(
    folder: Path, docker: StandIns, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> int:
        raise KeyboardInterrupt

    package(folder, card("a"))
    monkeypatch.setattr(DistributedOrchestrator, "run_phase", interrupted)
    wanted = command()
    with pytest.raises(KeyboardInterrupt):
        wanted.orchestrator.full_phase(BuildOptions(), RunOptions())
    assert [path.name for path in folder.glob("run_summary*")] == ["run_summary.json"]
    summary = json.loads((folder / "run_summary.json").read_text())
    assert len(summary["build_phase"]["successful_builds"]) == 1
    assert (summary["run_phase"], summary["overall_success"]) == ({}, False)


def test_a_row_that_perf_csv_cannot_take_goes_beside_the_log(folder: Path, stand_ins: StandIns) -> None:
    stand_ins.add("docker", f'[ "$1" = image ] && {{ rm -f perf.csv; mkdir perf.csv; }}\n{DOCKER}')
    manifest({"ci-a": image("ci-a")}, {"ci-a": card("a")})
    wanted = command()
    assert wanted.run(skip_model_run=True) == 1
    [kept] = folder.glob("runs/*/perf.csv")
    assert [row["model"] for row in rows(str(kept))] == ["a"]
    assert any(
        line.startswith("perf.csv: can't be written: ") and "the row is in runs/" in line for line in wanted.said
    )


def test_results_json_and_the_table_tell_of_every_result(folder: Path, docker: StandIns) -> None:
    tagged()
    wanted = command()
    assert wanted.run(tags=("x",), skip_model_run=True) == 0
    [path] = folder.glob("runs/*/results.json")
    content = json.loads(path.read_text())
    assert [result["model"]["name"] for result in content["results"]] == ["a", "b"]
    assert content["schema_version"] == 1
    [table] = wanted.shown
    assert [line.split()[0] for line in table.splitlines() if line.split()[0] in ("a", "b")] == ["a", "b"]


# --- push ---


def test_push_pins_what_is_not_pushed_yet(folder: Path, docker: StandIns) -> None:
    unpushed = {"registry_image": None, "registry_digest": None}
    images = {"ci-a": image("ci-a"), "ci-b_cpu": image("ci-b_cpu", **unpushed)}
    path = manifest(images, {"ci-a": card("a"), "ci-b_cpu": card("b")})
    wanted = command(has_package=False)
    assert wanted.orchestrator.push_phase(path, "", dry_run=False) == 0
    entry = json.loads(path.read_text())["built_images"]["ci-b_cpu"]
    assert (entry["registry_image"], entry["registry_digest"]) == (f"{REGISTRY}/ci-b_cpu", DIGEST)
    assert wanted.shown == [f"ci-a  {REGISTRY}/ci-a@{DIGEST}", f"ci-b_cpu  {REGISTRY}/ci-b_cpu@{DIGEST}"]
    assert wanted.said[0] == f"ci-a: already pushed as {REGISTRY}/ci-a@{DIGEST}"
    inspected = f"docker image inspect {IMAGE_ID} {REGISTRY}/ci-b_cpu@{DIGEST}"
    assert inspected in docker.calls()
    assert [call for call in docker.calls() if call != inspected and not call.startswith("docker version")] == [
        f"docker tag {IMAGE_ID} {REGISTRY}/ci-b_cpu",
        f"docker tag {IMAGE_ID} {REGISTRY}/madengine/b:latest",
        f"docker push {REGISTRY}/ci-b_cpu",
        f"docker push {REGISTRY}/madengine/b:latest",
    ]


def test_push_to_another_registry_renames_the_manifests(folder: Path, docker: StandIns) -> None:
    path = manifest({"ci-a": image("ci-a")}, {"ci-a": card("a")})
    assert command().orchestrator.push_phase(path, "other:5000", dry_run=False) == 0
    content = json.loads(path.read_text())
    assert content["registry"] == "other:5000"
    assert content["built_images"]["ci-a"]["registry_image"] == "other:5000/ci-a"


def test_one_refused_push_does_not_keep_the_others_from_being_kept(folder: Path, stand_ins: StandIns) -> None:
    refusing = f'case "$2" in *ci-a) echo "denied: no" >&2; exit 1 ;; esac\n{DOCKER}'
    stand_ins.add("docker", refusing)
    unpushed = {"registry_image": None, "registry_digest": None}
    images = {key: image(key, **unpushed) for key in ("ci-a", "ci-b")}
    path = manifest(images, {"ci-a": card("a"), "ci-b": card("b")})
    wanted = command()
    assert wanted.orchestrator.push_phase(path, "", dry_run=False) == 2
    entries = json.loads(path.read_text())["built_images"]
    assert "registry_digest" not in entries["ci-a"]
    assert entries["ci-b"]["registry_digest"] == DIGEST
    assert any(line.startswith("ci-a: ") and "denied: no" in line for line in wanted.said)


def test_a_push_that_is_only_shown_changes_nothing(folder: Path, docker: StandIns) -> None:
    path = manifest({"ci-a": image("ci-a")}, {"ci-a": card("a")})
    before = path.read_bytes()
    wanted = command()
    assert wanted.orchestrator.push_phase(path, "other:5000", dry_run=True) == 0
    assert wanted.shown == [
        f"docker tag {IMAGE_ID} other:5000/ci-a",
        f"docker tag {IMAGE_ID} other:5000/madengine/a:latest",
        "docker push other:5000/ci-a",
        "docker push other:5000/madengine/a:latest",
    ]
    assert path.read_bytes() == before


def test_an_older_manifest_can_be_pushed(folder: Path, docker: StandIns) -> None:
    path = legacy("ci-a")
    assert command(has_package=False).orchestrator.push_phase(path, "other:5000", dry_run=False) == 0
    content = json.loads(path.read_text())
    assert content["built_images"]["ci-a"]["registry_digest"] == DIGEST
    assert content["built_models"] == {}


def test_a_push_to_nowhere_asks_for_the_registry(folder: Path, docker: StandIns) -> None:
    path = legacy("ci-a")
    wanted = command()
    said = wanted.refusal(lambda: wanted.orchestrator.push_phase(path, "", dry_run=False))
    assert said == "m.json: names no registry; say which with --registry"


# --- export-config ---


def test_export_config_writes_what_others_need_and_asks_no_gpu(folder: Path, docker: StandIns) -> None:
    for name in ("nvidia-smi", "amd-smi", "rocm-smi"):
        docker.add(name)
    package(folder, card("a", cred="NAS", tags=["x"]), card("b", cred="NAS"), card("c", cred="AMD_GITHUB"))
    wanted = command("{'gpu_vendor': 'amd', 'docker_env_vars': {'A': 1}, 'docker_mounts': {'/in': '/host'}}")
    assert wanted.orchestrator.export_config((), Path("out/c.json"), ignore_deprecated=False) == 0
    assert json.loads((folder / "out/c.json").read_text()) == {
        "models": [
            {**card("a", tags=["x"]), "args": "", "cred": "NAS"},
            {**card("b", tags=[]), "args": "", "cred": "NAS"},
            {**card("c", tags=[]), "args": "", "cred": "AMD_GITHUB"},
        ],
        "context": {
            "docker_env_vars": {"A": "1"},
            "docker_mounts": {"/in": "/host"},
            "gpu_vendor": "AMD",
            "docker_gpus": "",
        },
        "credentials_required": ["AMD_GITHUB", "NAS"],
    }
    assert wanted.said == ["execution configuration of 3 models: out/c.json"]
    assert docker.calls() == []


# --- the package ---


def test_the_folder_of_a_manifest_is_the_root_even_without_models(folder: Path) -> None:
    messages = collect_messages()
    session = open_session({}, folder, may_be_starter=False, engine_name="podman")
    assert (session.root, session.has_package, session.engine_name, messages) == (folder, False, "podman", [])


def test_the_starter_package_stands_in_with_a_message(folder: Path) -> None:
    messages = collect_messages()
    session = open_session({}, folder, may_be_starter=True)
    assert session.has_package
    assert (session.root / "models.json").is_file()
    (message,) = messages
    assert message.startswith(f"no models.json in {folder}: using the bundled starter package")


def test_a_package_here_is_taken_with_and_without_a_manifest(folder: Path) -> None:
    package(folder, card("a"))
    messages = collect_messages()
    for may_be_starter in (True, False):
        session = open_session({}, folder, may_be_starter)
        assert (session.root, session.has_package, messages) == (folder, True, [])


def test_model_dir_without_models_is_an_error(folder: Path) -> None:
    with pytest.raises(MadengineError, match="MODEL_DIR=nope: no models"):
        open_session({"MODEL_DIR": "nope"}, folder, may_be_starter=False)


# --- resume ---


def test_resume_leaves_out_the_images_that_have_succeeded(folder: Path, docker: StandIns) -> None:
    other = "sha256:" + "e" * 64
    manifest(
        {"ci-a": image("ci-a"), "ci-b": image("ci-b", registry_digest=other)}, {"ci-a": card("a"), "ci-b": card("b")}
    )
    Path("perf.csv").write_text(f"model,performance,metric,status,run_id,image_digest\na,1,x,SUCCESS,r1,{DIGEST}\n")
    resumed = command()
    assert resumed.run(skip_model_run=True, resume=Path("perf.csv"), output=Path("new.csv")) == 0
    assert [row["model"] for row in rows("new.csv")] == ["b"]
    assert "perf.csv: 1 of 2 have succeeded already" in resumed.said


def test_resume_with_nothing_left_is_done_and_leaves_its_results(folder: Path, docker: StandIns) -> None:
    three_vendors()
    Path("perf.csv").write_text(f"model,performance,metric,status,run_id,image_digest\ndummy,1,x,SUCCESS,r1,{DIGEST}\n")
    assert command().run(resume=Path("perf.csv"), output=Path("new.csv"), run_id="r2") == 0
    assert json.loads(Path("runs/r2/results.json").read_text())["results"] == []
    assert not Path("new.csv").exists()


def test_resume_without_a_table_runs_everything(folder: Path, docker: StandIns) -> None:
    three_vendors()
    assert command().run(skip_model_run=True, resume=Path("none.csv")) == 0
    assert [row["model"] for row in rows()] == ["dummy"]
