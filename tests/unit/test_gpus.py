"""Which GPUs this machine has, and which of them a model gets."""

from __future__ import annotations

from pathlib import Path

import pytest

from madengine.errors import ConfigurationError, RunError
from madengine.gpus import eligible, found, vendor, wanted
from madengine.records import Gpu
from tests.conftest import StandIns

DATA = Path(__file__).parents[1] / "data" / "smi"
EIGHT = tuple(Gpu("AMD", index) for index in range(8))


def test_nvidias_gpus_are_those_that_its_tool_names(stand_ins: StandIns) -> None:
    stand_ins.add("nvidia-smi", f'[ "$*" = "-q -x" ] || exit 1\ncat {DATA}/nvidia-smi_q_x.xml')
    gpus = found()
    assert gpus
    assert {gpu.vendor for gpu in gpus} == {vendor(gpus)} == {"NVIDIA"}
    assert found("NVIDIA") == gpus


@pytest.mark.parametrize("script", ["exit 127", "exit 9", "echo 'No devices were found'", "echo '<nvidia_smi_log>'"])
def test_a_tool_that_knows_nothing_names_no_gpu(stand_ins: StandIns, script: str) -> None:
    stand_ins.add("nvidia-smi", script)
    assert found("NVIDIA") == ()


def test_an_unknown_vendor_has_no_gpus() -> None:
    assert found("VOODOO") == ()


def test_the_vendor_is_that_of_the_gpus_or_none() -> None:
    assert vendor(EIGHT) == "AMD"
    assert vendor(()) == "NONE"


@pytest.mark.parametrize(
    ("docker_gpus", "indexes"),
    [
        ("", [0, 1, 2, 3, 4, 5, 6, 7]),
        (" ", [0, 1, 2, 3, 4, 5, 6, 7]),
        ("0", [0]),
        ("3,1", [3, 1]),
        ("0,2-4, 7", [0, 2, 3, 4, 7]),
        ("1,1-2,1", [1, 2]),
        ("6-9", [6, 7]),
        ("5-3", []),
    ],
)
def test_a_context_leaves_the_gpus_of_its_list_in_its_order(docker_gpus: str, indexes: list[int]) -> None:
    assert [gpu.index for gpu in eligible(EIGHT, docker_gpus)] == indexes


@pytest.mark.parametrize("docker_gpus", ["all", "0,", "0-", "-1", "0;1", "1.5"])
def test_what_is_no_list_of_gpus_is_named(docker_gpus: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        eligible(EIGHT, docker_gpus)
    assert str(caught.value) == f"docker_gpus is {docker_gpus!r}: give numbers and ranges, such as 0,2-4,7"


@pytest.mark.parametrize(
    ("n_gpus", "candidates", "count"),
    [("-1", EIGHT, 8), ("-1", EIGHT[:3], 3), ("-1", (), 0), ("0", EIGHT, 0), ("8", EIGHT, 8), ("2", EIGHT[:3], 2)],
)
def test_a_card_asks_for_a_number_of_gpus_or_all(n_gpus: str, candidates: tuple[Gpu, ...], count: int) -> None:
    assert wanted(n_gpus, candidates, EIGHT) == count


@pytest.mark.parametrize(
    ("n_gpus", "candidates", "machine", "said"),
    [
        ("9", EIGHT, EIGHT, "n_gpus is 9, this machine has 8"),
        ("3", EIGHT[:2], EIGHT, "n_gpus is 3, this machine has 8, docker_gpus leaves 2"),
        ("1", (), (), "n_gpus is 1, this machine has none"),
    ],
)
def test_more_gpus_than_there_are_is_an_error_with_the_numbers(
    n_gpus: str, candidates: tuple[Gpu, ...], machine: tuple[Gpu, ...], said: str
) -> None:
    with pytest.raises(RunError) as caught:
        wanted(n_gpus, candidates, machine)
    assert str(caught.value) == f"too many GPUs requested: {said}"
