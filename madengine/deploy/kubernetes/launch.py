"""How a script starts its processes in a pod: alone, or together with the other pods of its run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from madengine.config.launcher_variables import POD_ADDRESS
from madengine.config.launchers import DEFAULTS, Launch, arguments
from madengine.deploy.kubernetes import names

INDEX = "metadata.annotations['batch.kubernetes.io/job-completion-index']"
# Only the cluster knows these.
_OURS = ("NODE_RANK", "MASTER_ADDR", "HOST_LIST")
_RANK = "$(NODE_RANK)"
# In a pod: the names of all pods of its run, with the GPUs of each.
_FOLDER, _HOSTFILE = "/opt/madengine-nodes", "hostfile"
_VOLUME = "nodes"


def fields(several: bool) -> dict[str, str]:
    """Return the variables whose values only the cluster knows, with the field of each."""
    ranks = {"NODE_RANK": INDEX, "RANK": INDEX} if several else {}
    own = {"MAD_K8S_POD_NAME": "metadata.name", "MAD_K8S_NAMESPACE": "metadata.namespace"}
    return {**own, **ranks, **({"POD_IP": "status.podIP"} if several else {})}


def variables(launch: Launch, job: str, service: str, count: int, gpus: int) -> dict[str, str]:
    """Return the variables by which a script finds the other pods of a Job, and its runner, as on a host.

    The kubelet expands NODE_RANK and POD_IP in them.
    """
    own = _in_pod(launch, job, service, count, gpus).variables(gpus, _RANK if count > 1 else "")
    return {name: _expandable(names.literal(value)) for name, value in own.items()}


def _expandable(text: str) -> str:
    return text.replace(f"${_RANK}", _RANK).replace(f"${POD_ADDRESS}", POD_ADDRESS)


def _in_pod(launch: Launch, job: str, service: str, count: int, gpus: int) -> Launch:
    settings = {key: value for key, value in launch.multi_node_args.items() if key not in _OURS}
    if count < 2:
        return replace(launch, multi_node_args={**settings, "NNODES": 1}, in_pod=True)
    addresses = [f"{job}-{index}.{service}" for index in range(count)]
    together = {**settings, "NNODES": count, "MASTER_ADDR": addresses[0]}
    nodes = f"{_FOLDER}/{_HOSTFILE}"
    own = replace(launch, multi_node_args=together, addresses=addresses, hostfile=nodes, in_pod=True)
    if arguments(settings)["RUNNER"] == "mpirun":
        return replace(own, multi_node_args={**together, "HOST_LIST": own.host_list(gpus)})
    return own


def hostfile(launch: Launch, job: str, service: str, count: int, gpus: int) -> str:
    """Return the text of a hostfile where the launcher reads one; else nothing."""
    needs_one = count > 1 and launch.launcher is not None and launch.launcher.program == "deepspeed"
    return _in_pod(launch, job, service, count, gpus).hosts(gpus) if needs_one else ""


def hostfile_key(job: str) -> str:
    """Return a Job's hostfile's key in the input ConfigMap."""
    return f"{_HOSTFILE}-{job}"


def hostfile_volumes(job: str, config: str) -> list[dict[str, Any]]:
    """Return the volume of a Job's hostfile."""
    items = [{"key": hostfile_key(job), "path": _HOSTFILE}]
    return [{"name": _VOLUME, "configMap": {"name": config, "items": items}}]


def hostfile_mounts() -> list[dict[str, Any]]:
    """Return the mount of a hostfile's folder."""
    return [{"name": _VOLUME, "mountPath": _FOLDER, "readOnly": True}]


def launcher(launch: Launch, count: int) -> str:
    """Return a row's launcher."""
    if launch.launcher:
        return launch.launcher.name
    if count < 2:
        return "native"
    return "mpirun" if arguments(launch.multi_node_args)["RUNNER"] == "mpirun" else "torchrun"


def warnings(multi_node_args: Mapping[str, Any], count: int) -> list[str]:
    """Return a line for each of the multi_node_args that pods don't support."""
    settings = arguments(multi_node_args)
    ignored = [key for key in _OURS if key in multi_node_args and settings[key] != DEFAULTS[key]]
    lines = (
        [f"ignored: multi_node_args.{', '.join(ignored)}: pods have their own addresses and ranks"] if ignored else []
    )
    if count > 1 and settings["RUNNER"] == "mpirun":
        lines.append(
            "multi_node_args.RUNNER mpirun: every pod gets the same command, and pods have no sshd by default; let the "
            "script start it only in the pod with NODE_RANK 0"
        )
    return lines
