"""The GPUs that the caller's environment allows: what schedulers and users set in CUDA_VISIBLE_DEVICES and its like."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence

from madengine.errors import ConfigurationError
from madengine.machine.gpus import AMD, NVIDIA
from madengine.records import Gpu, Reading

logger = logging.getLogger(__name__)

# By vendor.
VARIABLES = {
    NVIDIA: ("NVIDIA_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES"),
    AMD: ("ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES", "GPU_DEVICE_ORDINAL"),
}
# What NVIDIA's container toolkit sets where it has passed GPUs already, or where another way did (void).
_NOT_RESTRICTED = ("all", "void")
# What hides all GPUs, or all after it; Slurm sets the second for a job without GPUs.
_END = ("-1", "nodevfiles", "none")


def visibility_variables(gpus: Sequence[Gpu], environ: Mapping[str, str]) -> dict[str, str]:
    """Return those of the variables that are set and restrict the GPUs' vendor."""
    names = VARIABLES.get(gpus[0].vendor, ()) if gpus else ()
    return {name: environ[name].strip() for name in names if name in environ and _restricts(name, environ[name], gpus)}


def visible_gpus(gpus: Sequence[Gpu], environ: Mapping[str, str]) -> list[Gpu]:
    """Return the GPUs that the variables allow, in their order; none if a variable is empty.

    Raises ConfigurationError for a variable that names no GPU of this machine, or none that another one allows.
    """
    variables = visibility_variables(gpus, environ)
    runtime = variables.get("ROCR_VISIBLE_DEVICES")
    base = visible = list(gpus)
    for name, value in variables.items():
        is_first = name == "ROCR_VISIBLE_DEVICES"
        if value == runtime and not is_first:
            continue  # Slurm sets all of them to the same list
        # HIP counts within what ROCR_VISIBLE_DEVICES leaves.
        chosen = dict.fromkeys(_named(name, value, base, is_relative=runtime is not None and not is_first))
        left = [gpu for gpu in chosen if gpu in visible]
        if _names_any(value) and not left:
            raise ConfigurationError(_contradiction(name, value, gpus, visible))
        visible = left
        base = visible if is_first else base
    return visible


def visible_part(reading: Reading[Gpu], docker_gpus: str, environ: Mapping[str, str]) -> tuple[Reading[Gpu], str]:
    """Return the reading and the context's `docker_gpus` as the variables change them; `docker_gpus` overrides them.

    With all GPUs hidden, this machine is one without GPUs.
    """
    gpus = reading.items
    settings = ", ".join(f"{name}={value}" for name, value in visibility_variables(gpus, environ).items())
    if not settings:
        return reading, docker_gpus
    if docker_gpus.strip():
        logger.info(f"{settings} ignored: docker_gpus is {docker_gpus}")
        return reading, docker_gpus
    visible = visible_gpus(gpus, environ)
    if visible == list(gpus):
        return reading, ""
    indexes = _indexes(visible)
    logger.info(f"{settings}: {f'only GPU {indexes}' if visible else 'no GPU'} of {len(gpus)} can be used")
    return (reading, indexes) if visible else (Reading(), "")


def _restricts(name: str, value: str, gpus: Sequence[Gpu]) -> bool:
    if name != "NVIDIA_VISIBLE_DEVICES":
        return True
    # In a container it names GPUs of the host, which have other indexes here.
    is_applied = len(_words(value)) == len(gpus)
    return value.strip().lower() not in _NOT_RESTRICTED and not is_applied


def _named(name: str, value: str, gpus: Sequence[Gpu], is_relative: bool) -> Iterator[Gpu]:
    """Yield the GPUs that a variable names, up to the first that isn't there, as CUDA and ROCm do."""
    for word in _words(value):
        if word.lower() in _END:
            return
        if word.isdecimal():
            numbered = dict(enumerate(gpus)) if is_relative else {gpu.index: gpu for gpu in gpus}
            matches = [numbered[int(word)]] if int(word) in numbered else []
        elif word.upper().startswith(("GPU-", "MIG-")):
            matches = [gpu for gpu in gpus if _has_uuid(gpu, word)]
        else:
            raise ConfigurationError(f"{name}={value}: expected indexes or UUIDs of GPUs, got {word!r}; unset it")
        if not matches:
            return
        yield from matches


def _has_uuid(gpu: Gpu, beginning: str) -> bool:
    """Return whether a UUID, or a beginning of one, is the GPU's, or that of the GPU which it is a part of."""
    return any(uuid.lower().startswith(beginning.lower()) for uuid in (gpu.uuid, gpu.parent) if uuid)


def _words(value: str) -> list[str]:
    return [word.strip() for word in value.split(",")] if value.strip() else []


def _names_any(value: str) -> bool:
    words = _words(value)
    return bool(words) and words[0].lower() not in _END


def _contradiction(name: str, value: str, gpus: Sequence[Gpu], visible: Sequence[Gpu]) -> str:
    has = f"this machine has GPUs {_indexes(gpus)}"
    allowed = "" if len(visible) == len(gpus) else f", of which other variables allow {_indexes(visible) or 'none'}"
    return f"{name}={value}: names no GPU that can be used: {has}{allowed}; correct it, or set docker_gpus"


def _indexes(gpus: Sequence[Gpu]) -> str:
    return ",".join(str(gpu.index) for gpu in gpus)
