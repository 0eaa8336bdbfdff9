"""The other madengines of a run on several nodes, as each of them sees them."""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import IO, Any, NamedTuple

from madengine.config.launchers import World
from madengine.errors import MadengineError, RunError
from madengine.machine.interfaces import interface_of
from madengine.run.coordinator import (
    JOIN_SECONDS,
    MESSAGE_LIMIT,
    Coordinator,
    parse_message,
    proof,
    send,
    stay_alive,
)
from madengine.run.seat import Seat

logger = logging.getLogger(__name__)

# How long the others may take to stop their containers.
_STOP_SECONDS = 45.0
_RETRY_SECONDS = 0.1
# For rank 0 to come, where this one has only to say that it can't run.
_LEAVE_SECONDS = 10.0
_CHALLENGE_LIMIT = 200


class Conclusion(NamedTuple):
    """How the round of a model ended."""

    #: why it failed, with the rank where it did first; empty if it succeeded
    reason: str
    #: of every rank that has reported one, by rank
    results: Mapping[int, Any]
    #: the rank that failed first, if one has
    culprit: int | None = None
    #: whether Ctrl-C ended it
    interrupted: bool = False


class Peers:
    """The connection to rank 0, of which rank 0 has one too."""

    def __init__(self, seat: Seat, join_seconds: float = JOIN_SECONDS) -> None:
        """Begin to join. Raises RunError where rank 0 can't listen."""
        self.seat = seat
        self._news = threading.Condition()
        self._connection: socket.socket | None = None
        self._world: World | None = None
        #: names of the nodes, by rank; none before all have joined
        self.machines: tuple[str, ...] = ()
        self._go = False
        self._stop_reason = ""
        self._conclusion: Conclusion | None = None
        # Why there are no rounds any more.
        self._broken = ""
        self._coordinator = Coordinator(seat, join_seconds) if seat.rank == 0 else None
        deadline = time.monotonic() + join_seconds
        threading.Thread(target=self._listen, args=(deadline,), name="peers", daemon=True).start()

    @property
    def rank(self) -> int:
        return self.seat.rank

    @property
    def nodes(self) -> int:
        return self.seat.nodes

    def world(self) -> World:
        """Return the nodes once all have joined. Raises RunError, with the reason, where they don't."""
        with self._news:
            self._news.wait_for(lambda: self._world or self.stop_reason)
            if self._world is None:
                raise RunError(self.stop_reason)
            return self._world

    def start(self, model: str) -> None:
        """Wait until all ranks are ready for a model. Raises RunError, with the reason, where one isn't."""
        self._send(type="ready", model=model)
        with self._news:
            self._news.wait_for(lambda: self._go or self.stop_reason)
            if self.stop_reason:
                raise RunError(f"not started: {self.stop_reason}")

    @property
    def stop_reason(self) -> str:
        """Why this round's model has to be stopped here; empty while it may go on."""
        return self._stop_reason or self._broken

    def end(self, model: str, result: Any, reason: str) -> Conclusion:
        """Report this rank's result of a model, and wait until all ranks have; Ctrl-C stops the others."""
        self._send(type="end", model=model, result=result, reason=reason)
        interrupted = False
        try:
            self._wait_for_end(None)
        except KeyboardInterrupt:
            interrupted = True
            self._send(type="fail", model=model, reason="interrupted")
            self._wait_for_end(_STOP_SECONDS)
        with self._news:
            conclusion = self._conclusion or Conclusion(self.stop_reason or "interrupted", {})
            self._go, self._stop_reason, self._conclusion = False, "", None
        return conclusion._replace(interrupted=interrupted)

    def leave(self, reason: str) -> None:
        """Leave the run: after its last model, or with the reason why this rank can't go on."""
        with self._news:
            self._news.wait_for(lambda: self._connection or self._broken, _LEAVE_SECONDS)
            self._broken = self._broken or "this rank has left"
        self._send(type="leave", reason=reason)
        with self._news:
            connection = self._connection
        if connection:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_WR)
        if self._coordinator:
            self._coordinator.close()

    def _wait_for_end(self, seconds: float | None) -> None:
        with self._news:
            self._news.wait_for(lambda: self._conclusion or self._broken, seconds)

    def _send(self, **message: Any) -> None:
        with self._news:
            self._news.wait_for(lambda: self._connection or self._broken)
            connection = self._connection
        if connection:
            with suppress(OSError):  # the thread that reads notices the end
                send(connection, message)

    # --- the thread that reads ---

    def _listen(self, deadline: float) -> None:
        seat, why = self.seat, ""
        try:
            with _connected(seat, deadline) as connection, connection.makefile("rb") as lines:
                _greet(seat, connection, lines)
                self._note(connection=connection)
                while line := lines.readline(MESSAGE_LIMIT):
                    self._hear(parse_message(line), connection)
        except RunError as error:
            why = str(error)
        except OSError as error:
            why = f"rank 0 ({seat.address}): the connection broke: {error.strerror or error}"
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            why = f"rank 0 ({seat.address}): an unusable message: {error!r:.100}"
        self._note(broken=why or f"rank 0 ({seat.address}): its madengine ended")

    def _hear(self, message: Mapping[str, Any], connection: socket.socket) -> None:
        kind, reason = message.get("type"), str(message.get("reason") or "")
        with self._news:
            if kind == "world":
                addresses = tuple(str(address) for address in message["addresses"])
                interface = interface_of(addresses[self.rank])
                self._world = World(self.rank, addresses, int(message["port"]), interface)
                self.machines = tuple(str(machine) for machine in message.get("machines") or ())
            elif kind == "go":
                self._go = True
            elif kind == "stop":
                self._stop_reason = reason
                # Without all of them there is no round at all.
                self._broken = self._broken or ("" if self._world else reason)
            elif kind == "done":
                results = {int(rank): result for rank, result in (message.get("results") or {}).items()}
                culprit = message.get("culprit")
                self._conclusion = Conclusion(reason, results, culprit if type(culprit) is int else None)
            self._news.notify_all()

    def _note(self, connection: socket.socket | None = None, broken: str = "") -> None:
        with self._news:
            self._connection = connection
            self._broken = self._broken or broken
            self._news.notify_all()


def _connected(seat: Seat, deadline: float) -> socket.socket:
    """Return a connection to rank 0. Raises RunError, with the reason, where there is none in time."""
    address = ("localhost" if seat.rank == 0 else seat.address, seat.port)
    while True:
        try:
            connection = socket.create_connection(address, timeout=max(1.0, deadline - time.monotonic()))
            connection.settimeout(None)
            stay_alive(connection)
            return connection
        except OSError as error:
            if time.monotonic() > deadline:
                raise RunError(
                    f"rank 0 can't be reached at {seat.address} port {seat.port}: {error.strerror or error}; the nodes "
                    "have to reach each other: set MASTER_ADDR in the context's multi_node_args"
                ) from None
        time.sleep(_RETRY_SECONDS)


def _greet(seat: Seat, connection: socket.socket, lines: IO[bytes]) -> None:
    challenge = lines.readline(_CHALLENGE_LIMIT).decode().strip()
    hello = {"rank": seat.rank, "machine": socket.gethostname(), "proof": proof(seat, challenge, seat.rank)}
    send(connection, hello)


@contextmanager
def peers_of(seat: Seat) -> Iterator[Peers]:
    """Yield the others of a run on several nodes; they learn how the block ends.

    Raises RunError where rank 0 can't listen.
    """
    peers = Peers(seat)
    try:
        yield peers
    except MadengineError as error:
        peers.leave(str(error))
        raise
    except BaseException as error:
        peers.leave("interrupted" if isinstance(error, KeyboardInterrupt) else f"{type(error).__name__}")
        raise
    peers.leave("")
