"""Launchers: the command that starts a model's processes on this node, and the variables that its script reads.

A launcher is named by the context's `distributed`, by that of the model entry, or by MAD_LAUNCHER. The ranks and
addresses of several nodes come from the target that starts them, or by hand from `multi_node_args`.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from madengine.config.launcher_variables import (
    Start,
    of_megatron,
    of_primus,
    of_sglang,
    of_sglang_disagg,
    of_torchtitan,
    of_vllm,
)
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
INTERFACES = ("NCCL_SOCKET_IFNAME", "GLOO_SOCKET_IFNAME")
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
    interfaces = [f"{name}={texts[name]}" for name in INTERFACES if texts[name]]
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
class World:
    """The nodes that start a model together, as one of them sees them."""

    rank: int
    #: of each node, by rank, as the others reach it
    addresses: tuple[str, ...]
    #: free on the first node, for the model's processes
    port: int
    #: network interface towards the others; empty if unknown
    interface: str = ""

    @property
    def nodes(self) -> int:
        return len(self.addresses)


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
    least_nodes: int = 1
    #: whether the script runs on the host, and starts containers itself
    on_host: bool = False


LAUNCHERS: Mapping[str, Launcher] = {
    launcher.name: launcher
    for launcher in (
        Launcher("torchrun"),
        Launcher("torchtitan", variables=of_torchtitan),
        Launcher("megatron-lm", variables=of_megatron),
        Launcher("deepspeed", "deepspeed"),
        Launcher("mpirun", "mpirun"),
        Launcher("primus", "", of_primus),
        Launcher("vllm", "", of_vllm),
        Launcher("sglang", "", of_sglang),
        Launcher("sglang-disagg", "", of_sglang_disagg, least_nodes=2),
        Launcher("slurm_multi", "", on_host=True),
    )
}
#: the keys of `distributed`; `enabled` is of madengine 2's Kubernetes, where a launcher says as much
SETTINGS = (
    "launcher", "enabled", "nnodes", "nproc_per_node", "backend", "port", "master_port", "sglang_disagg", "primus"
)  # fmt: skip
_PARTS = {"sglang_disagg": ("prefill_nodes", "decode_nodes"), "primus": ("config_path", "cli_extra", "backend")}
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
    #: of the nodes, by rank; none if they are unknown
    addresses: Sequence[str] = ()
    #: file in the container that lists them, for deepspeed; empty if there is none
    hostfile: str = ""
    in_pod: bool = False

    @property
    def nodes(self) -> int:
        """How many madengines start the model together. Raises ConfigurationError for invalid multi_node_args.

        A script that starts containers itself is started once, on however many nodes these are.
        """
        if self.launcher and self.launcher.on_host:
            return 1
        return int(self.settings.get("nnodes") or arguments(self.multi_node_args)["NNODES"])

    def on(self, world: World, hostfile: str = "") -> Launch:
        """Return how the model is started on these nodes; the address and the port of the user's choice count."""
        port = self._port or world.port
        own = {"MASTER_ADDR": world.addresses[0], "MASTER_PORT": port, **self.multi_node_args}
        ranks = {"NNODES": world.nodes, "NODE_RANK": world.rank}
        return replace(self, multi_node_args={**own, **ranks}, addresses=world.addresses, hostfile=hostfile)

    def variables(self, gpus: int, rank: str = "") -> dict[str, str]:
        """Return what a container gets to start its processes: MAD_MULTI_NODE_RUNNER, and what its launcher adds.

        `rank` is as in `runner`. Raises ConfigurationError where the launcher can't start them.
        """
        launcher = self.launcher
        if launcher and launcher.on_host:
            raise ConfigurationError(
                f"launcher {launcher.name}: its script starts containers, so it runs in none itself"
            )
        start = self._start(gpus, rank)
        if launcher and start.nodes < launcher.least_nodes:
            raise ConfigurationError(f"launcher {launcher.name}: it needs several nodes, and this run is on one")
        return {
            **self._interfaces,
            **(_of_nodes(start, gpus, rank) if start.nodes > 1 else {}),
            **(_of_launcher(self.launcher, start) if self.launcher else {}),
            **({"DISTRIBUTED_BACKEND": backend} if (backend := self.settings.get("backend")) else {}),
            **(_MPI_AS_ROOT if self._program == "mpirun" else {}),
            "MAD_MULTI_NODE_RUNNER": self._command(start, rank),
        }

    @property
    def _interfaces(self) -> dict[str, str]:
        """The interfaces of the user's choice, for scripts that start their processes themselves."""
        texts = arguments(self.multi_node_args)
        return {name: texts[name] for name in INTERFACES if texts[name]}

    def hosts(self, gpus: int) -> str:
        """Return the text of a hostfile."""
        each = self._start(gpus, "").processes
        return "".join(f"{address} slots={each}\n" for address in self.addresses)

    def host_list(self, gpus: int) -> str:
        """Return the nodes as `multi_node_args` name them for mpirun."""
        each = self._start(gpus, "").processes
        return ",".join(f"{address}:{each}" for address in self.addresses)

    def _start(self, gpus: int, rank: str) -> Start:
        texts = arguments(self.multi_node_args)
        port = str(self._port or "29500") if self.launcher else texts["MASTER_PORT"]
        return Start(
            processes=int(self.settings.get("nproc_per_node") or 0) or gpus or int(texts["MAD_RUNTIME_NGPUS"] or 1),
            nodes=int(texts["NNODES"]),
            rank=rank or texts["NODE_RANK"],
            master=texts["MASTER_ADDR"],
            port=texts["MASTER_PORT"] if "MASTER_PORT" in self.multi_node_args else port,
            addresses=self.addresses,
            hostfile=self.hostfile,
            settings=self.settings,
            model=self.model,
            in_pod=self.in_pod,
        )

    @property
    def _port(self) -> Any:
        return self.settings.get("port") or self.settings.get("master_port")

    @property
    def _program(self) -> str:
        return self.launcher.program if self.launcher else arguments(self.multi_node_args)["RUNNER"]

    def _command(self, start: Start, rank: str) -> str:
        program = self._program
        if program == "deepspeed":
            return _deepspeed(start, rank)
        if program == "mpirun" and start.nodes > 1 and not self.multi_node_args.get("HOST_LIST"):
            raise ConfigurationError(_MPIRUN_NODES)
        port = {"MASTER_PORT": start.port} if start.nodes > 1 and self.launcher else {}
        values = {**port, **self.multi_node_args, "RUNNER": program}
        return runner(values, start.processes, rank) if program else ""


# Open MPI refuses to start as root, which a container's user mostly is.
_MPI_AS_ROOT = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
_MPIRUN_NODES = (
    "launcher mpirun: it starts the processes of other nodes by ssh, and containers have no sshd; use torchrun or "
    "deepspeed, or, if the image has one, call mpirun on rank 0 alone, with multi_node_args.HOST_LIST"
)


def _of_nodes(start: Start, gpus: int, rank: str) -> dict[str, str]:
    """Return what every script on several nodes gets; a rank that others fill in is theirs to set."""
    ranks = {} if rank else {"NODE_RANK": start.rank, "RANK": start.rank}
    return {
        "MASTER_ADDR": start.master,
        "MASTER_PORT": start.port,
        "NNODES": str(start.nodes),
        # As madengine 2 has it: of nodes. torchrun counts the processes for those that it starts.
        "WORLD_SIZE": str(start.nodes),
        **ranks,
        "NPROC_PER_NODE": str(start.processes),
        "GPUS_PER_NODE": str(gpus),
    }


def _of_launcher(launcher: Launcher, start: Start) -> dict[str, str]:
    return {
        "NNODES": str(start.nodes),
        "NPROC_PER_NODE": str(start.processes),
        "MASTER_PORT": start.port,
        **launcher.variables(start),
    }


def _deepspeed(start: Start, rank: str) -> str:
    """Return the command; on several nodes each starts its own processes, because containers have no sshd.

    `rank` is as in `runner`.
    """
    if start.nodes == 1:
        return f"deepspeed --num_gpus={start.processes}"
    if not start.hostfile:
        raise ConfigurationError("launcher deepspeed: several nodes need a hostfile, which is unsupported here")
    words = [f"--hostfile={start.hostfile}", "--no_ssh", f"--node_rank={start.rank}"]
    words += [f"--master_addr={start.master}", f"--master_port={start.port}"]
    return " ".join(word if rank and word.endswith(rank) else shlex.quote(word) for word in ["deepspeed", *words])


def launch_of(of_context: Any, multi_node_args: Mapping[str, Any], model: Model, environ: Mapping[str, str]) -> Launch:
    """Return how a model is started: by the context's `distributed`, its entry's, or MAD_LAUNCHER."""
    sections = [section for section in (model.extra.get("distributed"), of_context) if isinstance(section, Mapping)]
    settings = {key: value for section in sections for key, value in section.items() if value is not None}
    name = str(settings.get("launcher") or environ.get("MAD_LAUNCHER") or "")
    return Launch(launcher_named(name), settings, multi_node_args, model)


def unknown_settings(settings: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the keys of a `distributed` that no launcher reads; `_…` is a comment."""
    strays = [key for key in settings if key not in SETTINGS]
    for name, known in _PARTS.items():
        part = settings.get(name)
        strays += [f"{name}.{key}" for key in part if key not in known] if isinstance(part, Mapping) else []
    return tuple(key for key in strays if not key.rpartition(".")[2].startswith("_"))


def check_distributed(value: Any, where: str) -> None:
    """Raise ConfigurationError for a `distributed` of a wrong type, and for an unknown launcher."""
    settings = value if isinstance(value, Mapping) else {}
    name = settings.get("launcher")
    if value is not None and not isinstance(value, Mapping):
        raise expected(where, "an object", value)
    if name and (not isinstance(name, str) or not launcher_named(name)):
        raise expected(f"{where}.launcher", f"one of {', '.join(LAUNCHERS)}", name)
    _check_split(settings.get("sglang_disagg"), f"{where}.sglang_disagg")
    if not isinstance(settings.get("primus"), Mapping | None):
        raise expected(f"{where}.primus", "an object", settings["primus"])
    if not isinstance(settings.get("backend"), str | None):
        raise expected(f"{where}.backend", "a string", settings["backend"])
    numbers = (("nproc_per_node", 10_000), ("nnodes", 100_000), ("port", 65_535), ("master_port", 65_535))
    for key, most in numbers:
        number = settings.get(key)
        if number is not None and not (re.fullmatch("[0-9]{1,9}", str(number)) and 1 <= int(number) <= most):
            raise expected(f"{where}.{key}", f"a number from 1 to {most}", number)


def _check_split(split: Any, where: str) -> None:
    if split is None:
        return
    if not isinstance(split, Mapping):
        raise expected(where, "an object", split)
    for key in _PARTS["sglang_disagg"]:
        if split.get(key) is not None and not re.fullmatch("[1-9][0-9]{0,5}", str(split[key])):
            raise expected(f"{where}.{key}", "a number of nodes", split[key])
