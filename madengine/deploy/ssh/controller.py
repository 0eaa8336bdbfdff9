"""A manifest on many nodes over ssh: side by side, each node at its own risk, all rows into one table."""

from __future__ import annotations

import hashlib
import logging
import os
import shlex
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from madengine import programs
from madengine.config.manifest import Manifest, load_manifest
from madengine.deploy.bundle import write_bundle
from madengine.deploy.ssh import node
from madengine.deploy.ssh.host_result import (
    STATES,
    Outcome,
    failure_reason,
    host_exit_code,
    host_rows,
    host_summary,
    rows_of_the_missing,
)
from madengine.deploy.ssh.hosts import tunnel_ports
from madengine.deploy.ssh.progress import Board
from madengine.deploy.ssh.remote_node import LostError, RemoteNode, Settings, StoppedError
from madengine.errors import EXIT_DONE, EXIT_FAILURE, EXIT_INTERRUPTED, EXIT_RUN_FAILED, MadengineError, RunError
from madengine.files import check_writable, write_json
from madengine.programs import preflight, secret_files, ssh
from madengine.programs.engine import pinned
from madengine.results.failed_hosts import failed_rows
from madengine.results.merge import merge
from madengine.results.perf_csv import append_rows, check_perf_csv
from madengine.results.statistics import tables
from madengine.run.names import new_run_id
from madengine.run.selection import selected_images

logger = logging.getLogger(__name__)

RESULTS = Path("results")
# What a row says of the job that asked for it; a node would not know.
_CALLER = ("pipeline", "BUILD_NUMBER", "MAD_DEPLOYMENT_TYPE", "MAD_LAUNCHER")


@dataclass(frozen=True)
class FleetOptions:
    """Which hosts, how many at once, and how they are reached and used.

    `config` stands in for the user's ssh config, `secrets_from` is the folder whose credential.json and data.json are
    copied too (None: no secret leaves this machine).
    """

    hosts: tuple[ssh.Host, ...]
    forks: int = 16
    settings: Settings = field(default_factory=Settings)
    config: Path | None = None
    secrets_from: Path | None = None


@dataclass(frozen=True)
class HostRun:
    """What the nodes are to run: the manifest, the words of `madengine run` there, the files that go with it."""

    manifest: Path
    registry: str = ""
    tags: tuple[str, ...] = ()
    words: tuple[str, ...] = ()
    context: Path | None = None
    run_id: str = ""
    output: Path = Path("perf.csv")
    summary_output: Path = Path("run_summary.json")
    quiet: bool = False


@dataclass
class Fleet:
    """Many nodes; `say` takes lines for people, `show` what a program may read.

    Every verb gives the command's exit code, and raises MadengineError for what keeps it from starting.
    """

    options: FleetOptions
    show: Callable[[str], None]
    environ: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    _stopping: threading.Event = field(default_factory=threading.Event)
    _may_talk: threading.Event = field(default_factory=threading.Event)
    _merging: threading.Lock = field(default_factory=threading.Lock)

    # --- verbs ---

    def run(self, host_run: HostRun) -> int:
        """Run a manifest on every host and bring everything back."""
        kept = load_manifest(host_run.manifest)
        check_perf_csv(host_run.output)
        run_id = host_run.run_id or new_run_id()
        check_writable(RESULTS / run_id / "results.json", host_run.summary_output)
        ports = tunnel_ports(kept, host_run.registry)
        self._say_secrets()
        with self._parcel(host_run) as parcel, self._nodes() as nodes:
            job = _Job(
                host_run,
                selected_images(kept, host_run.tags, host_run.manifest),
                run_id,
                ports,
                parcel,
                _digests(parcel),
            )
            logger.info(f"run {run_id} on {len(nodes)} host{'s' * (len(nodes) != 1)}; results: {RESULTS / run_id}")
            outcomes, interrupted = self._side_by_side(nodes, lambda one: self._run_one(one, job))
        return self._conclude(outcomes, host_run, interrupted)

    def fetch(self, run_id: str, output: Path, summary_output: Path) -> int:
        """Collect what a run left on the hosts, following where it still goes on; without an id the newest."""
        check_perf_csv(output)
        check_writable(RESULTS / run_id / "results.json", summary_output)
        host_run = HostRun(Path(), output=output, summary_output=summary_output)
        with self._nodes() as nodes:
            outcomes, interrupted = self._side_by_side(nodes, lambda one: self._fetch_one(one, run_id, host_run))
        return self._conclude(outcomes, host_run, interrupted)

    def ship(self, manifest: Path) -> int:
        """Copy madengine.pyz and the manifest to every host."""
        load_manifest(manifest)
        self._say_secrets()
        with self._parcel(HostRun(manifest)) as parcel, self._nodes() as nodes:
            outcomes, interrupted = self._side_by_side(nodes, lambda one: self._ship_one(one, parcel))
        return self._report(outcomes, interrupted, EXIT_FAILURE)

    def doctor(self, words: Sequence[str]) -> int:
        """Let every host's own doctor look at it, and print what each says."""
        with self._parcel(None) as parcel, self._nodes() as nodes:
            outcomes, interrupted = self._side_by_side(nodes, lambda one: self._examine_one(one, parcel, words))
        for one in outcomes:
            self.show(f"{one.host}:\n{one.reason}\n")
        if interrupted:
            return EXIT_INTERRUPTED
        return EXIT_DONE if all(one.is_good for one in outcomes) else EXIT_FAILURE

    def show_lines(self, host_run: HostRun) -> int:
        """Print the lines that do the same by hand, to paste."""
        kept = load_manifest(host_run.manifest)
        run_id = host_run.run_id or new_run_id()
        ports = tunnel_ports(kept, host_run.registry)
        self.show(f"madengine bundle --output {node.BUNDLE}")
        for host in self.options.hosts:
            for line in self._lines(host, host_run, run_id, ports):
                self.show(line)
        self.show(f"madengine collect --output {shlex.quote(str(host_run.output))} {RESULTS / run_id}")
        return EXIT_DONE

    def _lines(self, host: ssh.Host, host_run: HostRun, run_id: str, ports: Sequence[int]) -> Iterator[str]:
        remote = RemoteNode(ssh.Connection(host, ()), self.options.settings, print, self._stopping)
        folder, target = remote.folder, host.target
        given = shlex.join(["-o", "BatchMode=yes", *ssh.user_options(host, self.options.config)])
        tunnels = "".join(f"-R {port}:127.0.0.1:{port} " for port in ports)
        words = [self.options.settings.python, node.BUNDLE, *_run_words(run_id, "", host_run)]
        yield f"ssh {given} {target} mkdir -p {folder}"
        for name, source in {node.BUNDLE: Path(node.BUNDLE), **self._sources(host_run)}.items():
            yield f"scp {given} {shlex.quote(str(source))} {target}:{folder}/{name}"
        yield f"ssh {given} {tunnels}{target} {shlex.quote(f'cd {folder} && {shlex.join(words)}')}"
        yield f"mkdir -p {RESULTS / run_id / host.folder}"
        yield f"scp {given} -r {target}:{folder}/{node.RUNS}/{run_id} {RESULTS / run_id / host.folder}/"

    # --- one host ---

    def _run_one(self, remote: RemoteNode, job: _Job) -> Outcome:
        began = time.monotonic()
        host = remote.connection.host
        folder = RESULTS / job.run_id / host.folder
        started = has_come = False
        try:
            ports = self._prepare(remote, f"{node.RUNS}/{job.run_id}", job)
            if ports:
                remote.tell("pulling images")
                remote.pull(job.run_id, ports, _pull_words(job.run_id, job.host_run))
            started = True
            remote.tell("starting")
            words = _run_words(job.run_id, f"{node.RUNS}/{job.run_id}/", job.host_run)
            has_come = remote.run(job.run_id, self._caller(), [*words, "--quiet"], folder)
        except (LostError, OSError) as error:
            return self._lost(remote, _told(error), job.run_id, started)
        except MadengineError as error:
            if not self._stopping.is_set():
                return self._could_not_run(host, job, str(error), folder)
            if not started:
                return self._ended(remote, Outcome(host.name, "stopped", None, "interrupted before it started"))
            self._stop(remote, job.run_id)
        return self._brought(remote, job.run_id, folder, job.host_run.output, began, has_come)

    def _fetch_one(self, remote: RemoteNode, run_id: str, host_run: HostRun) -> Outcome:
        began = time.monotonic()
        host = remote.connection.host
        try:
            run_id = run_id or remote.newest()
            remote.tell(f"run {run_id}")
            folder = RESULTS / run_id / host.folder
            has_come = remote.follow(run_id, folder)
        except (RunError, LostError, StoppedError) as error:
            return self._ended(remote, Outcome(host.name, "failed", None, str(error)))
        return self._brought(remote, run_id, folder, host_run.output, began, has_come)

    def _ship_one(self, remote: RemoteNode, parcel: Sequence[Path]) -> Outcome:
        host = remote.connection.host
        incoming = f".incoming-{new_run_id()}"
        try:
            found = remote.examine(incoming, _digests(parcel), ())
            remote.tell("copying")
            remote.copy([file for file in parcel if file.name not in found["has"]], incoming)
            remote.accept(incoming)
        except (RunError, LostError, StoppedError) as error:
            return self._ended(remote, Outcome(host.name, "failed", None, str(error)))
        return self._ended(remote, Outcome(host.name, "done", EXIT_DONE, f"copied to {remote.folder}/"))

    def _examine_one(self, remote: RemoteNode, parcel: Sequence[Path], words: Sequence[str]) -> Outcome:
        shipped = self._ship_one(remote, parcel)
        if not shipped.is_good:
            return shipped
        answer = remote.doctor(words)
        said = answer.out.rstrip() or ssh.explain(answer)
        return Outcome(shipped.host, "done", answer.code, said)

    def _prepare(self, remote: RemoteNode, incoming: str, job: _Job) -> Sequence[int]:
        """Examine a node and copy what it lacks; gives the ports to tunnel: none where it needs no registry of ours."""
        remote.tell("connecting")
        found = remote.examine(incoming, job.digests, job.ports, _engine(job.host_run), job.images if job.ports else ())
        needs_none = found["has_images"] or found["machine"] == preflight.machine()
        if found["port_problem"] and not needs_none:
            raise RunError(
                f"{found['port_problem']}: the registry on this machine's loopback is tunnelled to that port of the "
                "node, which has to be free; free it, or push to an address that the nodes reach"
            )
        remote.tell("copying")
        remote.copy([file for file in job.parcel if file.name not in found["has"]], incoming)
        return () if needs_none else job.ports

    def _stop(self, remote: RemoteNode, run_id: str) -> None:
        self._may_talk.wait()
        remote.tell("asked to stop")
        with suppress(MadengineError):
            ended = remote.stop(run_id)
            remote.tell("stopped" if ended else "does not stop")
        # From here on it is only fetched from.
        remote.stopping = threading.Event()

    def _could_not_run(self, host: ssh.Host, job: _Job, reason: str, folder: Path) -> Outcome:
        """A host that couldn't run costs a row of each model, with the reason."""
        reason = programs.redact(reason)
        rows = failed_rows(job.manifest, job.run_id, host.name, reason)
        with self._merging:
            append_rows(folder / "perf.csv", rows)
            self._merge(folder, job.host_run.output)
        self._board.tell(host.name, f"failed: {reason}")
        return Outcome(host.name, "failed", None, reason, len(rows), folder=str(folder))

    def _lost(self, remote: RemoteNode, reason: str, run_id: str, started: bool) -> Outcome:
        name = remote.connection.host.name
        later = f"the run may go on there: `madengine fetch --host {name} --run-id {run_id}`" if started else ""
        return self._ended(remote, Outcome(name, "lost", None, f"{reason}; {later}".rstrip("; ")))

    def _brought(
        self, remote: RemoteNode, run_id: str, folder: Path, output: Path, began: float, has_come: bool
    ) -> Outcome:
        """Fetch what a run left if it `has_come` not yet, give models without a row one that says why, and merge."""
        name = remote.connection.host.name
        try:
            if not has_come:
                remote.fetch(run_id, folder)
        except (RunError, LostError, StoppedError, OSError) as error:
            return self._lost(remote, _told(error), run_id, started=True)
        code = host_exit_code(folder)
        reason = failure_reason(folder, code)
        if code not in STATES:
            append_rows(folder / "perf.csv", rows_of_the_missing(folder, run_id, name, reason))
        with self._merging:
            self._merge(folder, output)
        rows = len(host_rows(folder))
        state = "failed" if code is None else STATES.get(code, "failed")
        return self._ended(
            remote, Outcome(name, state, code, reason, rows, round(time.monotonic() - began, 3), str(folder))
        )

    def _ended(self, remote: RemoteNode, came: Outcome) -> Outcome:
        remote.tell(": ".join(filter(None, (came.state, came.reason))))
        return came

    def _merge(self, folder: Path, output: Path) -> None:
        merged = merge([folder], output, folder.parent / "results.json")
        for problem in merged.problems:
            logger.info(problem)

    # --- all hosts ---

    @contextmanager
    def _nodes(self) -> Iterator[list[RemoteNode]]:
        hosts = self.options.hosts
        self._board = Board([host.name for host in hosts])
        with ssh.connections(hosts, self.options.config) as made:
            yield [
                RemoteNode(connection, self.options.settings, partial(self._board.tell, host.name), self._stopping)
                for host, connection in made.items()
            ]

    @contextmanager
    def _parcel(self, host_run: HostRun | None) -> Iterator[list[Path]]:
        """The files that go to every node, under the names that they have there; madengine.pyz is the first."""
        with secret_files.private_folder() as folder:
            files = [write_bundle(folder / node.BUNDLE)]
            for target, source in self._sources(host_run).items() if host_run else ():
                files.append(folder / target)
                files[-1].touch(0o600 if target in node.SECRETS else 0o644)
                files[-1].write_bytes(source.read_bytes())
            yield files

    def _sources(self, host_run: HostRun) -> dict[str, Path]:
        """The files that go with the bundle, by the name that each has on the node."""
        secrets = {name: self.options.secrets_from / name for name in node.SECRETS} if self.options.secrets_from else {}
        return {
            node.MANIFEST: host_run.manifest,
            **({node.CONTEXT: host_run.context} if host_run.context else {}),
            **{name: path for name, path in secrets.items() if path.is_file()},
        }

    def _say_secrets(self) -> None:
        """Logins and data sources are never copied silently, nor silently left out."""
        folder = self.options.secrets_from
        names = [name for name in node.SECRETS if ((folder or Path.cwd()) / name).is_file()]
        if names and folder:
            logger.info(f"{', '.join(names)}: copied to every host (mode 600), where they stay")
        elif names:
            logger.info(f"{', '.join(names)}: not copied to the hosts; --ship-credentials does")

    def _caller(self) -> dict[str, str]:
        return {name: self.environ[name] for name in _CALLER if self.environ.get(name)}

    def _side_by_side(
        self, nodes: Sequence[RemoteNode], work: Callable[[RemoteNode], Outcome]
    ) -> tuple[list[Outcome], bool]:
        """Do the work on every node, so many at once; gives the outcomes in the hosts' order, and whether of Ctrl-C."""

        def guarded(remote: RemoteNode) -> Outcome:
            try:
                return work(remote)
            except (MadengineError, OSError) as error:
                return self._ended(remote, Outcome(remote.connection.host.name, "failed", None, str(error)))
            finally:
                remote.hang_up()

        with ThreadPoolExecutor(max_workers=self.options.forks) as pool:
            futures = [pool.submit(guarded, remote) for remote in nodes]
            try:
                wait(futures)
                interrupted = False
            except KeyboardInterrupt:
                interrupted = True
                self._interrupt(futures, nodes)
        return [_outcome(future, remote) for future, remote in zip(futures, nodes, strict=True)], interrupted

    def _interrupt(self, futures: Sequence[Future[Outcome]], nodes: Sequence[RemoteNode]) -> None:
        """Hang up everywhere, then let each host be asked to stop and fetched from."""
        logger.info("interrupted: asking the hosts to stop")
        self._stopping.set()
        for future in futures:
            future.cancel()
        programs.halt()
        programs.resume()
        for remote in nodes:
            # Its output stays open as long as the connection does, whatever becomes of the program.
            programs.attempt(remote.connection.close(), seconds=10)
        self._may_talk.set()
        wait(futures)

    # --- what came ---

    def _conclude(self, outcomes: Sequence[Outcome], host_run: HostRun, interrupted: bool) -> int:
        folders = [Path(one.folder) for one in outcomes if one.folder]
        write_json(host_run.summary_output, host_summary(outcomes))
        rows = [row for folder in folders for row in host_rows(folder)]
        if rows and not host_run.quiet:
            self.show(tables(rows))
            self.show("")
        code = self._report(outcomes, interrupted, EXIT_RUN_FAILED, host_run.quiet)
        places = ", ".join(sorted({str(folder.parent) for folder in folders})) or "nothing"
        logger.info(f"rows: {host_run.output}; what came back: {places}; summary: {host_run.summary_output}")
        return code

    def _report(self, outcomes: Sequence[Outcome], interrupted: bool, failure: int, quiet: bool = False) -> int:
        if not quiet:
            from tabulate import tabulate

            lines = [one.line for one in outcomes]
            self.show(tabulate(lines, headers=["host", "", "rows", "seconds", "reason"], disable_numparse=True))
        if interrupted:
            return EXIT_INTERRUPTED
        return EXIT_DONE if all(one.is_good for one in outcomes) else failure


@dataclass(frozen=True)
class _Job:
    """What is the same for every host of one run."""

    host_run: HostRun
    manifest: Manifest
    run_id: str
    ports: tuple[int, ...]
    parcel: Sequence[Path]
    digests: Mapping[str, str]

    @property
    def images(self) -> list[str]:
        """The images that a node needs, each by the name that can only mean it; none where not all have one."""
        names = [pinned(image) for image in self.manifest.images]
        return names if all(names) and not self.host_run.registry else []


def _run_words(run_id: str, place: str, host_run: HostRun) -> list[str]:
    """The words of `madengine run` on a node; `place` is where manifest and context lie there."""
    folder = f"{node.RUNS}/{run_id}"
    context = [f"--additional-context-file={place}{node.CONTEXT}"] if host_run.context else []
    outputs = [f"--output={folder}/perf.csv", f"--summary-output={folder}/run_summary.json"]
    return ["run", f"--manifest-file={place}{node.MANIFEST}", f"--run-id={run_id}", *outputs, *host_run.words, *context]


def _pull_words(run_id: str, host_run: HostRun) -> list[str]:
    """The words that only pull the run's images; where their rows lie is removed with them."""
    folder = node.pull_folder(run_id)
    outputs = [f"--output={folder}/perf.csv", f"--summary-output={folder}/run_summary.json"]
    words = _run_words(run_id, f"{node.RUNS}/{run_id}/", host_run)
    return [*words, "--skip-model-run", f"--run-id={folder.name}", *outputs]


def _outcome(future: Future[Outcome], remote: RemoteNode) -> Outcome:
    if future.cancelled():
        return Outcome(remote.connection.host.name, "stopped", None, "interrupted before its turn")
    return future.result()


def _engine(host_run: HostRun) -> str:
    """The engine that the nodes are told to use."""
    named = [word.partition("=")[2] for word in host_run.words if word.startswith("--engine=")]
    return named[-1] if named else "auto"


def _told(error: MadengineError | OSError) -> str:
    """An error of ours, or what this machine's disk says."""
    return f"{error.filename or 'results'}: {error.strerror}" if isinstance(error, OSError) else str(error)


def _digests(parcel: Sequence[Path]) -> dict[str, str]:
    """The SHA-256 of each file that nodes keep from one run to the next, by its name."""
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in parcel if file.name in node.KEPT}
