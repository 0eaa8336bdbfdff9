"""OpenSSH: one connection for each host that every command shares, copies over it, and what a failure means."""

from __future__ import annotations

import os
import re
import select
import shlex
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

from madengine import programs
from madengine.errors import ConfigurationError
from madengine.programs import Answer

if TYPE_CHECKING:
    from _typeshed import SupportsWrite
    from plumbum.commands.base import BaseCommand

# What ssh exits with where the connection, not the remote command, failed.
BROKEN = 255
# How long an idle connection stays, so that one of a controller that was killed goes away by itself.
_IDLE_SECONDS = 60
# What the user's own settings don't say; a cut line is then noticed within 15 s.
_DEFAULTS = {
    "connecttimeout": ("none", "ConnectTimeout=10"),
    "serveraliveinterval": ("0", "ServerAliveInterval=5"),
}
_CHUNK_BYTES = 1 << 18
_LINE_BYTES = 1 << 20
# Of an answer that isn't a stream of files.
_MOST_BYTES = 4 << 20
_TOO_LATE, _TOO_MUCH = "no answer in time", f"the host printed more than {_MOST_BYTES >> 20} MiB"
_ASKED_AT_ONCE = 8

_TARGET = re.compile(r"(?P<target>(?:[^\s@:/\[\]-][^\s@:/\[\]]*@)?[A-Za-z0-9_.][A-Za-z0-9_.-]*)(?::(?P<port>\d{1,5}))?")
_HINTS = (
    ("host key verification failed", "connect once by hand, or mend ~/.ssh/known_hosts if the host is a new one"),
    ("permission denied (", "ssh must work without a password: ssh-copy-id, or an agent"),
    ("could not resolve hostname", "is it in DNS, /etc/hosts or ~/.ssh/config?"),
)


@dataclass(frozen=True)
class Host:
    """A host as the user wrote it (`name`), what ssh calls it (`target`: [user@]host), and its port if it was given."""

    name: str
    target: str
    port: str = ""

    @property
    def folder(self) -> str:
        """The name as that of a folder, on any file system."""
        return re.sub(r"[^A-Za-z0-9_.@-]", "_", self.name)


def host(text: str) -> Host:
    """Read `[user@]host[:port]`, where host may be a name of the user's ssh config.

    Raises ConfigurationError for anything else.
    """
    found = _TARGET.fullmatch(text)
    if not found:
        raise ConfigurationError(f"{text!r}: no host; write [user@]host[:port], or a name of your ssh config")
    return Host(text, found["target"], found["port"] or "")


@dataclass(frozen=True)
class Connection:
    """One host's connection: opened by the first command, shared by all, opened again after it broke."""

    host: Host
    options: tuple[str, ...]
    socket: Path = Path()

    @property
    def is_open(self) -> bool:
        """Whether something of ours holds a connection."""
        return self.socket.is_socket()

    def __call__(self, *words: str) -> BaseCommand:
        """A command line for the host; the words are quoted once, for its shell."""
        return programs.program("ssh", *self.options, "-T", "--", self.host.target, shlex.join(words))

    def tunnel(self, port: int) -> BaseCommand:
        """Let the host's 127.0.0.1:port lead to this machine's."""
        return self._control("forward", "-R", f"{port}:127.0.0.1:{port}")

    def close_tunnel(self, port: int) -> BaseCommand:
        return self._control("cancel", "-R", f"{port}:127.0.0.1:{port}")

    def close(self) -> BaseCommand:
        return self._control("exit")

    def _control(self, order: str, *words: str) -> BaseCommand:
        # Settings of the connection itself (ClearAllForwardings) would undo what is ordered here.
        return programs.program("ssh", *_socket_options(self.options), "-O", order, *words, "--", self.host.target)


@contextmanager
def connections(hosts: Sequence[Host], config: Path | None) -> Iterator[dict[Host, Connection]]:
    """A connection for each host, with `config` in place of the user's ssh config; all are closed at the end.

    Raises ConfigurationError where ssh can't read its settings or two names are one host, CommandError where ssh
    isn't installed.
    """
    with ThreadPoolExecutor(max_workers=_ASKED_AT_ONCE) as pool:
        settings = dict(zip(hosts, pool.map(lambda one: _settings(one, config), hosts), strict=True))
    _refuse_twins(settings)
    # A socket's path has to be short, so it can't be below just any TMPDIR.
    with tempfile.TemporaryDirectory(prefix="madengine-ssh-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        sockets = {one: Path(folder) / str(number) for number, one in enumerate(hosts)}
        made = {one: Connection(one, _options(one, config, settings[one], sockets[one]), sockets[one]) for one in hosts}
        try:
            yield made
        finally:
            for connection in made.values():
                if connection.is_open:
                    programs.attempt(connection.close(), seconds=10)


def _settings(one: Host, config: Path | None) -> dict[str, str]:
    """What ssh makes of the user's settings for a host."""
    answer = programs.attempt(programs.program("ssh", *user_options(one, config), "-G", "--", one.target))
    if answer.code != 0:
        raise ConfigurationError(f"{one.name}: ssh: {answer.last_line}")
    return dict(line.partition(" ")[::2] for line in answer.out.splitlines())


def _refuse_twins(settings: Mapping[Host, Mapping[str, str]]) -> None:
    """Two names of one host would run everything there twice at once, and count it twice."""
    seen: dict[tuple[str, ...], Host] = {}
    for one, said in settings.items():
        keys = ("hostname", "port", "proxyjump", "proxycommand")
        other = seen.setdefault(tuple(said.get(key, "") for key in keys), one)
        if other != one:
            raise ConfigurationError(
                f"{other.name} and {one.name} are the same host, {said['hostname']} port {said['port']}; name it once"
            )


def user_options(one: Host, config: Path | None) -> list[str]:
    """The options that say what the user said: another ssh config, a port."""
    return [*(["-F", str(config)] if config else []), *(["-o", f"Port={one.port}"] if one.port else [])]


def _options(one: Host, config: Path | None, settings: Mapping[str, str], socket: Path) -> tuple[str, ...]:
    wanted = [
        "BatchMode=yes",
        *(default for name, (unset, default) in _DEFAULTS.items() if settings.get(name, unset) in (unset, "0")),
        "ControlMaster=auto",
        f"ControlPath={socket}",
        f"ControlPersist={_IDLE_SECONDS}",
        "ClearAllForwardings=yes",
        "RemoteCommand=none",
        "RequestTTY=no",
        "PermitLocalCommand=no",
    ]
    return (*user_options(one, config), *(word for setting in wanted for word in ("-o", setting)))


def _socket_options(options: Sequence[str]) -> list[str]:
    pairs = zip(options[::2], options[1::2], strict=True)
    return [word for pair in pairs if not pair[1].startswith(("ClearAll", "ControlMaster")) for word in pair]


def is_broken(answer: Answer) -> bool:
    """Whether the connection, and not what was asked of the host, failed."""
    return answer.code in (BROKEN, None)


def may_pass(answer: Answer) -> bool:
    """Whether a connection that could not be opened may open at the next try: the other end was only busy."""
    return bool(re.search(r"kex_exchange_identification|connection (reset|closed)", answer.err, re.IGNORECASE))


def explain(answer: Answer) -> str:
    """Why a connection failed, in one line, with what to do about it where that is known."""
    if answer.code is None:
        return "ssh: no answer in time"
    lines = [line.strip() for line in answer.err.splitlines() if line.strip()]
    said = next((line for line in reversed(lines) if not line.startswith("@")), f"ssh: exit code {answer.code}")
    said = re.sub(r"^(.*?)\.$", r"\1", said)
    hint = next((hint for text, hint in _HINTS if text in said.lower()), "")
    prefix = "" if said.startswith("ssh") else "ssh: "
    return f"{prefix}{said}" + (f" ({hint})" if hint else "")


def ask(command: BaseCommand, stdin: bytes, seconds: float | None) -> Answer:
    """Run a command to its end, or to its time limit (exit code None), and return what it printed.

    Of stdout no more than a host has reason to print is read: the command is ended there, and its exit code is 1.
    """
    with _file_of(stdin) as source, tempfile.TemporaryFile() as errors:
        with programs.background(command, stderr=errors, stdin=source) as process:
            output, problem = _read(process, seconds)
            code = None
            with suppress(subprocess.TimeoutExpired):
                code = process.wait(seconds) if problem is None else None
        text = output.decode(errors="replace")
        if problem == _TOO_MUCH:
            return Answer(1, text, problem)
        return Answer(code, text, _end_of(errors))


def _read(process: subprocess.Popen[bytes], seconds: float | None) -> tuple[bytes, str | None]:
    """Return what a program prints, and why not all of it was read."""
    assert process.stdout is not None
    deadline = None if seconds is None else time.monotonic() + seconds
    output = bytearray()
    while len(output) <= _MOST_BYTES:
        left = None if deadline is None else max(0.0, deadline - time.monotonic())
        if not select.select([process.stdout], [], [], left)[0]:
            return bytes(output), _TOO_LATE
        chunk = os.read(process.stdout.fileno(), _CHUNK_BYTES)
        if not chunk:
            return bytes(output), None
        output += chunk
    return bytes(output), _TOO_MUCH


def receive(command: BaseCommand, stdin: bytes, target: SupportsWrite[bytes]) -> int:
    """Write what a command prints, byte by byte as it is, to a file; return the exit code."""
    with _file_of(stdin) as source, programs.background(command, stdin=source) as process:
        assert process.stdout is not None
        shutil.copyfileobj(process.stdout, target, _CHUNK_BYTES)
        return process.wait()


def follow(
    command: BaseCommand,
    stdin: bytes,
    line_seen: Callable[[str], None],
    mark: bytes,
    rest: SupportsWrite[bytes],
) -> Answer:
    """Pass on the lines that a command prints as they come; the one that begins with `mark`, and all after it, are
    written to a file byte by byte. Return the exit code, and the end of stderr."""
    with _file_of(stdin) as source, tempfile.TemporaryFile() as errors:
        with programs.background(command, stderr=errors, stdin=source) as process:
            assert process.stdout is not None
            while line := process.stdout.readline(_LINE_BYTES):
                if line.startswith(mark):
                    rest.write(line)
                    shutil.copyfileobj(process.stdout, rest, _CHUNK_BYTES)
                else:
                    line_seen(programs.redact(line.decode(errors="replace")))
            code = process.wait()
        return Answer(code, "", _end_of(errors))


def _end_of(file: IO[bytes]) -> str:
    """Return the last lines of a file as text, redacted."""
    file.seek(max(0, file.seek(0, os.SEEK_END) - _CHUNK_BYTES))
    return programs.redact(file.read(_CHUNK_BYTES).decode(errors="replace"))


@contextmanager
def _file_of(content: bytes) -> Iterator[IO[bytes]]:
    with tempfile.TemporaryFile() as file:
        file.write(content)
        file.seek(0)
        yield file
