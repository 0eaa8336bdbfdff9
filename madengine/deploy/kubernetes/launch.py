"""How a script starts its processes in a pod: alone, or together with the other pods of its run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from madengine.config.launchers import DEFAULTS, Launch, arguments
from madengine.deploy.kubernetes import names

INDEX = "metadata.annotations['batch.kubernetes.io/job-completion-index']"
# Only the cluster knows these.
_OURS = ("NODE_RANK", "MASTER_ADDR", "HOST_LIST")
_RANK = "$(NODE_RANK)"


def fields(several: bool) -> dict[str, str]:
    """Return the variables whose values only the cluster knows, with the field of each."""
    ranks = {"NODE_RANK": INDEX, "RANK": INDEX} if several else {}
    return {"MAD_K8S_POD_NAME": "metadata.name", "MAD_K8S_NAMESPACE": "metadata.namespace", **ranks}


def variables(launch: Launch, job: str, service: str, count: int, gpus: int) -> dict[str, str]:
    """Return the variables by which a script finds the other pods of a Job, and its runner, as on a host.

    The kubelet expands NODE_RANK in them.
    """
    settings = {key: value for key, value in launch.multi_node_args.items() if key not in _OURS}
    if count < 2:
        alone = replace(launch, multi_node_args={**settings, "NNODES": 1}).variables(gpus)
        return {name: names.literal(value) for name, value in alone.items()}
    addresses = [f"{job}-{index}.{service}" for index in range(count)]
    together = {**settings, "NNODES": count, "MASTER_ADDR": addresses[0]}
    launch = replace(launch, multi_node_args=together, addresses=addresses)
    if arguments(settings)["RUNNER"] == "mpirun":
        launch = replace(launch, multi_node_args={**together, "HOST_LIST": launch.host_list(gpus)})
    own = launch.variables(gpus, _RANK)
    return {name: names.literal(value).replace(f"${_RANK}", _RANK) for name, value in own.items()}


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
