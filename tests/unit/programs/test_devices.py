"""How GPUs are handed to a container: the whole command line, for every engine, vendor and mode."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from madengine import programs
from madengine.errors import RunError
from madengine.machine.gpus import requested_count
from madengine.programs import devices
from madengine.programs.engine import Container, Docker
from madengine.programs.engine_finder import engine_named
from madengine.programs.podman import Podman
from madengine.records import Gpu

AMD = tuple(
    Gpu("AMD", index, uuid=f"GPU-{index:016x}", render_node=f"/dev/dri/renderD{128 + 8 * index}") for index in range(8)
)
NVIDIA = tuple(
    Gpu("NVIDIA", index, uuid=f"GPU-{index}{index}", pci_bus_id=f"0000:{index:02x}:00.0") for index in range(8)
)
MIG = tuple(
    Gpu("NVIDIA", index, uuid=f"MIG-{index}", parent="GPU-00", partition="3g.40gb", pci_bus_id="0000:00:00.0")
    for index in range(2)
)
VERSIONS = {"docker": "27.5.1", "podman": "4.9.3", "nerdctl": "2.1.2"}
RENDER, VIDEO = 109, 44
ALL, SUBSET, NONE = range(8), (5, 2), ()


@pytest.fixture(autouse=True)
def nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine whose KFD is of the group `video` and whose render nodes are of `render`, as on Ubuntu."""
    real = Path.stat

    def stat(path: Path, **more: bool) -> object:
        if str(path).startswith(("/dev/kfd", "/dev/dri/")):
            return SimpleNamespace(st_gid=VIDEO if path.name == "kfd" else RENDER)
        return real(path, **more)

    exists = Path.exists
    monkeypatch.setattr(Path, "stat", stat)
    monkeypatch.setattr(Path, "exists", lambda path: path.name == "nvidiactl" or exists(path))
    monkeypatch.setattr(os, "geteuid", lambda: 0)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the machine's CDI specifications are; there are none yet."""
    monkeypatch.setattr(devices, "CDI_FOLDERS", (tmp_path / "etc", tmp_path / "run"))
    (tmp_path / "run").mkdir()
    return tmp_path / "run"


@pytest.fixture
def cdi(folder: Path) -> Path:
    """The CDI specifications of both vendors, NVIDIA's also by UUID."""
    write_spec(folder / "nvidia.yaml", "nvidia.com/gpu", [*(g.uuid for g in NVIDIA), *map(str, ALL), "all"])
    write_spec(folder / "amd.json", "amd.com/gpu", [*map(str, ALL), "all"])
    return folder


def write_spec(file: Path, kind: str, names: Sequence[str]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    spec = {
        "cdiVersion": "0.5.0",
        "kind": kind,
        "devices": [{"name": name, "containerEdits": {"deviceNodes": [{"path": "/dev/null"}]}} for name in names],
        "containerEdits": {"env": ["NVIDIA_VISIBLE_DEVICES=void"]},
    }
    file.write_text(json.dumps(spec) if file.suffix == ".json" else yaml.safe_dump(spec))


def run_line(engine: str, gpus: Sequence[Gpu], mode: str, version: str = "") -> str:
    program = replace(engine_named(engine), version=version or VERSIONS[engine])
    return programs.shell_line(program.run(Container("n", "image", devices=program.devices(gpus, mode))))


def words(engine: str, handed_over: str) -> str:
    end = "--stop-timeout=10 --stop-signal=TERM" + (" --no-healthcheck" if engine != "nerdctl" else "")
    return f"{engine} run --detach --init --name n --user=0:0 {end} {handed_over} image"


def amd_nodes(indexes: Sequence[int]) -> str:
    nodes = " ".join(f"--device=/dev/dri/renderD{128 + 8 * index}" for index in indexes)
    return f"--device=/dev/kfd {nodes} --group-add=44 --group-add=109"


ALL_UUIDS = "GPU-00,GPU-11,GPU-22,GPU-33,GPU-44,GPU-55,GPU-66,GPU-77"
NVIDIA_ALL = f"""--gpus '"device={ALL_UUIDS}"'"""
NVIDIA_SUBSET = """--gpus '"device=GPU-55,GPU-22"'"""
NVIDIA_CDI_ALL = " ".join(f"--device=nvidia.com/gpu={uuid}" for uuid in ALL_UUIDS.split(","))
NVIDIA_CDI_SUBSET = "--device=nvidia.com/gpu=GPU-55 --device=nvidia.com/gpu=GPU-22"
AMD_CDI_ALL = " ".join(f"--device=amd.com/gpu={index}" for index in ALL)
AMD_CDI_SUBSET = "--device=amd.com/gpu=5 --device=amd.com/gpu=2"
VOID = "--env=NVIDIA_VISIBLE_DEVICES=void"

MATRIX = [
    *((engine, AMD, "devices", ALL, amd_nodes(ALL)) for engine in VERSIONS),
    *((engine, AMD, "devices", SUBSET, amd_nodes(SUBSET)) for engine in VERSIONS),
    *((engine, AMD, "auto", ALL, amd_nodes(ALL)) for engine in VERSIONS),
    *((engine, AMD, "auto", SUBSET, amd_nodes(SUBSET)) for engine in VERSIONS),
    *((engine, AMD, "cdi", ALL, AMD_CDI_ALL) for engine in VERSIONS),
    *((engine, AMD, "cdi", SUBSET, AMD_CDI_SUBSET) for engine in VERSIONS),
    *((engine, NVIDIA, "gpus", ALL, NVIDIA_ALL) for engine in ("docker", "nerdctl")),
    *((engine, NVIDIA, "gpus", SUBSET, NVIDIA_SUBSET) for engine in ("docker", "nerdctl")),
    *((engine, NVIDIA, "auto", ALL, NVIDIA_ALL) for engine in ("docker", "nerdctl")),
    *((engine, NVIDIA, "auto", SUBSET, NVIDIA_SUBSET) for engine in ("docker", "nerdctl")),
    ("podman", NVIDIA, "auto", ALL, NVIDIA_CDI_ALL),
    ("podman", NVIDIA, "auto", SUBSET, NVIDIA_CDI_SUBSET),
    *((engine, NVIDIA, "cdi", ALL, NVIDIA_CDI_ALL) for engine in VERSIONS),
    *((engine, NVIDIA, "cdi", SUBSET, NVIDIA_CDI_SUBSET) for engine in VERSIONS),
    *((engine, machine, mode, NONE, VOID)
      for engine in VERSIONS for machine in (AMD, NVIDIA, ()) for mode in ("auto", "devices", "gpus", "cdi")),
]  # fmt: skip


@pytest.mark.usefixtures("cdi")
@pytest.mark.parametrize(("engine", "machine", "mode", "indexes", "handed_over"), MATRIX)
def test_a_run_is_given_its_gpus_and_no_others(
    engine: str, machine: Sequence[Gpu], mode: str, indexes: Sequence[int], handed_over: str
) -> None:
    assert run_line(engine, [machine[index] for index in indexes], mode) == words(engine, handed_over)


@pytest.mark.parametrize("engine", VERSIONS)
@pytest.mark.parametrize("machine", [AMD, NVIDIA, ()], ids=["AMD", "NVIDIA", "none"])
def test_too_many_gpus_never_get_as_far_as_a_command_line(engine: str, machine: Sequence[Gpu]) -> None:
    too_many = len(machine) + 1
    with pytest.raises(RunError, match=f"n_gpus is {too_many}, this machine has {len(machine) or 'none'}"):
        run_line(engine, machine[: requested_count(str(too_many), machine, machine)], "auto")


# --- what can't work says so ---


@pytest.mark.parametrize("gpus", [NVIDIA[:1], AMD[:1]], ids=["NVIDIA", "AMD"])
def test_podman_is_never_given_gpus_that_it_would_silently_ignore(gpus: Sequence[Gpu]) -> None:
    with pytest.raises(RunError) as caught:
        run_line("podman", gpus, "gpus")
    assert str(caught.value) == (
        "--gpu-mode gpus: podman may ignore --gpus without an error; use --gpu-mode cdi or devices"
    )


@pytest.mark.parametrize("version", ["28.3.0", "28.3.0-rc.1", "28.10.1", "29.0.0"])
def test_docker_takes_amds_gpus_from_28_3_on(version: str) -> None:
    line = run_line("docker", [AMD[5], AMD[2]], "gpus", version)
    assert line == words("docker", """--gpus '"device=5,2"'""")


@pytest.mark.parametrize(
    ("engine", "version"),
    [("docker", "28.2.2"), ("docker", "20.10.24"), ("docker", "dev"), ("nerdctl", "2.1.2"), ("nerdctl", "30.0.0")],
)
def test_who_does_not_know_amds_gpus_by_number_says_what_to_use(engine: str, version: str) -> None:
    with pytest.raises(RunError) as caught:
        run_line(engine, AMD[:1], "gpus", version)
    assert str(caught.value) == (
        f"--gpu-mode gpus: {engine} {version} supports NVIDIA GPUs only (docker 28.3 also AMD's); "
        "use --gpu-mode devices"
    )


def test_a_gpu_without_a_render_node_is_not_replaced_by_all() -> None:
    with pytest.raises(RunError, match=r"GPU 1: unknown render node .*; load the amdgpu driver"):
        devices.flags(Docker("27.0"), [AMD[0], replace(AMD[1], render_node="")], "devices")


# --- groups ---


def test_a_group_of_root_is_not_added(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "stat", lambda path: SimpleNamespace(st_gid=0 if path.name == "kfd" else RENDER))
    assert run_line("docker", AMD[:1], "devices") == words(
        "docker", "--device=/dev/kfd --device=/dev/dri/renderD128 --group-add=109"
    )


def test_a_rootless_podman_keeps_the_users_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    nodes = "--device=/dev/kfd --device=/dev/dri/renderD128"
    assert run_line("podman", AMD[:1], "devices") == words("podman", f"{nodes} --group-add=keep-groups")
    assert run_line("docker", AMD[:1], "devices") == words("docker", f"{nodes} --group-add=44 --group-add=109")


def test_the_parts_of_a_gpu_have_render_nodes_of_their_own() -> None:
    parts = [replace(AMD[0], index=part, render_node=f"/dev/dri/renderD{128 + part}") for part in range(3)]
    nodes = "--device=/dev/dri/renderD129 --device=/dev/dri/renderD130"
    assert run_line("docker", parts[1:], "devices") == words(
        "docker", f"--device=/dev/kfd {nodes} --group-add=44 --group-add=109"
    )


# --- NVIDIA's device nodes ---


def test_nvidias_nodes_come_with_the_name_of_what_a_runtime_may_show() -> None:
    """Where NVIDIA's runtime is docker's default, it would else give an image all that it asks for."""
    assert run_line("docker", [NVIDIA[5], NVIDIA[2]], "devices") == words(
        "docker",
        "--device=/dev/nvidiactl --device=/dev/nvidia5 --device=/dev/nvidia2"
        " --env=NVIDIA_VISIBLE_DEVICES=GPU-55,GPU-22",
    )


def test_a_node_has_the_drivers_number_not_the_tools(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        Path,
        "read_text",
        lambda path: (
            "Model: \t NVIDIA H100\nDevice Minor: \t 3\n"
            if str(path) == "/proc/driver/nvidia/gpus/0000:02:00.0/information"
            else ""
        ),
    )
    assert "--device=/dev/nvidia3 " in run_line("docker", [NVIDIA[2]], "devices")


# --- MIG instances ---


def test_mig_instances_are_handed_over_by_their_uuid(cdi: Path) -> None:
    write_spec(cdi / "nvidia.yaml", "nvidia.com/gpu", ["0:0", "0:1", "MIG-0", "MIG-1", "all"])
    assert run_line("docker", MIG, "gpus") == words("docker", """--gpus '"device=MIG-0,MIG-1"'""")
    assert run_line("podman", MIG[1:], "auto") == words("podman", "--device=nvidia.com/gpu=MIG-1")


def test_a_mig_instance_has_no_node_of_its_own() -> None:
    with pytest.raises(RunError) as caught:
        run_line("docker", MIG[1:], "devices")
    assert str(caught.value) == (
        "--gpu-mode devices: GPU 1 is a MIG instance, which has no device node; use --gpu-mode gpus or cdi"
    )


@pytest.mark.parametrize("gpu", [MIG[1], replace(NVIDIA[2], index=3)], ids=["an instance", "a GPU behind instances"])
def test_numbers_that_count_instances_are_not_taken_for_the_specifications(cdi: Path, gpu: Gpu) -> None:
    """Its `1` and `3` are other GPUs: it counts GPUs, we count what can be handed over."""
    write_spec(cdi / "nvidia.yaml", "nvidia.com/gpu", ["0:0", "0:1", "1", "2", "3", "all"])
    with pytest.raises(RunError, match="is in no CDI specification"):
        run_line("podman", [gpu], "auto")


# --- CDI specifications ---


@pytest.mark.parametrize("suffix", ["yaml", "yml", "json"])
def test_a_specification_is_yaml_or_json(folder: Path, suffix: str) -> None:
    write_spec(folder / f"vendor.{suffix}", "nvidia.com/gpu", ["0", "1", "GPU-00", "all"])
    assert devices.cdi_devices("NVIDIA") == {"0", "1", "GPU-00", "all"}
    assert devices.cdi_devices("AMD") == set()


def test_a_gpu_is_named_by_its_uuid_where_the_specification_has_it_and_else_by_its_number(folder: Path) -> None:
    write_spec(folder / "nvidia.yaml", "nvidia.com/gpu", ["0", "1", "GPU-00", "all"])
    flags = devices.flags(Docker("27.0"), NVIDIA[:2], "cdi")
    assert flags == ["--device=nvidia.com/gpu=GPU-00", "--device=nvidia.com/gpu=1"]


def test_specifications_of_several_folders_count_together(folder: Path) -> None:
    write_spec(folder.parent / "etc/a.json", "amd.com/gpu", ["0"])
    write_spec(folder / "b.yaml", "amd.com/gpu", ["1"])
    assert devices.cdi_devices("AMD") == {"0", "1"}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.json", "{"),
        ("a.json", "[]"),
        ("a.json", '{"kind": "nvidia.com/gpu"}'),
        ("a.json", '{"kind": "nvidia.com/gpu", "devices": null}'),
        ("a.json", '{"kind": "nvidia.com/gpu", "devices": ["0", {"nom": "0"}]}'),
        ("a.json", '{"kind": "nvidia.com/gpu", "devices": {"name": "0"}}'),
        ("a.json", '{"kind": "nvidia.com/gpu", "devices": 7}'),
        ("a.yaml", "kind: [unclosed"),
        ("a.yaml", "kind: !!python/object:os.system nvidia.com/gpu"),
        ("a.yaml", ""),
        ("a.yaml", "just text"),
        ("a.txt", '{"kind": "nvidia.com/gpu", "devices": [{"name": "0"}]}'),
    ],
)
def test_a_broken_specification_names_no_gpu_and_hides_no_other(folder: Path, name: str, text: str) -> None:
    (folder / name).write_text(text)
    assert devices.cdi_devices("NVIDIA") == set()
    write_spec(folder / "good.json", "nvidia.com/gpu", ["0"])
    assert devices.cdi_devices("NVIDIA") == {"0"}


def test_a_specification_that_is_no_text_or_no_file_is_passed_over(folder: Path) -> None:
    (folder / "a.json").write_bytes(b"\xff\xfe\x00")
    (folder / "b.yaml").write_bytes(b"\xff\xfe\x00\xd8")
    (folder / "c.json").mkdir()
    (folder / "d.yaml").symlink_to(folder / "gone")
    assert devices.cdi_devices("NVIDIA") == set()


@pytest.mark.parametrize(
    ("gpu", "step"),
    [
        (NVIDIA[1], "nvidia-ctk cdi generate --output=/etc/cdi/nvidia.yaml"),
        (AMD[1], "amd-ctk cdi generate --output=/etc/cdi/amd.json"),
    ],
    ids=["NVIDIA", "AMD"],
)
def test_a_gpu_that_no_specification_names_comes_with_the_command_that_writes_one(
    folder: Path, gpu: Gpu, step: str
) -> None:
    write_spec(folder / "a.json", "nvidia.com/gpu", ["0", "all"])
    write_spec(folder / "b.json", "amd.com/gpu", ["0", "all", gpu.uuid if gpu.vendor == "AMD" else ""])
    with pytest.raises(RunError) as caught:
        devices.flags(Podman("4.9"), [gpu], "cdi")
    assert str(caught.value) == (
        f"GPU 1 is in no CDI specification in {folder.parent / 'etc'} and {folder}; `{step}` writes one"
    )
