"""GPU samples in the form of older madengine: a row a moment, a column a GPU."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import pytest

from madengine.machine.gpu_profiles import write_gpu_profiles
from madengine.records import SAMPLE_COLUMNS, Artifact, Gpu

GPUS = (Gpu("AMD", 0, memory_mib=200), Gpu("AMD", 3, memory_mib=200))
# Out of a series of two GPUs: the second sample of GPU 3 lacks its power, the last is of GPU 0 alone.
SAMPLES = """1700000000.250,0,100,50,300.5,40,0
1700000000.260,3,50.5,50,301,40,0
1700000001.250,0,150,50,310.5,40,0
1700000001.260,3,,50,,40,0
1700000002.250,0,200,50,320,40,0
"""


def moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds).strftime("%Y-%m-%d %H:%M:%S.%f")


def test_power_and_memory_have_a_column_for_each_gpu(tmp_path: Path) -> None:
    (tmp_path / "series.csv").write_text(",".join(SAMPLE_COLUMNS) + "\n" + SAMPLES)
    written = write_gpu_profiles(tmp_path, "series.csv", ("power", "vram"), GPUS, {"VRAM_OUTPUT_FILE": "/x/mine.csv"})
    power, vram = ((tmp_path / name).read_text() for name in ("gpu_info_power_profiler_output.csv", "mine.csv"))
    assert power == (
        "time,Power(Watt) GPU0,Power(Watt) GPU3\n"
        f"{moment(1700000000.25)},300.5,301.0\n{moment(1700000001.25)},310.5,\n{moment(1700000002.25)},320.0,\n"
    )
    assert vram == (
        "time,vram(%) GPU0,vram(%) GPU3\n"
        f"{moment(1700000000.25)},50.0,25.25\n{moment(1700000001.25)},75.0,\n{moment(1700000002.25)},100.0,\n"
    )
    assert written == (
        Artifact("gpu_info_power_profiler_output.csv", len(power)),
        Artifact("mine.csv", len(vram)),
    )


@pytest.mark.parametrize("rows", ["", "x,0,1,1,1,1,1\n", "1,7,1,1,1,1,1\n", "9e99,0,1,1,1,1,1\n", "\xff,\n,,,\n"])
def test_what_is_no_sample_is_left_out(tmp_path: Path, rows: str) -> None:
    (tmp_path / "series.csv").write_text(",".join(SAMPLE_COLUMNS) + "\n" + rows, encoding="latin-1")
    write_gpu_profiles(tmp_path, "series.csv", ("power",), GPUS, {})
    assert (tmp_path / "gpu_info_power_profiler_output.csv").read_text() == "time,Power(Watt) GPU0,Power(Watt) GPU3\n"


def test_a_series_that_the_script_has_replaced_by_a_link_is_not_read(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "series.csv").symlink_to("/etc/passwd")
    caplog.set_level("INFO")
    assert write_gpu_profiles(tmp_path, "series.csv", ("power",), GPUS, {}) == ()
    assert "can't be written: a symbolic link" in caplog.text
