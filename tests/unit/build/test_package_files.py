"""No file of the build machine gets into an image unless it is in the package, or the user says so."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from madengine.build.package_files import check_inside
from madengine.build.recipes import Planner
from madengine.config.context import Context
from madengine.config.credentials import Credentials
from madengine.errors import BuildError
from tests.unit.build.samples import model, package


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "outside/deep").mkdir(parents=True)
    (tmp_path / "outside/run.sh").write_text("secret")
    (tmp_path / "outside/m.os.Dockerfile").write_text("# CONTEXT {}\nFROM base:1\n")
    return package(tmp_path / "package", "m.os.Dockerfile")


def errors(root: Path, card: dict[str, Any], outside_files: bool = False) -> list[str]:
    planner = Planner(root, Context(), Credentials({}), outside_files=outside_files)
    return [failure.error for failure in planner.recipes([model(**card)])[1]]


def link(name: str, target: str) -> Callable[[Path], None]:
    return lambda root: (root / name).symlink_to(target)


def linked_folder(root: Path) -> None:
    (root / "scripts/m/run.sh").unlink()
    (root / "scripts/m").rmdir()
    (root / "scripts/m").symlink_to(root.parent / "outside")


def link_behind_a_link(root: Path) -> None:
    (root / "common").mkdir()
    (root / "common/deep").symlink_to("../../outside/deep")
    (root / "scripts/m/common").symlink_to("../../common")


def linked_dockerfile(root: Path) -> None:
    (root / "docker/m.os.Dockerfile").unlink()
    (root / "docker/m.os.Dockerfile").symlink_to("../../outside/m.os.Dockerfile")


@pytest.mark.parametrize(
    ("make", "card"),
    [
        (None, {"scripts": "../outside"}),
        (None, {"scripts": "scripts/../../outside/run.sh"}),
        (None, {"scripts": "{outside}"}),
        (None, {"dockercontext": ".."}),
        (None, {"dockercontext": "{outside}"}),
        (None, {"dockerfile": "../outside/m"}),
        (None, {"dockerfile": "{outside}/m.os.Dockerfile"}),
        (link("scripts/m/data", "../../../outside/run.sh"), {}),
        (link("scripts/m/data", "../../../outside"), {}),
        (link("scripts/m/up", "../../.."), {}),
        (link("scripts/m/passwd", "/etc/passwd"), {}),
        (link("context", "../outside"), {"dockercontext": "context"}),
        (linked_folder, {}),
        (link_behind_a_link, {}),
        (linked_dockerfile, {}),
    ],
)
def test_what_is_not_in_the_package_is_refused_unless_it_is_allowed(
    root: Path, make: Callable[[Path], None] | None, card: dict[str, str]
) -> None:
    if make:
        make(root)
    card = {key: value.replace("{outside}", str(root.parent / "outside")) for key, value in card.items()}
    (error,) = errors(root, card)
    assert "which is not in the package" in error
    assert "--allow-outside-files" in error
    assert errors(root, card, outside_files=True) == []


@pytest.mark.parametrize(
    "make",
    [
        link("scripts/m/other", "../../docker"),
        link("scripts/m/itself", "."),
        link("scripts/m/up", ".."),
        link("scripts/m/loop", "loop"),
        link("scripts/m/nowhere", "/data/of/the/container"),
    ],
)
def test_links_in_the_package_and_links_to_nothing_are_no_concern(root: Path, make: Callable[[Path], None]) -> None:
    make(root)
    assert errors(root, {}) == []


def test_a_package_may_be_reached_by_a_link(root: Path) -> None:
    (root.parent / "linked").symlink_to(root)
    assert errors(root.parent / "linked", {}) == []


def test_hooks_that_lead_elsewhere_are_refused(root: Path) -> None:
    (root / "scripts/pre.sh").symlink_to("/etc/hostname")
    with pytest.raises(BuildError, match=r"scripts/pre.sh: leads to /etc/hostname, which is not in the package"):
        check_inside([root / "scripts/pre.sh"], root)
