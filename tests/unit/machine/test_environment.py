"""What a number was measured on: the same id for the same machine and setup, another for another."""

from __future__ import annotations

import getpass
import json
import platform
import socket
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from madengine.machine.environment import environment_id_of, environment_record, named_record
from madengine.records import Gpu, GpuSettings

GPU = Gpu(
    vendor="AMD",
    index=0,
    name="AMD Instinct MI300X OAM",
    architecture="gfx942",
    uuid="GPU-00000000000000ab",
    render_node="/dev/dri/renderD128",
    memory_mib=196608,
    driver="6.12.12",
    runtime="6.4.1",
    pci_bus_id="0000:05:00.0",
    partition="SPX/NPS1",
    parent="",
    source="sysfs",
)
TWIN = replace(
    GPU, index=3, uuid="GPU-cd", render_node="/dev/dri/renderD152", pci_bus_id="0000:75:00.0", source="amd-smi"
)
SETTINGS = GpuSettings(power_cap_w=700.0, persistence_mode=True, max_clock_mhz=1980.0, clock_mhz=1380.0)
OTHERS: dict[str, Any] = {
    "vendor": "NVIDIA",
    "name": "AMD Instinct MI325X",
    "architecture": "gfx950",
    "memory_mib": 262144,
    "driver": "6.12.13",
    "runtime": "7.0.0",
    "partition": "CPX/NPS4",
}


def identifier(*gpus: Gpu, engine: str = "docker 27.5.1") -> str:
    return environment_id_of(environment_record(gpus, engine))


def test_the_same_machine_has_the_same_id() -> None:
    assert identifier(GPU) == identifier(GPU)
    assert len(identifier(GPU)) == 12
    assert int(identifier(GPU), 16) >= 0


def test_what_tells_a_gpu_from_its_equals_is_not_in_it() -> None:
    assert identifier(GPU, GPU) == identifier(GPU, TWIN) == identifier(TWIN, GPU)


@pytest.mark.parametrize("field", OTHERS)
def test_what_a_gpu_is_and_runs_with_is_in_it(field: str) -> None:
    assert identifier(replace(GPU, **{field: OTHERS[field]})) != identifier(GPU)


def test_every_field_of_a_gpu_is_one_or_the_other() -> None:
    same = {field.name for field in fields(Gpu) if getattr(GPU, field.name) != getattr(TWIN, field.name)}
    assert same | set(OTHERS) | {"parent", "settings"} == {field.name for field in fields(Gpu)}
    assert identifier(replace(GPU, parent="GPU-ef")) == identifier(GPU)


@pytest.mark.parametrize(
    "change",
    [
        {"power_cap_w": 500.0},
        {"persistence_mode": False},
        {"applications_clock_mhz": 1000.0},
        {"max_clock_mhz": 1410.0},
        {"performance_level": "high"},
    ],
)
def test_a_setting_that_changes_results_is_in_the_id(change: dict[str, Any]) -> None:
    assert identifier(replace(GPU, settings=replace(SETTINGS, **change))) != identifier(replace(GPU, settings=SETTINGS))


def test_the_clocks_of_a_moment_and_what_containers_do_not_see_are_described_and_not_in_the_id() -> None:
    record = environment_record([replace(GPU, settings=SETTINGS)], "docker 27.5.1")
    idle = environment_record([replace(GPU, settings=replace(SETTINGS, clock_mhz=210.0))], "docker 27.5.1")
    assert (record["gpus"][0]["clock_mhz"], idle["gpus"][0]["clock_mhz"]) == (1380.0, 210.0)
    other = {**idle, "os": "another", "rocm": {"root": "/opt/other"}}
    assert environment_id_of(other) == environment_id_of(record)
    named = named_record(other, "here")
    assert named.items() >= {"machine_name": "here", "environment_id": environment_id_of(record), **other}.items()
    listed = set(named["environment_id_fields"])
    assert {"kernel", "cpu", "engine", "gpus.driver", "gpus.power_cap_w", "gpus.persistence_mode"} <= listed
    assert not listed & {"os", "rocm", "gpus", "gpus.clock_mhz", "gpus.memory_clock_mhz", "machine_name"}


def test_the_number_of_gpus_and_the_engine_are_in_it() -> None:
    engines = {identifier(engine="podman 4.9.3"), identifier(engine="docker 28.0.0")}
    assert len({identifier(), identifier(GPU), identifier(GPU, TWIN), *engines}) == 5


def test_the_kernel_is_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    before = identifier(GPU)
    monkeypatch.setattr(platform, "release", lambda: "6.99.0-other")
    assert identifier(GPU) != before


def test_neither_the_host_nor_the_user_nor_the_environment_are_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    before = environment_record([GPU], "docker 27.5.1")
    monkeypatch.setenv("MAD_SECRETS_HFTOKEN", "hf_secret")
    monkeypatch.setenv("HOSTNAME", "another")
    monkeypatch.setattr(socket, "gethostname", lambda: "another")
    assert environment_record([GPU], "docker 27.5.1") == before
    text = json.dumps(before)
    for word in (platform.node(), str(Path.cwd()), str(Path.home()) + "/", f'"{getpass.getuser()}"', GPU.uuid):
        assert word not in text


def test_the_description_says_what_this_machine_is() -> None:
    described = environment_record([GPU], "docker 27.5.1")
    assert described["kernel"] == platform.release()
    assert described["architecture"] == platform.machine()
    assert described["cpus"] > 0
    assert described["memory_mib"] % 1024 == 0
    assert described["memory_mib"] > 0
    assert described["engine"] == "docker 27.5.1"
    assert all(described[name] for name in ("os", "cpu"))
    assert described["gpus"] == [
        {
            "vendor": "AMD",
            "name": "AMD Instinct MI300X OAM",
            "architecture": "gfx942",
            "memory_mib": 196608,
            "driver": "6.12.12",
            "runtime": "6.4.1",
            "partition": "SPX/NPS1",
        }
    ]


def test_the_order_of_a_descriptions_keys_does_not_matter() -> None:
    described = environment_record([GPU], "docker 27.5.1")
    assert environment_id_of(dict(reversed(described.items()))) == environment_id_of(described)


def test_a_machine_that_hides_its_files_is_described_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> str:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_text", refuse)
    monkeypatch.setattr(platform, "freedesktop_os_release", refuse)
    described = environment_record([], "")
    assert described["os"] == "Linux"
    assert described["numa_balancing"] == ""
