"""Which images a package makes: choosing Dockerfiles, telling images apart, naming them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from madengine.build.builder import DockerBuilder
from madengine.build.recipes import Planner
from madengine.config.context import Context
from madengine.config.credentials import Credentials, load_credentials
from madengine.programs.engine import Docker
from tests.conftest import collect_messages
from tests.unit.build.samples import model, package


def planner(root: Path, values: Mapping[str, Any] | None = None, **more: Any) -> Planner:
    return Planner(**{"root": root, "context": Context(values or {}), "credentials": Credentials(), **more})


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
    (recipe,), failures = planner(root, registry=registry, credentials=hub(tmp_path, **environ)).recipes([model()])
    assert (recipe.pushed, failures) == (expected, [])


def test_a_registry_with_one_repository_for_all_has_no_second_name(tmp_path: Path) -> None:
    root = package(tmp_path, "m.x.Dockerfile")
    known = Credentials({"reg:5000": {"username": "u", "password": "p", "repository": "all/images"}})
    (recipe,), _ = planner(root, registry="reg:5000", credentials=known).recipes([model()])
    assert recipe.pushed == ("reg:5000/all/images:ci-m_x",)


# --- the plan ---

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:" + "4d" * 32 + "\nsize 12345\n"


@pytest.mark.parametrize("name", ["scripts/m/inner/weights.bin", "docker/inner/weights.bin"])
def test_a_pointer_of_git_lfs_among_an_images_files_is_a_failure_before_the_build(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.delenv("GIT_LFS_SKIP_SMUDGE", raising=False)
    root = package(tmp_path, "m.x.Dockerfile")
    (root / name).parent.mkdir()
    (root / name).write_text(POINTER)
    recipes, failures = planner(root).recipes([model()])
    assert recipes == []
    assert [failure.error for failure in failures] == [
        f"{root / name} is a git-lfs pointer, not the file; run `git lfs pull` there, "
        "or set GIT_LFS_SKIP_SMUDGE=1 to use pointers as they are"
    ]
    monkeypatch.setenv("GIT_LFS_SKIP_SMUDGE", "1")
    messages = collect_messages()
    recipes, failures = planner(root).recipes([model()])
    assert (len(recipes), failures) == (1, [])
    assert messages == [
        f"{root / name} is a git-lfs pointer, not the file; used as it is, because GIT_LFS_SKIP_SMUDGE is set"
    ]


def test_each_architecture_has_images_of_its_own_and_its_build_argument(tmp_path: Path) -> None:
    root = package(tmp_path, "m.os.Dockerfile")
    arguments = {"docker_build_arg": {"A": "b"}}
    recipes, failures = planner(root, arguments, architectures=("gfx90a", "X:y")).recipes([model()])
    assert (failures, [(one.key, one.log_name) for one in recipes]) == (
        [],
        [("ci-m_os_gfx90a", "m_m.os_gfx90a"), ("ci-m_os_x_y", "m_m.os_x_y")],
    )
    builder = DockerBuilder(Docker(), root, Credentials())
    lines = [line for one in recipes for line in builder.shell_lines(one) if f"--tag {one.key}:base" in line]
    assert [re.findall(r"--build-arg (\S+)", line) for line in lines] == [
        ["A=b", "MAD_SYSTEM_GPU_ARCHITECTURE=gfx90a"],
        ["A=b", "MAD_SYSTEM_GPU_ARCHITECTURE=X:y"],
    ]


def test_names_that_come_out_alike_are_told_apart(tmp_path: Path) -> None:
    root = package(tmp_path, "m.a.b.Dockerfile", "m.a_b.Dockerfile", "m.A.b.Dockerfile")
    models = [model("x/y"), model("x_y"), model("X_Y"), model("x_y", args="--other")]
    recipes, failures = planner(root).recipes(models)
    assert failures == []
    assert len(recipes) == len({recipe.key for recipe in recipes}) == len({recipe.log_name for recipe in recipes}) == 12
    assert recipes[0].key == "ci-x_y_a_b"


def test_logs_are_told_apart_where_only_they_come_out_alike(tmp_path: Path) -> None:
    root = package(tmp_path, "b_c.x.Dockerfile", "c.x.Dockerfile")
    models = [model("a", dockerfile="docker/b_c"), model("a_b", dockerfile="docker/c")]
    recipes, _ = planner(root).recipes(models)
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
    recipes, _ = planner(root, {"gpu_vendor": vendor} if vendor else {}).recipes([model()])
    assert {recipe.key for recipe in recipes} == expected


def test_a_model_without_a_fitting_dockerfile_says_what_its_candidates_are_for(tmp_path: Path) -> None:
    root = package(tmp_path, "m.x.Dockerfile", "m.y.Dockerfile", header="# CONTEXT {'guest_os': 'UBUNTU'}")
    _, (failure,) = planner(root, {"guest_os": "CENTOS"}).recipes([model()])
    assert failure.error == (
        "no Dockerfile of the model 'm' fits the context "
        "(docker/m.x.Dockerfile: guest_os is 'UBUNTU', the context says 'CENTOS'; "
        "docker/m.y.Dockerfile: guest_os is 'UBUNTU', the context says 'CENTOS')"
    )


@pytest.mark.parametrize("prefix", ["docker/nothing", "nowhere/m", "n" * 300, "docker/m\0", "docker/m.x.Dockerfile/m"])
def test_a_prefix_that_finds_nothing_is_a_failure_of_its_model_alone(tmp_path: Path, prefix: str) -> None:
    root = package(tmp_path, "m.x.Dockerfile")
    (recipe,), (failure,) = planner(root).recipes([model("bad", dockerfile=prefix), model("good")])
    assert (recipe.model.name, failure.model_name) == ("good", "bad")
    assert "\n" not in failure.error


def test_a_model_whose_build_folder_is_missing_is_a_failure(tmp_path: Path) -> None:
    root = package(tmp_path, "m.x.Dockerfile")
    recipes, (failure,) = planner(root).recipes([model(dockercontext="nowhere")])
    assert (recipes, failure.model_name) == ([], "m")
    assert failure.error.startswith(f"{root}/nowhere: no such folder")
