"""Every key of a context, a line each: what its value is, where it is honoured, and how it is checked."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from madengine.config.values import expected, kind_of, place, shown, shown_key
from madengine.errors import ConfigurationError

GPU_VENDORS = ("AMD", "NVIDIA", "NONE")
# what older madengine writes into a manifest on a machine without a GPU
UNDETECTED = "UNABLE TO DETECT GPU VENDOR"

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_NUMBERS = re.compile(r"\d{1,9}(-\d{1,9})?", re.ASCII)
# As engines take it: https://github.com/docker/go-units
_SIZE = re.compile(r"\d{1,18}(\.\d{1,9})? ?([kmgtp]i?)?b?", re.ASCII | re.IGNORECASE)


class Kind(Enum):
    """The type of a key's value: its Python types, and its name in errors."""

    OBJECT = ((Mapping,), "an object")
    LIST = ((list, tuple, type(None)), "a list")
    TEXT = ((str, type(None)), "a string")
    GLOBS = ((list, tuple, str, type(None)), "a list of globs")
    FLAG = ((bool, int, float, str, type(None)), "true or false")
    ANY = ((object,), "a value")

    def __init__(self, types: tuple[type, ...], phrase: str) -> None:
        self.types = types
        self.phrase = phrase


class Honoured(Enum):
    """The commands that act on a key."""

    BUILD = "build"
    RUN = "run"
    BOTH = "build and run"
    NOWHERE = "unsupported"


class InManifest(Enum):
    """Whether `build` writes a key into the manifest; in a later run it counts below the run's own context."""

    NO = "no"
    IF_SET = "where the user sets it; never what was only detected"
    ALWAYS = "empty too"


@dataclass(frozen=True)
class ContextKey:
    """A key of the context."""

    name: str
    kind: Kind
    honoured: Honoured
    in_manifest: InManifest = InManifest.NO
    check: Callable[[Any, str], None] = lambda value, where: None
    #: whether Kubernetes pods get it, as far as it is honoured at all
    pods: bool = True


def ranges(text: str) -> list[range]:
    """Return the numbers of a list with ranges, such as `0,2-4,7`, or none if empty; raise ValueError for others."""
    parts = [part.strip() for part in text.split(",")] if text.strip() else []
    for part in parts:
        if not _NUMBERS.fullmatch(part):
            raise ValueError(f"{shown(part)} is neither a number nor a range")
    ends = (part.partition("-") for part in parts)
    return [range(int(first), int(last or first) + 1) for first, _, last in ends]


def _check_vendor(value: Any, where: str) -> None:
    vendor = str(value or "").strip().upper()
    if vendor == "INTEL":
        raise ConfigurationError(f"{where}: Intel GPUs are not supported; use {', '.join(GPU_VENDORS)}")
    if vendor and vendor not in (*GPU_VENDORS, UNDETECTED):
        raise expected(where, f"one of {', '.join(GPU_VENDORS)}", value)


def _check_ranges(value: Any, where: str) -> None:
    try:
        ranges(value or "")
    except ValueError:
        raise expected(where, "numbers and ranges such as '0,2-4,7'", value) from None


def _check_size(value: Any, where: str) -> None:
    size = (value or "").strip()
    if size and not _SIZE.fullmatch(size):
        raise expected(where, "a size such as '16g'", value)


def _check_variables(value: Any, where: str) -> None:
    for name, item in value.items():
        if not _VARIABLE.fullmatch(name):
            raise ConfigurationError(f"{where}: invalid variable name {shown(name)}; use letters, digits and _")
        if not isinstance(item, str | bool | int | float):
            # the kind, not the value: a token may be in it
            raise ConfigurationError(
                f"{where}.{shown_key(name)}: expected a string, a number or true/false, got {kind_of(item)}"
            )


def _check_mounts(value: Any, where: str) -> None:
    for container, host in value.items():
        if not container.startswith("/"):
            raise ConfigurationError(
                f"{where}: expected an absolute path in the container as key, got {shown(container)}; "
                "write {'/container/path': '/host/path'}"
            )
        if not isinstance(host, str) or not host:
            raise expected(f"{where}.{shown_key(container)}", "a path on the host", host)


KEYS: Mapping[str, ContextKey] = {
    key.name: key
    for key in (
        # A build's choice counts in a run where the machine has such GPUs; elsewhere the images are for other machines.
        ContextKey("gpu_vendor", Kind.TEXT, Honoured.BOTH, InManifest.IF_SET, _check_vendor),
        ContextKey("guest_os", Kind.TEXT, Honoured.BOTH, InManifest.IF_SET),
        # For CONTEXT headers alone.
        ContextKey("host_os", Kind.ANY, Honoured.BUILD),
        ContextKey("numa_balancing", Kind.ANY, Honoured.BUILD),
        ContextKey("ctx_test", Kind.ANY, Honoured.BUILD),
        ContextKey("docker_build_arg", Kind.OBJECT, Honoured.BUILD, InManifest.ALWAYS, _check_variables),
        ContextKey("docker_env_vars", Kind.OBJECT, Honoured.RUN, InManifest.ALWAYS, _check_variables),
        ContextKey("docker_mounts", Kind.OBJECT, Honoured.RUN, InManifest.ALWAYS, _check_mounts),
        ContextKey("docker_cpus", Kind.TEXT, Honoured.RUN, InManifest.IF_SET, pods=False),
        ContextKey("docker_gpus", Kind.TEXT, Honoured.RUN, InManifest.IF_SET, _check_ranges, pods=False),
        ContextKey("SHM_SIZE", Kind.TEXT, Honoured.RUN, InManifest.IF_SET, _check_size),
        ContextKey("model_args", Kind.TEXT, Honoured.RUN, InManifest.IF_SET),
        ContextKey("multi_node_args", Kind.OBJECT, Honoured.RUN, InManifest.IF_SET, _check_variables),
        ContextKey("data", Kind.OBJECT, Honoured.RUN, InManifest.IF_SET),
        # The scripts that these name go into the images.
        ContextKey("tools", Kind.LIST, Honoured.BOTH, InManifest.IF_SET),
        ContextKey("pre_scripts", Kind.LIST, Honoured.BOTH, InManifest.IF_SET),
        ContextKey("post_scripts", Kind.LIST, Honoured.BOTH, InManifest.IF_SET),
        ContextKey("encapsulate_script", Kind.TEXT, Honoured.RUN, InManifest.IF_SET),
        ContextKey("artifacts", Kind.GLOBS, Honoured.RUN, InManifest.IF_SET),
        ContextKey("log_error_pattern_scan", Kind.FLAG, Honoured.RUN, InManifest.IF_SET),
        ContextKey("log_error_patterns", Kind.LIST, Honoured.RUN, InManifest.IF_SET),
        ContextKey("log_error_benign_patterns", Kind.LIST, Honoured.RUN, InManifest.IF_SET),
        ContextKey("gen_sys_env_details", Kind.FLAG, Honoured.RUN, InManifest.IF_SET, pods=False),
        ContextKey("generate_sys_env_details", Kind.FLAG, Honoured.RUN, InManifest.IF_SET, pods=False),
        ContextKey("rocenv_mode", Kind.TEXT, Honoured.RUN, InManifest.IF_SET, pods=False),
        # Images that are built with it are in the manifest themselves.
        ContextKey("MAD_CONTAINER_IMAGE", Kind.TEXT, Honoured.BOTH, pods=False),
        # Of madengine 2: deployments of its own, and what sets their GPUs.
        *(
            ContextKey(name, Kind.ANY, Honoured.NOWHERE, pods=False)
            for name in (
                *("distributed", "slurm", "k8s", "kubernetes", "vllm", "launcher", "deploy", "deployment_config"),
                *("shared_data", "skip_perf_collection", "monitor", "cleanup_on_failure", "env_vars", "env_file"),
                *("debug", "timeout", "timeout_multiplier", "data_sources", "mirrorlocal", "MAD_ROCM_PATH"),
                *("n_gpus", "gpus_per_node", "gpu_count", "num_gpus", "ngpus"),
            )
        ),
    )
}


def check_layer(layer: Mapping[str, Any], where: str) -> None:
    """Raise ConfigurationError, naming the key, for the first value of a context that is of a wrong type or form."""
    for key in (KEYS[name] for name in layer if name in KEYS):
        value = layer[key.name]
        if not isinstance(value, key.kind.types):
            # A value of an object may be a token.
            got = kind_of(value) if key.kind is Kind.OBJECT or isinstance(value, Mapping | list) else shown(value)
            raise ConfigurationError(f"{place(where, key.name)}: expected {key.kind.phrase}, got {got}")
        key.check(value, place(where, key.name))
