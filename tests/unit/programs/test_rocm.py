from __future__ import annotations

from pathlib import Path

import pytest

from madengine.programs import rocm
from tests.conftest import StandIns

MARK = "share/therock/therock_manifest.json"


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine without ROCm, below a folder of its own."""
    monkeypatch.setattr(rocm, "DEFAULT", tmp_path / "opt/rocm")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PATH", str(tmp_path / "path"))
    for name in ("ROCM_PATH", "ROCM_HOME", "HIP_PATH", "MAD_AUTO_ROCM_PATH"):
        monkeypatch.delenv(name, raising=False)
    rocm.choose("")
    return tmp_path


def install(root: Path, *files: str, version: str = "") -> Path:
    for name in files or ("bin/rocminfo",):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("#!/bin/sh\n")
        (root / name).chmod(0o755)
    if version:
        (root / ".info").mkdir()
        (root / ".info/version").write_text(f"{version}-120\n")
    return root


def found() -> rocm.Rocm | None:
    rocm.installed.cache_clear()
    return rocm.installed()


def test_a_machine_without_rocm_has_none(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert found() is None
    assert rocm.root() == machine / "opt/rocm"
    (machine / "opt/rocm/bin").mkdir(parents=True)  # left behind
    assert found() is None
    monkeypatch.setenv("ROCM_PATH", "/nowhere")
    assert (found(), rocm.root()) == (None, Path("/nowhere"))


def test_the_places_are_searched_in_the_order_of_madengine_2(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = install(machine / "home/therock", MARK)
    assert found() == rocm.Rocm(home, is_therock=True)
    sdk = install(machine / "site-packages/sdk/lib/llvm/..", "bin/hipconfig").resolve()
    monkeypatch.setenv("HIP_PATH", str(machine / "site-packages/sdk/lib/llvm/deep/er"))
    assert found() == rocm.Rocm(sdk)
    older, newer = (install(machine / f"opt/rocm-{each}", version=each) for each in ("6.4.1", "10.0.0"))
    assert found() == rocm.Rocm(newer, version="10.0.0")
    default = install(machine / "opt/rocm", "bin/amd-smi", version="7.0.2")
    assert found() == rocm.Rocm(default, version="7.0.2")
    rocm.choose(str(older))
    assert rocm.root() == older
    rocm.choose("")
    monkeypatch.setenv("MAD_AUTO_ROCM_PATH", "0")
    assert found() == rocm.Rocm(default, version="7.0.2")
    monkeypatch.setenv("ROCM_PATH", str(older))
    assert found() == rocm.Rocm(older, version="6.4.1")


def test_therocks_package_is_asked(machine: Path, stand_ins: StandIns) -> None:
    root = install(machine / "venv/rocm", MARK)
    stand_ins.add("rocm-sdk", f'[ "$*" = "path --root" ] && echo {root}')
    assert found() == rocm.Rocm(root, is_therock=True)
    for script in ("exit 1", "echo not a path", "echo; echo /nowhere"):
        stand_ins.add("rocm-sdk", script)
        assert found() is None


def test_a_tool_on_path_leads_to_its_installation(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = install(machine / "elsewhere", "bin/rocm-smi")
    (machine / "links").mkdir()
    (machine / "links/rocm-smi").symlink_to(root / "bin/rocm-smi")
    monkeypatch.setenv("PATH", str(machine / "links"))
    assert found() == rocm.Rocm(root)
