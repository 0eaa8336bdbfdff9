"""One node as the controller sees it: examined, shipped to, run on, followed over lost connections, fetched from."""

from __future__ import annotations

import io
import json
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from madengine import programs
from madengine.deploy.names import checked_run_id
from madengine.deploy.ssh import node, orders
from madengine.deploy.ssh.examination import Examination, parse_examination
from madengine.deploy.ssh.options import NodeSettings
from madengine.deploy.ssh.reconnect import Reconnection
from madengine.deploy.ssh.transfer import LimitedFile, archive_for, is_unpacked
from madengine.errors import RunError
from madengine.programs import Answer, ssh
from madengine.records import ENGINE_NAMES

if TYPE_CHECKING:
    from plumbum.commands.base import BaseCommand

# How long a node gets to end its containers.
STOP_SECONDS = 90
_EXAMINE_SECONDS = 120.0
_FIRST_TRIES = 4
# Exchanging keys keeps a processor of this machine busy, and a gateway refuses connections beyond ten that wait
# (sshd's MaxStartups). More at once would end no sooner, but the first nodes would start later.
_CONNECTING = threading.Semaphore(min(8, 2 * (os.cpu_count() or 1)))
# Hosts that are down must not keep the others waiting.
_TURN_SECONDS = 2.0
_PROBE_SECONDS = 30.0
_COMMAND_SECONDS = 300.0

# Exit codes of a shell that finds no such program, or may not run it.
_NOT_STARTED = (126, 127)


@dataclass
class RemoteNode:
    """One node, with its connection."""

    connection: ssh.Connection
    settings: NodeSettings
    #: takes the lines of the run's log, and what happens to the connection
    tell: Callable[[str], None]
    #: once it is set, what waits raises StoppedError
    stopping: threading.Event

    @property
    def name(self) -> str:
        """The host's name as the user wrote it."""
        return self.connection.host.name

    @property
    def folder(self) -> str:
        """The folder on the node, relative to the user's home there."""
        return self.settings.folder_on(self.connection.host)

    def examine(
        self,
        incoming: str,
        files: Mapping[str, str],
        ports: Sequence[int],
        engine: str = "auto",
        images: Sequence[str] = (),
    ) -> Examination:
        """Open the connection, make the folder `incoming` there, and return what the node says of itself.

        What the node's folder has of `files` (by name, with the SHA-256 of each) is linked into `incoming`.
        Raises MadengineError with the reason where the node isn't reached, can't run models, or answers nonsense.
        """
        digests = ",".join(f"{name}={digest}" for name, digest in files.items())
        engines = ",".join(ENGINE_NAMES) if engine == "auto" else engine
        words = (self.folder, f"{self.folder}/{incoming}", digests, ",".join(map(str, ports)), engines, *images)
        answer = self._open(orders.examine(words))
        examination = parse_examination(answer.out)
        if examination is None:
            raise RunError(_no_python(self.settings.python, answer))
        examination.check(self.settings.python, self.folder)
        return examination

    def _open(self, order: bytes) -> Answer:
        for tries in range(1, _FIRST_TRIES + 1):
            with _turn_to_connect():
                answer = self._send(order, _EXAMINE_SECONDS)
            if not ssh.is_broken(answer):
                return answer
            if tries == _FIRST_TRIES or not ssh.may_pass(answer):
                break
            # A gateway refuses some of many at once, for a moment.
            self.stopping.wait(tries)
        raise RunError(ssh.explain(answer))

    def copy(self, sources: Sequence[Path], incoming: str) -> None:
        """Copy files there, if there are any. Raises RunError where that fails for another reason than the network."""
        if not sources:
            return
        order = orders.receive(f"{self.folder}/{incoming}", sources)
        answer = self._retry(lambda: self._send(order, None))
        if answer.code != 0:
            raise RunError(f"copying: {answer.last_line}")

    def accept(self, incoming: str) -> None:
        """Move the files of an upload into the node's folder."""
        order = self._order("accept", incoming, bundle=f"{incoming}/{node.BUNDLE}")
        answer = self._retry(lambda: self._send(order))
        if answer.code != 0:
            raise RunError(answer.last_line)

    def pull(self, run_id: str, ports: Sequence[int], words: Sequence[str]) -> bool:
        """Pull the images through tunnels to this machine's registry; whether the node has all now.

        If not, the tunnels stay, so that the run meets the same errors and reports them.
        """
        answer = self._retry(lambda: self._try_pull(run_id, ports, words))
        if answer.code == 0:
            for port in ports:
                programs.attempt(self.connection.close_tunnel(port))
        return answer.code == 0

    def _try_pull(self, run_id: str, ports: Sequence[int], words: Sequence[str]) -> Answer:
        answer = self._probe()
        for port in ports if answer.code == 0 else ():
            answer = programs.attempt(self.connection.tunnel(port))
            if answer.code != 0:
                return answer
        if answer.code != 0:
            return answer
        return self._send(self._order("pull", run_id, *words, bundle=_bundle(run_id)), None)

    def run(self, run_id: str, request: Mapping[str, Any], target: Path) -> bool:
        """Start a run and follow it to its end; may be called for one that was started before.

        `request` has the `words` of madengine there, the `environ` that is added for it, and the `tags` that it runs.
        Returns whether its files have come into the folder `target` at once; if not, `fetch` says why.
        Raises RunError where it can't be started, LostError where the node isn't reached for too long.
        """
        text = json.dumps(request)
        return self._follow(run_id, target, lambda line: ("run", run_id, str(line), text))

    def follow(self, run_id: str, target: Path) -> bool:
        """Follow a run that was started before, as `run` does. Raises RunError where there is none of this id."""
        try:
            return self._follow(run_id, target, lambda line: ("follow", run_id, str(line)))
        except RunError as error:
            if "No module named" not in str(error):
                raise
            raise RunError(f"{self.folder}: no run {run_id} was started there over ssh") from None

    def _follow(self, run_id: str, target: Path, order: Callable[[int], Sequence[str]]) -> bool:
        lines = 0
        other: list[str] = []

        def line_seen(line: str) -> None:
            nonlocal lines
            if line.startswith(node.LOG_MARK):
                lines += line.endswith("\n")
                self.tell(line[1:].rstrip())
            else:
                other.append(line)

        def once() -> Answer:
            other.clear()
            before = lines
            with archive.open("wb") as file:
                stdin = self._order(*order(lines), bundle=_bundle(run_id))
                answer = ssh.follow(self._starter(), stdin, line_seen, node.ARCHIVE_MARK, LimitedFile(file))
            return Answer(answer.code, "contact" if lines > before else "", "".join(other) + answer.err)

        with archive_for(target) as archive:
            answer = self._retry(once)
            if answer.code != 0 and not archive.stat().st_size:
                raise RunError(answer.last_line)
            return answer.code == 0 and is_unpacked(archive, target)

    def stop(self, run_id: str) -> bool:
        """End a run as on Ctrl-C; whether it has ended."""
        order = self._order("stop", run_id, str(STOP_SECONDS), bundle=_bundle(run_id))
        return self._send(order, STOP_SECONDS + 30).code == 0

    def newest(self) -> str:
        """Return the id of the run that was started last.

        Raises RunError where there is none, its id is invalid, or the node isn't reached.
        """
        answer = self._open(self._order("newest", bundle=node.BUNDLE))
        if answer.code != 0:
            is_bare = "No module named" in answer.err or "No such file" in answer.err
            raise RunError(f"{self.folder}: no run was started there over ssh" if is_bare else answer.last_line)
        return checked_run_id(answer.out.strip().rsplit("\n", 1)[-1])

    def fetch(self, run_id: str, target: Path) -> None:
        """Bring a run's files into the folder `target`, in place of what it has.

        Raises RunError where there is no such run, LostError where the node isn't reached for too long, UnusableError
        for files that no madengine sends.
        """
        order = self._order("pack", run_id, bundle=_bundle(run_id))

        def once() -> Answer:
            with archive.open("wb") as file:
                return Answer(ssh.receive(self._starter(), order, LimitedFile(file)), "", "")

        with archive_for(target) as archive:
            answer = self._retry(once)
            if answer.code != 0 or not is_unpacked(archive, target):
                raise RunError(f"run {run_id} can't be fetched from {self.folder}: exit code {answer.code}")

    def command(self, words: Sequence[str]) -> Answer:
        """Run the node's own madengine, and return what it prints."""
        answer = self._send(self._command(words), _COMMAND_SECONDS)
        return replace(answer, out=answer.out.partition(f"{node.OUTPUT_MARK}\n")[2])

    def stream(self, words: Sequence[str], on_line: Callable[[str], None]) -> Answer:
        """Run the node's own madengine, and hand on the lines that it prints."""
        is_output = False

        def line_seen(line: str) -> None:
            nonlocal is_output
            if is_output:
                on_line(line)
            is_output = is_output or line.rstrip() == node.OUTPUT_MARK

        return ssh.follow(self._starter(), self._command(words), line_seen, node.ARCHIVE_MARK, io.BytesIO())

    def _command(self, words: Sequence[str]) -> bytes:
        return self._order("command", *words, bundle=node.BUNDLE)

    def hang_up(self) -> None:
        """Close the connection, if there is one."""
        if self.connection.is_open:
            programs.attempt(self.connection.close(), seconds=10)

    def _starter(self) -> BaseCommand:
        """Return the command that reads an order from stdin and carries it out."""
        return self.connection(self.settings.python, *orders.STARTER)

    def _order(self, *words: str, bundle: str) -> bytes:
        return orders.order(self.folder, bundle, words)

    def _send(self, order: bytes, seconds: float | None = programs.ANSWER_SECONDS) -> Answer:
        return ssh.ask(self._starter(), order, seconds)

    def _probe(self) -> Answer:
        return programs.attempt(self.connection("true"), seconds=_PROBE_SECONDS)

    def _retry(self, attempt: Callable[[], Answer]) -> Answer:
        """Return the answer, however often the connection is lost meanwhile.

        Raises LostError where the node wasn't reached for `patience` seconds, RunError where it refuses.
        """
        patience, is_reachable = self.settings.patience, lambda: self._probe().code == 0
        return Reconnection(is_reachable, patience, self.tell, self.stopping).attempt(attempt)


@contextmanager
def _turn_to_connect() -> Iterator[None]:
    has_turn = _CONNECTING.acquire(timeout=_TURN_SECONDS)
    try:
        yield
    finally:
        if has_turn:
            _CONNECTING.release()


def _no_python(python: str, answer: Answer) -> str:
    """Explain why a node's python3 output nothing: it isn't there, or the login didn't hand it our order whole."""
    if answer.code in _NOT_STARTED:
        return f"{python}: {answer.last_line}; --remote-python names another"
    output = answer.last_line or f"nothing was printed (exit code {answer.code})"
    return (
        f"the login ran no {python}: {output}; the host's .bashrc must neither exit nor read stdin, and the shell has "
        "to run commands; --remote-python names another python3"
    )


def _bundle(run_id: str) -> str:
    return f"{node.RUNS}/{run_id}/{node.BUNDLE}"
