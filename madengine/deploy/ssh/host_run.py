"""A run on one host: copied to, started, followed, brought back and merged."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from madengine.config.manifest import Manifest
from madengine.deploy.returned_files import set_aside_broken_files
from madengine.deploy.ssh import node
from madengine.deploy.ssh.examination import Examination
from madengine.deploy.ssh.fleet import Interruption, finish
from madengine.deploy.ssh.group import HostGroup
from madengine.deploy.ssh.host_result import (
    STATES,
    HostOutcome,
    failure_reason,
    host_exit_code,
    host_rows,
    one_line,
    recorded_manifest,
    rows_of_missing_models,
)
from madengine.deploy.ssh.options import HostRun
from madengine.deploy.ssh.reconnect import LostError, StoppedError
from madengine.deploy.ssh.remote_node import RemoteNode
from madengine.deploy.ssh.transfer import UnusableError
from madengine.deploy.ssh.upload import Upload
from madengine.errors import ConfigurationError, MadengineError, RunError
from madengine.process import RESULTS
from madengine.programs import preflight
from madengine.records import Image
from madengine.results.failed_hosts import failed_rows
from madengine.results.merge import merge
from madengine.results.perf_csv import append_rows
from madengine.results.table import printable
from madengine.run.seat import Seat

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LocalTable:
    """This machine's perf.csv, to which the hosts' threads add one at a time."""

    path: Path
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, folder: Path) -> None:
        """Add the rows and runs of a host's folder."""
        with self._lock:
            merged = merge([folder], self.path, folder.parent / "results.json")
        for problem in merged.problems:
            logger.info(printable(problem))


@dataclass(frozen=True)
class FleetRun:
    """What is the same for every host of a run."""

    run: HostRun
    run_id: str
    #: the images that the hosts run
    manifest: Manifest
    #: those of the manifest that it is compared with
    base: Sequence[Image]
    #: of the registries on this machine's loopback
    ports: tuple[int, ...]
    upload: Upload
    #: variables of the caller for the rows' cells that a node can't know
    environ: Mapping[str, str]
    table: LocalTable
    interruption: Interruption
    #: the hosts that run models together; None where each runs them alone
    group: HostGroup | None = None

    @property
    def images(self) -> list[str]:
        """The images that a node needs, by names that can only mean them; none if not all have such a name."""
        names = [image.pinned for image in (*self.manifest.images, *self.base)]
        return names if all(names) and not self.run.registry else []

    def manifest_of(self, remote: RemoteNode) -> Manifest:
        """Return the images whose rows come from a host."""
        return self.group.part(self.manifest, remote.connection.host) if self.group else self.manifest

    def folder(self, remote: RemoteNode) -> Path:
        """Return the folder of this machine for the host's files."""
        return RESULTS / self.run_id / remote.connection.host.folder


def run_on_host(remote: RemoteNode, job: FleetRun) -> HostOutcome:
    """Run a job on one host; a failing host costs rows that say why, and the hosts of its group their start."""
    outcome = _run_on_host(remote, job)
    if job.group and not outcome.is_good:
        job.group.fail(remote.connection.host, outcome.reason)
    return outcome


def _run_on_host(remote: RemoteNode, job: FleetRun) -> HostOutcome:
    began = time.monotonic()
    folder = job.folder(remote)
    started = has_files = False
    try:
        ports, examination = _prepare(remote, job)
        if ports:
            remote.tell("pulling images")
            remote.pull(job.run_id, ports, pull_words(job.run_id, job.run))
        seat = job.group.seat(remote, examination) if job.group else None
        started = True
        remote.tell("starting")
        has_files = remote.run(job.run_id, _request(job, seat), folder)
    except (LostError, OSError) as error:
        return _lost(remote, _reason(error), job.run_id, started)
    except MadengineError as error:
        if not job.interruption.requested.is_set():
            return _fail(remote, folder, job, str(error))
        if not started:
            return finish(remote, HostOutcome(remote.name, "stopped", None, "interrupted before it started"))
        remote = _stop(remote, job)
    except Exception as error:  # an answer that breaks our code costs its host's rows only
        logger.debug("unusable answer", exc_info=True)
        return _fail(remote, folder, job, f"unusable answer: {error!r}")
    return _bring_back(remote, folder, job.table, job.manifest_of(remote), began, has_files)


def fetch_from_host(remote: RemoteNode, run_id: str, table: LocalTable) -> HostOutcome:
    """Follow a run that was started earlier, the newest if there is no id, and bring it back."""
    began = time.monotonic()
    try:
        run_id = run_id or remote.newest()
        remote.tell(f"run {run_id}")
        folder = RESULTS / run_id / remote.connection.host.folder
        has_files = remote.follow(run_id, folder)
    except (RunError, LostError, StoppedError, UnusableError) as error:
        return finish(remote, HostOutcome(remote.name, "failed", None, str(error)))
    return _bring_back(remote, folder, table, None, began, has_files)


def run_words(run_id: str, prefix: str, run: HostRun) -> list[str]:
    """Return the words of `madengine run` on a node; `prefix` is the folder of manifest and context there."""
    folder = f"{node.RUNS}/{run_id}"
    context = [f"--additional-context-file={prefix}{node.CONTEXT}"] if run.context else []
    # The verdict is given here, on the rows of all hosts.
    against = [f"--against={prefix}{node.AGAINST}", "--fail-on=never"] if run.against else []
    outputs = [f"--output={folder}/perf.csv", f"--summary-output={folder}/run_summary.json"]
    manifest = f"--manifest-file={prefix}{node.MANIFEST}"
    return ["run", "--target=local", manifest, f"--run-id={run_id}", *outputs, *run.words, *context, *against]


def pull_words(run_id: str, run: HostRun) -> list[str]:
    """Return the words that only pull the run's images, into a folder of rows that is removed."""
    folder = node.pull_folder(run_id)
    outputs = [f"--output={folder}/perf.csv", f"--summary-output={folder}/run_summary.json"]
    words = run_words(run_id, f"{node.RUNS}/{run_id}/", run)
    return [*words, "--skip-model-run", f"--run-id={folder.name}", *outputs]


def _request(job: FleetRun, seat: Seat | None) -> Mapping[str, object]:
    words = [*run_words(job.run_id, f"{node.RUNS}/{job.run_id}/", job.run), "--quiet"]
    environ = {**job.environ, **(seat.environ if seat else {})}
    return {"words": words, "environ": environ, "tags": list(job.run.tags), "rank": seat.rank if seat else 0}


def _prepare(remote: RemoteNode, job: FleetRun) -> tuple[Sequence[int], Examination]:
    """Examine a node and copy what it lacks; return the ports to tunnel, none if it needs no registry of ours."""
    remote.tell("connecting")
    incoming = f"{node.RUNS}/{job.run_id}"
    ports = (*job.ports, *([0] if job.group else []))
    examination = remote.examine(incoming, job.upload.digests, ports, job.run.engine, job.images if job.ports else ())
    needs_none = examination.has_images or examination.machine == preflight.machine()
    if examination.port_problem and not needs_none:
        raise RunError(
            f"{examination.port_problem}: the registry on this machine's loopback is tunnelled to that port of the "
            "node, which has to be free; free it, or push to an address that the nodes reach"
        )
    remote.tell("copying")
    remote.copy(job.upload.missing(examination.has), incoming)
    return () if needs_none else job.ports, examination


def _stop(remote: RemoteNode, job: FleetRun) -> RemoteNode:
    """Stop the run on a host; return the host as one that Ctrl-C doesn't keep from being fetched from."""
    job.interruption.hung_up.wait()
    remote.tell("stopping")
    with suppress(MadengineError):
        remote.tell("stopped" if remote.stop(job.run_id) else "does not stop")
    return replace(remote, stopping=threading.Event())


def _lost(remote: RemoteNode, reason: str, run_id: str, started: bool) -> HostOutcome:
    fetch = f"`madengine fetch --host {remote.name} --run-id {run_id}`"
    later = f"the run may still be going on there: {fetch}" if started else ""
    return finish(remote, HostOutcome(remote.name, "lost", None, f"{reason}; {later}".rstrip("; ")))


def _fail(remote: RemoteNode, folder: Path, job: FleetRun, reason: str) -> HostOutcome:
    """Add a failure of each model for a host that could not run them, or whose answer is unusable.

    Of a group the others learn it first, and the rows have the reason of the host that failed first.
    """
    if job.group:
        reason = job.group.fail(remote.connection.host, reason)
    return _add_failures(remote, folder, job.table, job.manifest_of(remote), reason, job.group)


def _add_failures(
    remote: RemoteNode,
    folder: Path,
    table: LocalTable,
    manifest: Manifest | None,
    reason: str,
    group: HostGroup | None = None,
) -> HostOutcome:
    reason = one_line(reason)
    names, nodes = (group.names, len(group.hosts)) if group else (remote.name, 1)
    rows = failed_rows(manifest, folder.parent.name, names, reason, nodes=nodes) if manifest else []
    append_rows(folder / "perf.csv", rows)
    table.add(folder)
    return finish(remote, HostOutcome(remote.name, "failed", None, reason, len(rows), folder=str(folder)))


def _bring_back(
    remote: RemoteNode, folder: Path, table: LocalTable, manifest: Manifest | None, began: float, has_files: bool
) -> HostOutcome:
    """Fetch a run's files to the folder unless `has_files`, add a row for each model without one, and merge.

    Without a manifest the models are those that the host has recorded.
    """
    run_id = folder.parent.name
    try:
        if not has_files:
            remote.fetch(run_id, folder)
    except (RunError, LostError, StoppedError, OSError) as error:
        return _lost(remote, _reason(error), run_id, started=True)
    except UnusableError as error:
        return _add_failures(remote, folder, table, manifest, str(error))
    problems = set_aside_broken_files(folder, run_id)
    code = host_exit_code(folder)
    reason = "; ".join(problems) or failure_reason(folder, code)
    if problems or code not in STATES:
        with suppress(ConfigurationError):  # the models of a run that was started earlier are known to its host only
            expected = manifest or recorded_manifest(folder)
            append_rows(folder / "perf.csv", rows_of_missing_models(folder, expected, run_id, remote.name, reason))
    table.add(folder)
    state = "failed" if problems or code is None else STATES.get(code, "failed")
    seconds = round(time.monotonic() - began, 3)
    return finish(remote, HostOutcome(remote.name, state, code, reason, len(host_rows(folder)), seconds, str(folder)))


def _reason(error: MadengineError | OSError) -> str:
    """Return an error of ours, or of this machine's disk, in one line."""
    return f"{error.filename or 'results'}: {error.strerror}" if isinstance(error, OSError) else str(error)
