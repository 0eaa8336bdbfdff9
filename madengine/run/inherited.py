"""What a launcher of the user's own has set here, and the containers get."""

from __future__ import annotations

from collections.abc import Mapping

# As madengine 2 hands on, but for the variables that choose GPUs: a container has only those that it may use.
_RANKS = (
    "MASTER_ADDR", "MASTER_PORT", "WORLD_SIZE", "RANK", "LOCAL_RANK", "NODE_RANK", "NNODES", "NPROC_PER_NODE",
    "MAD_MULTI_NODE_RUNNER",
)  # fmt: skip
NAMES = (
    *_RANKS, "MAD_COLLECT_METRICS", "GLOO_SOCKET_IFNAME", "PRIMUS_CONFIG_PATH", "PRIMUS_CLI_EXTRA",
    "TORCH_ELASTIC_RDZV_TIMEOUT", "MIOPEN_USER_DB_PATH",
)  # fmt: skip
PREFIXES = ("NCCL_", "RCCL_")
# Of multi_node_args, under the same names.
_LAUNCHED = ("NNODES", "NODE_RANK", "MASTER_ADDR", "MASTER_PORT", "NCCL_SOCKET_IFNAME", "GLOO_SOCKET_IFNAME")


def inherited_variables(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that the containers get."""
    return {name: value for name, value in environ.items() if value and (name in NAMES or name.startswith(PREFIXES))}


def without_ranks(variables: Mapping[str, str]) -> dict[str, str]:
    """Return them without those that name this node's place: on several nodes its madengine sets them itself."""
    return {name: value for name, value in variables.items() if name not in _RANKS}


def launched_nodes(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the multi_node_args that a launcher on several nodes has set; none without one."""
    if environ.get("NNODES", "1").strip() in ("", "1"):
        return {}
    return {name: environ[name] for name in _LAUNCHED if environ.get(name)}
