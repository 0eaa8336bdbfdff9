"""Where a model's data lies for a pod: claims, NFS exports and folders of the node."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from madengine.data_sets.data_file import DEFAULT_HOME
from madengine.data_sets.mounts import Data
from madengine.deploy.kubernetes import names
from madengine.errors import ConfigurationError
from madengine.records import Model

KINDS = ("pvc", "nfs", "hostpath")


@dataclass(frozen=True)
class Volumes:
    """A pod's data: volumes and mounts as a pod has them, and what the model and its rows are told of them."""

    volumes: tuple[Mapping[str, Any], ...] = ()
    mounts: tuple[Mapping[str, Any], ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    dataname: str = ""
    provider: str = ""


def volumes(model: Model, data: Data, given: Mapping[str, Mapping[str, Any]], host_path: bool) -> Volumes:
    """The data sets of a model; `given` comes before data.json, `host_path` says that folders of the node may be used.

    Raises ConfigurationError where a data set has no place that a pod can mount.
    """
    wanted = tuple(dict.fromkeys(name.strip() for name in model.data.split(",") if name.strip()))
    if not wanted:
        return Volumes()
    chosen = [_chosen(name, model, data, given, host_path) for name in wanted]
    homes = [_home(data.sources.get(name, {}), index, len(wanted)) for index, name in enumerate(wanted)]
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
        {"MAD_DATAHOME": ",".join(homes), "MAD_DATANAME": ",".join(wanted)},
        ",".join(wanted),
        ",".join("local" if kind == "hostpath" else kind for kind, _ in chosen),
    )


def mounted_folders(folders: Mapping[str, str], host_path: bool) -> Volumes:
    """The context's docker_mounts: folders of the node. Raises ConfigurationError where they may not be used."""
    if folders and not host_path:
        inside, host = next(iter(folders.items()))
        raise ConfigurationError(
            f"docker_mounts {inside}: a pod would need the node's {host}, which Pod Security baseline forbids; "
            "--host-path allows it, --data-volume names a better place"
        )
    places = [(f"mount-{index}", inside, host) for index, (inside, host) in enumerate(folders.items())]
    return Volumes(
        tuple({"name": name, "hostPath": {"path": _absolute(host)}} for name, _, host in places),
        tuple({"name": name, "mountPath": inside} for name, inside, _ in places),
    )


def on_command_line(texts: Sequence[str]) -> dict[str, dict[str, Any]]:
    """`NAME=pvc:CLAIM[/PATH]`, `NAME=nfs:SERVER:/PATH` and `NAME=hostpath:/PATH` as data.json would have them."""
    found: dict[str, dict[str, Any]] = {}
    for text in texts:
        name, equals, place = text.partition("=")
        kind, colon, rest = place.partition(":")
        if not (name and equals and colon and rest and kind in KINDS):
            raise ConfigurationError(
                f"--data-volume {text!r} is not NAME=pvc:CLAIM[/PATH], NAME=nfs:SERVER:/PATH or NAME=hostpath:/PATH"
            )
        if kind == "pvc":
            claim, _, path = rest.partition("/")
            found[name] = {"pvc": {"claim": claim, "path": path}}
        elif kind == "nfs":
            server, _, path = rest.rpartition(":")
            found[name] = {"nfs": {"server": server, "path": path}}
        else:
            found[name] = {"local": {"path": rest}}
    return found


def _chosen(
    name: str, model: Model, data: Data, given: Mapping[str, Mapping[str, Any]], host_path: bool
) -> tuple[str, Mapping[str, Any]]:
    """The kind of a data set's place, and its configuration: a claim before an export before a folder."""
    mine = data.sources.get(name, {})
    places = given.get(name) or mine
    if not places:
        known = ", ".join(sorted({*data.sources, *given})) or "none"
        raise ConfigurationError(
            f"model {model.name}: no data {name!r} in {data.path}; known: {known}; --data-volume {name}=… adds it"
        )
    more = {key: value for key, value in mine.get("local", {}).items() if key == "readwrite"}
    for kind in ("pvc", "nfs"):
        if kind in places:
            return kind, {**more, **places[kind]}
    if "local" not in places:
        raise ConfigurationError(
            f"model {model.name}: data {name!r}: no pod mounts {', '.join(sorted(places))}; give it a pvc or nfs in "
            f"{data.path}, or --data-volume {name}=…"
        )
    if not host_path:
        raise ConfigurationError(
            f"model {model.name}: data {name!r} is a folder of the node, which Pod Security baseline forbids; "
            f"--host-path allows it, --data-volume {name}=pvc:CLAIM is better"
        )
    return "hostpath", {**more, **places["local"]}


def _volume(kind: str, config: Mapping[str, Any]) -> dict[str, Any]:
    writable = str(config.get("readwrite", "")).lower() == "true"
    if kind == "pvc":
        claim = str(config.get("claim", ""))
        names.check_name("pvc claim", claim)
        return {"persistentVolumeClaim": {"claimName": claim, "readOnly": not writable}}
    if kind == "nfs":
        server = str(config.get("server", ""))
        if not re.fullmatch(r"[A-Za-z0-9.:\[\]_-]+", server):
            raise ConfigurationError(f"nfs server {server!r} is no host")
        return {"nfs": {"server": server, "path": _absolute(str(config.get("path", ""))), "readOnly": not writable}}
    return {"hostPath": {"path": _absolute(str(config["path"])), "type": "Directory"}}


def _absolute(path: str) -> str:
    if not path.startswith("/") or ".." in Path(path).parts or "\0" in path:
        raise ConfigurationError(f"{path!r}: a volume's path has to be absolute, without ..")
    return path


def _home(places: Mapping[str, Mapping[str, Any]], index: int, count: int) -> str:
    """Where a data set appears in the container, as in a run on a host."""
    given = next((str(config["home"]) for config in places.values() if "home" in config), "")
    home = (given or DEFAULT_HOME).rstrip("/")
    return home if given and count == 1 else f"{home}_{index}"
