"""How a host's run ended, by the folder of its files."""

from __future__ import annotations

import json
from pathlib import Path

from madengine.config.manifest import save_manifest
from madengine.deploy.ssh import node
from madengine.deploy.ssh.host_result import failure_reason, recorded_manifest, rows_of_missing_models
from tests.unit.deploy.ssh.conftest import manifest_of


def test_a_host_that_was_killed_owes_a_row_of_each_chosen_model_that_has_none(tmp_path: Path) -> None:
    save_manifest(manifest_of("r/a", "r/b", "r/c", "r/d"), tmp_path / node.MANIFEST)
    (tmp_path / node.RECORD).write_text(json.dumps({"tags": ["m0", "m1", "m2"]}))
    (tmp_path / "perf.csv").write_text(
        "model,performance,metric,status\nm0,1,x,SUCCESS\nm1_train,1,x,SUCCESS\nm2,cut\n"
    )
    rows = rows_of_missing_models(tmp_path, recorded_manifest(tmp_path), "r1", "h1", "killed")
    assert [(row["model"], row["status"], row["reason"], row["machine_name"]) for row in rows] == [
        ("m2", "FAILURE", "killed", "h1")
    ]


def test_the_reason_of_a_run_that_did_not_start_is_its_own_last_word(tmp_path: Path) -> None:
    (tmp_path / node.LOG).write_text("engine: x\nmadengine: error: no engine answers\nbye\n")
    assert failure_reason(tmp_path, 1) == "no engine answers"
    assert failure_reason(tmp_path / "nothing", None) == "killed, or the machine went down"
    assert failure_reason(tmp_path / "nothing", 137) == "exit code 137"
