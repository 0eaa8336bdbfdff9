from __future__ import annotations

from madengine.config.manifest import Manifest
from madengine.records import Image, Model
from madengine.run.selection import narrowed


def test_tags_choose_by_name_and_tag() -> None:
    images = tuple(Image(f"k{number}", f"i{number}") for number in range(4))
    models = {f"k{number}": Model(f"m{number}", "docker/m", "scripts/m", tags=(f"t{number}",)) for number in range(3)}
    assert [image.key for image in narrowed(Manifest(images, models), ["m0", "t2"]).images] == ["k0", "k2"]
