"""The images of the manifest."""

from __future__ import annotations

from pathlib import Path

from madengine.doctor.check import FAILED, NOTE, OK, Check
from tests.unit.doctor.conftest import LOCAL, PUSHED, Engine, checks, written


def test_images_that_are_not_here_will_be_pulled_or_are_lost(engine: Engine) -> None:
    engine.add(image="echo '[]'; echo 'Error: No such image' >&2; exit 1")
    written(PUSHED)
    results = checks()
    assert results["images"] == Check(
        "images", NOTE, "0 of 1 in build_manifest.json are on this machine, the others will be pulled"
    )
    assert results["container"] == Check("container", OK, "starts")
    written(LOCAL)
    assert checks()["images"] == Check(
        "images", FAILED, "ci-m_ubuntu: neither on this machine nor in a registry", "madengine build --registry …"
    )


def test_a_broken_manifest(engine: Engine, here: Path) -> None:
    (here / "build_manifest.json").write_text('{"built_images": ')
    check = checks()["images"]
    assert check.status == FAILED
    assert check.result.startswith("build_manifest.json")
    assert check.fix == "copy build_manifest.json again from the build machine"
