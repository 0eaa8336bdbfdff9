"""OpenSSH: one shared connection for each host, commands and copies over it, and what a failure means."""

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
from madengine.process import private_folder
from madengine.programs import Answer

if TYPE_CHECKING:
    from _typeshed import SupportsWrite
    from plumbum.commands.base import BaseCommand

# ssh's exit code if the connection failed, not the remote command.
BROKEN = 255
# How long an idle connection stays: that of a controller that was killed closes by itself.
_IDLE_SECONDS = 60
# Set unless the user's own settings do; a lost connection is noticed within 15 s.
_DEFAULTS = {
    "connecttimeout": ("none", "ConnectTimeout=10"),
    "serveraliveinterval": ("0", "ServerAliveInterval=5"),
}
_CHUNK_BYTES = 1 << 18
_LINE_BYTES = 1 << 20
# Of an answer that isn't a stream of files.
_MOST_BYTES = 4 << 20
_TOO_LATE, _TOO_MUCH = "no answer in time", f"the host printed more than {_MOST_BYTES >> 20} MiB"
_PARALLEL_QUERIES = 8

_TARGET = re.compile(r"(?P<target>(?:[^\s@:/\[\]-][^\s@:/\[\]]*@)?[A-Za-z0-9_.][A-Za-z0-9_.-]*)(?::(?P<port>\d{1,5}))?")
_HINTS = (
    (
        "host key verification failed",
        "connect once by hand; if the host was reinstalled, remove its old key from ~/.ssh/known_hosts",
    ),
    ("permission denied (", "ssh must work without a password: use ssh-copy-id, or an agent"),
    ("could not resolve hostname", "check DNS, /etc/hosts and ~/.ssh/config"),
)


@dataclass(frozen=True)
class Host:
    """A host to connect to."""

    #: As the user wrote it.
    name: str
    #: [user@]host.
    target: str
    #: Empty for ssh's default.
    port: str = ""

    @property
    def folder(self) -> str:
        """The name as a folder's name, valid on any file system."""
        return re.sub(r"[^A-Za-z0-9_.@-]", "_", self.name)


def host(text: str) -> Host:
    """Parse `[user@]host[:port]`, where host may be a name from the user's ssh config.

    Raises ConfigurationError for anything else.
    """
    match = _TARGET.fullmatch(text)
    if not match:
        raise ConfigurationError(f"invalid host {text!r}; expected [user@]host[:port], or a name from your ssh config")
    return Host(text, match["target"], match["port"] or "")


@dataclass(frozen=True)
class Connection:
    """One host's connection: opened by the first command, shared by all, reopened after it broke."""

    host: Host
    options: tuple[str, ...]
    socket: Path = Path()

    @property
    def is_open(self) -> bool:
        """Whether a connection is open."""
        return self.socket.is_socket()

    def __call__(self, *words: str) -> BaseCommand:
        """Return a command to run on the host; the words are quoted once, for its shell."""
        return programs.program("ssh", *self.options, "-T", "--", self.host.target, shlex.join(words))

    def tunnel(self, port: int) -> BaseCommand:
        """Forward the host's 127.0.0.1:port to this machine's."""
        return self._control("forward", "-R", f"{port}:127.0.0.1:{port}")

    def close_tunnel(self, port: int) -> BaseCommand:
        return self._control("cancel", "-R", f"{port}:127.0.0.1:{port}")

    def close(self) -> BaseCommand:
        return self._control("exit")

    def _control(self, order: str, *words: str) -> BaseCommand:
        # Settings of the connection itself (ClearAllForwardings) would undo this.
        return programs.program("ssh", *_socket_options(self.options), "-O", order, *words, "--", self.host.target)


@contextmanager
def connections(hosts: Sequence[Host], config: Path | None) -> Iterator[dict[Host, Connection]]:
    """Yield a connection for each host, with `config` in place of the user's ssh config; close them all at the end.

    Raises ConfigurationError if ssh can't read its settings or two names are one host, CommandError if ssh is not
    installed.
    """
    with ThreadPoolExecutor(max_workers=_PARALLEL_QUERIES) as pool:
        settings = dict(zip(hosts, pool.map(lambda host: _settings(host, config), hosts), strict=True))
    _refuse_duplicates(settings)
    # A socket's path must be short, so it can't be below any TMPDIR.
    with private_folder(Path("/tmp")) as folder:
        by_host = {}
        for number, host in enumerate(hosts):
            socket = folder / str(number)
            by_host[host] = Connection(host, _options(host, config, settings[host], socket), socket)
        try:
            yield by_host
        finally:
            for connection in by_host.values():
                if connection.is_open:
                    programs.attempt(connection.close(), seconds=10)


def _settings(host: Host, config: Path | None) -> dict[str, str]:
    """Return the settings that ssh would use for a host."""
    answer = programs.attempt(programs.program("ssh", *user_options(host, config), "-G", "--", host.target))
    if answer.code != 0:
        raise ConfigurationError(f"{host.name}: ssh: {answer.last_line}")
    return dict(line.partition(" ")[::2] for line in answer.out.splitlines())


def _refuse_duplicates(settings: Mapping[Host, Mapping[str, str]]) -> None:
    """Raise ConfigurationError for two names of one host: all would run there twice at once, and count twice."""
    keys = ("hostname", "port", "proxyjump", "proxycommand")
    hosts: dict[tuple[str, ...], Host] = {}
    for host, values in settings.items():
        other = hosts.setdefault(tuple(values.get(key, "") for key in keys), host)
        if other != host:
            address = f"{values['hostname']} port {values['port']}"
            raise ConfigurationError(f"{other.name} and {host.name} are the same host, {address}; name it once")


def user_options(host: Host, config: Path | None) -> list[str]:
    """Return ssh's options for what the user set: another ssh config, a port."""
    return [*(["-F", str(config)] if config else []), *(["-o", f"Port={host.port}"] if host.port else [])]


def _options(host: Host, config: Path | None, settings: Mapping[str, str], socket: Path) -> tuple[str, ...]:
    own = [
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
    return (*user_options(host, config), *(word for setting in own for word in ("-o", setting)))


def _socket_options(options: Sequence[str]) -> list[str]:
    pairs = zip(options[::2], options[1::2], strict=True)
    return [word for pair in pairs if not pair[1].startswith(("ClearAll", "ControlMaster")) for word in pair]


def is_broken(answer: Answer) -> bool:
    """Whether the connection failed, not the command on the host."""
    return answer.code in (BROKEN, None)


def may_pass(answer: Answer) -> bool:
    """Whether a connection that could not be opened is worth a retry, because the other end was only busy."""
    return bool(re.search(r"kex_exchange_identification|connection (reset|closed)", answer.err, re.IGNORECASE))


def explain(answer: Answer) -> str:
    """Return why a connection failed, in one line, with what to do about it if that is known."""
    if answer.code is None:
        return "ssh: timed out"
    lines = [line.strip() for line in answer.err.splitlines() if line.strip()]
    reason = next((line for line in reversed(lines) if not line.startswith("@")), f"ssh: exit code {answer.code}")
    reason = re.sub(r"^(.*?)\.$", r"\1", reason)
    hint = next((hint for text, hint in _HINTS if text in reason.lower()), "")
    prefix = "" if reason.startswith("ssh") else "ssh: "
    return f"{prefix}{reason}" + (f" ({hint})" if hint else "")


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
    """Write a command's stdout to a file, byte for byte; return its exit code."""
    with _file_of(stdin) as source, programs.background(command, stdin=source) as process:
        assert process.stdout is not None
        shutil.copyfileobj(process.stdout, target, _CHUNK_BYTES)
        return process.wait()


def follow(
    command: BaseCommand,
    stdin: bytes,
    on_line: Callable[[str], None],
    mark: bytes,
    rest: SupportsWrite[bytes],
) -> Answer:
    """Pass on a command's lines as they come; return its exit code and the end of stderr.

    The line that begins with `mark`, and all after it, is written to `rest` byte for byte.
    """
    with _file_of(stdin) as source, tempfile.TemporaryFile() as stderr:
        with programs.background(command, stderr=stderr, stdin=source) as process:
            assert process.stdout is not None
            while line := process.stdout.readline(_LINE_BYTES):
                if line.startswith(mark):
                    rest.write(line)
                    shutil.copyfileobj(process.stdout, rest, _CHUNK_BYTES)
                else:
                    on_line(programs.redact(line.decode(errors="replace")))
            code = process.wait()
        return Answer(code, "", _end_of(stderr))


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
