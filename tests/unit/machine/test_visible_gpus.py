"""The GPUs that variables of the caller allow."""

from __future__ import annotations

import pytest

from madengine.errors import ConfigurationError
from madengine.machine.visible_gpus import visible_gpus, visible_part
from madengine.records import Gpu, Reading
from tests.conftest import collect_messages

NVIDIA = tuple(Gpu("NVIDIA", index, uuid=f"GPU-{letter}0{index}") for index, letter in enumerate("abcd"))
AMD = tuple(Gpu("AMD", index, uuid=f"GPU-{index}00000000000000f") for index in range(4))
MIG = (
    Gpu("NVIDIA", 0, uuid="MIG-a", parent="GPU-p"),
    Gpu("NVIDIA", 1, uuid="MIG-b", parent="GPU-p"),
    Gpu("NVIDIA", 2, uuid="GPU-q"),
)
ROCR, HIP, CUDA, INJECTED = (f"{name}_VISIBLE_DEVICES" for name in ("ROCR", "HIP", "CUDA", "NVIDIA"))


@pytest.mark.parametrize(
    ("gpus", "environ", "indexes"),
    [
        (NVIDIA, {}, [0, 1, 2, 3]),
        (NVIDIA, {CUDA: "1"}, [1]),
        (NVIDIA, {CUDA: " 3, 1 "}, [3, 1]),
        (NVIDIA, {CUDA: "1,1"}, [1]),
        (NVIDIA, {CUDA: "GPU-b01"}, [1]),
        (NVIDIA, {CUDA: "gpu-b,GPU-A"}, [1, 0]),
        (NVIDIA, {CUDA: "0,1,2,3,4,5,6,7"}, [0, 1, 2, 3]),
        (NVIDIA, {CUDA: "2,-1,3"}, [2]),
        (NVIDIA, {CUDA: "2,9,3"}, [2]),
        (NVIDIA, {CUDA: ""}, []),
        (NVIDIA, {CUDA: " "}, []),
        (NVIDIA, {CUDA: "-1"}, []),
        (NVIDIA, {CUDA: "NoDevFiles"}, []),
        (NVIDIA, {INJECTED: "all"}, [0, 1, 2, 3]),
        (NVIDIA, {INJECTED: "void"}, [0, 1, 2, 3]),
        (NVIDIA, {INJECTED: "4,5,6,7"}, [0, 1, 2, 3]),
        (NVIDIA, {INJECTED: "none"}, []),
        (NVIDIA, {INJECTED: ""}, []),
        (NVIDIA, {INJECTED: "1"}, [1]),
        (NVIDIA, {INJECTED: "0,1", CUDA: "1"}, [1]),
        (NVIDIA, {HIP: "1", ROCR: "2", "GPU_DEVICE_ORDINAL": "3"}, [0, 1, 2, 3]),
        (MIG, {CUDA: "MIG-b"}, [1]),
        (MIG, {CUDA: "GPU-p"}, [0, 1]),
        (MIG, {CUDA: "2"}, [2]),
        (AMD, {ROCR: "2,3"}, [2, 3]),
        (AMD, {ROCR: "GPU-100000000000000f"}, [1]),
        (AMD, {HIP: "1"}, [1]),
        (AMD, {"GPU_DEVICE_ORDINAL": "3"}, [3]),
        (AMD, {CUDA: "1,0"}, [1, 0]),
        (AMD, {ROCR: "2,3", HIP: "0"}, [2]),
        (AMD, {ROCR: "3,2", HIP: "1"}, [2]),
        (AMD, {ROCR: "3,2,1,0", HIP: "0"}, [3]),
        (AMD, {ROCR: "2,3", HIP: "1", CUDA: "1"}, [3]),
        (AMD, {ROCR: "2,3", CUDA: "2,3", "GPU_DEVICE_ORDINAL": "2,3"}, [2, 3]),
        (AMD, {INJECTED: "1"}, [0, 1, 2, 3]),
        (AMD, {ROCR: ""}, []),
        ((), {CUDA: "7", ROCR: "x"}, []),
    ],
)
def test_the_variables_of_a_vendor_allow_gpus(
    gpus: tuple[Gpu, ...], environ: dict[str, str], indexes: list[int]
) -> None:
    assert [gpu.index for gpu in visible_gpus(gpus, environ)] == indexes


@pytest.mark.parametrize(
    ("gpus", "environ", "message"),
    [
        (NVIDIA, {CUDA: "4"}, f"{CUDA}=4: names no GPU that can be used: this machine has GPUs 0,1,2,3; correct it"),
        (NVIDIA, {CUDA: "GPU-nowhere"}, "names no GPU that can be used"),
        (NVIDIA, {CUDA: "MIG-a"}, "names no GPU that can be used"),
        (NVIDIA, {INJECTED: "0,1", CUDA: "2"}, "0,1,2,3, of which other variables allow 0,1; correct it"),
        (NVIDIA, {CUDA: "first"}, "expected indexes or UUIDs of GPUs, got 'first'"),
        (NVIDIA, {CUDA: "0-3"}, "got '0-3'"),
        (AMD, {ROCR: "0,1", HIP: "2"}, f"{HIP}=2: names no GPU"),
        (AMD, {HIP: "0", CUDA: "1"}, f"{CUDA}=1: names no GPU"),
        (AMD, {ROCR: "", HIP: "1"}, "of which other variables allow none"),
    ],
)
def test_a_contradiction_is_refused(gpus: tuple[Gpu, ...], environ: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigurationError) as error:
        visible_gpus(gpus, environ)
    assert message in str(error.value)
    assert error.value.exit_code == 4


@pytest.mark.parametrize(
    ("docker_gpus", "environ", "expected", "messages"),
    [
        ("", {}, (Reading(NVIDIA), ""), []),
        ("", {CUDA: "0,1,2,3"}, (Reading(NVIDIA), ""), []),
        ("", {CUDA: "3,1"}, (Reading(NVIDIA), "3,1"), [f"{CUDA}=3,1: only GPU 3,1 of 4 can be used"]),
        ("", {CUDA: ""}, (Reading(), ""), [f"{CUDA}=: no GPU of 4 can be used"]),
        ("0", {CUDA: "1"}, (Reading(NVIDIA), "0"), [f"{CUDA}=1 ignored: docker_gpus is 0"]),
        ("0", {CUDA: "nonsense"}, (Reading(NVIDIA), "0"), [f"{CUDA}=nonsense ignored: docker_gpus is 0"]),
        ("0", {ROCR: "1"}, (Reading(NVIDIA), "0"), []),
    ],
)
def test_the_variables_are_named_in_one_line_and_docker_gpus_overrides_them(
    docker_gpus: str, environ: dict[str, str], expected: tuple[Reading[Gpu], str], messages: list[str]
) -> None:
    logged = collect_messages()
    assert visible_part(Reading(NVIDIA), docker_gpus, environ) == expected
    assert logged == messages
