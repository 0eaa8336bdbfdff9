"""Every key of a context, a line each: what its value is, where it is honoured, and how it is checked."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from madengine.config.launchers import SETTINGS, check_distributed, launcher_named, unknown_settings
from madengine.config.values import expected, kind_of, place, shown, shown_key
from madengine.errors import ConfigurationError

GPU_VENDORS = ("AMD", "NVIDIA", "NONE")
# what older madengine writes into a manifest on a machine without a GPU
UNDETECTED = "UNABLE TO DETECT GPU VENDOR"
#: the names of a number of GPUs, in madengine 2's order
GPU_COUNTS = ("gpus_per_node", "gpu_count", "n_gpus", "num_gpus", "ngpus")

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_ON = frozenset(("1", "true", "yes", "on"))
_OFF = frozenset(("0", "false", "no", "off"))
_NUMBERS = re.compile(r"\d{1,9}(-\d{1,9})?", re.ASCII)
# As engines take it: https://github.com/docker/go-units
_SIZE = re.compile(r"\d{1,18}(\.\d{1,9})? ?([kmgtp]i?)?b?", re.ASCII | re.IGNORECASE)

#: what madengine 2 has for clusters, and this version for Slurm alone
JOB_FLAGS = ("monitor", "cleanup_on_failure")

#: What `deploy` may be for a run on one machine, in madengine 2 too.
LOCAL_NAMES = ("local", "docker")


class Kind(Enum):
    """The type of a key's value: its Python types, and its name in errors."""

    OBJECT = ((Mapping,), "an object")
    LIST = ((list, tuple, type(None)), "a list")
    TEXT = ((str, type(None)), "a string")
    GLOBS = ((list, tuple, str, type(None)), "a list of globs")
    FLAG = ((bool, int, str, type(None)), "true or false")
    ANY = ((object,), "a value")

    def __init__(self, types: tuple[type, ...], phrase: str) -> None:
        self.types = types
        self.phrase = phrase


class Honoured(Enum):
    """The commands that act on a key."""

    BUILD = "build"
    RUN = "run"
    BOTH = "build and run"
    NOWHERE = "neither; a line names it"


class InManifest(Enum):
    """Whether `build` writes a key into the manifest; in a later run it counts below the run's own context."""

    NO = "no"
    IF_SET = "where the user sets it; never what was only detected"
    ALWAYS = "empty too"
    DEPLOYMENT = "in its deployment_config, as madengine 2"


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
    #: what to do in its place, where it is honoured nowhere
    instead: str = ""
    #: whether a value asks for something, where it is honoured nowhere
    asks: Callable[[Any], bool] = bool
    #: why a run can't do what a value asks for; empty where it can
    refusal: Callable[[Any], str] = lambda value: ""


def ranges(text: str) -> list[range]:
    """Return the numbers of a list with ranges, such as `0,2-4,7`, or none if empty; raise ValueError for others."""
    parts = [part.strip() for part in text.split(",")] if text.strip() else []
    for part in parts:
        if not _NUMBERS.fullmatch(part):
            raise ValueError(f"{shown(part)} is neither a number nor a range")
    ends = (part.partition("-") for part in parts)
    return [range(int(first), int(last or first) + 1) for first, _, last in ends]


def as_text(value: Any) -> str:
    """Return a variable's value as programs get it; true and false as shells write them."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def as_flag(value: Any) -> bool:
    """Return whether a flag of a context is set."""
    return str(value).strip().lower() in _ON


def is_off(value: Any) -> bool:
    """Return whether a flag of a context, which is on by itself, is switched off."""
    return value is not None and str(value).strip().lower() in _OFF


def _check_vendor(value: Any, where: str) -> None:
    vendor = str(value or "").strip().upper()
    if vendor == "INTEL":
        raise ConfigurationError(f"{where}: Intel GPUs are not supported; use {', '.join(GPU_VENDORS)}")
    if vendor and vendor not in (*GPU_VENDORS, UNDETECTED):
        raise expected(where, f"one of {', '.join(GPU_VENDORS)}", value)


def _check_ranges(value: Any, where: str) -> None:
    if str(value).strip().lower() == "all":
        return
    try:
        ranges(value or "")
    except ValueError:
        raise expected(where, "numbers and ranges such as '0,2-4,7'", value) from None


def _check_size(value: Any, where: str) -> None:
    size = (value or "").strip()
    if size and not _SIZE.fullmatch(size):
        raise expected(where, "a size such as '16g'", value)


def check_variables(value: Any, where: str) -> None:
    for name, item in value.items():
        if not _VARIABLE.fullmatch(name):
            raise ConfigurationError(f"{where}: invalid variable name {shown(name)}; use letters, digits and _")
        if not isinstance(item, str | bool | int | float):
            # the kind, not the value: a token may be in it
            raise ConfigurationError(
                f"{where}.{shown_key(name)}: expected a string, a number or true/false, got {kind_of(item)}"
            )


def _check_count(value: Any, where: str) -> None:
    text = str(value).strip()
    if isinstance(value, bool) or not re.fullmatch(r"-1|\d{1,9}", text, re.ASCII):
        raise expected(where, "a whole number of GPUs, or -1 for all", value)


def _check_mounts(value: Any, where: str) -> None:
    for container, host in value.items():
        if not container.startswith("/"):
            raise ConfigurationError(
                f"{where}: expected an absolute path in the container as key, got {shown(container)}; "
                "write {'/container/path': '/host/path'}"
            )
        if not isinstance(host, str) or not host:
            raise expected(f"{where}.{shown_key(container)}", "a path on the host", host)


def refused_cluster(value: Any) -> str:
    """Return why a run on this machine can't be one on a cluster; empty where nothing asks for that."""
    if not value or (isinstance(value, str) and value.strip().lower() in LOCAL_NAMES):
        return ""
    return "asks for a cluster, and this is a run on one machine; `madengine run --target local` is one all the same"


def refused_distributed(value: Any) -> str:
    """Return why a run can't do what a `distributed` asks for; empty if it can."""
    settings = value if isinstance(value, Mapping) else {}
    launcher = launcher_named(str(settings.get("launcher") or ""))
    # A script on the host reads its entry itself.
    for key in () if launcher and launcher.on_host else unknown_settings(settings):
        return f"unsupported key {shown(key)}: expected some of {', '.join(SETTINGS)}; take the key out"
    return ""


def _refused_machine(value: Any) -> str:
    return "virtual machines are not started; run in one, and take the key out" if value else ""


def _refused_file(value: Any) -> str:
    return "is sourced by no pod; use --env-secret with its variables, and take the key out" if value else ""


def _refused_settings(value: Any) -> str:
    return "is unsupported; set the server's variables, VLLM_…, in env_vars, and take the key out" if value else ""


def _refused_table(value: Any) -> str:
    return "rows are what a run is for; use --output for another table, and take the key out" if as_flag(value) else ""


# What is waited for, and what is left behind, is a question of jobs.
_JOBS = "it is for jobs of Slurm"

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
        ContextKey("docker_build_arg", Kind.OBJECT, Honoured.BUILD, InManifest.ALWAYS, check_variables),
        ContextKey("docker_env_vars", Kind.OBJECT, Honoured.RUN, InManifest.ALWAYS, check_variables),
        ContextKey("docker_mounts", Kind.OBJECT, Honoured.RUN, InManifest.ALWAYS, _check_mounts),
        ContextKey("docker_cpus", Kind.TEXT, Honoured.RUN, InManifest.IF_SET, pods=False),
        ContextKey("docker_gpus", Kind.TEXT, Honoured.RUN, InManifest.IF_SET, _check_ranges, pods=False),
        ContextKey("SHM_SIZE", Kind.TEXT, Honoured.RUN, InManifest.IF_SET, _check_size),
        ContextKey("model_args", Kind.TEXT, Honoured.RUN, InManifest.IF_SET),
        ContextKey("multi_node_args", Kind.OBJECT, Honoured.RUN, InManifest.IF_SET, check_variables),
        ContextKey("data", Kind.OBJECT, Honoured.RUN, InManifest.IF_SET),
        # The scripts that these name go into the images.
        ContextKey("tools", Kind.LIST, Honoured.BOTH, InManifest.IF_SET),
        ContextKey("pre_scripts", Kind.LIST, Honoured.BOTH, InManifest.IF_SET),
        ContextKey("post_scripts", Kind.LIST, Honoured.BOTH, InManifest.IF_SET),
        ContextKey("encapsulate_script", Kind.TEXT, Honoured.RUN, InManifest.IF_SET),
        ContextKey("artifacts", Kind.GLOBS, Honoured.RUN, InManifest.IF_SET),
        ContextKey("workspace", Kind.TEXT, Honoured.RUN, InManifest.IF_SET, pods=False),
        ContextKey("log_error_pattern_scan", Kind.FLAG, Honoured.RUN, InManifest.IF_SET),
        ContextKey("log_error_patterns", Kind.LIST, Honoured.RUN, InManifest.IF_SET),
        ContextKey("log_error_benign_patterns", Kind.LIST, Honoured.RUN, InManifest.IF_SET),
        ContextKey("gen_sys_env_details", Kind.FLAG, Honoured.RUN, InManifest.IF_SET, pods=False),
        ContextKey("generate_sys_env_details", Kind.FLAG, Honoured.RUN, InManifest.IF_SET, pods=False),
        ContextKey("require_pinned_image", Kind.FLAG, Honoured.RUN, InManifest.IF_SET, pods=False),
        ContextKey("rocenv_mode", Kind.TEXT, Honoured.RUN, InManifest.IF_SET, pods=False),
        # Images that are built with it are in the manifest themselves.
        ContextKey("MAD_CONTAINER_IMAGE", Kind.TEXT, Honoured.BOTH, pods=False),
        # Variables of every container, below docker_env_vars.
        ContextKey("env_vars", Kind.OBJECT, Honoured.RUN, InManifest.DEPLOYMENT, check_variables),
        ContextKey("MAD_ROCM_PATH", Kind.TEXT, Honoured.RUN, pods=False),
        # In place of the model entries' n_gpus; the first counts.
        *(ContextKey(name, Kind.ANY, Honoured.RUN, InManifest.IF_SET, _check_count) for name in GPU_COUNTS),
        # Where the models run; a manifest has `deploy` as deployment_config.target.
        *(
            ContextKey(
                name, Kind.ANY, Honoured.RUN, InManifest.DEPLOYMENT, pods=name != "slurm", refusal=refused_cluster
            )
            for name in ("slurm", "k8s", "kubernetes", "deploy")
        ),
        ContextKey(
            "distributed",
            Kind.OBJECT,
            Honoured.RUN,
            InManifest.DEPLOYMENT,
            check_distributed,
            refusal=refused_distributed,
        ),
        ContextKey(
            "env_file",
            Kind.TEXT,
            Honoured.RUN,
            InManifest.DEPLOYMENT,
            pods=False,
            refusal=_refused_file,
        ),
        ContextKey(
            "baremetal_vm",
            Kind.ANY,
            Honoured.NOWHERE,
            pods=False,
            instead="run in the machine",
            refusal=_refused_machine,
        ),
        ContextKey(
            "vllm",
            Kind.ANY,
            Honoured.NOWHERE,
            InManifest.DEPLOYMENT,
            pods=False,
            refusal=_refused_settings,
            instead="use env_vars",
        ),
        ContextKey(
            "skip_perf_collection",
            Kind.FLAG,
            Honoured.NOWHERE,
            pods=False,
            refusal=_refused_table,
            instead="use --output for another table",
        ),
        # As --verbose.
        ContextKey("debug", Kind.FLAG, Honoured.BOTH, InManifest.DEPLOYMENT),
        # As --force-mirror-local.
        ContextKey("shared_data", Kind.TEXT, Honoured.RUN, InManifest.DEPLOYMENT, pods=False),
        # Of Slurm's jobs, which are waited for, and of which none is left where not all could be submitted.
        *(
            ContextKey(name, Kind.FLAG, Honoured.NOWHERE, InManifest.DEPLOYMENT, pods=False, instead=_JOBS, asks=is_off)
            for name in JOB_FLAGS
        ),
        # The keys of a manifest's deployment_config, which count where the context lacks them.
        ContextKey("deployment_config", Kind.OBJECT, Honoured.BOTH, pods=False),
        *(
            ContextKey(name, Kind.ANY, Honoured.NOWHERE, in_manifest, pods=False, instead=instead)
            for name, in_manifest, instead in (
                ("launcher", InManifest.DEPLOYMENT, "write `distributed`"),
                ("timeout", InManifest.NO, "use --timeout"),
                ("timeout_multiplier", InManifest.NO, "use --timeout"),
                ("mirrorlocal", InManifest.NO, "use --force-mirror-local"),
                ("data_sources", InManifest.NO, "write `data`"),
            )
        ),
    )
}

#: The keys that say where the models run.
PLACES = tuple(name for name, key in KEYS.items() if key.refusal is refused_cluster)


def check_layer(layer: Mapping[str, Any], where: str) -> None:
    """Raise ConfigurationError, naming the key, for the first value of a context that is of a wrong type or form."""
    for key in (KEYS[name] for name in layer if name in KEYS):
        value = layer[key.name]
        is_flag = value is None or str(value).strip().lower() in _ON | _OFF | {""}
        if not isinstance(value, key.kind.types) or (key.kind is Kind.FLAG and not is_flag):
            # A value of an object may be a token.
            got = kind_of(value) if key.kind is Kind.OBJECT or isinstance(value, Mapping | list) else shown(value)
            raise ConfigurationError(f"{place(where, key.name)}: expected {key.kind.phrase}, got {got}")
        key.check(value, place(where, key.name))
