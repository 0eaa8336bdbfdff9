"""What the modules hand to each other: frozen dataclasses, which may derive from their fields but do no I/O."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any, Generic, TypeVar

#: The container engines, in the order in which `--engine auto` tries them; their classes are in programs/.
ENGINE_NAMES = ("docker", "podman", "nerdctl")

#: Those that run images and build none.
RUN_ENGINE_NAMES = ("apptainer", "pyxis")

SUCCESS = "SUCCESS"
FAILURE = "FAILURE"
SKIPPED = "SKIPPED"

#: Seconds that a model's script may take where nothing else is set.
DEFAULT_TIMEOUT = 7200

#: The samples of a run's GPUs, in the model's folder of the run; and the columns of the file, an empty cell is unknown.
SERIES_FILE = "gpu_series.csv"
SAMPLE_COLUMNS = ("time", "gpu", "memory_used_mib", "utilization_percent", "power_w", "temperature_c", "throttled")

T = TypeVar("T")


@dataclass(frozen=True)
class Model:
    """One entry of a models.json as it was selected; paths are relative to the package's root."""

    name: str
    dockerfile: str
    scripts: str
    #: "-1" is all of the machine's, empty is unset
    n_gpus: str = ""
    args: str = ""
    tags: tuple[str, ...] = ()
    owner: str = ""
    training_precision: str = ""
    url: str = ""
    dockercontext: str = ""
    data: str = ""
    cred: str = ""
    #: seconds; 0 is no limit, None is unset
    timeout: int | None = None
    multiple_results: str = ""
    skip_gpu_arch: str = ""
    additional_docker_run_options: str = ""
    is_deprecated: bool = False
    #: globs of the files to collect
    artifacts: tuple[str, ...] = ()
    #: folders of the container whose content lasts over runs; relative ones are below /myworkspace
    caches: tuple[str, ...] = ()
    #: keys unknown to madengine, untouched
    extra: Mapping[str, Any] = field(default_factory=dict)

    def time_limit(self, override: int | None = None) -> int:
        """Return the seconds that the model's script may take, 0 for no limit; an override that is not None wins."""
        if override is not None:
            return override
        return DEFAULT_TIMEOUT if self.timeout is None else self.timeout


@dataclass(frozen=True)
class Image:
    """One image of one model: an entry of a manifest's `built_images`."""

    #: the entry's key in the manifest
    key: str
    docker_image: str
    dockerfile: str = ""
    base_docker: str = ""
    #: digest of the base image
    docker_sha: str = ""
    #: seconds
    build_duration: float = 0.0
    #: from the Dockerfile's CONTEXT header, empty where that does not name it; see `vendor`
    gpu_vendor: str = ""
    #: from the Dockerfile's CONTEXT header, empty where that does not name it
    guest_os: str = ""
    #: `sha256:…` or empty
    image_id: str = ""
    registry_image: str = ""
    #: `sha256:…` or empty
    registry_digest: str = ""
    #: whether the image carries the payload (scripts, model entry, entry.sh)
    self_contained: bool = False
    #: commit of the model's own code
    git_commit: str = ""
    size_bytes: int = 0
    log_file: str = ""
    #: keys unknown to madengine, untouched
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def pinned(self) -> str:
        """The registry name that can only mean this image, `repository@sha256:…`; empty without a digest."""
        if not (self.registry_image and self.registry_digest):
            return ""
        return f"{repository(self.registry_image)}@{self.registry_digest}"

    @property
    def reference(self) -> str:
        """The most exact name that the manifest has for this image: pinned, else its id, else a plain name."""
        return self.pinned or self.image_id or self.registry_image or self.docker_image

    @property
    def vendor(self) -> str:
        """AMD, NVIDIA or another `gpu_vendor` in upper case, empty if unknown.

        Older manifests have the vendor in the Dockerfile's name only, as `.amd.` or `.nvidia.`.
        """
        parts = PurePosixPath(self.dockerfile).name.lower().split(".")
        in_name = next((vendor.upper() for vendor in ("amd", "nvidia") if vendor in parts), "")
        return self.gpu_vendor.upper() or in_name


def repository(name: str) -> str:
    """Return an image name without its tag and digest; the colon of a port is kept."""
    bare = name.partition("@")[0]
    head, slash, tail = bare.rpartition("/")
    return head + slash + tail.partition(":")[0]


@dataclass(frozen=True)
class GpuSettings:
    """How a GPU is set, and how fast it is clocked, at the moment of the reading; what is unknown is None or empty."""

    power_cap_w: float | None = None
    #: NVIDIA's
    persistence_mode: bool | None = None
    #: AMD's: `auto`, `high`, `manual` …
    performance_level: str = ""
    #: NVIDIA's `--applications-clocks`, of the cores and of the memory
    applications_clock_mhz: float | None = None
    applications_memory_clock_mhz: float | None = None
    max_clock_mhz: float | None = None
    max_memory_clock_mhz: float | None = None
    #: of this moment: an idle GPU lowers them
    clock_mhz: float | None = None
    memory_clock_mhz: float | None = None


@dataclass(frozen=True)
class Gpu:
    """One device that a container can be given, as its tool or the kernel names it: a GPU, or a part of one.

    What the source does not know is empty or None.
    """

    vendor: str
    #: position in the list of this machine's devices
    index: int
    #: product, `NVIDIA H100 80GB HBM3`
    name: str = ""
    #: as `skip_gpu_arch` names it: `H100`, `gfx942`
    architecture: str = ""
    uuid: str = ""
    #: AMD's `/dev/dri/renderD<N>`
    render_node: str = ""
    memory_mib: int | None = None
    driver: str = ""
    #: CUDA or ROCm version
    runtime: str = ""
    #: `0000:05:00.0`; the same for all parts of one GPU
    pci_bus_id: str = ""
    #: profile of a MIG instance (`3g.40gb`), or AMD's compute and memory mode (`CPX/NPS4`)
    partition: str = ""
    #: UUID of the GPU that a MIG instance is a part of
    parent: str = ""
    #: the tool that the values come from
    source: str = ""
    #: two readings of one device are of the same device, however it is clocked
    settings: GpuSettings = field(default=GpuSettings(), compare=False)


_PLAUSIBLE = {
    "memory_used_mib": (0.0, 2.0**27),
    "utilization": (0.0, 1000.0),
    "power_w": (0.0, 100_000.0),
    "temperature_c": (-100.0, 1000.0),
}


@dataclass(frozen=True)
class GpuSample:
    """What one GPU did at one moment; None is unknown.

    The GPU is identified by what its source has of `uuid`, `pci_bus_id` and the source's own `index`. The parts of a
    GPU share one sample, because they share its counters.
    """

    source: str
    #: seconds since the epoch
    time: float
    index: int | None = None
    uuid: str = ""
    pci_bus_id: str = ""
    memory_used_mib: float | None = None
    #: percent
    utilization: float | None = None
    #: mean of the last `power_seconds`
    power_w: float | None = None
    #: 0 is a momentary value, as far as the source can tell
    power_seconds: float = 0.0
    temperature_c: float | None = None
    #: whether power or heat held the clocks down
    throttled: bool | None = None

    def __post_init__(self) -> None:
        """Let a value that no GPU has be unknown: a tool that fails prints anything."""
        for name, (least, most) in _PLAUSIBLE.items():
            value = getattr(self, name)
            if value is not None and not least <= value <= most:
                object.__setattr__(self, name, None)


@dataclass(frozen=True)
class GpuProcess:
    """A process of this host that uses a GPU, identified as in a sample: by `uuid`, `pci_bus_id` or `index`."""

    pid: int
    name: str = ""
    memory_used_mib: float | None = None
    uuid: str = ""
    pci_bus_id: str = ""
    index: int | None = None


@dataclass(frozen=True)
class GpuCost:
    """What a run cost on its GPUs; a value that no sample has is None, never zero."""

    #: peak over time of the sum over the run's GPUs
    peak_gpu_memory_mib: float | None = None
    peak_gpu_memory_mib_per_gpu: Mapping[int, float] = field(default_factory=dict)
    #: before the start
    idle_gpu_memory_mib: float | None = None
    #: percent, over the time
    mean_gpu_utilization: float | None = None
    #: percent, over all samples
    p95_gpu_utilization: float | None = None
    energy_j: float | None = None
    #: of all GPUs together
    mean_power_w: float | None = None
    #: of all GPUs together
    peak_power_w: float | None = None
    peak_temperature_c: float | None = None
    #: percent of the time
    throttled_percent: float | None = None
    #: samples per second and GPU
    sample_hz: float | None = None
    telemetry_source: str = ""


@dataclass(frozen=True)
class Reading(Generic[T]):
    """The answer of one source: its items; or none and a `problem`, one line with the source's name and the cause."""

    items: tuple[T, ...] = ()
    problem: str = ""
    #: whether the source is there and can't tell its items, which is not the same as having none
    fails: bool = False


@dataclass(frozen=True)
class Metric:
    """One measured value of a model."""

    #: the value as the model printed it
    performance: str
    #: its name
    metric: str
    #: the model's suffix, where there are multiple results
    model: str = ""
    extra: Mapping[str, str] = field(default_factory=dict)
    #: how the numbers of several nodes became one; empty for that of one node
    aggregation: str = ""


@dataclass(frozen=True)
class Artifact:
    """A file that a run left and that was collected."""

    #: below the model's folder of the run
    path: str
    size_bytes: int


@dataclass(frozen=True)
class RunResult:
    """The result of one attempt to run one model on one node."""

    run_id: str
    model: Model
    #: None where the model has no image for this node
    image: Image | None
    status: str
    reason: str = ""
    metrics: tuple[Metric, ...] = ()
    #: None where the script never ran
    exit_code: int | None = None
    #: seconds, of the script
    test_duration: float = 0.0
    #: seconds, of the container
    run_duration: float = 0.0
    #: ISO 8601 in UTC
    started: str = ""
    machine_name: str = ""
    gpu_vendor: str = ""
    gpu_architecture: str = ""
    #: of this node
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
    #: those that the run had
    gpus: tuple[Gpu, ...] = ()
    cost: GpuCost | None = None
    #: other processes on the run's GPUs at its start; None is unknown
    foreign_processes: int | None = None
    #: those that used the run's GPUs while it ran, as far as they were seen
    strangers: tuple[GpuProcess, ...] = ()
    #: whether processes of others were on the run's GPUs before or during the run; None is unknown
    contaminated: bool | None = None
    #: whether other models ran on this machine meanwhile
    packed: bool = False
    #: names the description in results.json
    environment_id: str = ""
    #: nodes that ran the model together
    nnodes: int = 1
    #: which of them this is; the first one's result is that of the run
    rank: int = 0
    #: each node's own results, by rank
    parts: tuple[RunResult, ...] = ()
    #: what started its processes; empty is what MAD_LAUNCHER says
    launcher: str = ""
    artifacts: tuple[Artifact, ...] = ()
    #: from 1; 0 where nothing is repeated
    repeat: int = 0
    #: before the repeats, and no measurement
    is_warmup: bool = False
    #: `base` or `new`, where two manifests are compared
    side: str = ""
