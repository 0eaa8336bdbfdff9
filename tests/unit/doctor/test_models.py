"""Model discovery."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from madengine.doctor.check import FAILED, NOTE, OK, Check
from tests.unit.doctor.conftest import Engine, checks


def test_the_models_of_this_folder(engine: Engine, here: Path) -> None:
    assert checks()["models"] == Check("models", NOTE, "no models.json here")
    card = {"name": "m", "dockerfile": "docker/m", "scripts": "scripts/m", "tags": []}
    (here / "models.json").write_text(json.dumps([{**card, "n_gpus": "1", "args": ""}]))
    assert checks()["models"] == Check("models", OK, f"1 in {here}")
    (here / "models.json").write_text("[{]")
    check = checks()["models"]
    assert check.status == FAILED
    assert check.result.startswith("models.json")
    assert check.fix == f"fix it; `madengine discover` in {here} reads it again"


def test_a_package_that_is_not_where_model_dir_says(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MODEL_DIR", str(tmp_path / "none"))
    check = checks()["models"]
    assert check.status == FAILED
    assert "MODEL_DIR" in check.result
