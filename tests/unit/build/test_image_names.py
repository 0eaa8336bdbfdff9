from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as some

from madengine.build.image_names import checked_digest, image_name, image_path, log_name
from madengine.errors import BuildError
from madengine.records import Model

# https://github.com/distribution/reference: one component of a repository's path
COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"


def model(name: str) -> Model:
    return Model(name=name, dockerfile="docker/m", scripts="scripts/m")


@pytest.mark.parametrize(
    ("name", "dockerfile", "expected"),
    [
        ("dummy", "docker/m.ubuntu.amd.Dockerfile", "ci-dummy_ubuntu_amd"),
        ("dummy", "docker/m.Dockerfile", "ci-dummy"),
        ("dummy", "docker/m.ubuntu.amd.dockerfile", "ci-dummy_ubuntu_amd"),
        ("dummy", "docker/m", "ci-dummy"),
        ("dir/Model", "docker/m.ubuntu.amd.Dockerfile", "ci-dir_model_ubuntu_amd"),
        ("llama-3.1_8b", "docker/m.UBUNTU.Dockerfile", "ci-llama-3.1_8b_ubuntu"),
        ("a b\n$c", "docker/m.x.Dockerfile", "ci-a_b_c_x"),
        ("名前", "docker/m.x.Dockerfile", "ci-x"),
        ("a__b", "docker/m.x.Dockerfile", "ci-a__b_x"),
    ],
)
def test_an_image_is_named_after_its_model_and_dockerfile(name: str, dockerfile: str, expected: str) -> None:
    assert image_name(model(name), Path(dockerfile)) == expected


@given(some.text(max_size=200), some.text(some.characters(blacklist_characters="/\0"), max_size=60))
def test_every_name_makes_a_valid_repository_and_tag(name: str, beyond: str) -> None:
    named = image_name(model(name), Path(f"docker/m.{beyond}.Dockerfile"))
    assert re.fullmatch(COMPONENT, named)
    assert len(named) <= 119


@given(some.text(max_size=200))
def test_every_name_makes_a_valid_path(name: str) -> None:
    path = image_path(name)
    assert re.fullmatch(f"{COMPONENT}(/{COMPONENT})*", path)
    assert len(path) <= 119


@pytest.mark.parametrize(
    ("name", "expected"),
    [("dummy", "dummy"), ("Dir/My Model", "dir/my-model"), ("/a//b/", "a/b"), ("a.b_c", "a-b-c")],
)
def test_a_models_path_in_the_registry(name: str, expected: str) -> None:
    assert image_path(name) == expected


def test_long_names_that_differ_at_their_end_stay_different() -> None:
    one, other = (model("n" * 200 + end) for end in "ab")
    path = Path("docker/m.x.Dockerfile")
    assert image_name(one, path) != image_name(other, path)
    assert image_path(one.name) != image_path(other.name)
    assert log_name(one, path) != log_name(other, path)
    assert len(log_name(one, path)) < 120


@pytest.mark.parametrize(
    ("name", "expected"),
    [("dir/model", "dir_model_m.ubuntu.amd"), ("A b", "A_b_m.ubuntu.amd"), ("名", "_m.ubuntu.amd")],
)
def test_a_log_is_named_as_older_tools_expect(name: str, expected: str) -> None:
    assert log_name(model(name), Path("docker/m.ubuntu.amd.Dockerfile")).strip("_") == expected.strip("_")


@pytest.mark.parametrize("text", ["", "\n", "sha256:", "sha256:" + "0" * 63, "latest", "<none>"])
def test_a_file_without_a_digest_is_a_failure(tmp_path: Path, text: str) -> None:
    with pytest.raises(BuildError, match="docker build: expected a digest, got "):
        checked_digest("docker build", tmp_path / "missing")
    (tmp_path / "id").write_text(text)
    with pytest.raises(BuildError, match="docker build: expected a digest, got "):
        checked_digest("docker build", tmp_path / "id")


@pytest.mark.parametrize("digest", ["sha256:" + "0" * 64, "f" * 64])
def test_a_digest_is_read_from_its_file(tmp_path: Path, digest: str) -> None:
    (tmp_path / "id").write_text(f"{digest}\n")
    assert checked_digest("podman build", tmp_path / "id") == digest
