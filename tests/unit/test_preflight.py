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
from tests.conftest import StandIns


def examined(
    folder: Path, digest: str = "none", ports: str = "", engine: str = "auto", images: Sequence[str] = ()
) -> dict[str, Any]:
    """What the script says when it is read from stdin, as over ssh."""
    words = [sys.executable, "-", str(folder), str(folder / "incoming"), digest, ports, engine, *images]
    script = Path(preflight.__file__).read_text(encoding="utf-8")
    ended = subprocess.run(words, input=script, capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(ended.stdout)
    return found


def test_the_bundle_that_is_there_is_taken_over(tmp_path: Path) -> None:
    bundle = tmp_path / "madengine.pyz"
    bundle.write_text("bundle")
    assert examined(tmp_path, hashlib.sha256(b"bundle").hexdigest())["has_bundle"]
    assert (tmp_path / "incoming/madengine.pyz").samefile(bundle)


def test_another_bundle_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "madengine.pyz").write_text("older")
    assert not examined(tmp_path, hashlib.sha256(b"bundle").hexdigest())["has_bundle"]
    assert list((tmp_path / "incoming").iterdir()) == []


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
    assert examined(tmp_path, engine="podman", images=images)["has_images"]
    assert not examined(tmp_path, engine="podman", images=images[:1])["has_images"]
    assert not examined(tmp_path, images=images)["has_images"], "docker comes first, and lacks them"
    assert not examined(tmp_path, engine="podman")["has_images"], "nobody asked for any"
    monkeypatch.setenv("MADENGINE_ENGINE", "podman")
    assert examined(tmp_path, images=images)["has_images"]
