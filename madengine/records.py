"""What travels between the rooms: frozen dataclasses, no behaviour."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

SUCCESS = "SUCCESS"
FAILURE = "FAILURE"
SKIPPED = "SKIPPED"


@dataclass(frozen=True)
class Model:
    """One entry of a models.json as it was selected; paths are relative to the package's root.

    `n_gpus` is text ("-1" is all), `timeout` seconds (0 is none, None is unset); `extra` holds the
    keys that madengine does not know, untouched.
    """

    name: str
    dockerfile: str
    scripts: str
    n_gpus: str = "1"
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
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Image:
    """One image of one model: an entry of a manifest's `built_images`.

    `key` is the entry's key; `docker_sha` the digest of the base image; `image_id` and
    `registry_digest` are `sha256:…` or empty; `build_duration` is in seconds. `gpu_vendor` and
    `guest_os` come from the Dockerfile's CONTEXT header, empty where it does not name them.
    `self_contained` says that the image carries the payload (scripts, card, entry.sh).
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
    size_bytes: int = 0
    log_file: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Gpu:
    """One GPU of this machine, as its tool or the kernel names it.

    `render_node` is AMD's `/dev/dri/renderD<N>`; `architecture` such as `gfx942` or `NVIDIA H100 80GB HBM3`.
    """

    vendor: str
    index: int
    name: str = ""
    architecture: str = ""
    uuid: str = ""
    render_node: str = ""


@dataclass(frozen=True)
class Metric:
    """One measured figure: the value as the model printed it, its name, and (multiple results) its own model suffix."""

    performance: str
    metric: str
    model: str = ""
    extra: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class RunResult:
    """What came of one model on one node, one attempt.

    `test_duration` is the script's own time in seconds, `run_duration` the container's; `started` is
    ISO 8601 in UTC; `exit_code` None where the script never ran. `image` is None where the model had
    no image for this node.
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
