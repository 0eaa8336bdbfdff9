"""How a script starts its processes in a pod: alone, or together with the other pods of its run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from madengine.config import launchers
from madengine.deploy.kubernetes import names

INDEX = "metadata.annotations['batch.kubernetes.io/job-completion-index']"
# Only the cluster knows these.
_OURS = ("NODE_RANK", "MASTER_ADDR", "HOST_LIST")
_RANK = "$(NODE_RANK)"


def nodes(multi_node_args: Mapping[str, Any]) -> int:
    """Return NNODES of a context's multi_node_args. Raises ConfigurationError if these are invalid."""
    return int(launchers.arguments(multi_node_args)["NNODES"])


def fields(several: bool) -> dict[str, str]:
    """Return the variables whose values only the cluster knows, with the field of each."""
    ranks = {"NODE_RANK": INDEX, "RANK": INDEX} if several else {}
    return {"MAD_K8S_POD_NAME": "metadata.name", "MAD_K8S_NAMESPACE": "metadata.namespace", **ranks}


def variables(multi_node_args: Mapping[str, Any], job: str, service: str, count: int, gpus: int) -> dict[str, str]:
    """Return the variables by which a script finds the other pods of a Job, and its runner, as on a host.

    The kubelet expands NODE_RANK in them.
    """
    settings = {key: value for key, value in multi_node_args.items() if key not in _OURS}
    if count < 2:
        return {"MAD_MULTI_NODE_RUNNER": names.literal(launchers.runner({**settings, "NNODES": 1}, gpus))}
    processes = gpus or int(launchers.arguments(settings)["MAD_RUNTIME_NGPUS"] or 1)
    address = f"{job}-0.{service}"
    hosts = ",".join(f"{job}-{index}.{service}:{processes}" for index in range(count))
    settings = {**settings, "NNODES": count, "MASTER_ADDR": address, "HOST_LIST": hosts}
    runner = names.literal(launchers.runner(settings, gpus, _RANK)).replace(f"${_RANK}", _RANK)
    return {
        "MASTER_ADDR": address,
        "MASTER_PORT": launchers.arguments(settings)["MASTER_PORT"],
        "NNODES": str(count),
        "WORLD_SIZE": str(count),
        "NPROC_PER_NODE": str(processes),
        "GPUS_PER_NODE": str(gpus),
        "MAD_MULTI_NODE_RUNNER": runner,
    }


def launcher(multi_node_args: Mapping[str, Any], count: int) -> str:
    """Return a row's launcher."""
    if count < 2:
        return "native"
    return "mpirun" if launchers.arguments(multi_node_args)["RUNNER"] == "mpirun" else "torchrun"


def warnings(multi_node_args: Mapping[str, Any], count: int) -> list[str]:
    """Return a line for each of the multi_node_args that pods don't support."""
    settings = launchers.arguments(multi_node_args)
    ignored = [key for key in _OURS if key in multi_node_args and settings[key] != launchers.DEFAULTS[key]]
    lines = (
        [f"ignored: multi_node_args.{', '.join(ignored)}: pods have their own addresses and ranks"] if ignored else []
    )
    if launcher(multi_node_args, count) == "mpirun":
        lines.append(
            "multi_node_args.RUNNER mpirun: every pod gets the same command, and pods have no sshd by default; let the "
            "script start it only in the pod with NODE_RANK 0"
        )
    return lines
