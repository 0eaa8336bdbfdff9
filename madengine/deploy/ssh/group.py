"""Hosts that run models together: none starts before all are ready, and all learn why one can't."""

from __future__ import annotations

import ipaddress
import secrets
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace

from madengine.config.context import Context
from madengine.config.manifest import Manifest
from madengine.config.nodes import node_count
from madengine.deploy.ssh.examination import Examination
from madengine.deploy.ssh.reconnect import StoppedError
from madengine.deploy.ssh.remote_node import RemoteNode
from madengine.errors import ConfigurationError, RunError
from madengine.programs import ssh
from madengine.programs.preflight import free_port
from madengine.run.seat import Seat

_POLL_SECONDS = 0.2


@dataclass
class HostGroup:
    """The hosts, whose ranks are their positions on the command line."""

    hosts: Sequence[ssh.Host]
    #: how many nodes run each image's model together, by the image's key
    counts: Mapping[str, int]
    #: of the first host, as the others reach it; empty where that host has to say
    address: str = ""
    _key: str = field(default_factory=lambda: secrets.token_hex(16), repr=False)
    _ready: dict[int, Examination] = field(default_factory=dict)
    _problem: str = ""
    _news: threading.Condition = field(default_factory=threading.Condition)

    def rank(self, host: ssh.Host) -> int:
        return self.hosts.index(host)

    @property
    def names(self) -> str:
        """The hosts in a row of a run that none of them has begun."""
        return ",".join(host.name for host in self.hosts)

    def part(self, manifest: Manifest, host: ssh.Host) -> Manifest:
        """Return the images of which this host has the rows: all on the first, on others what each runs alone."""
        if not self.rank(host):
            return manifest
        return replace(manifest, images=tuple(image for image in manifest.images if self.counts[image.key] == 1))

    def seats(self) -> list[Seat]:
        """Return the places of hosts that are started by hand, at a port that is free on this machine at least."""
        address, port = self.address or self._name_of_first, free_port()
        return [Seat(len(self.hosts), rank, address, port, self._key) for rank in range(len(self.hosts))]

    @property
    def _name_of_first(self) -> str:
        return self.hosts[0].target.rpartition("@")[2]

    def seat(self, remote: RemoteNode, examination: Examination) -> Seat:
        """Wait until all hosts are ready, and return this one's place.

        Raises RunError, with the reason, where one isn't, and StoppedError at Ctrl-C.
        """
        rank = self.rank(remote.connection.host)
        with self._news:
            self._ready[rank] = examination
            self._news.notify_all()
            while len(self._ready) < len(self.hosts) and not self._problem:
                self._news.wait(_POLL_SECONDS)
                if remote.stopping.is_set():
                    raise StoppedError("interrupted")
        if self._problem:
            raise RunError(self._problem)
        first = self._ready[0]
        address = self.address or _reachable(first.address) or self._name_of_first
        return Seat(len(self.hosts), rank, address, first.free_port, self._key)

    def fail(self, host: ssh.Host, reason: str) -> str:
        """Have the others not start, because this host can't; return the reason of the host that failed first."""
        with self._news:
            self._problem = self._problem or f"rank {self.rank(host)} ({host.name}): {reason}"
            self._news.notify_all()
            return self._problem


def _reachable(address: str) -> str:
    """Return an address that a host reported if others may reach it, else none."""
    with suppress(ValueError):
        return "" if ipaddress.ip_address(address).is_loopback else address
    return ""


def group_of(hosts: Sequence[ssh.Host], manifest: Manifest, option: int, context: Context) -> HostGroup | None:
    """Return the group in which hosts run a manifest's models together; None where each host runs them alone.

    `option` is --nodes. Raises ConfigurationError for models that need another number of hosts than are named.
    """
    counts = {
        image.key: node_count(option, context, manifest.models[image.key], {}) if image.key in manifest.models else 1
        for image in manifest.images
    }
    several = {key: count for key, count in counts.items() if count > 1}
    for key, count in several.items():
        if count != len(hosts):
            what = f"--nodes {count}" if option else f"{manifest.models[key].name}: nnodes {count}"
            raise ConfigurationError(
                f"{what}: expected {count} hosts, got {len(hosts)}; name as many with --host, or other models with "
                "--tags"
            )
    address = str(context.multi_node_args.get("MASTER_ADDR") or "")
    return HostGroup(hosts, counts, address) if several else None
