"""Many hosts worked on side by side, each at its own risk."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

from madengine import programs
from madengine.deploy.ssh.host_result import HostOutcome, one_line
from madengine.deploy.ssh.options import SshOptions
from madengine.deploy.ssh.progress import Board
from madengine.deploy.ssh.remote_node import RemoteNode
from madengine.errors import MadengineError
from madengine.programs import ssh

logger = logging.getLogger(__name__)

HostWork = Callable[[RemoteNode], HostOutcome]


@dataclass(frozen=True)
class Interruption:
    """Ctrl-C as the threads of the hosts see it."""

    #: it was pressed: what waits for a host ends
    requested: threading.Event = field(default_factory=threading.Event)
    #: the connections of before are closed, and hosts may be connected to again
    hung_up: threading.Event = field(default_factory=threading.Event)


@dataclass
class Fleet:
    """The hosts of one command, with a thread for each that is being worked on."""

    nodes: Sequence[RemoteNode]
    pool: ThreadPoolExecutor
    interruption: Interruption
    _futures: list[Future[HostOutcome]] = field(default_factory=list)

    def begin(self, work: HostWork) -> None:
        """Begin the work on every host; an error costs that host only."""
        for remote in self.nodes:
            self._futures.append(self.pool.submit(_work_safely, work, remote))

    def wait(self) -> None:
        """Wait until the work on all hosts has ended."""
        wait(self._futures)

    def interrupt(self) -> None:
        """Close all connections, let the work on each host stop what it has started there, and wait for that."""
        logger.info("interrupted: ending the work on the hosts")
        self.interruption.requested.set()
        for future in self._futures:
            future.cancel()
        programs.halt()
        programs.resume()
        for remote in self.nodes:
            # ssh's output stays open as long as the connection does, whatever becomes of the program.
            remote.hang_up()
        self.interruption.hung_up.set()
        self.wait()

    def outcomes(self) -> list[HostOutcome]:
        """Return how the work on each host ended, in the order of the hosts."""
        return [_outcome(future, remote) for future, remote in zip(self._futures, self.nodes, strict=False)]

    def work_on_all(self, work: HostWork) -> tuple[list[HostOutcome], bool]:
        """Do the work on every host; return how it ended on each, and whether it was interrupted."""
        interrupted = False
        try:
            self.begin(work)
            self.wait()
        except KeyboardInterrupt:
            interrupted = True
            self.interrupt()
        return self.outcomes(), interrupted


@contextmanager
def connected(options: SshOptions, all_at_once: bool = False) -> Iterator[Fleet]:
    """Yield the hosts, each with a connection that its first command opens; all are closed when the block ends.

    They are worked on `all_at_once` where they wait for each other.

    Raises ConfigurationError where ssh can't read its settings, or two names are one host.
    """
    board = Board([host.name for host in options.hosts])
    interruption = Interruption()
    with (
        ssh.connections(options.hosts, options.config) as connections,
        ThreadPoolExecutor(max_workers=len(options.hosts) if all_at_once else options.forks) as pool,
    ):
        nodes = [
            RemoteNode(connection, options.node, partial(board.tell, host.name), interruption.requested)
            for host, connection in connections.items()
        ]
        yield Fleet(nodes, pool, interruption)


def finish(remote: RemoteNode, outcome: HostOutcome) -> HostOutcome:
    """Show how the work on a host ended; return that."""
    remote.tell(": ".join(filter(None, (outcome.state, outcome.reason))))
    return outcome


def _work_safely(work: HostWork, remote: RemoteNode) -> HostOutcome:
    try:
        return work(remote)
    except (MadengineError, OSError) as error:
        return finish(remote, HostOutcome(remote.name, "failed", None, str(error)))
    except Exception as error:  # an answer that breaks our code must not cost the other hosts their results
        logger.debug("unusable answer", exc_info=True)
        return finish(remote, HostOutcome(remote.name, "failed", None, one_line(f"unusable answer: {error!r}")))
    finally:
        remote.hang_up()


def _outcome(future: Future[HostOutcome], remote: RemoteNode) -> HostOutcome:
    if future.cancelled():
        return HostOutcome(remote.name, "stopped", None, "interrupted before its turn")
    return future.result()
