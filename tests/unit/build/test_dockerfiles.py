from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from madengine.build.dockerfiles import base_docker, build_directory, candidates, has_hidden_inputs, header, read
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
        ("FROM", {}, ""),
        ("ARG BASE_DOCKER=a:1\nFROM $BASE_DOCKER\nARG BASE_DOCKER", {}, "a:1"),
        ("FROM a:1\nARG BASE_DOCKER=b:2", {"BASE_DOCKER": "c:3"}, "a:1"),
        ("ARG BASE_DOCKER=a:1\nFROM $BASE_DOCKER AS tools\nFROM b:2\nCOPY --from=tools /x /x", {}, "b:2"),
        ('RUN echo "\\\nfrom torch import nn" >/x.py', {}, ""),
        ("FROM a:1\nRUN <<EOF\nFROM b:2\nEOF", {}, "a:1"),
        ("FROM a:1\nRUN x \\\n# FROM b:2\n  y", {}, "a:1"),
        ("# escape=`\nFROM `\n  a:1", {}, "a:1"),
        ("ARG TAG\nFROM a:${TAG:-1}", {}, "a:1"),
        ("ARG TAG\nFROM a:${TAG:-1}", {"TAG": ""}, "a:1"),
        ("ARG GPU\nFROM a:1${GPU:+-gpu}", {"GPU": "yes"}, "a:1-gpu"),
        ("ARG V=1\nARG TAG=${V}\nFROM a:$TAG", {}, "a:1"),
        ("ARG V=1 TAG=$V-x\nFROM a:$TAG", {"V": "2"}, "a:2-x"),
        ("ARG TAG=$V\nFROM a:${TAG:-none}", {"V": "2"}, "a:none"),
        ("FROM a:1 AS one\nARG TAG=2\nFROM b:${TAG:-3}", {}, "b:3"),
        ("ARG STAGE=Last\nFROM a:1 AS last\nFROM b:2\nFROM $STAGE", {}, "a:1"),
        ("FROM ubuntu AS ubuntu\nFROM ubuntu", {}, "ubuntu"),
        ("FROM --platform=$BUILDPLATFORM \\\n  a:1 \\\n  as one", {}, "a:1"),
        ("FROM a:1-$TARGETOS", {}, "a:1-linux"),
        ("FROM a:1-$TARGETARCH", {"TARGETARCH": "own"}, "a:1-own"),
        ("ARG A='a:1'\nFROM \"$A\"", {}, "a:1"),
        ("\ufeffFROM a:1\r\n", {}, "a:1"),
        ("FROM a:1@sha256:0", {}, "a:1@sha256:0"),
    ],
)
def test_the_base_image_is_the_one_that_is_really_used(text: str, build_args: dict[str, str], expected: str) -> None:
    assert base_docker(text, build_args) == expected


@pytest.mark.parametrize(
    ("text", "build_args", "expected"),
    [
        ("FROM a\nARG X\nENV Y=$X", {"X": "1"}, True),
        ("FROM a\nARG X=2\nENV Y=${X:-3}", {"X": "1"}, True),
        ("FROM a\nARG X=2\nENV Y=$X", {}, False),
        ("ARG X=2\nFROM a\nARG X\nLABEL y=$X", {}, True),
        ("FROM a\nARG X\nARG Y=v$X\nWORKDIR /$Y", {"X": "1"}, True),
        ("FROM a\nARG X\nCOPY x /$X/", {"X": "1"}, True),
        ("FROM a\nARG X\nCOPY --chmod=$X x /", {"X": "1"}, True),
        ("FROM a\nARG X\nRUN echo $X", {"X": "1"}, False),
        ("ARG BASE_DOCKER\nFROM $BASE_DOCKER\nENV X=$PATH", {"BASE_DOCKER": "a"}, False),
        ("FROM a\nENV Y=$X", {"X": "1"}, False),
        ("FROM a\nARG TARGETARCH\nENV Y=$TARGETARCH", {}, False),
        ("FROM a\nRUN --mount=source=x,target=/x cp /x /y", {}, True),
        ("FROM a\nRUN --mount=type=bind,from=b,target=/x cp /x /y", {}, True),
        ("FROM a\nRUN --mount=type=cache,target=/x cp /x /y", {}, False),
    ],
)
def test_what_podmans_cache_would_miss_is_a_hidden_input(text: str, build_args: dict[str, str], expected: bool) -> None:
    assert has_hidden_inputs(text, build_args) is expected


def test_the_base_image_may_depend_on_this_machines_architecture() -> None:
    architecture = {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, os.uname().machine)
    assert base_docker("FROM a:$TARGETARCH-$BUILDARCH", {}) == f"a:{architecture}-{architecture}"


def test_a_dockerfile_may_begin_with_a_byte_order_mark_and_end_its_lines_as_windows_does(tmp_path: Path) -> None:
    path = tmp_path / "m.Dockerfile"
    path.write_bytes("\ufeff# CONTEXT {'guest_os': 'UBUNTU'}\r\nFROM a:1\r\n".encode())
    assert header(tmp_path, Path(path.name)) == {"guest_os": "UBUNTU"}
    assert base_docker(read(path), {}) == "a:1"


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
