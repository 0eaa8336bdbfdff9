"""What a node says of itself to a controller that has copied nothing yet."""

from __future__ import annotations

import hashlib
import json
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from madengine.programs import preflight
from madengine.records import ENGINE_NAMES
from tests.conftest import StandIns

ANY = ",".join(ENGINE_NAMES)


def examined(
    folder: Path, files: str = "madengine.pyz=none", ports: str = "", engines: str = ANY, images: Sequence[str] = ()
) -> dict[str, Any]:
    """What the script says when it is read from stdin, as over ssh."""
    words = [sys.executable, "-", str(folder), str(folder / "incoming"), files, ports, engines, *images]
    script = Path(preflight.__file__).read_text(encoding="utf-8")
    ended = subprocess.run(words, input=script, capture_output=True, text=True, check=True)
    result: dict[str, Any] = json.loads(ended.stdout)
    return result


WANTED = ",".join(f"{name}={hashlib.sha256(name.encode()).hexdigest()}" for name in ("madengine.pyz", "manifest"))


def test_what_is_there_is_taken_over(tmp_path: Path) -> None:
    for name in ("madengine.pyz", "manifest"):
        (tmp_path / name).write_text(name)
    assert examined(tmp_path, WANTED)["has"] == ["madengine.pyz", "manifest"]
    assert (tmp_path / "incoming/madengine.pyz").samefile(tmp_path / "madengine.pyz")
    # The connection broke before the answer came: it is asked again.
    assert examined(tmp_path, WANTED)["has"] == ["madengine.pyz", "manifest"]


def test_another_file_of_that_name_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "madengine.pyz").write_text("older")
    (tmp_path / "manifest").write_text("manifest")
    assert examined(tmp_path, WANTED)["has"] == ["manifest"]
    assert [path.name for path in (tmp_path / "incoming").iterdir()] == ["manifest"]
    assert (tmp_path / "madengine.pyz").read_text() == "older"


def test_a_port_in_use_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert examined(tmp_path, ports=str(port))["port_problem"] == f"port {port}: address already in use"
    assert examined(tmp_path, ports=str(port))["port_problem"] == ""


def test_a_folder_that_can_not_be_made_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert examined(tmp_path / "file")["problem"].endswith("Not a directory")


def test_this_machine_is_known_again(tmp_path: Path) -> None:
    assert examined(tmp_path)["machine"] == preflight.machine()


def test_images_are_here_only_where_the_engine_that_comes_first_has_all_of_them(
    tmp_path: Path, stand_ins: StandIns, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MADENGINE_ENGINE", raising=False)
    stand_ins.add("docker", "exit 1")
    stand_ins.add("podman", 'test "$*" = "image inspect reg/a@sha256:1 reg/b@sha256:2"')
    images = ["reg/a@sha256:1", "reg/b@sha256:2"]
    assert examined(tmp_path, engines="podman", images=images)["has_images"]
    assert not examined(tmp_path, engines="podman", images=images[:1])["has_images"]
    assert not examined(tmp_path, images=images)["has_images"], "docker comes first, and lacks them"
    assert not examined(tmp_path, engines="podman")["has_images"], "none were requested"
    monkeypatch.setenv("MADENGINE_ENGINE", "podman")
    assert examined(tmp_path, images=images)["has_images"]
