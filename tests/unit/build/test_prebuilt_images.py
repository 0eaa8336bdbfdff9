from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from madengine.build.prebuilt_images import BatchEntry, image_named_by, load_batch, prebuilt_image
from madengine.errors import BuildError, ConfigurationError
from madengine.programs.engine import Docker
from madengine.records import Model
from tests.conftest import StandIns, collect_messages

MODEL = Model(name="m", dockerfile="docker/m", scripts="scripts/m")
ID, DIGEST = "sha256:" + "1" * 64, "sha256:" + "2" * 64


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ({"model_name": "a"}, BatchEntry("a")),
        ({"model_name": " a ", "build_new": True, "other": 1}, BatchEntry("a", True)),
        ({"model_name": "a", "registry": None, "registry_image": "r/a:1"}, BatchEntry("a", False, "", "r/a:1")),
    ],
)
def test_an_entry_lacks_what_it_likes_but_its_name(tmp_path: Path, entry: Any, expected: BatchEntry) -> None:
    (tmp_path / "b.json").write_text(json.dumps([entry]))
    assert load_batch(tmp_path / "b.json") == (expected,)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "expected a batch manifest such as [{"),
        ({"model_name": "a"}, "expected a batch manifest such as [{"),
        ([{"model_name": "a"}, {"name": "b"}], "[1]: no model_name"),
        ([{"model_name": "a", "build_new": "yes"}], "[0]: build_new: expected true or false, got 'yes'"),
        ([{"model_name": "a", "registry": 3}], "[0]: registry: expected a string, got 3"),
    ],
)
def test_what_is_wrong_in_a_batch_manifest_is_named(tmp_path: Path, content: Any, message: str) -> None:
    (tmp_path / "b.json").write_text(json.dumps(content))
    with pytest.raises(ConfigurationError) as error:
        load_batch(tmp_path / "b.json")
    assert message in str(error.value)


def test_a_card_may_name_its_image() -> None:
    named = Model(**{**vars(MODEL), "extra": {"env_vars": {"DOCKER_IMAGE_NAME": "r/x:1"}}})
    assert image_named_by(named) == "r/x:1"
    with pytest.raises(ConfigurationError, match="--use-image auto: model 'm' names no image"):
        image_named_by(MODEL)


@pytest.mark.parametrize(("label", "carries"), [("m", True), ("other", False), (None, False)])
def test_an_image_is_pinned_and_carries_the_scripts_of_its_own_model_only(
    stand_ins: StandIns, label: str | None, carries: bool
) -> None:
    labels = {"madengine.model": label} if label else None
    records = [{"Id": ID, "RepoDigests": [f"r.example/x@{DIGEST}"], "Size": 7, "Config": {"Labels": labels}}]
    stand_ins.add("docker", f"echo '{json.dumps(records)}'")
    image = prebuilt_image(Docker(), "local-m", "r.example/x:1", MODEL, {"prebuilt": True})
    assert (image.image_id, image.registry_image, image.registry_digest) == (ID, "r.example/x:1", DIGEST)
    assert (image.self_contained, image.extra, image.size_bytes) == (carries, {"prebuilt": True}, 7)
    assert [call.split()[1] for call in stand_ins.calls()] == ["image"]


def test_an_image_that_is_nowhere_says_so(stand_ins: StandIns) -> None:
    stand_ins.add(
        "docker", "[ $1 = image ] && echo '[]' && exit 1; echo 'Error response from daemon: denied' >&2; exit 1"
    )
    messages = collect_messages()
    with pytest.raises(BuildError, match=r"x: not on this machine, and can't be pulled: denied"):
        prebuilt_image(Docker(), "m", "x", MODEL, {})
    assert messages == ["m: pulling x"]
