"""Every key of a model entry, a line each: whether it is honoured, and what to do where it isn't."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from madengine.config.aggregate import check_aggregate
from madengine.config.context_keys import as_text, check_variables, refused_distributed
from madengine.config.launchers import check_distributed
from madengine.config.log_errors import LOG_ERROR_KEYS
from madengine.config.values import expected, kind_of, shown
from madengine.errors import ConfigurationError
from madengine.records import Model

#: the fields of a model, which have keys of the same names
FIELDS = tuple(field for field in fields(Model) if field.name != "extra")
#: what madengine 2 also reads for n_gpus, in its order
GPU_ALIASES = ("gpus_per_node", "gpu_count", "num_gpus", "ngpus")
#: folders or images that a Dockerfile takes files from by name
BUILD_CONTEXTS = "build_contexts"


@dataclass(frozen=True)
class EntryKey:
    """A key of a model entry."""

    name: str
    #: what to do in its place; empty where it is honoured
    instead: str = ""
    check: Callable[[Any, str], None] = lambda value, where: None
    #: why a run can't do what a value asks for; empty where it can
    refusal: Callable[[Any], str] = lambda value: ""


def _check_variables(value: Any, where: str) -> None:
    if not isinstance(value, Mapping | None):
        raise ConfigurationError(f"{where}: expected an object, got {kind_of(value)}")
    check_variables(value or {}, where)


def _check_contexts(value: Any, where: str) -> None:
    if not isinstance(value, Mapping | None):
        raise ConfigurationError(
            f"{where}: expected an object such as {{'tools': 'docker/common'}}, got {kind_of(value)}"
        )
    for name, place in (value or {}).items():
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name):
            raise ConfigurationError(f"{where}: invalid name {shown(name)}; use letters, digits, _ . and -")
        is_inside = isinstance(place, str) and place and not place.startswith("/") and ".." not in place.split("/")
        if not is_inside:
            raise expected(f"{where}.{name}", "a folder of the package, or docker-image://IMAGE", place)


ENTRY_KEYS: Mapping[str, EntryKey] = {
    key.name: key
    for key in (
        *(EntryKey(field.name) for field in FIELDS),
        *(EntryKey(name) for name in (*GPU_ALIASES, *LOG_ERROR_KEYS)),
        # In place of `scripts`, in manifests.
        EntryKey("path"),
        # Of `compare`.
        EntryKey("better"),
        # How the numbers of several nodes become one.
        EntryKey("aggregate", check=check_aggregate),
        EntryKey("env_vars", check=_check_variables),
        EntryKey(BUILD_CONTEXTS, check=_check_contexts),
        EntryKey("distributed", check=check_distributed, refusal=refused_distributed),
        EntryKey("launcher", "write `distributed`"),
        EntryKey("nnodes", "write `distributed`"),
        EntryKey("vllm", "use env_vars"),
        # Of a run under Slurm, or on Kubernetes, below the context's.
        *(EntryKey(name) for name in ("slurm", "k8s", "kubernetes")),
        EntryKey("deprecated", "write is_deprecated"),
    )
}


def env_vars(model: Model) -> dict[str, str]:
    """Return the variables that a model's entry sets in its container."""
    variables = model.extra.get("env_vars") or {}
    return {name: as_text(value) for name, value in variables.items() if not name.startswith("_")}


def unsupported_keys(model: Model) -> tuple[str, ...]:
    """Return the keys of madengine 2 that a model's entry sets, and that this version does not support."""
    return tuple(name for name, key in ENTRY_KEYS.items() if key.instead and model.extra.get(name))


def unknown_keys(model: Model) -> tuple[str, ...]:
    """Return the keys that a model's entry sets and no version knows; `_…` is a comment."""
    strays = (key for key, value in model.extra.items() if value and not key.startswith("_"))
    return tuple(key for key in strays if key not in ENTRY_KEYS)


def refusal(model: Model) -> str:
    """Return why a run can't do what a model's entry asks for, with the key; empty where it can."""
    reasons = ((name, key.refusal(model.extra.get(name))) for name, key in ENTRY_KEYS.items())
    return next((f"{name}: {reason}" for name, reason in reasons if reason), "")
