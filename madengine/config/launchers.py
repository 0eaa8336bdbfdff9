"""Launchers: the command that starts a model's processes on this node, and the variables that its script reads.

A launcher is named by the context's `distributed`, by that of the model entry, or by MAD_LAUNCHER; `multi_node_args`
are the ranks and addresses of nodes whose madengine is started by hand.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from madengine.config.values import expected, shown
from madengine.errors import ConfigurationError
from madengine.records import Model

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


def runner(values: Mapping[str, Any], processes: int, rank: str = "") -> str:
    """Return what a model's script puts before its program to start so many processes on this node.

    0 processes are MAD_RUNTIME_NGPUS, or one. `env`, because a shell takes no assignments out of a variable:
    `$MAD_MULTI_NODE_RUNNER train.py` works as it is. `rank` is written, unquoted, in place of NODE_RANK where it is
    filled in later.
    """
    texts = arguments(values)
    each = processes or int(texts["MAD_RUNTIME_NGPUS"] or 1)
    interfaces = [f"{name}={texts[name]}" for name in ("NCCL_SOCKET_IFNAME", "GLOO_SOCKET_IFNAME") if texts[name]]
    words = ["env", *interfaces] if interfaces else []
    if texts["RUNNER"] == "mpirun":
        hosts = texts["HOST_LIST"] or f"localhost:{each}"
        words += ["mpirun", "-np", str(int(texts["NNODES"]) * each), "--host", hosts]
    elif texts["NNODES"] == "1" and not {"MASTER_ADDR", "MASTER_PORT"} & values.keys():
        # On a free port: two runs on one machine would meet on a fixed one.
        words += ["torchrun", "--standalone", f"--nproc_per_node={each}"]
    else:
        words += ["torchrun", "--nproc_per_node", str(each)]
        for key in ("NNODES", "NODE_RANK", "MASTER_ADDR", "MASTER_PORT"):
            words += [f"--{key.lower()}", (rank if key == "NODE_RANK" else "") or texts[key]]
    return " ".join(word if rank and word == rank else shlex.quote(word) for word in words)


# --- launchers ---


@dataclass(frozen=True)
class Start:
    """What a launcher's variables depend on."""

    processes: int
    nodes: int
    #: the settings of `distributed`
    settings: Mapping[str, Any]
    model: Model


def _no_variables(start: Start) -> dict[str, str]:
    return {}


@dataclass(frozen=True)
class Launcher:
    """How a framework starts its processes, as madengine 2 has it."""

    #: in rows
    name: str
    #: the program that MAD_MULTI_NODE_RUNNER is; empty where the script starts its processes itself
    program: str = "torchrun"
    variables: Callable[[Start], dict[str, str]] = _no_variables
    #: why a run can't have it; empty if it can
    refusal: str = ""
    #: whether the script runs on the host, and starts containers itself
    on_host: bool = False


def _of_megatron(start: Start) -> dict[str, str]:
    tensor = start.processes if start.nodes > 1 else min(start.processes, 8)
    return {
        "TENSOR_MODEL_PARALLEL_SIZE": str(tensor),
        "PIPELINE_MODEL_PARALLEL_SIZE": str(start.nodes),
        "CONTEXT_PARALLEL_SIZE": "1",
    }


def _of_torchtitan(start: Start) -> dict[str, str]:
    several = {"TORCHTITAN_FSDP_ENABLED": "1", "TORCHTITAN_CONTEXT_PARALLEL_SIZE": "1"} if start.nodes > 1 else {}
    return {
        "TORCHTITAN_TENSOR_PARALLEL_SIZE": str(start.processes),
        "TORCHTITAN_PIPELINE_PARALLEL_SIZE": str(start.nodes),
        **several,
    }


def _of_vllm(start: Start) -> dict[str, str]:
    return {
        "VLLM_TENSOR_PARALLEL_SIZE": str(start.processes),
        "VLLM_PIPELINE_PARALLEL_SIZE": "1",
        "VLLM_DISTRIBUTED_BACKEND": "auto",
    }


def _of_sglang(start: Start) -> dict[str, str]:
    return {"SGLANG_TENSOR_PARALLEL_SIZE": str(start.processes), "SGLANG_PIPELINE_PARALLEL_SIZE": "1"}


_PRIMUS_BACKENDS = {
    "maxtext": "MaxText", "torchtitan": "torchtitan", "megatron_bridge": "megatron_bridge", "megatron": "megatron",
    "moe_package": "moe_package",
}  # fmt: skip


def _of_primus(start: Start) -> dict[str, str]:
    primus = start.settings.get("primus")
    settings = primus if isinstance(primus, Mapping) else {}
    name = start.model.name.partition("primus_pretrain/")[2].lower()
    by_name = next((backend for key, backend in _PRIMUS_BACKENDS.items() if name.startswith(f"{key}_")), "")
    variables = {
        "PRIMUS_CONFIG_PATH": settings.get("config_path") or "exp_pretrain.yaml",
        "PRIMUS_CLI_EXTRA": settings.get("cli_extra") or "",
        "BACKEND": settings.get("backend") or by_name,
    }
    return {key: str(value) for key, value in variables.items() if value}


LAUNCHERS: Mapping[str, Launcher] = {
    launcher.name: launcher
    for launcher in (
        Launcher("torchrun"),
        Launcher("torchtitan", variables=_of_torchtitan),
        Launcher("megatron-lm", variables=_of_megatron),
        Launcher("deepspeed", "deepspeed"),
        Launcher("mpirun", "mpirun"),
        Launcher("primus", "", _of_primus),
        Launcher("vllm", "", _of_vllm),
        Launcher("sglang", "", _of_sglang),
        Launcher("sglang-disagg", "", refusal="it needs several nodes, and a run is on one"),
        Launcher("slurm_multi", "", on_host=True),
    )
}
_ALIASES = {"megatron": "megatron-lm", "sglang_disagg": "sglang-disagg", "slurm-multi": "slurm_multi"}


def launcher_named(name: str) -> Launcher | None:
    """Return the launcher of a name or an alias, None if there is no such launcher."""
    key = name.strip().lower()
    return LAUNCHERS.get(_ALIASES.get(key, key))


@dataclass(frozen=True)
class Launch:
    """What says how a model's processes are started."""

    #: None where nothing names one
    launcher: Launcher | None
    #: of `distributed`, the context's over those of the model entry
    settings: Mapping[str, Any]
    multi_node_args: Mapping[str, Any]
    model: Model

    def variables(self, gpus: int, rank: str = "") -> dict[str, str]:
        """Return what a container gets to start its processes: MAD_MULTI_NODE_RUNNER, and what its launcher adds.

        `rank` is as in `runner`. Raises ConfigurationError where the launcher can't start them.
        """
        launcher, texts = self.launcher, arguments(self.multi_node_args)
        if launcher and launcher.on_host:
            raise ConfigurationError(
                f"launcher {launcher.name}: its script starts containers, so it runs in none itself"
            )
        if launcher is None:
            return {"MAD_MULTI_NODE_RUNNER": runner(self.multi_node_args, gpus, rank)}
        nodes = int(texts["NNODES"])
        each = int(self.settings.get("nproc_per_node") or 0) or gpus or int(texts["MAD_RUNTIME_NGPUS"] or 1)
        port = str(self.settings.get("port") or "29500")
        return {
            "NNODES": str(nodes),
            "NPROC_PER_NODE": str(each),
            "MASTER_PORT": texts["MASTER_PORT"] if "MASTER_PORT" in self.multi_node_args else port,
            **launcher.variables(Start(each, nodes, self.settings, self.model)),
            "MAD_MULTI_NODE_RUNNER": self._command(launcher, nodes, each, port, rank),
        }

    def _command(self, launcher: Launcher, nodes: int, each: int, port: str, rank: str) -> str:
        if launcher.program == "deepspeed" and nodes > 1:
            raise ConfigurationError("launcher deepspeed: several nodes need a hostfile, which is unsupported")
        if launcher.program == "deepspeed":
            return f"deepspeed --num_gpus={each}"
        own_port = {"MASTER_PORT": port} if nodes > 1 else {}
        values = {**own_port, **self.multi_node_args, "RUNNER": launcher.program}
        return runner(values, each, rank) if launcher.program else ""


def launch_of(of_context: Any, multi_node_args: Mapping[str, Any], model: Model, environ: Mapping[str, str]) -> Launch:
    """Return how a model is started: by the context's `distributed`, its entry's, or MAD_LAUNCHER."""
    sections = [section for section in (model.extra.get("distributed"), of_context) if isinstance(section, Mapping)]
    settings = {key: value for section in sections for key, value in section.items() if value is not None}
    name = str(settings.get("launcher") or environ.get("MAD_LAUNCHER") or "")
    return Launch(launcher_named(name), settings, multi_node_args, model)


def check_distributed(value: Any, where: str) -> None:
    """Raise ConfigurationError for a `distributed` of a wrong type, and for an unknown launcher."""
    settings = value if isinstance(value, Mapping) else {}
    name = settings.get("launcher")
    if value is not None and not isinstance(value, Mapping):
        raise expected(where, "an object", value)
    if name and (not isinstance(name, str) or not launcher_named(name)):
        raise expected(f"{where}.launcher", f"one of {', '.join(LAUNCHERS)}", name)
    for key, least, most in (("nproc_per_node", 1, 10_000), ("port", 1, 65_535)):
        number = settings.get(key)
        if number is not None and not (re.fullmatch("[0-9]{1,9}", str(number)) and least <= int(number) <= most):
            raise expected(f"{where}.{key}", f"a number from {least} to {most}", number)
