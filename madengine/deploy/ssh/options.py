"""The options of what happens on hosts over ssh."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from madengine.config.option import Group, comma_separated, number, option, whole_number


@dataclass(frozen=True)
class HostOptions:
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
        exists=True,
    )
    forks: int = option(
        "--forks", default=16, group=Group.HOSTS, parse=whole_number("hosts", 1), metavar="N",
        help="hosts at once (default: 16)",
    )  # fmt: skip
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
        exists=True,
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
