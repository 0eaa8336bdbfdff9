from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from madengine.build.dockerfiles import base_docker, build_directory, candidates
from madengine.errors import BuildError
from madengine.records import Model


def model(**card: Any) -> Model:
    return Model(**{"name": "m", "dockerfile": "docker/m", "scripts": "scripts/m", **card})


def test_every_dockerfile_of_the_prefix_is_a_candidate_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "docker/m.folder.Dockerfile").mkdir(parents=True)
    for name in ("m.b.Dockerfile", "m.a.dockerfile", "m.a.Dockerfile.bak", "m2.a.Dockerfile"):
        (tmp_path / "docker" / name).touch()
    assert candidates(tmp_path, model()) == [Path("docker/m.a.dockerfile"), Path("docker/m.b.Dockerfile")]
    assert candidates(tmp_path, model(dockerfile="docker/m2.a.Dockerfile")) == [Path("docker/m2.a.Dockerfile")]


@pytest.mark.parametrize(
    ("text", "build_args", "expected"),
    [
        ("FROM ubuntu:22.04", {}, "ubuntu:22.04"),
        ("ARG BASE_DOCKER=ubuntu:22.04\nFROM $BASE_DOCKER", {}, "ubuntu:22.04"),
        ('arg BASE_DOCKER="ubuntu:22.04"\nfrom ${BASE_DOCKER}', {}, "ubuntu:22.04"),
        ("ARG BASE_DOCKER=ubuntu:22.04\nFROM $BASE_DOCKER", {"BASE_DOCKER": "own:1"}, "own:1"),
        ("ARG BASE_DOCKER\nFROM $BASE_DOCKER", {"BASE_DOCKER": "own:1"}, "own:1"),
        ("FROM fixed:1", {"BASE_DOCKER": "own:1"}, "fixed:1"),
        ("ARG TAG=1\nFROM reg/base:${TAG}", {}, "reg/base:1"),
        ("ARG TAG=1\nFROM reg/base:${TAG}", {"TAG": "2"}, "reg/base:2"),
        ("FROM --platform=linux/amd64 a:1 AS builder\nFROM b:2\nCOPY --from=builder /x /x", {}, "b:2"),
        ("FROM a:1 AS Base\nRUN x\nFROM base AS last\nFROM last", {}, "a:1"),
        ("# FROM a:1\nRUN echo", {}, ""),
    ],
)
def test_the_base_image_is_the_one_that_is_really_used(text: str, build_args: dict[str, str], expected: str) -> None:
    assert base_docker(text, build_args) == expected


def test_the_builds_folder_is_the_cards_or_docker_or_the_dockerfiles(tmp_path: Path) -> None:
    for name in ("docker", "scripts/m"):
        (tmp_path / name).mkdir(parents=True)
    assert build_directory(tmp_path, model(dockercontext="scripts")) == "scripts"
    assert build_directory(tmp_path, model()) == "docker"
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "docker").rmdir()
    assert build_directory(tmp_path, model(dockerfile="elsewhere/m")) == "elsewhere"
    with pytest.raises(BuildError, match="nowhere: no such folder; model 'm' names it as dockercontext"):
        build_directory(tmp_path, model(dockercontext="nowhere"))
