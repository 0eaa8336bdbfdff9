"""Runs external programs: the only place where processes are started, streamed, printed and ended."""

from __future__ import annotations

import logging
import os
import select
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import IO, TYPE_CHECKING, Any

from madengine.errors import CommandError

if TYPE_CHECKING:
    from plumbum.commands.base import BaseCommand

logger = logging.getLogger(__name__)

# Seconds after which a program that should answer at once counts as hanging.
ANSWER_SECONDS = 60.0
# Seconds between TERM and KILL.
GRACE_SECONDS = 5.0
NO_OUTPUT = "no output"
# Longer lines are passed on in parts.
_LINE_BYTES = 1 << 20


@dataclass(frozen=True)
class Answer:
    """The result of a program that has ended; `out` and `err` are its stdout and stderr."""

    #: Exit code; None if it was ended at its time limit.
    code: int | None
    out: str
    err: str

    @property
    def last_line(self) -> str:
        """The last line of stderr, else of stdout, which usually explains a failure."""
        return (self.err.strip() or self.out.strip()).rsplit("\n", 1)[-1].strip()


class Secret(str):
    """A value in a program's environment that no printed line shows."""


# Each with the thread that started it.
_live: dict[subprocess.Popen[bytes], int] = {}
_lock = threading.Lock()
_halted = False
_secrets: set[str] = set()


def program(name: str, *words: str, env: Mapping[str, str] | None = None) -> BaseCommand:
    """Return a command line as a value; the program is searched on PATH when it runs, not now."""
    with _urllib_request_deferred():
        from plumbum.machines.local import LocalCommand

    command: BaseCommand = LocalCommand(name)[list(words)]
    return command.with_env(**env) if env else command


@contextmanager
def _urllib_request_deferred() -> Iterator[None]:
    """Import plumbum without urllib.request, which takes a third of its time and which it never uses here."""
    name = "urllib.request"
    if name in sys.modules or "plumbum" in sys.modules:
        yield
        return
    stand_in = sys.modules[name] = ModuleType(name)
    vars(stand_in)["__getattr__"] = lambda attribute: getattr(import_module(name), attribute)
    try:
        yield
    finally:
        if sys.modules.get(name) is stand_in:
            del sys.modules[name]


def installed_path(name: str) -> str:
    """Return the name of a program on PATH, else its path beside this Python, where pip installs it; else nothing."""
    if shutil.which(name):
        return name
    return shutil.which(name, path=str(Path(sys.executable).parent)) or ""


def hide(secrets: Iterable[str]) -> None:
    """Add values that `redact` takes out of everything that is shown or stored."""
    _secrets.update(secret for secret in secrets if secret)


def redact(text: str) -> str:
    """Return the text with every hidden value replaced by `[redacted]`, the longest first."""
    for secret in sorted(_secrets, key=len, reverse=True):
        text = text.replace(secret, "[redacted]")
    return text


def shell_line(command: BaseCommand) -> str:
    """Return the command as a line to paste into a POSIX shell that has its secrets in the environment."""
    settings = [
        f"{name}={shlex.quote(value)}" for name, value in _environment(command).items() if not isinstance(value, Secret)
    ]
    return " ".join([*settings, *map(shlex.quote, command.formulate())])


def _environment(command: BaseCommand) -> dict[str, str]:
    """Return the variables that the command adds to our environment; `with_env` may be nested."""
    inner = getattr(command, "cmd", None)
    return {**(_environment(inner) if inner is not None else {}), **(getattr(command, "env", None) or {})}


def attempt(
    command: BaseCommand, *, seconds: float | None = ANSWER_SECONDS, stdin: str = "", own_stderr: bool = False
) -> Answer:
    """Run a command to its end; a non-zero exit code is an answer, not an error.

    With `own_stderr` its stderr is ours, and no part of the answer.
    Raises CommandError if the program is not installed.
    """
    stderr = None if own_stderr else subprocess.PIPE
    with _running(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr) as process:
        hung = False
        try:
            out, err = process.communicate(stdin.encode(errors="surrogateescape"), timeout=seconds)
        except subprocess.TimeoutExpired:
            # The program itself may have ended, and a child of it may hold its pipes open.
            hung = process.poll() is None
            _end(process)
            out, err = _output_of(process)
    code = None if hung else process.returncode
    return Answer(code, out.decode(errors="replace"), redact((err or b"").decode(errors="replace")))


def _output_of(process: subprocess.Popen[bytes]) -> tuple[bytes, bytes]:
    """Return what an ended program printed, without waiting for a child of it that holds the pipes open."""
    try:
        return process.communicate(timeout=GRACE_SECONDS)
    except subprocess.TimeoutExpired as error:
        return error.output or b"", error.stderr or b""


def ask(command: BaseCommand, *, seconds: float | None = ANSWER_SECONDS, stdin: str = "") -> str:
    """Run a command and return its stdout.

    Raises CommandError (redacted, one line) if it is missing, fails or hangs.
    """
    answer = attempt(command, seconds=seconds, stdin=stdin)
    if answer.code != 0:
        raise failure(command, answer, seconds)
    return answer.out


def failure(
    command: BaseCommand, answer: Answer, seconds: float | None = ANSWER_SECONDS, reason: str = ""
) -> CommandError:
    """Return the error for a command that failed; by default the reason is the last line that it printed."""
    line = redact(" ".join(command.formulate()[:3]))
    how = f"no answer in {seconds:g} s" if answer.code is None else f"exit code {answer.code}"
    reason = redact(reason or answer.last_line) or NO_OUTPUT
    return CommandError(f"{line}: {how}: {reason}", answer.code, redact(answer.err or answer.out))


def stream(command: BaseCommand, on_line: Callable[[str], None]) -> int:
    """Run a command, pass on its lines (stdout and stderr together, redacted) as they come, return the exit code.

    Raises CommandError if the program is not installed.
    """
    with _running(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        assert process.stdout is not None
        while line := process.stdout.readline(_LINE_BYTES):
            on_line(redact(line.decode(errors="replace")))
        return process.wait()


def foreground(command: BaseCommand) -> int:
    """Run a command on our terminal, which it may ask for a password; return its exit code.

    Ctrl-C on the terminal reaches the command too: it gets GRACE_SECONDS to end by itself, then TERM and KILL.
    Raises CommandError where the program is not installed.
    """
    process = None
    try:
        # Ctrl-C between the program's start and our knowing of it would leave it running.
        with uninterrupted():
            process = _popen(command, stdin=None, stdout=None, stderr=None)
        return process.wait()
    finally:
        if process is not None:
            _end_alone(process)


def _end_alone(process: subprocess.Popen[bytes]) -> None:
    """Give a program without a session of its own a grace, TERM, a grace, KILL."""
    for end in (process.terminate, process.kill):
        with suppress(subprocess.TimeoutExpired):
            process.wait(GRACE_SECONDS)
            return
        end()


@contextmanager
def background(
    command: BaseCommand, stderr: IO[bytes] | int = subprocess.DEVNULL, stdin: IO[bytes] | int = subprocess.DEVNULL
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command in the background until the block ends; its stdout can be read."""
    with _running(command, stdin=stdin, stdout=subprocess.PIPE, stderr=stderr) as process:
        yield process


@contextmanager
def conversation(command: BaseCommand, stderr: IO[bytes]) -> Iterator[tuple[IO[bytes], IO[bytes]]]:
    """Run a command until the block ends; yield its stdin, to write to, and its stdout."""
    with background(command, stderr, subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield process.stdin, process.stdout
        finally:
            with suppress(BrokenPipeError):  # for what the program has not read
                process.stdin.close()


def pause(process: subprocess.Popen[bytes], seconds: float) -> None:
    """Sleep, but no longer than the process runs."""
    # The kernel wakes us at its end; `wait` with a time limit would poll a hundred times a second. A Python that was
    # built for an older kernel has no pidfd_open, an older kernel refuses it.
    try:
        handle = os.pidfd_open(process.pid) if process.poll() is None else None
    except (AttributeError, OSError):
        with suppress(subprocess.TimeoutExpired):
            process.wait(seconds)
        return
    if handle is not None:
        try:
            ended = select.poll()
            ended.register(handle, select.POLLIN)
            ended.poll(seconds * 1000)
        finally:
            os.close(handle)


def halt() -> None:
    """End all running programs and let no other start until `resume`: the user pressed Ctrl-C."""
    global _halted
    with _lock:
        _halted = True
        processes = list(_live)
    _end(*processes)


def end_programs_of(thread: int | None, grace: float) -> None:
    """End the programs that a thread has started and waits for; `grace` is the seconds between TERM and KILL."""
    with _lock:
        processes = [process for process, starter in _live.items() if starter == thread]
    _end(*processes, grace=grace)


def resume() -> None:
    """Let programs start again after a `halt`: those that clean up."""
    global _halted
    _halted = False


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Defer Ctrl-C, TERM and a lost terminal to the end of the block, which must not be left half way."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    deferred: list[int] = []
    # Not by the thread's signal mask: another thread would receive the signal, and it would be handled here.
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    before = {number: handler for number, handler in handlers.items() if callable(handler)}
    for number in before:
        signal.signal(number, lambda number, frame: deferred.append(number))
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    for late in deferred:
        signal.raise_signal(late)


@contextmanager
def _running(command: BaseCommand, **streams: Any) -> Iterator[subprocess.Popen[bytes]]:
    process = None
    try:
        # Ctrl-C between the program's start and our record of it would leave it running.
        with uninterrupted():
            process = _start(command, **streams)
            started = time.monotonic()
        yield process
    finally:
        if process is not None:
            _ended(process)
            _log_duration(command, process, started)


def _log_duration(command: BaseCommand, process: subprocess.Popen[bytes], started: float) -> None:
    if logger.isEnabledFor(logging.DEBUG):
        seconds = time.monotonic() - started
        logger.debug(f"# {command.formulate()[0]}: exit code {process.returncode}, {seconds:.2f} s")


def _ended(process: subprocess.Popen[bytes]) -> None:
    _end(process)
    for pipe in (process.stdin, process.stdout, process.stderr):
        if pipe is not None:
            pipe.close()
    with _lock:
        _live.pop(process, None)


def _start(command: BaseCommand, **streams: Any) -> subprocess.Popen[bytes]:
    with _lock:
        if _halted:
            raise CommandError(f"{command.formulate()[0]}: not started: interrupted")
        # A session of its own: Ctrl-C reaches us alone, and we decide what ends, and in which order.
        process = _popen(command, new_session=True, **streams)
        _live[process] = threading.get_ident()
    return process


def _popen(command: BaseCommand, **options: Any) -> subprocess.Popen[bytes]:
    name = command.formulate()[0]
    if logger.isEnabledFor(logging.DEBUG):
        logger.debug(shell_line(command))
    try:
        popen: Any = command.popen
        process: subprocess.Popen[bytes] = popen(**options)
    except FileNotFoundError as error:
        if Path(name).is_absolute() and Path(name).exists():
            raise CommandError(f"{name}: can't be started: its interpreter is missing") from error
        raise CommandError(f"{name} is not installed, or not on PATH") from error
    except (OSError, ValueError) as error:
        # No right to start it, no program, more or other words than the system takes.
        raise CommandError(f"{name}: can't be started: {getattr(error, 'strerror', None) or error}") from error
    return process


def _end(*processes: subprocess.Popen[bytes], grace: float | None = None) -> None:
    """Send TERM, and after `grace` seconds KILL, to programs that still run and what they have started."""
    grace = GRACE_SECONDS if grace is None else grace
    running = [process for process in processes if process.poll() is None]
    for process in running:
        _signal(process, signal.SIGTERM)
    deadline = time.monotonic() + grace
    while any(_signal(process, 0) for process in running) and time.monotonic() < deadline:
        time.sleep(0.02)
    for process in running:
        _signal(process, signal.SIGKILL)
        # One that hangs in the kernel (a faulty driver) doesn't end even so.
        with suppress(subprocess.TimeoutExpired):
            process.wait(grace)


def _signal(process: subprocess.Popen[bytes], number: int) -> bool:
    """Send a signal to a program's session; return whether any process of it was still there."""
    process.poll()
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)
        return True
    return False
