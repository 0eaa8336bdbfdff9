"""What the ssh target is called with, and its options on the command line."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from madengine.config.common_options import ForksOptions
from madengine.config.option import Group, comma_separated, number, option

if TYPE_CHECKING:
    from madengine.programs import ssh


@dataclass(frozen=True)
class HostOptions(ForksOptions):
    """Which hosts, how many at once, and how they are reached and used."""

    host: tuple[str, ...] = option(
        "--host", default=(), group=Group.HOSTS, many=True, collect=comma_separated, metavar="HOST",
        help="[user@]host[:port], or names of your ssh config, separated by spaces or commas",
    )  # fmt: skip
    hosts_file: Path | None = option(
        "--hosts-file",
        default=None,
        group=Group.HOSTS,
        parse=Path,
        metavar="FILE",
        help="hosts, one a line",
        exists="file",
    )
    remote_path: str = option(
        "--remote-path", default="madengine", group=Group.HOSTS, metavar="DIR",
        help="folder on the hosts, relative to the home there; %%h is the host's name (default: madengine)",
    )  # fmt: skip
    remote_python: str = option(
        "--remote-python", default="python3", group=Group.HOSTS, metavar="NAME",
        help="python3 of the hosts (default: python3)",
    )  # fmt: skip
    ssh_config: Path | None = option(
        "--ssh-config", default=None, group=Group.HOSTS, parse=Path, metavar="FILE", help="in place of ~/.ssh/config",
        exists="file",
    )  # fmt: skip
    #: Seconds.
    reconnect: float = option(
        "--reconnect", default=600.0, group=Group.HOSTS, parse=number("seconds", 0, 10**7), metavar="SECONDS",
        help="how long to retry a lost connection (default: 600)",
    )  # fmt: skip


@dataclass(frozen=True)
class CopyOptions(HostOptions):
    """What is copied to hosts beside the bundle and the manifest."""

    ship_credentials: bool = option(
        "--ship-credentials",
        default=False,
        group=Group.HOSTS,
        help="copy credential.json and data.json to the hosts too",
    )


@dataclass(frozen=True)
class NodeSettings:
    """How a node is used."""

    #: the folder of runs there, from the user's home; `%h` in it is the host's name
    folder: str = "madengine"
    #: the python3 that runs madengine there
    python: str = "python3"
    #: how long a lost connection is retried, in seconds
    patience: float = 600.0

    def folder_on(self, host: ssh.Host) -> str:
        """Return the folder on a host, relative to the user's home there or absolute."""
        return self.folder.replace("%h", host.folder).removeprefix("~/").rstrip("/") or "/"


@dataclass(frozen=True)
class SshOptions:
    """Which hosts, and how they are reached."""

    hosts: tuple[ssh.Host, ...]
    #: hosts at once
    forks: int = 16
    node: NodeSettings = field(default_factory=NodeSettings)
    #: file in place of the user's ssh config
    config: Path | None = None
    #: folder whose credential.json and data.json are copied to the hosts; None: no secret leaves this machine
    secrets_from: Path | None = None


@dataclass(frozen=True)
class HostRun:
    """What every host runs, and where its results go on this machine."""

    manifest: Path
    #: registry in place of the manifest's; empty for the manifest's
    registry: str = ""
    #: models of the manifest; none for all
    tags: tuple[str, ...] = ()
    #: nodes that run each model together, 0 is what context and model entries say
    nodes: int = 0
    #: container engine of the nodes
    engine: str = "auto"
    #: options of the node's `madengine run` as words, those of `tags`, `engine` and `registry` among them
    words: tuple[str, ...] = ()
    #: file of additional context that is copied to the nodes
    context: Path | None = None
    #: the manifest that this one is compared with, both in turn
    against: Path | None = None
    #: empty for a new one
    run_id: str = ""
    output: Path = Path("perf.csv")
    summary_output: Path = Path("run_summary.json")
    #: show no tables
    quiet: bool = False
