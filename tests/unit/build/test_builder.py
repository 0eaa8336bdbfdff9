"""What a builder runs, and what it makes of its engine's answers."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from madengine import __version__
from madengine.build.builder import DockerBuilder
from madengine.build.options import BuildOptions
from madengine.build.recipes import Planner, Recipe
from madengine.config.context import Context
from madengine.config.credentials import Credentials
from madengine.programs.engine import Docker
from madengine.programs.podman import Podman
from madengine.records import Image
from madengine.results.summaries import FailedBuild
from tests.conftest import StandIns, collect_messages
from tests.unit.build.samples import DIGEST, model, package

ID = "1" * 64


def builder(root: Path) -> DockerBuilder:
    return DockerBuilder(Docker(), root, Credentials(), BuildOptions(manifest_output=root / "manifest.json"))


# --- the engine's answers, from a stand-in ---

# Its images have ids, and it writes them where it is told to.
BUILD = f"""case "$1 $2" in
build*) while [ $# -gt 0 ]; do [ "$1" != --iidfile ] || printf 'sha256:%s' "{ID}" >"$2"; shift; done ;;
'image inspect')
  [ "$4" = base:1 ] && second='"Id": "2", "RepoDigests": ["base@{DIGEST}"]' || second='"Id": "{ID}"'
  echo "[{{\\"Id\\": \\"{ID}\\", \\"Size\\": 7}}, {{$second}}]" ;;
push*) echo "latest: digest: {DIGEST} size: 3" ;;
esac"""


def recipe(root: Path, *pushed: str, **values: Any) -> Recipe:
    (planned,), _ = Planner(root, Context(values), Credentials()).recipes([model()])
    return replace(planned, pushed=pushed)


def test_an_image_is_built_payload_added_pushed_and_described(tmp_path: Path, stand_ins: StandIns) -> None:
    stand_ins.add("docker", BUILD)
    root = package(tmp_path, "m.x.Dockerfile")
    image = builder(root).make(recipe(root, "reg:5/a", "reg:5/b:latest", docker_build_arg={"N": 1, "T": True}))
    assert isinstance(image, Image)
    assert (image.image_id, image.size_bytes, image.base_docker) == (f"sha256:{ID}", 7, "base:1")
    assert (image.docker_sha, image.registry_image, image.registry_digest) == (DIGEST, "reg:5/a", DIGEST)
    assert image.self_contained
    base, layer, *others = stand_ins.calls()
    own_name = re.findall(r"ci-m_x:base-[0-9a-f]{12}", base)[0]
    assert base == (
        f"docker build --network=host --tag ci-m_x:base --tag {own_name} --file {root}/docker/m.x.Dockerfile "
        f"--build-arg N=1 --build-arg T=true --label madengine.version={__version__} {root}/docker"
    )
    assert re.fullmatch(
        r"docker build --network=host --iidfile (/\S+)/image_id --tag ci-m_x --tag reg:5/a --tag reg:5/b:latest "
        rf"--file \1/Dockerfile --build-arg MODEL_IMAGE={own_name} --label madengine.model=m \1/payload",
        layer,
    )
    pushes = ["docker push reg:5/a", "docker push reg:5/b:latest"]
    assert [call for call in others if call.startswith("docker push")] == pushes
    assert sorted(call for call in others if call not in pushes) == [
        f"docker image inspect sha256:{ID} base:1",
        f"docker image inspect sha256:{ID} reg:5/a@{DIGEST}",
        f"docker rmi {own_name}",
    ]


def test_no_two_builds_start_from_one_name(tmp_path: Path, stand_ins: StandIns) -> None:
    stand_ins.add("docker", BUILD)
    root = package(tmp_path, "m.x.Dockerfile")
    for _ in range(2):
        assert isinstance(builder(root).make(recipe(root)), Image)
    names = [name for call in stand_ins.calls() for name in re.findall(r"MODEL_IMAGE=(\S+)", call)]
    assert len(set(names)) == len(names) == 2


def test_an_interrupted_build_takes_its_own_name_back(tmp_path: Path, stand_ins: StandIns) -> None:
    wait = f"""case $* in
    *MODEL_IMAGE=ci-m_x*) touch {tmp_path}/waiting; sleep 60 ;;
    *MODEL_IMAGE=ci-n*) while [ ! -e {tmp_path}/waiting ]; do sleep 0.02; done ;;
    esac"""
    stand_ins.add("docker", f"{wait}\n{BUILD}")
    root = package(tmp_path / "package", "m.x.Dockerfile")

    def interrupt(recipe: Recipe, result: Image | FailedBuild) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        builder(root).build_all([recipe(root), replace(recipe(root), key="ci-n", model=model("n"))], 2, interrupt)
    names = {name for call in stand_ins.calls() for name in re.findall(r"MODEL_IMAGE=(\S+)", call)}
    assert {call for call in stand_ins.calls() if " rmi " in call} == {f"docker rmi {name}" for name in names}
    assert len(names) == 2


def test_a_failed_build_is_an_answer_with_its_last_line_and_log(tmp_path: Path, stand_ins: StandIns) -> None:
    stand_ins.add("docker", "echo one; echo 'the reason' >&2; exit 1")
    root = package(tmp_path, "m.x.Dockerfile")
    messages = collect_messages()
    failure = builder(root).make(recipe(root))
    log = str(root / "build_logs/m_m.x.build.live.log")
    error = "docker/m.x.Dockerfile (from base:1): the build failed: the reason"
    assert failure == FailedBuild("m", "docker/m.x.Dockerfile", error, log)
    assert messages[1] == f"ci-m_x: {error}"
    assert messages[2].splitlines()[1:] == ["  | one", "  | the reason", f"  the whole log: {log}"]


def test_an_image_that_can_not_be_pushed_is_described_all_the_same(tmp_path: Path, stand_ins: StandIns) -> None:
    stand_ins.add("docker", f"[ $1 != push ] || {{ echo 'denied: no' >&2; exit 1; }}\n{BUILD}")
    root = package(tmp_path, "m.x.Dockerfile")
    failure = builder(root).make(recipe(root, "reg:5/a"))
    assert isinstance(failure, FailedBuild)
    assert failure.error.startswith("reg:5/a: the push failed: denied: no")
    assert failure.image is not None
    assert (failure.image.size_bytes, failure.image.registry_image) == (7, "")
    assert "MAD_CONTAINER_IMAGE is ci-m_x\n" in Path(failure.log_file).read_text()


# As podman 4.3 prints them while another process removes any image.
RACES = [
    "Error: checking if cached image exists from a previous build: getting top layer info: layer not known",
    'Error: reading image "48eb": locating image with ID "48eb": image not known',
    'Error: locating item named "manifest" for image with ID "e69e": file does not exist',
]


@pytest.mark.parametrize("error", RACES)
def test_a_build_that_met_the_removal_of_another_image_is_tried_again(
    tmp_path: Path, stand_ins: StandIns, error: str
) -> None:
    race = f"""[ -e {tmp_path}/$1 ] || {{ touch {tmp_path}/$1; echo '{error}' >&2; exit 125; }}"""
    stand_ins.add("docker", f"{race}\n{BUILD}")
    root = package(tmp_path / "package", "m.x.Dockerfile")
    assert isinstance(builder(root).make(recipe(root)), Image)
    assert [call.split()[1] for call in stand_ins.calls() if " rmi " not in call] == [*["build"] * 3, *["image"] * 2]


def test_a_build_that_fails_is_not_tried_again(tmp_path: Path, stand_ins: StandIns) -> None:
    stand_ins.add("docker", "echo 'Error: nosuch: image not known' >&2; exit 125")
    root = package(tmp_path, "m.x.Dockerfile")
    assert isinstance(builder(root).make(recipe(root)), FailedBuild)
    assert [call.split()[1] for call in stand_ins.calls()] == ["build", "info"]


def test_an_image_that_the_engine_does_not_list_is_a_failure(tmp_path: Path, stand_ins: StandIns) -> None:
    stand_ins.add("docker", f"[ $1 = build ] || exit 0\n{BUILD}")
    root = package(tmp_path, "m.x.Dockerfile")
    failure = builder(root).make(recipe(root))
    assert isinstance(failure, FailedBuild)
    assert failure.error == "ci-m_x: built, but docker doesn't list it"


# --- dry run ---


def test_the_shell_lines_are_what_make_runs(tmp_path: Path) -> None:
    root = package(tmp_path / "it's here", "m.x.Dockerfile")
    (planned,), _ = Planner(root, Context(), Credentials(), "reg:5").recipes([model(name="new\nline")])
    lines = list(builder(root).shell_lines(planned))
    key = "ci-new_line_x"
    assert lines[0] == f"# {key}: new line from docker/m.x.Dockerfile"
    quoted = str(root).replace("'", "'\"'\"'")
    assert lines[1:3] == [f"rm -rf .madengine-{key}", f"mkdir .madengine-{key}"]
    own_name = re.findall(rf"{key}:base-[0-9a-f]{{12}}", lines[3])[0]
    assert lines[3] == (
        f"BUILDX_NO_DEFAULT_ATTESTATIONS=1 docker build --network=host --tag {key}:base --tag {own_name} "
        f"--file '{quoted}/docker/m.x.Dockerfile' --label madengine.version={__version__} '{quoted}/docker'"
    )
    assert lines[-5:] == [
        "BUILDX_NO_DEFAULT_ATTESTATIONS=1 docker build --network=host "
        f"--iidfile .madengine-{key}/image_id --tag {key} --tag reg:5/{key} --tag reg:5/madengine/new-line:latest "
        f"--file .madengine-{key}/Dockerfile --build-arg MODEL_IMAGE={own_name} "
        f"--label madengine.model=new%0Aline .madengine-{key}/payload",
        f"docker rmi {own_name}",
        f"docker push reg:5/{key}",
        "docker push reg:5/madengine/new-line:latest",
        f"rm -rf .madengine-{key}",
    ]


def test_podmans_shell_lines_hand_images_on_by_their_ids(tmp_path: Path) -> None:
    root = package(tmp_path, "m.x.Dockerfile")
    podman = DockerBuilder(Podman(), root, Credentials())
    lines = list(podman.shell_lines(recipe(root, "reg.example/a")))
    scratch = ".madengine-ci-m_x"
    assert lines[3].startswith(f"podman build --network=host --iidfile {scratch}/base_id --tag ci-m_x:base --file ")
    assert lines[-3:] == [
        f"podman build --network=host --iidfile {scratch}/image_id --tag ci-m_x --tag reg.example/a "
        f'--file {scratch}/Dockerfile --build-arg MODEL_IMAGE="$(cat {scratch}/base_id)" '
        f"--label madengine.model=m {scratch}/payload",
        f'podman push "$(cat {scratch}/image_id)" reg.example/a',
        f"rm -rf {scratch}",
    ]


def test_podman_starts_the_payload_from_an_id(tmp_path: Path, stand_ins: StandIns) -> None:
    stand_ins.add("podman", BUILD)
    root = package(tmp_path, "m.x.Dockerfile")
    podman = DockerBuilder(Podman("4"), root, Credentials(), BuildOptions(manifest_output=root / "m.json"))
    assert isinstance(podman.make(recipe(root)), Image)
    base, layer, inspected = stand_ins.calls()
    assert re.search(r" --iidfile \S+/base_id --tag ci-m_x:base --file ", base)
    assert f"MODEL_IMAGE=sha256:{ID} " in layer
    assert inspected == f"podman image inspect sha256:{ID} base:1"
