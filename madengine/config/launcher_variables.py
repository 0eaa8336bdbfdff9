"""What each launcher's framework reads: the variables that a model's script gets, as madengine 2 has them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from madengine.errors import ConfigurationError
from madengine.records import Model

#: The address of a pod, filled in by the kubelet.
POD_ADDRESS = "$(POD_IP)"


@dataclass(frozen=True)
class Start:
    """What a launcher's command and variables depend on."""

    #: on this node
    processes: int
    nodes: int
    #: of this node; text that is filled in later where its container is started by others
    rank: str
    #: address and port of the first node
    master: str
    port: str
    #: of all nodes, by rank; none if they are unknown
    addresses: Sequence[str]
    #: a file in the container that lists them; empty if there is none
    hostfile: str
    #: the settings of `distributed`
    settings: Mapping[str, Any]
    model: Model
    #: whether it is in a pod, whose address the cluster fills in
    in_pod: bool = False

    @property
    def own_address(self) -> str:
        """The address of this node; empty if it is unknown."""
        if self.in_pod:
            return POD_ADDRESS
        return self.addresses[int(self.rank)] if self.addresses and self.rank.isdigit() else ""


def of_megatron(start: Start) -> dict[str, str]:
    """Return the sizes of Megatron's parallelism."""
    tensor = start.processes if start.nodes > 1 else min(start.processes, 8)
    return {
        "TENSOR_MODEL_PARALLEL_SIZE": str(tensor),
        "PIPELINE_MODEL_PARALLEL_SIZE": str(start.nodes),
        "CONTEXT_PARALLEL_SIZE": "1",
    }


def of_torchtitan(start: Start) -> dict[str, str]:
    """Return the sizes of torchtitan's parallelism."""
    is_several = start.nodes > 1
    more = {"TORCHTITAN_FSDP_ENABLED": "1" if is_several else "0", "TORCHTITAN_CONTEXT_PARALLEL_SIZE": "1"}
    return {
        "TORCHTITAN_TENSOR_PARALLEL_SIZE": str(start.processes),
        "TORCHTITAN_PIPELINE_PARALLEL_SIZE": str(start.nodes),
        **(more if is_several or start.in_pod else {}),
    }


def of_vllm(start: Start) -> dict[str, str]:
    """A server a node: several of them share the requests, not the model."""
    backend = ("ray" if start.in_pod else "none") if start.nodes > 1 else "auto"
    return {
        "VLLM_TENSOR_PARALLEL_SIZE": str(start.processes),
        "VLLM_PIPELINE_PARALLEL_SIZE": "1",
        "VLLM_DISTRIBUTED_BACKEND": backend,
        **_own_address("VLLM_HOST_IP", start),
    }


def of_sglang(start: Start) -> dict[str, str]:
    """Return a server's size, and its address among several."""
    several = {"NCCL_INIT_ADDR": f"{start.master}:{start.port}"} if start.nodes > 1 else {}
    return {
        "SGLANG_TENSOR_PARALLEL_SIZE": str(start.processes),
        "SGLANG_PIPELINE_PARALLEL_SIZE": "1",
        **several,
        **_own_address("SGLANG_HOST_IP", start),
    }


def _own_address(name: str, start: Start) -> dict[str, str]:
    return {name: start.own_address} if start.nodes > 1 and start.own_address else {}


def of_sglang_disagg(start: Start) -> dict[str, str]:
    """Return how nodes share prefill and decode."""
    prefill, decode = _disaggregation(start)
    return {
        "SGLANG_DISAGG_MODE": "enabled",
        "SGLANG_DISAGG_PREFILL_NODES": str(prefill),
        "SGLANG_DISAGG_DECODE_NODES": str(decode),
        "SGLANG_DISAGG_TOTAL_NODES": str(start.nodes),
        "SGLANG_TP_SIZE": str(start.processes),
        **({"SGLANG_NODE_IPS": ",".join(start.addresses)} if start.addresses else {}),
        "SGLANG_NODE_RANK": start.rank,
        **(_of_disagg_pod(start, prefill, decode) if start.in_pod else {}),
    }


def _of_disagg_pod(start: Start, prefill: int, decode: int) -> dict[str, str]:
    """Return the names that scripts for pods read; POD_IP is there already."""
    return {
        "POD_INDEX": start.rank,
        "TOTAL_PODS": str(start.nodes),
        "PREFILL_COUNT": str(prefill),
        "DECODE_COUNT": str(decode),
        "TP_SIZE": str(start.processes),
    }


def _disaggregation(start: Start) -> tuple[int, int]:
    """Return how many nodes prefill and decode; the proxy has the first one, and shares it where there are but two.

    Raises ConfigurationError for a split of the user's that doesn't fit the nodes.
    """
    section = start.settings.get("sglang_disagg")
    split = section if isinstance(section, Mapping) else {}
    workers = start.nodes - 1 if start.nodes > 2 else start.nodes
    decode = int(split.get("decode_nodes") or 0)
    by_default = workers - decode if decode else max(1, (start.nodes - 1) * 2 // 5)
    prefill = int(split.get("prefill_nodes") or by_default)
    decode = decode or workers - prefill
    if prefill < 1 or decode < 1 or prefill + decode not in (workers, start.nodes - 1):
        raise ConfigurationError(
            f"distributed.sglang_disagg: {prefill} prefill_nodes and {decode} decode_nodes: expected {workers} in "
            f"all on {start.nodes} nodes, at least one of each"
        )
    return prefill, decode


_PRIMUS_BACKENDS = {
    "maxtext": "MaxText", "torchtitan": "torchtitan", "megatron_bridge": "megatron_bridge", "megatron": "megatron",
    "moe_package": "moe_package",
}  # fmt: skip


def of_primus(start: Start) -> dict[str, str]:
    """Return what Primus is started with."""
    primus = start.settings.get("primus")
    settings = primus if isinstance(primus, Mapping) else {}
    name = start.model.name.partition("primus_pretrain/")[2].lower()
    by_name = next((backend for key, backend in _PRIMUS_BACKENDS.items() if name.startswith(f"{key}_")), "")
    variables = {
        "PRIMUS_CONFIG_PATH": settings.get("config_path") or "exp_pretrain.yaml",
        "PRIMUS_CLI_EXTRA": settings.get("cli_extra") or "",
        "BACKEND": settings.get("backend") or by_name,
        **({"PRIMUS_ROOT": "/workspace/Primus", "GPUS_PER_NODE": start.processes} if start.in_pod else {}),
    }
    return {key: str(value) for key, value in variables.items() if value}
