"""What the GPU tools' answers have in common."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from madengine.programs import smi
from tests.conftest import StandIns


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (45, 45.0),
        ("45.0", 45.0),
        ("39.32 W", 39.32),
        ("-7 C", -7.0),
        ({"value": 158, "unit": "W"}, 158.0),
        ({"value": "N/A", "unit": "W"}, None),
        ("N/A (Secondary die)", None),
        ("[N/A]", None),
        ("[Not Supported]", None),
        ("[Unknown Error]", None),
        ("[GPU requires reset]", None),
        ("1 (16.0GT/s x16)", None),
        ("", None),
        (None, None),
        (True, None),
        (float("nan"), None),
        ([1], None),
    ],
)
def test_a_figure_is_a_number_or_unknown_and_never_zero(value: Any, expected: float | None) -> None:
    assert smi.number(value) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"value": 65520, "unit": "MB"}, 65520.0),
        ("64289 MB", 64289.0),
        ("2 GB", 2048.0),
        ({"value": 1048576, "unit": "B"}, 1.0),
        (65520, None),
        ({"value": 65520}, None),
        ({"value": 1, "unit": "pages"}, None),
        ("N/A", None),
    ],
)
def test_memory_without_a_known_unit_is_unknown(value: Any, expected: float | None) -> None:
    assert smi.mib(value) == expected


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        ('{"a": 1}', {"a": 1}),
        ('WARNING: low power\n[WARN] x\n\n{"a": 1}\nbye', {"a": 1}),
        ('[{"gpu": 0}]\n[{"gpu": 0}]', [{"gpu": 0}]),
        ('[{"gpu": 0}, 1]', None),
        ('{"gpu_data": [\n    {"gpu": 0},\n    {"gpu": 1}', None),
        ("[2026] started", None),
        ("", None),
        ("[" * 100_000, None),
    ],
)
def test_json_is_found_behind_warnings_but_not_inside_what_was_cut_off(output: str, expected: Any) -> None:
    assert smi.first_json(output) == expected


@given(st.text() | st.integers() | st.none() | st.dictionaries(st.text(), st.text()))
def test_no_value_makes_a_reader_fail(value: Any) -> None:
    assert smi.number(value) is None or isinstance(smi.number(value), float)
    assert smi.mib(value) is None or isinstance(smi.mib(value), float)
    assert smi.pci(value) == "" or smi.pci(value).count(":") == 2
    assert isinstance(smi.text(value) + smi.unique(value), str)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("00000000:0C:00.0", "0000:0c:00.0"),
        ("0000:1E:00.0", "0000:1e:00.0"),
        ("00010000:01:00.1", "10000:01:00.1"),
        ("N/A", ""),
    ],
)
def test_every_tools_pci_address_is_written_as_in_sysfs(value: str, expected: str) -> None:
    assert smi.pci(value) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("0x2150e7d042a1124", "GPU-02150e7d042a1124"),
        (0x2150E7D042A1124, "GPU-02150e7d042a1124"),
        (0, ""),
        ("N/A", ""),
        (None, ""),
        (float("inf"), ""),
    ],
)
def test_a_unique_id_becomes_the_uuid_that_rocm_uses(value: Any, expected: str) -> None:
    assert smi.unique(value) == expected


def test_a_missing_tool_a_failing_and_a_hanging_one_are_named(
    stand_ins: StandIns, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(smi, "SECONDS", 0.3)
    stand_ins.add("fails-smi", "echo driver not loaded >&2; exit 9")
    stand_ins.add("hangs-smi", "exec sleep 30")
    assert smi.query("absent-smi") == ("", "absent-smi is not installed, or not on PATH")
    failed, hung = smi.query("fails-smi", "-q"), smi.query("hangs-smi", "-q")
    assert failed[0] == "" and failed[1].endswith("fails-smi -q: exit code 9: driver not loaded")
    assert hung[0] == "" and "hangs-smi -q: no answer in 0.3 s" in hung[1]


@pytest.mark.parametrize(
    ("stdout", "stderr", "reason"),
    [
        (
            "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. Make sure that the latest "
            "NVIDIA driver is installed and running.\n\n",
            "",
            "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. Make sure that the latest "
            "NVIDIA driver is installed and running.",
        ),
        (
            "Failed to initialize NVML: Driver/library version mismatch\nNVML library version: 535.161\n",
            "",
            "Failed to initialize NVML: Driver/library version mismatch",
        ),
        (
            "",
            'Traceback (most recent call last):\n  File "amd-smi", line 2, in <module>\n    import amdsmi\n'
            "ModuleNotFoundError: No module named 'amdsmi'\n",
            "ModuleNotFoundError: No module named 'amdsmi'",
        ),
        ("+-----+\n| GPU |\n+-----+\n", "WARNING: infoROM\nGPU 0 is lost\n", "GPU 0 is lost"),
        ('{\n  "gpu": 0\n', "WARNING: no hsmp driver\n", '"gpu": 0'),
        ("", "", "no output"),
    ],
)
def test_a_failure_is_explained_by_the_line_that_does(
    stand_ins: StandIns, stdout: str, stderr: str, reason: str
) -> None:
    stand_ins.add("some-smi", f"printf %s {shlex.quote(stdout)}; printf %s {shlex.quote(stderr)} >&2; exit 9")
    assert smi.query("some-smi")[1].endswith(f"some-smi: exit code 9: {reason}")


def test_a_rocm_tool_that_is_not_on_path_is_found_where_rocm_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool = tmp_path / "bin" / "some-smi"
    tool.parent.mkdir()
    tool.write_text("#!/bin/sh\necho here\n")
    tool.chmod(0o755)
    monkeypatch.setenv("ROCM_PATH", str(tmp_path))
    assert smi.query("some-smi") == ("here\n", "")
