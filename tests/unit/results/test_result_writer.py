"""What a run writes, also where many have one run id."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

CHECKOUT = Path(__file__).parents[3]
_CODE = """
import sys
from dataclasses import replace
from pathlib import Path
from madengine.results.result_writer import ResultWriter
from tests.unit.results.samples import DONE
writer = ResultWriter("r1", Path("runs/r1"), Path("perf.csv"), Path("summary.json"), {})
sys.stdin.read()
writer.add(replace(DONE, run_id="r1", test_duration=float(sys.argv[1])))
writer.finish({"machine_name": "here"}, (), 1.0)
sys.exit(0 if writer.complete else 1)
"""


def test_runs_with_one_run_id_at_once_keep_all_results(tmp_path: Path) -> None:
    running = [
        subprocess.Popen(
            [sys.executable, "-c", _CODE, str(number)],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
            stdin=subprocess.PIPE,
        )
        for number in range(16)
    ]
    for process in running:
        assert process.stdin
        process.stdin.close()
    assert [process.wait(60) for process in running] == [0] * 16
    document = json.loads((tmp_path / "runs/r1/results.json").read_text())
    assert sorted(result["test_duration"] for result in document["results"]) == list(range(16))
    with (tmp_path / "perf.csv").open(newline="") as file:
        assert sorted(float(row["test_duration"]) for row in csv.DictReader(file)) == list(range(16))
    assert {path.name for path in tmp_path.rglob("*")} == {"runs", "r1", "results.json", "perf.csv", "summary.json"}
