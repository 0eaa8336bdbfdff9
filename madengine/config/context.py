"""Host facts and the user's layers become the Context of a build or a run."""

from __future__ import annotations

import copy
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from madengine.config.context_keys import (
    GPU_COUNTS,
    KEYS,
    PLACES,
    UNDETECTED,
    Honoured,
    InManifest,
    Kind,
    as_flag,
    as_text,
    check_layer,
)
from madengine.config.launchers import Launch, launch_of
from madengine.config.literals import parse_literal_object, parse_object, plain_object
from madengine.config.values import shown
from madengine.errors import ConfigurationError
from madengine.files import read_text
from madengine.records import Model

HEADER_MARK = "# CONTEXT "
HEADER_LINES = 5

#: What the images of older packages are made from, where nothing says so.
GUEST_OS = "UBUNTU"

_CASELESS = ("gpu_vendor", "guest_os")
_PACKAGE_MANAGERS = {"apt": "HOST_UBUNTU", "yum": "HOST_CENTOS", "zypper": "HOST_SLES", "tdnf": "HOST_AZURE"}


@dataclass(frozen=True)
class Context:
    """What a build or a run is configured with."""

    #: every key, known to madengine or not
    values: Mapping[str, Any] = field(default_factory=dict)
    #: the keys that were only detected on this machine, not set
    detected: frozenset[str] = frozenset()

    @property
    def gpu_vendor(self) -> str:
        """AMD, NVIDIA or NONE; empty if unset."""
        vendor = self._text("gpu_vendor").strip().upper()
        return "" if vendor == UNDETECTED else vendor

    @property
    def guest_os(self) -> str:
        """The image's operating system in upper case, such as UBUNTU; empty if unset."""
        return self._text("guest_os").strip().upper()

    @property
    def docker_env_vars(self) -> dict[str, str]:
        """Environment variables of the container."""
        return {name: as_text(value) for name, value in self.values.get("docker_env_vars", {}).items()}

    @property
    def env_vars(self) -> dict[str, str]:
        """Further variables of the container, which docker_env_vars replace; `_…` is a comment."""
        variables = self.values.get("env_vars") or {}
        return {name: as_text(value) for name, value in variables.items() if not name.startswith("_")}

    @property
    def docker_build_arg(self) -> dict[str, str]:
        """Build arguments of the image."""
        return {name: as_text(value) for name, value in self.values.get("docker_build_arg", {}).items()}

    @property
    def docker_mounts(self) -> dict[str, str]:
        """Host paths by the container path they appear at."""
        return dict(self.values.get("docker_mounts", {}))

    @property
    def model_args(self) -> str | None:
        """Arguments that replace those of every model; None keeps the models' own."""
        arguments = self.values.get("model_args")
        return None if arguments is None else str(arguments)

    @property
    def docker_cpus(self) -> str:
        """CPUs of the container as a list with ranges, such as 0-7,16; empty is all."""
        return self._text("docker_cpus")

    @property
    def docker_gpus(self) -> str:
        """GPUs to choose from as a list with ranges, such as 0,2-4; empty is all."""
        gpus = self._text("docker_gpus")
        return "" if gpus.strip().lower() == "all" else gpus

    @property
    def n_gpus(self) -> str:
        """The number of GPUs in place of every model's; empty if unset."""
        counts = [self.values.get(name) for name in GPU_COUNTS]
        for section, name in (("slurm", "gpus_per_node"), ("k8s", "gpu_count"), ("kubernetes", "gpu_count")):
            settings = self.values.get(section)
            counts.append(settings.get(name) if isinstance(settings, Mapping) else None)
        return next((str(count).strip() for count in counts if count is not None), "")

    @property
    def container_image(self) -> str:
        """The image to run in place of a built one (key MAD_CONTAINER_IMAGE); empty for none."""
        return self._text("MAD_CONTAINER_IMAGE")

    @property
    def multi_node_args(self) -> dict[str, Any]:
        """How a model's processes are started on this node, and on how many nodes."""
        return dict(self.values.get("multi_node_args", {}))

    def launch_of(self, model: Model, environ: Mapping[str, str]) -> Launch:
        """Return how a model's processes are started."""
        return launch_of(self.values.get("distributed"), self.multi_node_args, model, environ)

    @property
    def shm_size(self) -> str:
        """The size of the container's shared memory (key SHM_SIZE), such as 16g; empty if unset."""
        return self._text("SHM_SIZE").strip()

    @property
    def workspace(self) -> str:
        """The folder that is /myworkspace in all runs; empty for a new one in each."""
        return self._text("workspace").strip()

    @property
    def shared_data(self) -> str:
        """The folder that data sets are copied to, where --force-mirror-local names none; empty for none."""
        return self._text("shared_data").strip()

    @property
    def requires_pinned_image(self) -> bool:
        """Whether only images run that the manifest pins by a registry's digest."""
        return as_flag(self.values.get("require_pinned_image"))

    @property
    def describes_environment(self) -> bool | None:
        """Whether runs describe the environment of their container; None if unset."""
        for key in ("gen_sys_env_details", "generate_sys_env_details"):
            if key in self.values:
                return as_flag(self.values[key])
        return None

    @property
    def unsupported_keys(self) -> tuple[str, ...]:
        """The keys of madengine 2 that are set, and that this version does not support."""
        unsupported = (key for key in KEYS.values() if key.honoured is Honoured.NOWHERE)
        return tuple(key.name for key in unsupported if key.asks(self.values.get(key.name)))

    @property
    def refusals(self) -> dict[str, str]:
        """The keys that ask for what a run here can't do, each with the reason."""
        reasons = {name: key.refusal(self.values.get(name)) for name, key in KEYS.items()}
        return {name: reason for name, reason in reasons.items() if reason}

    @property
    def here(self) -> Context:
        """The same context for a run on this machine, wherever it says that models run."""
        return replace(self, values={name: value for name, value in self.values.items() if name not in PLACES})

    @property
    def unknown_keys(self) -> tuple[str, ...]:
        """The keys that no version knows; `_…` is a comment."""
        return tuple(name for name in self.values if name not in KEYS and not name.startswith("_"))

    @property
    def ignored_in_pods(self) -> tuple[str, ...]:
        """The keys that are set, and that Kubernetes pods don't get."""
        return tuple(name for name, key in KEYS.items() if not key.pods and self._is_set(name))

    @property
    def for_manifest(self) -> dict[str, Any]:
        """What `build` writes into the manifest for later runs: what was set, never what was only detected."""
        always: dict[str, Any] = {name: {} for name, key in KEYS.items() if key.in_manifest is InManifest.ALWAYS}
        return {**always, **self._set_keys(InManifest.ALWAYS, InManifest.IF_SET)}

    @property
    def deployment_config(self) -> dict[str, Any]:
        """What `build` writes beside that, where madengine 2 looks for it; `deploy` is its `target`."""
        config = self._set_keys(InManifest.DEPLOYMENT)
        return {"target" if name == "deploy" else name: value for name, value in config.items()}

    @property
    def header(self) -> dict[str, Any]:
        """What CONTEXT headers are compared with: all values, gpu_vendor and guest_os in upper case or absent."""
        caseless = {"gpu_vendor": self.gpu_vendor, "guest_os": self.guest_os}
        others = {key: value for key, value in self.values.items() if key not in caseless}
        return {**others, **{key: value for key, value in caseless.items() if value}}

    def _set_keys(self, *kinds: InManifest) -> dict[str, Any]:
        names = (name for name, key in KEYS.items() if key.in_manifest in kinds)
        return {
            name: self.values[name] for name in names if name not in self.detected and self.values.get(name) is not None
        }

    def _text(self, key: str) -> str:
        return str(self.values.get(key) or "")

    def _is_set(self, name: str) -> bool:
        value = self.values.get(name)
        return as_flag(value) if KEYS[name].kind is Kind.FLAG else bool(value)


def load_context(
    detected: Mapping[str, Any], manifest: Mapping[str, Any], file: Path | None, text: str | None
) -> Context:
    """Merge what was detected, the manifest's context, the context file and the command line's; the later wins.

    Raise ConfigurationError, naming the source and the key, for a layer that can't be read or has a wrong type.
    """
    layers = {
        "detected context": plain_object(detected, "detected context"),
        "the manifest's context": plain_object(manifest, "the manifest's context"),
    }
    if file is not None:
        layers[str(file)] = parse_object(read_text(file), str(file))
    if text:
        layers["--additional-context"] = parse_object(text, "--additional-context")
    for where, layer in layers.items():
        check_layer(layer, where)
        layers[where] = with_deployment(layer, layer.get("deployment_config"), where)
    own, *others = layers.values()
    return Context(merge(own, *others), frozenset(own).difference(*others))


def with_deployment(layer: Mapping[str, Any], config: Mapping[str, Any] | None, where: str) -> dict[str, Any]:
    """Return a layer with the keys of a `deployment_config` that it lacks; `target` is `deploy` there.

    Raise ConfigurationError for values of wrong types.
    """
    named = {"deploy" if name == "target" else name: value for name, value in (config or {}).items()}
    own = {name: value for name, value in layer.items() if name != "deployment_config"}
    added = {name: value for name, value in named.items() if name not in own and value not in ({}, None)}
    check_layer(added, f"{where}: deployment_config")
    return {**own, **added}


def expanded(value: str, environ: Mapping[str, str]) -> str:
    """Return a value of env_vars with the `${NAME}` in it replaced, as madengine 2's shell does; unset is empty."""
    return re.sub(r"\$\{(\w+)\}", lambda match: environ.get(match[1], ""), value, flags=re.ASCII)


def merge(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """Merge layers into a new dict: objects key by key, everything else replaced by the later layer's value."""
    merged: dict[str, Any] = {}
    for layer in layers:
        for key, value in layer.items():
            below = merged.get(key)
            if isinstance(value, Mapping):
                merged[key] = merge(below, value) if isinstance(below, Mapping) else merge(value)
            else:
                merged[key] = copy.deepcopy(value)
    return merged


def host_facts(environ: Mapping[str, str]) -> dict[str, Any]:
    """Return this machine's facts for CONTEXT headers: host_os, numa_balancing, and ctx_test, what ./ctx_test holds."""
    facts: dict[str, Any] = {"host_os": _host_os(environ), "numa_balancing": _numa_balancing()}
    # The text None without the file, as in older versions.
    facts["ctx_test"] = read_text(Path("ctx_test")).strip() if Path("ctx_test").is_file() else "None"
    return facts


def parse_header(text: str, where: str) -> dict[str, Any] | None:
    """Return the CONTEXT header of a Dockerfile's text: the first such line of its first five; None without one.

    Raise ConfigurationError, naming `where` and the line, for a header that is no literal dict.
    """
    for number, line in enumerate(text.split("\n")[:HEADER_LINES], start=1):
        if HEADER_MARK in line:
            return _header(line.replace(HEADER_MARK, "").strip(), f"{where}:{number}")
    return None


def matches(header: Mapping[str, Any], context: Context) -> bool:
    """Return whether every key of the header that the context has too has the context's value."""
    return not _differing(header, context)


def mismatch(header: Mapping[str, Any], context: Context) -> str:
    """Return why a header does not match, as in "gpu_vendor is 'AMD', the context says 'NVIDIA'"; empty if it does."""
    values = context.header
    keys = _differing(header, context)
    return "; ".join(f"{key} is {shown(header[key])}, the context says {shown(values[key])}" for key in keys)


def _differing(header: Mapping[str, Any], context: Context) -> list[str]:
    values = context.header
    return [key for key in header if key in values and _comparable(key, header[key]) != values[key]]


def _comparable(key: str, value: Any) -> Any:
    return value.strip().upper() if key in _CASELESS and isinstance(value, str) else value


def _header(text: str, where: str) -> dict[str, Any]:
    value = parse_literal_object(text)
    if value is None:
        raise ConfigurationError(
            f"{where}: invalid CONTEXT header {shown(text)}, expected a dict of literals; "
            "write it as # CONTEXT {'gpu_vendor': 'AMD', 'guest_os': 'UBUNTU'}"
        )
    return plain_object(value, where)


def _host_os(environ: Mapping[str, str]) -> str:
    names = (name for name in _PACKAGE_MANAGERS if shutil.which(name, path=environ.get("PATH", "")))
    return _PACKAGE_MANAGERS.get(next(names, ""), "Unable to detect Host OS")


def _numa_balancing() -> str | bool:
    try:
        return Path("/proc/sys/kernel/numa_balancing").read_text(encoding="ascii").strip()
    except OSError:
        return False
