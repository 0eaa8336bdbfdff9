"""What an image gets of a folder of scripts, whatever lies in it."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from madengine.build import script_files
from tests.conftest import collect_messages


@pytest.fixture
def scripts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of scripts with everything that may lie in one."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "package/scripts/m"
    (folder / "inner").mkdir(parents=True)
    (folder / "run.sh").write_text("echo ran\n")
    (tmp_path / "package/common").mkdir()
    (tmp_path / "package/common/lib.sh").write_text("lib\n")
    (tmp_path / "package/common/back").symlink_to("../scripts/m")
    links = {
        "common": "../../common",
        "file": "../../common/lib.sh",
        "data": "/data/of/the/container",
        "up": "..",
        "self": ".",
        "inner/up": "../..",
        "one": "two",
        "two": "one",
    }
    for name, target in links.items():
        (folder / name).symlink_to(target)
    os.mkfifo(folder / "pipe")
    with socket.socket(socket.AF_UNIX) as server:
        os.chdir(folder)
        server.bind("socket")
        os.chdir(tmp_path)
    return folder


def shape(folder: Path) -> dict[str, str]:
    """Return each path below a folder with what it is."""
    return {
        str(path.relative_to(folder)): f"-> {path.readlink()}"
        if path.is_symlink()
        else ("folder" if path.is_dir() else path.read_text())
        for path in sorted(folder.rglob("*"))
    }


EXPECTED = {
    "data": "-> /data/of/the/container",
    "file": "lib\n",
    "inner": "folder",
    "inner/up": "-> ../..",
    "one": "-> two",
    "run.sh": "echo ran\n",
    "self": "-> .",
    "common": "folder",
    "common/back": "-> ../scripts/m",
    "common/lib.sh": "lib\n",
    "two": "-> one",
    "up": "-> ..",
}


def by_shell(source: Path, target: Path) -> None:
    lines = "\n".join(script_files.shell_lines(source, str(target)))
    subprocess.run(["sh", "-e"], input=lines, encoding="utf-8", check=True, timeout=20)


@pytest.mark.parametrize("copy", [script_files.copy, by_shell])
def test_links_are_followed_where_they_lead_somewhere(
    scripts: Path, tmp_path: Path, copy: Callable[[Path, Path], None]
) -> None:
    copy(scripts, tmp_path / "copy")
    assert shape(tmp_path / "copy") == EXPECTED


def test_what_an_image_does_not_get_is_in_the_log_before_the_build(scripts: Path) -> None:
    messages = collect_messages()
    script_files.check(scripts)
    special = sorted(Path(line.partition(":")[0]).name for line in messages if line.endswith("left out"))
    links = sorted(Path(line.partition(":")[0]).name for line in messages if line.endswith("the image gets the link"))
    assert special == ["pipe", "socket"]
    assert links == ["back", "data", "one", "self", "two", "up", "up"]


def test_a_plain_folder_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "scripts").mkdir()
    (tmp_path / "scripts/run.sh").touch()
    assert list(script_files.shell_lines(tmp_path / "scripts", "there")) == [f"cp -RLp {tmp_path}/scripts there"]


def test_a_file_that_can_not_be_read_is_an_error_before_the_build(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "run.sh").touch()
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may read everything
    with pytest.raises(PermissionError, match=r"Permission denied: .*run\.sh"):
        script_files.check(tmp_path)
