"""What travels between the rooms: frozen dataclasses, no behaviour."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

SUCCESS = "SUCCESS"
FAILURE = "FAILURE"
SKIPPED = "SKIPPED"

T = TypeVar("T")


@dataclass(frozen=True)
class Model:
    """One entry of a models.json as it was selected; paths are relative to the package's root.

    `n_gpus` is text ("-1" is all, empty unset), `timeout` seconds (0 is none, None is unset); `artifacts` are globs of
    files to bring back; `extra` holds the keys that madengine does not know, untouched.
    """

    name: str
    dockerfile: str
    scripts: str
    n_gpus: str = ""
    args: str = ""
    tags: tuple[str, ...] = ()
    owner: str = ""
    training_precision: str = ""
    url: str = ""
    dockercontext: str = ""
    data: str = ""
    cred: str = ""
    timeout: int | None = None
    multiple_results: str = ""
    skip_gpu_arch: str = ""
    additional_docker_run_options: str = ""
    is_deprecated: bool = False
    artifacts: tuple[str, ...] = ()
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Image:
    """One image of one model: an entry of a manifest's `built_images`.

    `key` is the entry's key; `docker_sha` the digest of the base image; `image_id` and
    `registry_digest` are `sha256:…` or empty; `build_duration` is in seconds. `gpu_vendor` and
    `guest_os` come from the Dockerfile's CONTEXT header, empty where it does not name them.
    `self_contained` says that the image carries the payload (scripts, card, entry.sh), `git_commit` which commit of
    the model's own code.
    """

    key: str
    docker_image: str
    dockerfile: str = ""
    base_docker: str = ""
    docker_sha: str = ""
    build_duration: float = 0.0
    gpu_vendor: str = ""
    guest_os: str = ""
    image_id: str = ""
    registry_image: str = ""
    registry_digest: str = ""
    self_contained: bool = False
    git_commit: str = ""
    size_bytes: int = 0
    log_file: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Gpu:
    """One device that a container can be given, as its tool or the kernel names it: a GPU, or a part of one.

    `index` is its place in the list of this machine's devices. `name` is the product (`NVIDIA H100 80GB HBM3`),
    `architecture` what `skip_gpu_arch` names (`H100`, `gfx942`), `runtime` the CUDA or ROCm version, `render_node`
    AMD's `/dev/dri/renderD<N>`. `partition` is the profile of a MIG instance (`3g.40gb`) or AMD's compute and memory
    mode (`CPX/NPS4`); `parent` is the UUID of the GPU that a MIG instance is a part of. Parts of one GPU have the same
    `pci_bus_id` (`0000:05:00.0`). `source` says who told. What the source does not tell is empty or None.
    """

    vendor: str
    index: int
    name: str = ""
    architecture: str = ""
    uuid: str = ""
    render_node: str = ""
    memory_mib: int | None = None
    driver: str = ""
    runtime: str = ""
    pci_bus_id: str = ""
    partition: str = ""
    parent: str = ""
    source: str = ""


@dataclass(frozen=True)
class GpuSample:
    """What one GPU did at one moment; None is unknown.

    `time` is in seconds since the epoch, `utilization` in percent, `throttled` whether power or heat held its clocks
    down. `power_w` is the mean of the last `power_seconds`; 0 is of the moment, as far as a source can tell it. A GPU
    is told by what its source names of `uuid`, `pci_bus_id` and the source's own `index`. The parts of a GPU share one
    sample, because they share its counters.
    """

    source: str
    time: float
    index: int | None = None
    uuid: str = ""
    pci_bus_id: str = ""
    memory_used_mib: float | None = None
    utilization: float | None = None
    power_w: float | None = None
    power_seconds: float = 0.0
    temperature_c: float | None = None
    throttled: bool | None = None


@dataclass(frozen=True)
class GpuProcess:
    """A process of this host that uses a GPU, which is told as in a sample: by `uuid`, `pci_bus_id` or `index`."""

    pid: int
    name: str = ""
    memory_used_mib: float | None = None
    uuid: str = ""
    pci_bus_id: str = ""
    index: int | None = None


@dataclass(frozen=True)
class GpuCost:
    """What a run cost on its GPUs; a figure that no sample tells is None, never zero.

    Memory is in MiB (the peak over time of the sum over the run's GPUs; idle is before the start), utilisation
    in percent over the time (its p95 over all samples), energy in joule, power in watt (of all GPUs together),
    temperature in Celsius, throttling the percentage of the time, `sample_hz` per GPU.
    """

    peak_gpu_memory_mib: float | None = None
    peak_gpu_memory_mib_per_gpu: Mapping[int, float] = field(default_factory=dict)
    idle_gpu_memory_mib: float | None = None
    mean_gpu_utilization: float | None = None
    p95_gpu_utilization: float | None = None
    energy_j: float | None = None
    mean_power_w: float | None = None
    peak_power_w: float | None = None
    peak_temperature_c: float | None = None
    throttled_percent: float | None = None
    sample_hz: float | None = None
    telemetry_source: str = ""


@dataclass(frozen=True)
class Reading(Generic[T]):
    """What one source told: its items; or none and a `problem`, one line that names the source and what happened."""

    items: tuple[T, ...] = ()
    problem: str = ""


@dataclass(frozen=True)
class Metric:
    """One measured figure: the value as the model printed it, its name, and (multiple results) its own model suffix."""

    performance: str
    metric: str
    model: str = ""
    extra: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Artifact:
    """A file that a run left and that was brought back: its path below the model's folder of the run, and its size."""

    path: str
    size_bytes: int


@dataclass(frozen=True)
class RunResult:
    """What came of one model on one node, one attempt.

    `test_duration` is the script's own time in seconds, `run_duration` the container's; `started` is
    ISO 8601 in UTC; `exit_code` None where the script never ran. `image` is None where the model had
    no image for this node. `gpus` are those that the run was given, `foreign_processes` counts what
    else ran on them at its start (None where nobody knows), `packed` says that other models ran on
    this machine meanwhile, `environment_id` names the description in results.json. `nnodes` is how many
    nodes ran it together, this one with `n_gpus`; `artifacts` are the files that it brought back.
    """

    run_id: str
    model: Model
    image: Image | None
    status: str
    reason: str = ""
    metrics: tuple[Metric, ...] = ()
    exit_code: int | None = None
    test_duration: float = 0.0
    run_duration: float = 0.0
    started: str = ""
    machine_name: str = ""
    gpu_vendor: str = ""
    gpu_architecture: str = ""
    n_gpus: str = ""
    engine: str = ""
    image_digest: str = ""
    git_commit: str = ""
    dataname: str = ""
    data_provider_type: str = ""
    data_size: str = ""
    data_download_duration: str = ""
    log_file: str = ""
    directory: str = ""
    gpus: tuple[Gpu, ...] = ()
    cost: GpuCost | None = None
    foreign_processes: int | None = None
    packed: bool = False
    environment_id: str = ""
    nnodes: int = 1
    artifacts: tuple[Artifact, ...] = ()
