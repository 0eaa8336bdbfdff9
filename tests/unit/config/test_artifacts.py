from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from madengine.config.artifacts import bring, patterns
from madengine.errors import ConfigurationError
from tests.conftest import collect_messages


class Workspace:
    def __init__(self, folder: Path) -> None:
        self.folder = folder / "workspace"
        (self.folder / "model").mkdir(parents=True)
        self.messages = collect_messages()

    def write(self, *names: str) -> None:
        for name in names:
            (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
            (self.folder / name).write_text(name)

    def bring(self, *globs: str, may_move: bool = False) -> list[str]:
        artifacts = bring(self.folder, "model", globs, besides=("x.run.live.log",), may_move=may_move)
        assert all((self.folder / one.path).stat().st_size == one.size_bytes for one in artifacts)
        return [one.path for one in artifacts]


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path)


@pytest.mark.parametrize(
    ("globs", "expected"),
    [
        (("*",), ["a.json", "b.json", "out/d.bin", "out/deep/c.bin"]),
        (("model",), ["model/b.json", "model/out/d.bin", "model/out/deep/c.bin"]),
        (("*.json",), ["a.json", "b.json"]),
        (("model/*.json",), ["model/b.json"]),
        (("out",), ["out/d.bin", "out/deep/c.bin"]),
        (("out/*.bin",), ["out/d.bin"]),
        (("**/*.bin",), ["model/out/d.bin", "model/out/deep/c.bin"]),
        (("*.log", "nothing", "a.json", "a.*"), ["a.json"]),
        ((), []),
    ],
)
def test_what_matches_in_either_folder_comes_once_and_ours_does_not(
    workspace: Workspace, globs: tuple[str, ...], expected: list[str]
) -> None:
    workspace.write("a.json", "model/b.json", "model/out/deep/c.bin", "model/out/d.bin", "x.run.live.log", "entry.json")
    assert workspace.bring(*globs) == [f"artifacts/{name}" for name in expected]
    assert workspace.messages == []
    assert (workspace.folder / "model/b.json").exists()


def test_two_of_a_name_both_come(workspace: Workspace) -> None:
    workspace.write("a.json", "model/a.json")
    assert workspace.bring("*.json") == ["artifacts/a.json", "artifacts/model/a.json"]
    assert (workspace.folder / "artifacts/a.json").read_text() == "a.json"
    assert (workspace.folder / "artifacts/model/a.json").read_text() == "model/a.json"


def test_what_is_about_to_be_removed_is_moved_and_what_stays_is_copied(workspace: Workspace) -> None:
    workspace.write("a.bin", "model/b.bin")
    inode = (workspace.folder / "model/b.bin").stat().st_ino
    assert workspace.bring("*.bin", may_move=True) == ["artifacts/a.bin", "artifacts/b.bin"]
    assert (workspace.folder / "artifacts/b.bin").stat().st_ino == inode
    assert (workspace.folder / "a.bin").exists()


def test_links_are_followed_inside_the_workspace_only(workspace: Workspace, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    workspace.write("model/real")
    model = workspace.folder / "model"
    for name, target in {"in": "real", "out": str(tmp_path / "secret"), "up": "../..", "gone": "nowhere"}.items():
        (model / name).symlink_to(target)
    os.mkfifo(model / "pipe")
    assert workspace.bring("*", "up/secret", may_move=True) == ["artifacts/in", "artifacts/real"]
    assert len([line for line in workspace.messages if "not brought back" in line]) == 5
    assert "secret" not in "".join(path.read_text() for path in (workspace.folder / "artifacts").iterdir())


@pytest.mark.parametrize(
    ("value", "expected"),
    [("*.json, out/** ,", ("*.json", "out/**")), (["a"], ("a",)), ([], ()), ("", ()), (("a", " "), ("a",))],
)
def test_globs_are_a_list_or_a_text_with_commas(value: Any, expected: tuple[str, ...]) -> None:
    assert patterns(value, "here") == expected


@pytest.mark.parametrize("value", ["/etc/*", "../x", "a/../../b", ["a\0"], [3], 3, {"a": 1}, "."])
def test_globs_that_lead_elsewhere_are_refused(value: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"^here: "):
        patterns(value, "here")
