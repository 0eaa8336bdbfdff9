"""Where a pod finds a model's data: claims, NFS exports and folders of the node."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from madengine.data_sets.data_file import DEFAULT_HOME
from madengine.data_sets.mounts import Data, data_names
from madengine.deploy.kubernetes import names
from madengine.errors import ConfigurationError, RunError
from madengine.records import Model

KINDS = ("pvc", "nfs", "hostpath")


@dataclass(frozen=True)
class Volumes:
    """A pod's data: volumes and mounts of the pod, variables of the model, cells of its rows."""

    volumes: tuple[Mapping[str, Any], ...] = ()
    mounts: tuple[Mapping[str, Any], ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    dataname: str = ""
    provider: str = ""

    def plus(self, folders: Volumes) -> Volumes:
        """Return these and the volumes and mounts of others."""
        return replace(self, volumes=(*self.volumes, *folders.volumes), mounts=(*self.mounts, *folders.mounts))


def volumes(model: Model, data: Data, overrides: Mapping[str, Mapping[str, Any]], host_path: bool) -> Volumes:
    """Return the data sets of a model; `overrides` come before data.json, `host_path` allows folders of the node.

    Raises ConfigurationError if a data set has no source that a pod can mount.
    """
    every = data_names(model)
    dataset_names = tuple(name for name in every if not _is_scripts_own(name, model, data, overrides))
    if not dataset_names:
        return Volumes(environment={"MAD_DATANAME": ",".join(every)} if every else {}, dataname=",".join(every))
    chosen = [_choose(name, model, data, overrides, host_path) for name in dataset_names]
    homes = [_home(data.sources.get(name, {}), index, len(dataset_names)) for index, name in enumerate(dataset_names)]
    return Volumes(
        tuple({"name": f"data-{index}", **_volume(kind, config)} for index, (kind, config) in enumerate(chosen)),
        tuple(
            {
                "name": f"data-{index}",
                "mountPath": home,
                **({"subPath": str(config["path"]).strip("/")} if kind == "pvc" and config.get("path") else {}),
                "readOnly": str(config.get("readwrite", "")).lower() != "true",
            }
            for index, ((kind, config), home) in enumerate(zip(chosen, homes, strict=True))
        ),
        {"MAD_DATAHOME": ",".join(homes), "MAD_DATANAME": ",".join(every)},
        ",".join(every),
        ",".join("local" if kind == "hostpath" else kind for kind, _ in chosen),
    )


def mounted_folders(folders: Mapping[str, str], host_path: bool) -> Volumes:
    """Return the context's docker_mounts, folders of the node. Raises ConfigurationError if these are not allowed."""
    if folders and not host_path:
        inside, host = next(iter(folders.items()))
        raise ConfigurationError(
            f"docker_mounts {inside}: requires the node's folder {host}, which Pod Security baseline forbids; "
            "use --data-volume, or allow it with --host-path"
        )
    places = [(f"mount-{index}", inside, host) for index, (inside, host) in enumerate(folders.items())]
    return Volumes(
        tuple({"name": name, "hostPath": {"path": _absolute(host)}} for name, _, host in places),
        tuple({"name": name, "mountPath": inside} for name, inside, _ in places),
    )


def sources_of_options(texts: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return `NAME=pvc:CLAIM[/PATH]`, `NAME=nfs:SERVER:/PATH` and `NAME=hostpath:/PATH` in the form of data.json."""
    sources: dict[str, dict[str, Any]] = {}
    for text in texts:
        name, equals, place = text.partition("=")
        kind, colon, rest = place.partition(":")
        if not (name and equals and colon and rest and kind in KINDS):
            raise ConfigurationError(
                "--data-volume: expected NAME=pvc:CLAIM[/PATH], NAME=nfs:SERVER:/PATH or NAME=hostpath:/PATH, got "
                f"{text!r}"
            )
        if kind == "pvc":
            claim, _, path = rest.partition("/")
            sources[name] = {"pvc": {"claim": claim, "path": path}}
        elif kind == "nfs":
            server, _, path = rest.rpartition(":")
            sources[name] = {"nfs": {"server": server, "path": path}}
        else:
            sources[name] = {"local": {"path": rest}}
    return sources


def _is_scripts_own(name: str, model: Model, data: Data, overrides: Mapping[str, Mapping[str, Any]]) -> bool:
    """Return whether the script fetches a data set itself. Raises ConfigurationError for an unknown name."""
    try:
        return not overrides.get(name) and data.is_scripts_own(name, model)
    except RunError as error:
        raise ConfigurationError(f"{error}; or use --data-volume {name}=…") from error


def _choose(
    name: str, model: Model, data: Data, overrides: Mapping[str, Mapping[str, Any]], host_path: bool
) -> tuple[str, Mapping[str, Any]]:
    """Return the kind of a data set's source and its configuration: a claim before an export before a folder."""
    listed = data.sources.get(name, {})
    sources = overrides.get(name) or listed
    shared = {key: value for key, value in listed.get("local", {}).items() if key == "readwrite"}
    for kind in ("pvc", "nfs"):
        if kind in sources:
            return kind, {**shared, **sources[kind]}
    if "local" not in sources:
        raise ConfigurationError(
            f"model {model.name}: data {name!r}: a pod can't mount {', '.join(sorted(sources))}; add a pvc or nfs to "
            f"{data.path}, or use --data-volume {name}=…"
        )
    if not host_path:
        raise ConfigurationError(
            f"model {model.name}: data {name!r} is a folder of the node, which Pod Security baseline forbids; "
            f"use --data-volume {name}=pvc:CLAIM, or allow it with --host-path"
        )
    return "hostpath", {**shared, **sources["local"]}


def _volume(kind: str, config: Mapping[str, Any]) -> dict[str, Any]:
    writable = str(config.get("readwrite", "")).lower() == "true"
    if kind == "pvc":
        claim = str(config.get("claim", ""))
        names.check_name("pvc claim", claim)
        return {"persistentVolumeClaim": {"claimName": claim, "readOnly": not writable}}
    if kind == "nfs":
        server = str(config.get("server", ""))
        if not re.fullmatch(r"[A-Za-z0-9.:\[\]_-]+", server):
            raise ConfigurationError(f"invalid nfs server {server!r}")
        return {"nfs": {"server": server, "path": _absolute(str(config.get("path", ""))), "readOnly": not writable}}
    return {"hostPath": {"path": _absolute(str(config["path"])), "type": "Directory"}}


def _absolute(path: str) -> str:
    if not path.startswith("/") or ".." in Path(path).parts or "\0" in path:
        raise ConfigurationError(f"volume: expected an absolute path without .., got {path!r}")
    return path


def _home(sources: Mapping[str, Mapping[str, Any]], index: int, count: int) -> str:
    """Return where a data set appears in the container, as in a run on a host."""
    configured_home = next((str(config["home"]) for config in sources.values() if "home" in config), "")
    home = (configured_home or DEFAULT_HOME).rstrip("/")
    return home if configured_home and count == 1 else f"{home}_{index}"
