"""What is done on hosts beside running a manifest: fetch, ship, and commands that look at them."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from madengine.config.manifest import load_manifest
from madengine.deploy.ssh.fleet import HostWork, connected, finish
from madengine.deploy.ssh.host_result import HostOutcome, one_line
from madengine.deploy.ssh.host_run import LocalTable, fetch_from_host
from madengine.deploy.ssh.options import SshOptions
from madengine.deploy.ssh.reconnect import LostError, StoppedError
from madengine.deploy.ssh.remote_node import RemoteNode
from madengine.deploy.ssh.report import Show, conclude, exit_code, show_outcomes
from madengine.deploy.ssh.upload import Upload, report_secrets, sources, upload_of
from madengine.errors import EXIT_DONE, EXIT_FAILURE, RunError, escaped
from madengine.files import check_writable
from madengine.process import RESULTS
from madengine.programs import ssh
from madengine.results.perf_csv import check_perf_csv
from madengine.run.names import new_run_id
from madengine.run.running_table import Record, record_of, table

logger = logging.getLogger(__name__)


def fetch(options: SshOptions, run_id: str, output: Path, summary_output: Path, show: Show) -> int:
    """Collect a run from the hosts, following it where it hasn't ended; without an id the newest of each host.

    Returns the exit code. Raises MadengineError for what keeps it from starting.
    """
    check_perf_csv(output)
    check_writable(RESULTS / run_id / "results.json", summary_output)
    table = LocalTable(output)
    with connected(options) as fleet:
        outcomes, interrupted = fleet.work_on_all(lambda remote: fetch_from_host(remote, run_id, table))
    return conclude(outcomes, output, summary_output, show, interrupted, quiet=False)


def ship(options: SshOptions, manifest: Path, show: Show) -> int:
    """Copy madengine.pyz and the manifest to every host; return the exit code.

    Raises MadengineError for what keeps it from starting.
    """
    load_manifest(manifest)
    report_secrets(options.secrets_from)
    with upload_of(sources(manifest, None, options.secrets_from)) as upload, connected(options) as fleet:
        outcomes, interrupted = fleet.work_on_all(partial(_ship_to_host, upload=upload))
    show_outcomes(outcomes, show)
    return exit_code(outcomes, interrupted, EXIT_FAILURE)


def command_on_hosts(options: SshOptions, verb: str, words: Sequence[str], show: Show) -> int:
    """Run a command of madengine with these words on every host, and show what each prints; return the exit code."""
    outcomes, interrupted = _outputs(options, [verb, *words])
    for outcome in outcomes:
        show(f"{outcome.host}:\n{outcome.reason}\n")
    return exit_code(outcomes, interrupted, EXIT_FAILURE)


def status_of_hosts(options: SshOptions, words: Sequence[str], as_json: bool, show: Show) -> int:
    """Show what runs on every host; return the exit code."""
    outcomes, interrupted = _outputs(options, ["status", "--json", *words])
    records: list[Record] = []
    for number, outcome in enumerate(outcomes):
        if outcome.is_good:
            try:
                records.append(record_of(outcome.reason, outcome.host))
                continue
            except ValueError:
                outcomes[number] = outcome = replace(outcome, code=EXIT_FAILURE)
        logger.warning(f"{outcome.host}: {one_line(outcome.reason)}")
    show(json.dumps(records, indent=2) if as_json else table(records, has_hosts=True))
    return exit_code(outcomes, interrupted, EXIT_FAILURE)


def logs_of_hosts(options: SshOptions, words: Sequence[str], show: Show) -> int:
    """Show a log of every host as it comes, each line after the host's name if there are several; return the exit code.

    A host that has no such log is named.
    """
    is_one = len(options.hosts) == 1

    def show_log(remote: RemoteNode) -> HostOutcome:
        name = remote.name
        prefix = "" if is_one else f"{name}: "
        answer = remote.stream(["logs", *words], lambda line: show(prefix + escaped(line.rstrip("\n"))))
        return HostOutcome(name, "done", answer.code, ssh.explain(answer) if answer.code else "")

    with upload_of({}) as upload, connected(options) as fleet:
        outcomes, interrupted = fleet.work_on_all(partial(_after_shipping, upload=upload, work=show_log))
    for outcome in outcomes:
        if outcome.reason:
            logger.warning(f"{outcome.host}: {one_line(outcome.reason)}")
    return exit_code(outcomes, interrupted, EXIT_FAILURE)


def _outputs(options: SshOptions, words: Sequence[str]) -> tuple[list[HostOutcome], bool]:
    """Return what each host prints, as the reason of its outcome, and whether that was interrupted."""

    def run_command(remote: RemoteNode) -> HostOutcome:
        answer = remote.command(words)
        return HostOutcome(remote.name, "done", answer.code, answer.out.strip() or ssh.explain(answer))

    with upload_of({}) as upload, connected(options) as fleet:
        return fleet.work_on_all(partial(_after_shipping, upload=upload, work=run_command))


def _ship_to_host(remote: RemoteNode, upload: Upload) -> HostOutcome:
    incoming = f".incoming-{new_run_id()}"
    try:
        examination = remote.examine(incoming, upload.digests, ())
        remote.tell("copying")
        remote.copy(upload.missing(examination.has), incoming)
        remote.accept(incoming)
    except (RunError, LostError, StoppedError) as error:
        return finish(remote, HostOutcome(remote.name, "failed", None, str(error)))
    return finish(remote, HostOutcome(remote.name, "done", EXIT_DONE, f"copied to {remote.folder}/"))


def _after_shipping(remote: RemoteNode, upload: Upload, work: HostWork) -> HostOutcome:
    """Work on a host that has our own madengine; its output is shown, and nothing of the way to it."""
    outcome = _ship_to_host(replace(remote, tell=_ignore), upload)
    return work(remote) if outcome.is_good else outcome


def _ignore(line: str) -> None:
    """Show nothing."""
