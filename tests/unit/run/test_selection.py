from __future__ import annotations

import pytest

from madengine.config.manifest import Manifest
from madengine.records import Image, Model
from madengine.run.selection import narrowed, with_registry


def test_tags_choose_by_name_and_tag() -> None:
    images = tuple(Image(f"k{number}", f"i{number}") for number in range(4))
    models = {f"k{number}": Model(f"m{number}", "docker/m", "scripts/m", tags=(f"t{number}",)) for number in range(3)}
    assert [image.key for image in narrowed(Manifest(images, models), ["m0", "t2"]).images] == ["k0", "k2"]


@pytest.mark.parametrize(
    ("name", "registry", "expected"),
    [
        ("a:1/team/ci-m:v1", "a:1/team", "c:3/ci-m:v1"),
        ("b:2/ci-m", "a:1", "c:3/ci-m"),
        ("b.example.com/team/ci-m@sha256:1", "a:1", "c:3/team/ci-m@sha256:1"),
        ("localhost/ci-m", "a:1", "c:3/ci-m"),
        ("org/ci-m:v1", "a:1", "c:3/org/ci-m:v1"),
        ("ci-m", "", "c:3/ci-m"),
        ("a:1/ci-m", "", "c:3/ci-m"),
        ("a:10/ci-m", "a:1", "c:3/ci-m"),
    ],
)
def test_an_image_of_any_registry_is_pulled_from_the_one_that_is_named(name: str, registry: str, expected: str) -> None:
    manifest = Manifest((Image("ci-m", "ci-m", registry_image=name),), {}, registry=registry)
    (image,) = with_registry(manifest, "c:3").images
    assert image.registry_image == expected
