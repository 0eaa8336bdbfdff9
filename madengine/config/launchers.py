"""The context's multi_node_args -> the command that starts a model's processes on this node."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from typing import Any

from madengine.config.values import expected, shown
from madengine.errors import ConfigurationError

DEFAULTS: Mapping[str, str] = {
    "RUNNER": "torchrun",
    "MAD_RUNTIME_NGPUS": "",
    "NNODES": "1",
    "NODE_RANK": "0",
    "MASTER_ADDR": "localhost",
    "MASTER_PORT": "6006",
    "HOST_LIST": "",
    "NCCL_SOCKET_IFNAME": "",
    "GLOO_SOCKET_IFNAME": "",
}
# The least and the most that a number may be.
_NUMBERS = {
    "MAD_RUNTIME_NGPUS": (1, 10_000),
    "NNODES": (1, 100_000),
    "NODE_RANK": (0, 99_999),
    "MASTER_PORT": (1, 65_535),
}


def arguments(values: Mapping[str, Any]) -> dict[str, str]:
    """Return all of a context's `multi_node_args`, what is missing at its default; MAD_RUNTIME_NGPUS stays empty.

    Raise ConfigurationError, naming the key and its value.
    """
    where = "context: multi_node_args"
    for key, value in values.items():
        if key not in DEFAULTS:
            raise ConfigurationError(f"{where}: unknown key {shown(key)}; expected one of {', '.join(DEFAULTS)}")
        if isinstance(value, bool) or not isinstance(value, str | int):
            raise expected(f"{where}.{key}", "a string or a number", value)
    texts = {**DEFAULTS, **{key: _text(value) for key, value in values.items()}}
    for key, (least, most) in _NUMBERS.items():
        if texts[key] and not (re.fullmatch("[0-9]{1,9}", texts[key]) and least <= int(texts[key]) <= most):
            raise expected(f"{where}.{key}", f"a number from {least} to {most}", texts[key])
    nodes = int(texts["NNODES"] or 1)
    if int(texts["NODE_RANK"] or 0) >= nodes:
        raise expected(f"{where}.NODE_RANK", f"less than NNODES, which is {nodes}", texts["NODE_RANK"])
    return {key: texts[key] or DEFAULTS[key] for key in DEFAULTS}


def _text(value: str | int) -> str:
    # Python writes no number of thousands of digits; this one is too large anyway.
    return value.strip() if isinstance(value, str) else str(value) if abs(value) < 10**18 else "9" * 18


def runner(values: Mapping[str, Any], gpus: int, rank: str = "") -> str:
    """Return what a model's script puts before its program to start a process on each of the run's `gpus`.

    Without GPUs there are MAD_RUNTIME_NGPUS processes, or one. `env`, because a shell takes no assignments out of a
    variable: `$MAD_MULTI_NODE_RUNNER train.py` works as it is. `rank` is written, unquoted, in place of NODE_RANK
    where it is filled in later.
    """
    texts = arguments(values)
    each = gpus or int(texts["MAD_RUNTIME_NGPUS"] or 1)
    words = ["env", *(f"{name}={texts[name]}" for name in ("NCCL_SOCKET_IFNAME", "GLOO_SOCKET_IFNAME"))]
    if texts["RUNNER"] == "mpirun":
        hosts = texts["HOST_LIST"] or f"localhost:{each}"
        words += ["mpirun", "-np", str(int(texts["NNODES"]) * each), "--host", hosts]
    else:
        words += ["torchrun", "--nproc_per_node", str(each)]
        for key in ("NNODES", "NODE_RANK", "MASTER_ADDR", "MASTER_PORT"):
            words += [f"--{key.lower()}", (rank if key == "NODE_RANK" else "") or texts[key]]
    return " ".join(word if rank and word == rank else shlex.quote(word) for word in words)
