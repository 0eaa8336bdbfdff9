"""How a script starts its processes in a pod: alone, or together with the other pods of its run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from madengine.config import launchers
from madengine.deploy.kubernetes import names

INDEX = "metadata.annotations['batch.kubernetes.io/job-completion-index']"
# What the pods of a run are to each other only the cluster can say.
_OURS = ("NODE_RANK", "MASTER_ADDR", "HOST_LIST")
_RANK = "$(NODE_RANK)"


def nodes(given: Mapping[str, Any]) -> int:
    """How many nodes a context's multi_node_args ask for. Raises ConfigurationError where they are wrong."""
    return int(launchers.arguments(given)["NNODES"])


def fields(several: bool) -> dict[str, str]:
    """The variables that only the cluster knows the values of, by the field that holds each."""
    ranks = {"NODE_RANK": INDEX, "RANK": INDEX} if several else {}
    return {"MAD_K8S_POD_NAME": "metadata.name", "MAD_K8S_NAMESPACE": "metadata.namespace", **ranks}


def variables(given: Mapping[str, Any], job: str, service: str, count: int, gpus: int) -> dict[str, str]:
    """The variables by which a script finds the other pods of a Job, and its runner, as on a host.

    They are written for the kubelet, which fills in NODE_RANK.
    """
    kept = {key: value for key, value in given.items() if key not in _OURS}
    if count < 2:
        return {"MAD_MULTI_NODE_RUNNER": names.literal(launchers.runner({**kept, "NNODES": 1}, gpus))}
    processes = gpus or int(launchers.arguments(kept)["MAD_RUNTIME_NGPUS"] or 1)
    address = f"{job}-0.{service}"
    hosts = ",".join(f"{job}-{index}.{service}:{processes}" for index in range(count))
    asked = {**kept, "NNODES": count, "MASTER_ADDR": address, "HOST_LIST": hosts}
    runner = names.literal(launchers.runner(asked, gpus, _RANK)).replace(f"${_RANK}", _RANK)
    return {
        "MASTER_ADDR": address,
        "MASTER_PORT": launchers.arguments(asked)["MASTER_PORT"],
        "NNODES": str(count),
        "WORLD_SIZE": str(count),
        "NPROC_PER_NODE": str(processes),
        "GPUS_PER_NODE": str(gpus),
        "MAD_MULTI_NODE_RUNNER": runner,
    }


def launcher(given: Mapping[str, Any], count: int) -> str:
    """What a row says started the processes."""
    if count < 2:
        return "native"
    return "mpirun" if launchers.arguments(given)["RUNNER"] == "mpirun" else "torchrun"


def warnings(given: Mapping[str, Any], count: int) -> list[str]:
    """A line for what the multi_node_args ask for and pods don't have."""
    known = launchers.arguments(given)
    theirs = [key for key in _OURS if key in given and known[key] != launchers.DEFAULTS[key]]
    found = (
        [f"multi_node_args.{', '.join(theirs)}: left out, pods have addresses and ranks of their own"] if theirs else []
    )
    if launcher(given, count) == "mpirun":
        found.append(
            "multi_node_args.RUNNER mpirun: every pod gets the same line, and no pod has an sshd by itself; let the "
            "script start it in the pod with NODE_RANK 0 only"
        )
    return found
