"""The context's multi_node_args -> the command that starts a model's processes on this node."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

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
_NUMBERS = {"MAD_RUNTIME_NGPUS": 1, "NNODES": 1, "NODE_RANK": 0, "MASTER_PORT": 1}


def arguments(given: Mapping[str, Any]) -> dict[str, str]:
    """The whole of a context's `multi_node_args`: what it lacks gets its default; MAD_RUNTIME_NGPUS stays empty.

    Raises ConfigurationError, naming the key and its value.
    """
    for key, value in given.items():
        if key not in DEFAULTS:
            raise ConfigurationError(f"context: multi_node_args: {key!r} is none of {', '.join(DEFAULTS)}")
        if isinstance(value, bool) or not isinstance(value, str | int):
            raise ConfigurationError(f"context: multi_node_args.{key}: {value!r} is wrong: it is a text or a number")
    known = {**DEFAULTS, **{key: str(value).strip() for key, value in given.items()}}
    for key, least in _NUMBERS.items():
        text = known[key]
        if text and not (text.isascii() and text.isdigit() and int(text) >= least):
            raise ConfigurationError(f"context: multi_node_args.{key}: {text!r} is wrong: a number, {least} or more")
    if int(known["NODE_RANK"] or 0) >= int(known["NNODES"] or 1):
        raise ConfigurationError(
            f"context: multi_node_args.NODE_RANK: {known['NODE_RANK']} is wrong: of {known['NNODES']} the first is 0"
        )
    return {key: known[key] or DEFAULTS[key] for key in DEFAULTS}


def runner(given: Mapping[str, Any], gpus: int, rank: str = "") -> str:
    """What a model's script puts before its program to start a process on each of the `gpus` that its run has.

    Without GPUs it is as many processes as MAD_RUNTIME_NGPUS says, else one. `env`, because a shell takes no
    assignments out of a variable: `$MAD_MULTI_NODE_RUNNER train.py` works as it is. `rank` is written, unquoted, in
    place of NODE_RANK where others fill that in.
    """
    known = arguments(given)
    each = gpus or int(known["MAD_RUNTIME_NGPUS"] or 1)
    words = ["env", *(f"{name}={known[name]}" for name in ("NCCL_SOCKET_IFNAME", "GLOO_SOCKET_IFNAME"))]
    if known["RUNNER"] == "mpirun":
        hosts = known["HOST_LIST"] or f"localhost:{each}"
        words += ["mpirun", "-np", str(int(known["NNODES"]) * each), "--host", hosts]
    else:
        words += ["torchrun", "--nproc_per_node", str(each)]
        for key in ("NNODES", "NODE_RANK", "MASTER_ADDR", "MASTER_PORT"):
            words += [f"--{key.lower()}", (rank if key == "NODE_RANK" else "") or known[key]]
    return " ".join(word if rank and word == rank else shlex.quote(word) for word in words)
