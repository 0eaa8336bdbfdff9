"""Choosing Dockerfiles, telling images apart, and what a builder makes of its engine's answers."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from madengine import __version__
from madengine.build import builder as docker_builder
from madengine.build.builder import DockerBuilder, Failure, Recipe
from madengine.config.context import Context
from madengine.config.credentials import Credentials, load_credentials
from madengine.errors import BuildError
from madengine.programs.engine import Docker
from madengine.records import Image, Model
from tests.conftest import StandIns, collect_messages

DIGEST = "sha256:" + "d" * 64


def model(name: str = "m", **card: Any) -> Model:
    return Model(**{"name": name, "dockerfile": "docker/m", "scripts": "scripts/m", **card})


def package(root: Path, *dockerfiles: str, header: str = "# CONTEXT {}") -> Path:
    (root / "docker").mkdir(parents=True)
    (root / "scripts/m").mkdir(parents=True)
    (root / "scripts/m/run.sh").write_text("echo ran\n")
    for name in dockerfiles:
        (root / "docker" / name).write_text(f"{header}\nFROM base:1\n")
    return root


def builder(root: Path, values: Mapping[str, Any] | None = None, **more: Any) -> DockerBuilder:
    settings = {"credentials": Credentials(), "log_directory": root / "logs", **more}
    return DockerBuilder(engine=Docker(), root=root, context=Context(values or {}), **settings)


# --- names ---


def hub(tmp_path: Path, **environ: str) -> Credentials:
    return load_credentials(tmp_path, environ)


@pytest.mark.parametrize(
    ("registry", "environ", "expected"),
    [
        ("", {}, ()),
        ("localhost:5000", {}, ("localhost:5000/ci-m_x", "localhost:5000/madengine/m:latest")),
        ("reg.example/team", {}, ("reg.example/team/ci-m_x", "reg.example/team/madengine/m:latest")),
        ("dockerhub", {"MAD_DOCKERHUB_REPO": "org/repo"}, ("org/repo:ci-m_x",)),
        ("docker.io", {"MAD_DOCKERHUB_REPO": "org/repo"}, ("org/repo:ci-m_x",)),
        ("dockerhub", {}, ("ci-m_x",)),
        ("docker.io/org", {}, ("docker.io/org/ci-m_x",)),
    ],
)
def test_an_image_is_pushed_as_the_registry_wants_it(
    tmp_path: Path, registry: str, environ: dict[str, str], expected: tuple[str, ...]
) -> None:
    root = package(tmp_path / "package", "m.x.Dockerfile")
    (recipe,), failures = builder(root, registry=registry, credentials=hub(tmp_path, **environ)).plan([model()])
    assert (recipe.pushed, failures) == (expected, [])


def test_a_registry_with_one_repository_for_all_has_no_second_name(tmp_path: Path) -> None:
    root = package(tmp_path, "m.x.Dockerfile")
    known = Credentials({"reg:5000": {"username": "u", "password": "p", "repository": "all/images"}})
    (recipe,), _ = builder(root, registry="reg:5000", credentials=known).plan([model()])
    assert recipe.pushed == ("reg:5000/all/images:ci-m_x",)


# --- the plan ---


def test_each_architecture_has_images_of_its_own_and_its_build_argument(tmp_path: Path) -> None:
    found = builder(
        package(tmp_path, "m.os.Dockerfile"), {"docker_build_arg": {"A": "b"}}, architectures=("gfx90a", "X:y")
    )
    recipes, failures = found.plan([model()])
    assert (failures, [(one.key, one.log_name) for one in recipes]) == (
        [],
        [("ci-m_os_gfx90a", "m_m.os_gfx90a"), ("ci-m_os_x_y", "m_m.os_x_y")],
    )
    lines = [line for one in recipes for line in found.shell_lines(one) if "docker build " in line]
    assert [re.findall(r"--build-arg (\S+)", line) for line in lines] == [
        *(["A=b", "MAD_SYSTEM_GPU_ARCHITECTURE=gfx90a"], ["MODEL_IMAGE=ci-m_os_gfx90a:base"]),
        *(["A=b", "MAD_SYSTEM_GPU_ARCHITECTURE=X:y"], ["MODEL_IMAGE=ci-m_os_x_y:base"]),
    ]


def test_names_that_come_out_alike_are_told_apart(tmp_path: Path) -> None:
    root = package(tmp_path, "m.a.b.Dockerfile", "m.a_b.Dockerfile", "m.A.b.Dockerfile")
    models = [model("x/y"), model("x_y"), model("X_Y"), model("x_y", args="--other")]
    recipes, failures = builder(root).plan(models)
    assert failures == []
    assert len(recipes) == len({recipe.key for recipe in recipes}) == len({recipe.log_name for recipe in recipes}) == 12
    assert recipes[0].key == "ci-x_y_a_b"


def test_logs_are_told_apart_where_only_they_come_out_alike(tmp_path: Path) -> None:
    root = package(tmp_path, "b_c.x.Dockerfile", "c.x.Dockerfile")
    models = [model("a", dockerfile="docker/b_c"), model("a_b", dockerfile="docker/c")]
    recipes, _ = builder(root).plan(models)
    assert [recipe.key for recipe in recipes] == ["ci-a_x", "ci-a_b_x"]
    assert len({recipe.log_name for recipe in recipes}) == 2


@pytest.mark.parametrize(
    ("vendor", "expected"),
    [("", {"ci-m_amd", "ci-m_nvidia"}), ("AMD", {"ci-m_amd"}), ("NVIDIA", {"ci-m_nvidia"})],
)
def test_the_context_narrows_the_variants(tmp_path: Path, vendor: str, expected: set[str]) -> None:
    root = package(tmp_path)
    for name in ("amd", "nvidia"):
        (root / f"docker/m.{name}.Dockerfile").write_text(f"# CONTEXT {{'gpu_vendor': '{name.upper()}'}}\nFROM x\n")
    recipes, _ = builder(root, {"gpu_vendor": vendor} if vendor else {}).plan([model()])
    assert {recipe.key for recipe in recipes} == expected


def test_a_model_without_a_fitting_dockerfile_says_what_its_candidates_are_for(tmp_path: Path) -> None:
    root = package(tmp_path, "m.x.Dockerfile", "m.y.Dockerfile", header="# CONTEXT {'guest_os': 'UBUNTU'}")
    _, (failure,) = builder(root, {"guest_os": "CENTOS"}).plan([model()])
    assert failure.error == (
        "no Dockerfile of the model 'm' fits the context "
        "(docker/m.x.Dockerfile: guest_os is 'UBUNTU', the context says 'CENTOS'; "
        "docker/m.y.Dockerfile: guest_os is 'UBUNTU', the context says 'CENTOS')"
    )


@pytest.mark.parametrize("prefix", ["docker/nothing", "nowhere/m", "n" * 300, "docker/m\0", "docker/m.x.Dockerfile/m"])
def test_a_prefix_that_finds_nothing_is_a_failure_of_its_model_alone(tmp_path: Path, prefix: str) -> None:
    root = package(tmp_path, "m.x.Dockerfile")
    (recipe,), (failure,) = builder(root).plan([model("bad", dockerfile=prefix), model("good")])
    assert (recipe.model.name, failure.model_name) == ("good", "bad")
    assert "\n" not in failure.error


# --- the engine's answers, from a stand-in ---

BUILD = f"""case "$1 $2" in
'image inspect') echo '[{{"Id": "{DIGEST}", "Size": 7}}, {{"RepoDigests": ["reg/base@{DIGEST}"]}}]' ;;
push*) echo "latest: digest: {DIGEST} size: 3" ;;
esac"""


def recipe(root: Path, *pushed: str) -> Recipe:
    (found,), _ = builder(root).plan([model()])
    return Recipe(**{**vars(found), "pushed": pushed})


def test_an_image_is_built_payload_added_pushed_and_described(tmp_path: Path, stand_ins: StandIns) -> None:
    stand_ins.add("docker", BUILD)
    root = package(tmp_path, "m.x.Dockerfile")
    made = builder(root, {"docker_build_arg": {"N": 1, "T": True}}).make(recipe(root, "reg:5/a", "reg:5/b:latest"))
    assert isinstance(made, Image)
    assert (made.image_id, made.size_bytes, made.base_docker) == (DIGEST, 7, "base:1")
    assert (made.registry_image, made.registry_digest, made.self_contained) == ("reg:5/a", DIGEST, True)
    base, layer, inspect, latest, first = stand_ins.calls()
    assert base == (
        f"docker build --network=host --tag ci-m_x:base --file {root}/docker/m.x.Dockerfile "
        f"--build-arg N=1 --build-arg T=true --label madengine.version={__version__} {root}/docker"
    )
    assert re.fullmatch(
        r"docker build --network=host --tag ci-m_x --tag reg:5/a --tag reg:5/b:latest --file (/\S+)/Dockerfile "
        r"--build-arg MODEL_IMAGE=ci-m_x:base --label madengine.model=m \1/payload",
        layer,
    )
    assert (inspect, latest, first) == (
        "docker image inspect ci-m_x base:1",
        "docker push reg:5/b:latest",
        "docker push reg:5/a",
    )


def test_a_failed_build_is_an_answer_with_its_last_line_and_log(tmp_path: Path, stand_ins: StandIns) -> None:
    stand_ins.add("docker", "echo one; echo 'the reason' >&2; exit 1")
    root = package(tmp_path, "m.x.Dockerfile")
    messages = collect_messages()
    made = builder(root).make(recipe(root))
    log = str(root / "logs/m_m.x.build.live.log")
    error = "docker/m.x.Dockerfile (from base:1): the build failed: the reason"
    assert made == Failure("m", "docker/m.x.Dockerfile", error, log)
    assert messages[1] == f"ci-m_x: {error}"
    assert messages[2].splitlines()[1:] == ["  | one", "  | the reason", f"  the whole log: {log}"]


# As podman 4.3 prints them while another process removes any image.
RACES = [
    "Error: checking if cached image exists from a previous build: getting top layer info: layer not known",
    'Error: reading image "48eb": locating image with ID "48eb": image not known',
    'Error: locating item named "manifest" for image with ID "e69e": file does not exist',
]


@pytest.mark.parametrize("said", RACES)
def test_a_build_that_met_the_removal_of_another_image_is_tried_again(
    tmp_path: Path, stand_ins: StandIns, said: str
) -> None:
    race = f"""[ -e {tmp_path}/$1 ] || {{ touch {tmp_path}/$1; echo '{said}' >&2; exit 125; }}"""
    stand_ins.add("docker", f"{race}\n{BUILD}")
    root = package(tmp_path / "package", "m.x.Dockerfile")
    assert isinstance(builder(root).make(recipe(root)), Image)
    assert [call.split()[1] for call in stand_ins.calls()] == ["build", "build", "build", "image", "image"]


def test_a_build_that_fails_is_not_tried_again(tmp_path: Path, stand_ins: StandIns) -> None:
    stand_ins.add("docker", "echo 'Error: nosuch: image not known' >&2; exit 125")
    root = package(tmp_path, "m.x.Dockerfile")
    assert isinstance(builder(root).make(recipe(root)), Failure)
    assert len(stand_ins.calls()) == 1


def test_an_image_that_the_engine_does_not_list_is_a_failure(tmp_path: Path, stand_ins: StandIns) -> None:
    stand_ins.add("docker")
    root = package(tmp_path, "m.x.Dockerfile")
    made = builder(root).make(recipe(root))
    assert isinstance(made, Failure)
    assert made.error == "ci-m_x: built, but docker doesn't list it"


@pytest.fixture
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(docker_builder, "PUSH_PAUSE_SECONDS", 0.01)


def push(folder: Path, **more: Any) -> Image:
    with (folder / "log").open("w") as log:
        return builder(folder, **more).push(Image("k", "k"), ["reg:5/a"], log)


@pytest.mark.usefixtures("short_pauses")
def test_a_push_is_tried_again_after_a_pause_that_doubles(tmp_path: Path, stand_ins: StandIns) -> None:
    refused = "echo 'dial tcp 127.0.0.1:5: connect: connection refused' >&2; exit 1"
    count = f"echo x >>{tmp_path}/count; [ $(wc -l <{tmp_path}/count) -gt 3 ]"
    stand_ins.add("docker", f"{count} || {{ {refused}; }}; echo 'latest: digest: {DIGEST} size: 3'")
    messages = collect_messages()
    assert push(tmp_path).registry_digest == DIGEST
    assert [line.rpartition("; ")[2] for line in messages[:3]] == [
        "again in 0.01 s",
        "again in 0.02 s",
        "again in 0.04 s",
    ]
    assert messages[3] == f"k: pushed reg:5/a@{DIGEST}"


@pytest.mark.usefixtures("short_pauses")
def test_a_registry_that_is_never_reached_ends_in_its_error(tmp_path: Path, stand_ins: StandIns) -> None:
    stand_ins.add("docker", "echo 'dial tcp: lookup reg: no such host' >&2; exit 1")
    with pytest.raises(BuildError, match="reg:5/a: the push failed: dial tcp: lookup reg: no such host"):
        push(tmp_path)
    assert len(stand_ins.calls()) == docker_builder.PUSH_ATTEMPTS


@pytest.mark.parametrize(
    "said",
    [
        "denied: requested access to the resource is denied",
        "unauthorized: authentication required",
        "no basic auth credentials",
        "denied: the quota of 1500 images is used up",
        "x509: certificate signed by unknown authority",
    ],
)
def test_a_refusal_is_not_tried_again(tmp_path: Path, stand_ins: StandIns, said: str) -> None:
    stand_ins.add("docker", f"echo '{said}' >&2; exit 1")
    with pytest.raises(BuildError, match=said) as raised:
        push(tmp_path)
    assert len(stand_ins.calls()) == 1
    asks_who = any(word in said for word in ("basic auth", "unauthorized", "access"))
    assert str(raised.value).endswith("; credential.json may hold a login for it") == asks_who


def test_a_digest_that_docker_does_not_print_is_looked_up(tmp_path: Path, stand_ins: StandIns) -> None:
    record = json.dumps([{"RepoDigests": [f"other/a@sha256:{'0' * 64}", f"reg:5/a@{DIGEST}"]}])
    stand_ins.add("docker", f"[ $1 = push ] || echo '{record}'")
    assert push(tmp_path).registry_digest == DIGEST


def test_a_push_without_a_digest_is_no_success(tmp_path: Path, stand_ins: StandIns) -> None:
    stand_ins.add("docker", "[ $1 = push ] || echo '[]'")
    with pytest.raises(BuildError, match="reg:5/a: pushed, but docker doesn't know its digest"):
        push(tmp_path)


def test_ctrl_c_does_not_wait_for_the_next_attempt(tmp_path: Path, stand_ins: StandIns) -> None:
    stand_ins.add("docker", "echo 'connection refused' >&2; exit 1")
    stopped = builder(tmp_path)
    stopped.stopping.set()
    began = time.monotonic()
    with (tmp_path / "log").open("w") as log, pytest.raises(BuildError):
        stopped.push(Image("k", "k"), ["reg:5/a"], log)
    assert time.monotonic() - began < 3


# --- dry run ---


def test_the_shell_lines_are_what_make_runs(tmp_path: Path) -> None:
    root = package(tmp_path / "it's here", "m.x.Dockerfile")
    (found,), _ = builder(root, registry="reg:5").plan([model(name="new\nline")])
    lines = list(builder(root).shell_lines(found))
    key = "ci-new_line_x"
    assert lines[0] == f"# {key}: new line from docker/m.x.Dockerfile"
    quoted = str(root).replace("'", "'\"'\"'")
    assert lines[1] == (
        f"BUILDX_NO_DEFAULT_ATTESTATIONS=1 docker build --network=host --tag {key}:base "
        f"--file '{quoted}/docker/m.x.Dockerfile' --label madengine.version={__version__} '{quoted}/docker'"
    )
    assert lines[2] == f"rm -rf .madengine-{key}"
    assert lines[-3:] == [
        f"rm -rf .madengine-{key}",
        "docker push reg:5/madengine/new-line:latest",
        f"docker push reg:5/{key}",
    ]
