"""Rank 0's end of a run on several nodes: the others connect to it, and learn what follows from all reports."""

from __future__ import annotations

import hmac
import json
import logging
import secrets
import socket
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import IO, Any

from madengine.errors import RunError
from madengine.files import parse_json
from madengine.programs.preflight import free_port
from madengine.results.table import printable
from madengine.run.meeting import Meeting, Message
from madengine.run.seat import Seat

logger = logging.getLogger(__name__)

JOIN_SECONDS = 60.0
#: bytes of a message; a result has a line for each of its metrics
MESSAGE_LIMIT = 64 << 20
_GREETING_LIMIT = 4096
_GREETING_SECONDS = 10.0
_SEND_SECONDS = 20.0
_LEAVE_SECONDS = 2.0
_LINGER_SECONDS = 10.0
_POLL_SECONDS = 0.1
_NAME_LENGTH = 200
# A node that vanishes without a word is noticed within about 20 s.
_KEEPALIVE = ((socket.TCP_KEEPIDLE, 5), (socket.TCP_KEEPINTVL, 5), (socket.TCP_KEEPCNT, 3))


class Coordinator:
    """Listens until it is closed."""

    def __init__(self, seat: Seat, join_seconds: float = JOIN_SECONDS) -> None:
        """Listen. Raises RunError where another program has the port."""
        self._seat = seat
        self._meeting = Meeting(seat.nodes)
        self._lock = threading.Lock()
        self._connections: dict[int, socket.socket] = {}
        self._closing = threading.Event()
        self._rank_0_left = threading.Event()
        self._join_seconds = join_seconds
        self._port = free_port()
        try:
            self._listener = _listen(seat.port)
        except OSError as error:
            raise RunError(f"rank 0: port {seat.port}: {error.strerror}; run again, which takes another") from error
        threading.Thread(target=self._accept, name="coordinator", daemon=True).start()

    def close(self) -> None:
        """Stop listening, once what rank 0 had to say reached the others, also those that come a little later."""
        self._rank_0_left.wait(_LEAVE_SECONDS)
        deadline = time.monotonic() + _LINGER_SECONDS
        while not self._meeting.is_complete and time.monotonic() < deadline:
            time.sleep(_POLL_SECONDS)
        self._closing.set()
        with self._lock:
            for connection in self._connections.values():
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        deadline: float | None = time.monotonic() + self._join_seconds
        with self._listener:
            self._listener.settimeout(0.5)
            while not self._closing.is_set():
                with suppress(TimeoutError):
                    connection, address = self._listener.accept()
                    threading.Thread(target=self._serve, args=(connection, address[0]), daemon=True).start()
                if deadline and time.monotonic() > deadline:
                    deadline = None
                    with self._lock:
                        self._tell(self._meeting.missing(self._join_seconds))

    def _serve(self, connection: socket.socket, address: str) -> None:
        rank, reason = None, None
        try:
            # A process that ends may reset its connection.
            with connection, suppress(ValueError, ConnectionError), connection.makefile("rb") as lines:
                rank = self._admit(connection, lines, address)
                while line := lines.readline(MESSAGE_LIMIT):
                    message = parse_message(line)
                    if message.get("type") == "leave":
                        reason = _text(message, "reason")
                        break
                    self._take(rank, message)
        except OSError as error:
            reason = f"the connection to it broke: {error.strerror or error}"
        if rank is not None:
            with self._lock:
                self._connections.pop(rank, None)
                self._tell(*self._meeting.leave(rank, reason))
            if rank == 0:
                self._rank_0_left.set()

    def _admit(self, connection: socket.socket, lines: IO[bytes], address: str) -> int:
        """Return the rank at the other end. Raises ValueError for one that doesn't know the key."""
        connection.settimeout(_GREETING_SECONDS)
        challenge = secrets.token_hex(16)
        connection.sendall(f"{challenge}\n".encode())
        hello = parse_message(lines.readline(_GREETING_LIMIT))
        rank = hello.get("rank")
        if type(rank) is not int or not hmac.compare_digest(_text(hello, "proof"), proof(self._seat, challenge, rank)):
            raise ValueError("not of this run")
        connection.settimeout(None)
        stay_alive(connection)
        machine = printable(_text(hello, "machine"))[:_NAME_LENGTH]
        own = self._seat.address if rank == 0 else address.removeprefix("::ffff:")
        with self._lock:
            message = self._meeting.join(rank, machine, own, self._port)
            self._connections[rank] = connection
            self._tell(message)
        return rank

    def _take(self, rank: int, message: Mapping[str, Any]) -> None:
        kind, model = message.get("type"), _text(message, "model")
        with self._lock:
            if kind == "ready":
                self._tell(self._meeting.ready(rank, model))
            elif kind == "fail":
                self._tell(self._meeting.fail(rank, _reason(message)))
            elif kind == "end":
                self._tell(*self._meeting.end(rank, model, message.get("result"), _reason(message)))

    def _tell(self, *messages: Message | None) -> None:
        for message in filter(None, messages):
            for connection in self._connections.values():
                with suppress(OSError):  # its own thread notices that it is gone
                    send(connection, message)


def _listen(port: int) -> socket.socket:
    if socket.has_dualstack_ipv6():
        with suppress(OSError):
            return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
    return socket.create_server(("", port))


def proof(seat: Seat, challenge: str, rank: int) -> str:
    """Return what only a process that has the run's key can answer."""
    return hmac.new(seat.key.encode(), f"{challenge} {rank}".encode(), "sha256").hexdigest()


def send(connection: socket.socket, message: Mapping[str, Any]) -> None:
    """Send a message whole. Raises OSError where the other end doesn't take it."""
    connection.sendall(json.dumps(message).encode() + b"\n")


def parse_message(line: bytes) -> dict[str, Any]:
    """Return a message. Raises ValueError for a line that is none."""
    message = parse_json(line.decode())
    if not isinstance(message, dict):
        raise ValueError("not a message")
    return message


def stay_alive(connection: socket.socket) -> None:
    """Have the kernel notice that the other machine is gone."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _KEEPALIVE:
        connection.setsockopt(socket.IPPROTO_TCP, name, value)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(_SEND_SECONDS * 1000))


def _text(message: Mapping[str, Any], name: str) -> str:
    value = message.get(name, "")
    if not isinstance(value, str):
        raise ValueError(f"{name}: not a string")
    return value


def _reason(message: Mapping[str, Any]) -> str:
    return printable(" ".join(_text(message, "reason").split()))[:1000]
