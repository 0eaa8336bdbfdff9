"""Hosts that wait for each other before any of them starts."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from madengine.config.context import Context
from madengine.config.manifest import Manifest
from madengine.deploy.ssh.examination import Examination
from madengine.deploy.ssh.group import HostGroup, group_of
from madengine.deploy.ssh.options import NodeSettings
from madengine.deploy.ssh.reconnect import StoppedError
from madengine.deploy.ssh.remote_node import RemoteNode
from madengine.errors import ConfigurationError, RunError
from madengine.programs import ssh
from madengine.records import Image, Model
from madengine.run.seat import Seat

HOSTS = tuple(map(ssh.host, ("me@a", "b")))
TOGETHER = Model("together", "docker/m", "scripts/m", extra={"distributed": {"nnodes": 2}})
ALONE = Model("alone", "docker/m", "scripts/m")
MANIFEST = Manifest((Image("ci-t", "t"), Image("ci-a", "a")), {"ci-t": TOGETHER, "ci-a": ALONE})
STOPPING = threading.Event()


def group(context: Context | None = None) -> HostGroup:
    made = group_of(HOSTS, MANIFEST, 0, context or Context())
    assert made
    return made


def remote(host: ssh.Host, stopping: threading.Event = STOPPING) -> RemoteNode:
    return RemoteNode(ssh.Connection(host, ()), NodeSettings(), lambda line: None, stopping)


@contextmanager
def waiting(hosts: HostGroup, host: ssh.Host, stopping: threading.Event = STOPPING) -> Iterator[Future[Seat]]:
    """A host that is ready, while the block runs."""
    with ThreadPoolExecutor(1) as pool:
        yield pool.submit(hosts.seat, remote(host, stopping), Examination("3.11", address="10.0.0.2", free_port=2))


@pytest.mark.parametrize(
    ("reported", "context", "address"),
    [
        ("10.0.0.1", {}, "10.0.0.1"),
        ("127.0.0.1", {}, "a"),
        ("x; rm -rf /", {}, "a"),
        ("", {}, "a"),
        ("10.0.0.1", {"multi_node_args": {"MASTER_ADDR": "fast-a"}}, "fast-a"),
    ],
)
def test_all_meet_at_the_first_host_as_the_others_reach_it(
    reported: str, context: dict[str, object], address: str
) -> None:
    hosts = group(Context(context))
    with waiting(hosts, HOSTS[1]) as second:
        first = hosts.seat(remote(HOSTS[0]), Examination("3.11", address=reported, free_port=1))
        seats = [first, second.result(10)]
    assert [(seat.rank, seat.nodes, seat.address, seat.port) for seat in seats] == [
        (0, 2, address, 1),
        (1, 2, address, 1),
    ]
    assert first.key == seats[1].key != group()._key


def test_a_host_that_can_not_start_keeps_the_others_from_it() -> None:
    hosts = group()
    with waiting(hosts, HOSTS[0]) as first:
        assert hosts.fail(HOSTS[1], "no route") == "rank 1 (b): no route"
        assert hosts.fail(HOSTS[0], "later") == "rank 1 (b): no route"
        with pytest.raises(RunError, match=r"^rank 1 \(b\): no route$"):
            first.result(10)


def test_ctrl_c_ends_the_wait() -> None:
    stopping = threading.Event()
    with waiting(group(), HOSTS[0], stopping) as first:
        stopping.set()
        with pytest.raises(StoppedError):
            first.result(10)


def test_the_first_host_has_the_rows_of_what_runs_together() -> None:
    hosts = group()
    images = [[image.key for image in hosts.part(MANIFEST, host).images] for host in HOSTS]
    assert images == [["ci-t", "ci-a"], ["ci-a"]]
    assert hosts.names == "me@a,b"


def test_hosts_are_a_group_only_where_a_model_needs_several() -> None:
    alone = Manifest((Image("ci-a", "a"), Image("ci-x", "x")), {"ci-a": ALONE})
    assert group_of(HOSTS, alone, 0, Context()) is None
    assert group_of(HOSTS, MANIFEST, 1, Context()) is None
    made = group_of(HOSTS, alone, 0, Context({"distributed": {"nnodes": 2}}))
    assert made and made.counts == {"ci-a": 2, "ci-x": 1}
    with pytest.raises(ConfigurationError, match=r"^together: nnodes 2: expected 2 hosts, got 1; name as many with"):
        group_of(HOSTS[:1], MANIFEST, 0, Context())
