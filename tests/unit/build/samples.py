"""Model packages for the tests of builds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from madengine.records import Model

DIGEST = "sha256:" + "d" * 64


def model(name: str = "m", **card: Any) -> Model:
    return Model(**{"name": name, "dockerfile": "docker/m", "scripts": "scripts/m", **card})


def package(root: Path, *dockerfiles: str, header: str = "# CONTEXT {}") -> Path:
    (root / "docker").mkdir(parents=True)
    (root / "scripts/m").mkdir(parents=True)
    (root / "scripts/m/run.sh").write_text("echo ran\n")
    for name in dockerfiles:
        (root / "docker" / name).write_text(f"{header}\nFROM base:1\n")
    return root
