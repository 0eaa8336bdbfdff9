"""build_manifest.json: what is written is read again, and what is broken is named."""

from __future__ import annotations

import json
import re
import string
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from madengine import __version__
from madengine.config.manifest import Manifest, load_manifest, save_manifest
from madengine.errors import ConfigurationError, MadengineError
from madengine.records import Image, Model

DIGEST = "sha256:" + "0123456789abcdef" * 4
DUMMY = Model(name="dummy", dockerfile="docker/dummy", scripts="scripts/dummy")

# Word for word the example of the user's document, section 9.
DOCUMENT = """
{
  "built_images": {
    "ci-dummy_ubuntu_amd": {
      "docker_image": "ci-dummy_ubuntu_amd",
      "dockerfile": "/path/to/dummy.ubuntu.amd.Dockerfile",
      "base_docker": "ubuntu:22.04",
      "build_duration": 45.2,
      "registry_image": "localhost:5000/ci-dummy_ubuntu_amd"
    }
  },
  "built_models": {
    "ci-dummy_ubuntu_amd": {
      "name": "dummy",
      "path": "/scripts/dummy",
      "tags": ["dummy", "test"],
      "dockerfile": "/path/to/dummy.ubuntu.amd.Dockerfile"
    }
  },
  "registry": "localhost:5000",
  "context": {
    "docker_env_vars": {},
    "docker_mounts": {},
    "docker_build_arg": {}
  }
}
"""


def written(path: Path, **content: Any) -> Path:
    path.write_text(json.dumps({"built_images": {}, **content}))
    return path


def refusal(path: Path) -> str:
    with pytest.raises(ConfigurationError) as caught:
        load_manifest(path)
    assert caught.value.exit_code == 4
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "build_manifest.json"


# --- round trip ---

# Null characters are refused, by a test of their own.
TEXT = st.text(st.characters(blacklist_characters="\0", blacklist_categories=["Cs"]), max_size=20)
VALUE = st.none() | st.booleans() | st.integers() | TEXT | st.lists(TEXT, max_size=2)
EXTRA = st.dictionaries(st.text(string.ascii_lowercase, max_size=6).map("x_".__add__), VALUE, max_size=2)
NAMES = st.from_regex(r"[a-z0-9][a-z0-9:/._-]{0,20}", fullmatch=True)
DIGESTS = st.just("") | st.from_regex(r"sha256:[0-9a-f]{64}", fullmatch=True)
MODELS = st.builds(
    Model,
    name=TEXT.filter(str.strip),
    dockerfile=TEXT.filter(str.strip),
    scripts=TEXT.filter(str.strip),
    n_gpus=st.integers(-1, 64).map(str),
    args=TEXT,
    tags=st.lists(TEXT, max_size=3).map(tuple),
    timeout=st.none() | st.integers(0, 10_000),
    is_deprecated=st.booleans(),
    extra=EXTRA,
)
IMAGES = st.builds(
    Image,
    key=TEXT,
    docker_image=NAMES,
    dockerfile=TEXT,
    base_docker=TEXT,
    docker_sha=TEXT,
    build_duration=st.integers(0, 10**6).map(lambda milliseconds: milliseconds / 1000),
    gpu_vendor=TEXT,
    guest_os=TEXT,
    image_id=DIGESTS,
    registry_image=st.just("") | NAMES,
    registry_digest=DIGESTS,
    self_contained=st.booleans(),
    size_bytes=st.integers(0, 10**13),
    log_file=TEXT,
    extra=EXTRA,
)


@settings(deadline=None)
@given(
    images=st.lists(IMAGES, max_size=3, unique_by=lambda image: image.key).map(tuple),
    model=MODELS,
    registry=st.just("") | NAMES,
    variables=st.dictionaries(st.from_regex(r"[A-Z_][A-Z0-9_]{0,9}", fullmatch=True), TEXT, max_size=2),
    extra=EXTRA,
)
def test_what_is_saved_is_loaded_again(
    tmp_path_factory: pytest.TempPathFactory,
    images: tuple[Image, ...],
    model: Model,
    registry: str,
    variables: dict[str, str],
    extra: dict[str, Any],
) -> None:
    path = tmp_path_factory.getbasetemp() / "round_trip.json"
    context = {"docker_env_vars": variables, "docker_mounts": {}, "docker_build_arg": {}}
    original = Manifest(images, {image.key: model for image in images}, registry, context, extra)
    save_manifest(original, path)
    manifest = load_manifest(path)
    assert (manifest.images, manifest.models, manifest.registry, manifest.context) == (
        images,
        original.models,
        registry,
        context,
    )
    assert {key: value for key, value in manifest.extra.items() if key in extra} == extra


def test_a_saved_manifest_has_the_documents_keys_and_ours(path: Path) -> None:
    image = Image(
        "ci-dummy_ubuntu_amd",
        "ci-dummy_ubuntu_amd",
        dockerfile="docker/dummy.ubuntu.amd.Dockerfile",
        base_docker="ubuntu:22.04",
        build_duration=45.2,
        image_id=DIGEST,
        registry_image="localhost:5000/ci-dummy_ubuntu_amd",
        registry_digest=DIGEST,
        self_contained=True,
        size_bytes=7,
    )
    save_manifest(Manifest((image,), {image.key: DUMMY}, "localhost:5000"), path)
    content = json.loads(path.read_text())
    document = json.loads(DOCUMENT)
    assert content.keys() == {*document, "schema_version", "created", "madengine_version"}
    assert content["built_images"][image.key].keys() >= {
        *document["built_images"][image.key],
        "image_id",
        "registry_digest",
        "self_contained",
        "size_bytes",
    }
    assert content["context"] == document["context"]
    assert content["schema_version"] == 1
    assert content["madengine_version"] == __version__
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", content["created"])


def test_no_registry_is_no_key(path: Path) -> None:
    save_manifest(Manifest((), {}), path)
    assert "registry" not in json.loads(path.read_text())
    assert load_manifest(path).registry == ""


def test_unknown_keys_survive_at_every_level(path: Path) -> None:
    content: dict[str, Any] = {
        "built_images": {"k": {"docker_image": "k", "push_failed": False, "note": None, "gpu_architecture": "gfx942"}},
        "built_models": {
            "k": {"name": "m", "dockerfile": "d", "scripts": "s", "distributed": {"launcher": "torchrun"}, "x": None}
        },
        "context": {"gpu_vendor": "AMD", "tools": [{"name": "rocprof"}]},
        "summary": {"successful_builds": []},
        "credentials_required": [],
    }
    written(path, **content)
    save_manifest(load_manifest(path), path)
    again = json.loads(path.read_text())
    assert again["built_images"]["k"].items() >= content["built_images"]["k"].items()
    assert again["built_models"]["k"].items() >= content["built_models"]["k"].items()
    assert again["context"].items() >= content["context"].items()
    assert again["summary"] == content["summary"]
    assert again["credentials_required"] == []


def test_a_rewritten_manifest_keeps_who_built_it_and_when(path: Path) -> None:
    written(path, created="2026-01-01T00:00:00Z", madengine_version="0.0.9")
    save_manifest(load_manifest(path), path)
    again = json.loads(path.read_text())
    assert (again["created"], again["madengine_version"]) == ("2026-01-01T00:00:00Z", "0.0.9")


def test_a_manifest_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(MadengineError, match=r"file/m\.json: can't be written"):
        save_manifest(Manifest((), {}), tmp_path / "file/m.json")


# --- manifests of others ---


def test_the_documents_example_loads(path: Path) -> None:
    path.write_text(DOCUMENT)
    manifest = load_manifest(path)
    key = "ci-dummy_ubuntu_amd"
    assert manifest.images == (
        Image(
            key,
            key,
            dockerfile="/path/to/dummy.ubuntu.amd.Dockerfile",
            base_docker="ubuntu:22.04",
            build_duration=45.2,
            registry_image="localhost:5000/ci-dummy_ubuntu_amd",
        ),
    )
    model = manifest.models[key]
    assert (model.name, model.scripts, model.tags) == ("dummy", "scripts/dummy", ("dummy", "test"))
    assert model.dockerfile == "/path/to/dummy.ubuntu.amd.Dockerfile"
    assert manifest.registry == "localhost:5000"
    assert manifest.extra == {}


def test_a_manifest_of_july_loads(path: Path) -> None:
    image = {
        "docker_image": "ci-dummy_dummy.ubuntu.amd",
        "dockerfile": "docker/dummy.ubuntu.amd.Dockerfile",
        "base_docker": "ubuntu:22.04",
        "docker_sha": "no such manifest: docker.io/library/nosuch:1\n",
        "build_duration": 12.75,
        "build_command": "docker build --network=host -t ci-dummy_dummy.ubuntu.amd --pull -f docker/dummy.Dockerfile .",
        "log_file": "dummy_dummy.ubuntu.amd.build.live.log",
        "push_failed": True,
        "push_error": "denied",
    }
    entry = {
        "name": "dummy",
        "url": "",
        "dockerfile": "docker/dummy",
        "scripts": "scripts/dummy/run.sh",
        "n_gpus": "1",
        "owner": "mad.support@amd.com",
        "training_precision": "",
        "tags": ["dummies"],
        "args": "",
    }
    written(
        path,
        built_images={"ci-dummy_dummy.ubuntu.amd": image},
        built_models={"ci-dummy_dummy.ubuntu.amd": entry},
        context={"docker_env_vars": {}, "docker_mounts": {}, "docker_build_arg": {}},
        push_failures=[{"image": "ci-dummy_dummy.ubuntu.amd", "intended_registry_image": "r/x", "error": "denied"}],
    )
    manifest = load_manifest(path)
    assert manifest.images[0].log_file == "dummy_dummy.ubuntu.amd.build.live.log"
    assert manifest.images[0].extra["push_error"] == "denied"
    assert manifest.models["ci-dummy_dummy.ubuntu.amd"].scripts == "scripts/dummy/run.sh"
    assert manifest.extra["push_failures"][0]["error"] == "denied"


def test_a_manifest_of_july_without_models_loads(path: Path) -> None:
    written(path, built_images={"ci-dummy_dummy.ubuntu.amd": {"docker_image": "ci-dummy_dummy.ubuntu.amd"}})
    assert load_manifest(path).models == {}
    assert [image.key for image in load_manifest(path).images] == ["ci-dummy_dummy.ubuntu.amd"]


def test_a_manifest_of_madengine_2_loads(path: Path) -> None:
    images = {
        "ci-dummy_dummy.ubuntu.amd": {
            "docker_image": "ci-dummy_dummy.ubuntu.amd",
            "dockerfile": "docker/dummy.ubuntu.amd.Dockerfile",
            "base_docker": "ubuntu:22.04",
            "docker_sha": "",
            "build_duration": 3,
            "model": "dummy",
            "gpu_vendor": "AMD",
            "gpu_architecture": "gfx942",
            "registry": None,
            "registry_image": None,
            "log_file": None,
        },
        "local-dummy": {
            "docker_image": "rocm/pytorch:latest",
            "dockerfile": "N/A (local image mode)",
            "build_duration": 0,
            "build_status": "SKIPPED",
            "local_image": True,
        },
    }
    entry = {"name": "dummy", "dockerfile": "docker/dummy", "scripts": "scripts/dummy", "env_vars": {}, "timeout": -1}
    written(
        path,
        built_images=images,
        built_models={**dict.fromkeys(images, entry), "ci-other": entry},
        context={"docker_env_vars": {}, "gpu_vendor": "AMD", "guest_os": "UBUNTU", "docker_gpus": "0"},
        registry=None,
        credentials_required=[],
        summary={"successful_builds": [], "failed_builds": [], "total_build_time": 3.0},
        deployment_config={"target": "local", "slurm": None},
    )
    manifest = load_manifest(path)
    assert [image.docker_image for image in manifest.images] == ["ci-dummy_dummy.ubuntu.amd", "rocm/pytorch:latest"]
    assert manifest.images[0].gpu_vendor == "AMD"
    assert manifest.images[0].registry_image == ""
    assert manifest.images[1].extra["local_image"] is True
    assert manifest.models.keys() == images.keys()
    assert manifest.registry == ""
    assert manifest.extra["deployment_config"] == {"target": "local", "slurm": None}


def test_an_empty_manifest_loads(path: Path) -> None:
    assert load_manifest(written(path)) == Manifest((), {})


# --- broken ones ---


def test_a_missing_manifest_says_who_writes_one(path: Path) -> None:
    assert refusal(path) == f"{path}: no such manifest; `madengine build` writes one"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{\n  "built_images": {,\n}', ":2:20: not JSON: expecting property name"),
        (b"", ":1:1: not JSON: expecting value"),
        (b"\xff", ": byte 0 is not UTF-8"),
        (b"[]", ": expected a manifest, which is an object, got []"),
        (b"3", ": expected a manifest, which is an object, got 3"),
        (b"{}", ": built_images is missing"),
        (b'{"built_images": []}', ": built_images: expected object, got []"),
        (b'{"built_images": {}, "built_models": []}', ": built_models: expected object, got []"),
        (b'{"built_images": {}, "registry": 5000}', ": registry: expected string or null, got 5000"),
        (b'{"built_images": {}, "context": "AMD"}', ": context: expected object, got 'AMD'"),
        (b'{"built_images": {}, "schema_version": "2"}', ": schema_version: expected integer, got '2'"),
        (b'{"built_images": {}, "schema_version": 0}', ": schema_version: expected bigger than or equal to 1, got 0"),
    ],
)
def test_a_broken_manifest_is_named_with_the_place(path: Path, content: bytes, message: str) -> None:
    path.write_bytes(content)
    assert refusal(path).startswith(f"{path}{message}")


def test_a_manifest_that_is_a_folder_is_named(tmp_path: Path) -> None:
    assert refusal(tmp_path) == f"{tmp_path}: can't be read: is a directory"


def test_a_manifest_from_the_future_is_refused_before_anything_else_is_judged(path: Path) -> None:
    written(path, built_images=[], schema_version=2)
    assert refusal(path) == (
        f"{path}: schema_version 2 is of a later madengine than {__version__}; update madengine here"
    )


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({}, "built_images.k: docker_image is missing"),
        (3, "built_images.k: expected object, got 3"),
        (None, "built_images.k: expected object, got null"),
        ({"docker_image": 3}, "built_images.k.docker_image: expected string, got 3"),
        ({"docker_image": ""}, "built_images.k.docker_image: expected a match of ^["),
        ({"docker_image": "--privileged"}, "built_images.k.docker_image: expected a match of ^["),
        ({"docker_image": "k", "registry_image": "-v/:/host"}, "built_images.k.registry_image: expected a match of ^["),
        (
            {"docker_image": "k", "registry_digest": "no such manifest"},
            "built_images.k.registry_digest: expected a match of ^(sha256",
        ),
        ({"docker_image": "k", "image_id": "abc"}, "built_images.k.image_id: expected a match of ^(sha256"),
        ({"docker_image": "k", "build_duration": "3 s"}, "built_images.k.build_duration: expected number, got '3 s'"),
        (
            {"docker_image": "k", "size_bytes": -1},
            "built_images.k.size_bytes: expected bigger than or equal to 0, got -1",
        ),
        ({"docker_image": "k", "self_contained": "yes"}, "built_images.k.self_contained: expected boolean, got 'yes'"),
    ],
)
def test_a_wrong_image_is_named_with_its_path(path: Path, entry: Any, message: str) -> None:
    assert message in refusal(written(path, built_images={"k": entry}))


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"dockerfile": "d", "scripts": "s"}, "built_models.k: name is missing"),
        ({"name": "m", "dockerfile": "d"}, "built_models.k: scripts is missing"),
        ({"name": "m", "dockerfile": "d", "path": 3}, "built_models.k: scripts is missing"),
        ({"name": "m", "dockerfile": "d", "scripts": "s", "n_gpus": "two"}, "built_models.k: n_gpus: "),
        ([], "built_models.k: expected an object, got []"),
    ],
)
def test_a_wrong_model_is_named_with_its_path(path: Path, entry: Any, message: str) -> None:
    assert message in refusal(written(path, built_images={"k": {"docker_image": "k"}}, built_models={"k": entry}))


def test_every_broken_entry_is_named(path: Path) -> None:
    good = {"docker_image": "k"}
    images = {"a": {}, "b": {"docker_image": 3}, "c": good, "d": good, "e": good}
    models = {"c": {"name": "c", "dockerfile": "d", "scripts": "s"}, "d": {}, "e": 7, "f": {}}
    message = refusal(written(path, built_images=images, built_models=models))
    for place in ("built_images.a: ", "built_images.b.docker_image: ", "built_models.d: ", "built_models.e: "):
        assert place in message
    assert "built_models.f: no such entry in built_images" in message
    assert "built_images.c" not in message
    assert "built_models.c" not in message


def test_thousands_of_broken_entries_are_one_line_of_some(path: Path) -> None:
    message = refusal(written(path, built_images={f"k{number}": 3 for number in range(1000)}))
    assert message.endswith("built_images.k19: expected object, got 3; and 980 more")


def test_a_mistyped_key_of_a_model_is_named(path: Path) -> None:
    entry = {"name": "m", "dockerfile": "d", "scripts": "s"}
    message = refusal(written(path, built_images={"ci-a": {"docker_image": "a"}}, built_models={"ci_a": entry}))
    assert message == f"{path}: built_models.ci_a: no such entry in built_images"


def test_scripts_win_over_path(path: Path) -> None:
    entry = {"name": "m", "dockerfile": "d", "scripts": "scripts/m", "path": "/elsewhere"}
    manifest = load_manifest(written(path, built_images={"k": {"docker_image": "k"}}, built_models={"k": entry}))
    assert manifest.models["k"].scripts == "scripts/m"
    assert manifest.models["k"].extra == {"path": "/elsewhere"}


@pytest.mark.parametrize("text", ["sha256:" + "b" * 64, "r.example/x@sha256:" + "b" * 64])
def test_an_image_digest_of_madengine_2_pins_the_image(tmp_path: Path, text: str) -> None:
    entry = {"docker_image": "x", "registry_image": "r.example/x:1", "image_digest": text}
    (tmp_path / "m.json").write_text(json.dumps({"built_images": {"x": entry}}))
    (image,) = load_manifest(tmp_path / "m.json").images
    assert image.pinned == "r.example/x@sha256:" + "b" * 64
    entry["image_digest"] = "none"
    (tmp_path / "m.json").write_text(json.dumps({"built_images": {"x": entry}}))
    assert load_manifest(tmp_path / "m.json").images[0].pinned == ""
