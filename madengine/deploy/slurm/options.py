"""The options of Slurm; all but the last are also keys of the context's `slurm` object."""

from __future__ import annotations

import argparse
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from madengine.config.option import Group, comma_separated, inherited, option, whole_number
from madengine.deploy.kubernetes.options import Options
from madengine.deploy.ssh.options import HostOptions

_SLURM = Group.SLURM
# What stays one word of a script's `#SBATCH` line, expressions of features and lists of nodes among it.
_WORD = re.compile(r"[A-Za-z0-9_.,:@/=+*&|()\[\]{}%-]+")


def word(text: str) -> str:
    """Return a value of sbatch, which may be empty. Raises ArgumentTypeError for one that is more than a word."""
    if text and not _WORD.fullmatch(text):
        raise argparse.ArgumentTypeError(f"{text[:100]!r}: expected one word without quotes and blanks")
    return text


def _node_folder(text: str) -> str:
    """Return a folder of every node's own, or nothing. Raises ArgumentTypeError for another text."""
    if text and not (text.startswith("/") and ".." not in text.split("/")):
        raise argparse.ArgumentTypeError(f"{text[:100]!r}: expected an absolute path, such as /var/tmp")
    return word(text).rstrip("/")


def _word_option(flag: str, help: str, metavar: str = "NAME") -> Any:
    return option(flag, default="", group=_SLURM, parse=word, metavar=metavar, help=help)


@dataclass(frozen=True)
class SlurmOptions:
    """What jobs ask Slurm for, and how they are cut; empty is what the cluster does by itself."""

    partition: str = _word_option("--partition", "where jobs wait (default: the cluster's)")
    account: str = _word_option("--account", "who is charged")
    qos: str = _word_option("--qos", "quality of service")
    constraint: str = _word_option("--constraint", "features that nodes need", "FEATURES")
    reservation: str = _word_option("--reservation", "reservation to run in")
    nodelist: str = _word_option("--nodelist", "only these nodes", "NODES")
    exclude: str = _word_option("--exclude", "none of these nodes", "NODES")
    mem: str = _word_option("--mem", "memory of a node, such as 64G", "SIZE")
    time: str = _word_option(
        "--time", "time limit of each job; 60 s before it the model is stopped (default: the partition's)",
        "[DAYS-]HH:MM:SS",
    )  # fmt: skip
    mail_user: str = _word_option("--mail-user", "whom Slurm writes to", "ADDRESS")
    mail_type: str = _word_option("--mail-type", "of which events", "EVENTS")
    exclusive: bool = option("--exclusive", default=False, group=_SLURM, help="jobs share no node with others")
    requeue: bool = option(
        "--requeue", default=False, group=_SLURM,
        help="a job that is preempted, or whose node fails, is queued again; each attempt has its rows",
    )  # fmt: skip
    enable_node_check: bool = option(
        "--enable-node-check", default=False, group=_SLURM,
        help="have `doctor` examine each node before its models; one that isn't fit fails its job at once",
    )  # fmt: skip
    gpus_per_node: int | None = inherited(
        Options, "gpus_per_node", None, group=_SLURM, help="GPUs of each node (default: its model entry's)"
    )
    modules: tuple[str, ...] = option(
        "--modules", default=(), group=_SLURM, many=True, collect=comma_separated, metavar="NAME",
        help="environment modules that jobs load",
    )  # fmt: skip
    output_dir: Path = option(
        "--output-dir", default=Path("results"), group=_SLURM, parse=Path, metavar="DIR",
        help="folder that all nodes share, for scripts, logs and results (default: results)",
    )  # fmt: skip
    node_folder: str = option(
        "--node-folder", default="", group=_SLURM, parse=_node_folder, metavar="DIR",
        help="folder that every node has for itself, such as /var/tmp, where nodes and this machine share none: what "
        "jobs need travels with them, results come back over srun (default: --output-dir is shared)",
    )  # fmt: skip
    one_job: bool = option(
        "--one-job", default=False, group=_SLURM,
        help="run all models one after another in one job: one wait in the queue (default: a job each)",
    )  # fmt: skip
    max_running: int | None = option(
        "--max-running", default=None, group=_SLURM, parse=whole_number("jobs", 1, 100_000), metavar="N",
        help="jobs of the run that run at once (default: as many as there are nodes for)",
    )  # fmt: skip
    remote_python: str = inherited(HostOptions, "remote_python", "python3", group=_SLURM)
