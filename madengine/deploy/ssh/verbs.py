"""What is done on hosts beside running a manifest: fetch, ship and doctor."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from madengine.config.manifest import load_manifest
from madengine.deploy.ssh.fleet import connected, finish
from madengine.deploy.ssh.host_result import HostOutcome
from madengine.deploy.ssh.host_run import LocalTable, fetch_from_host
from madengine.deploy.ssh.options import SshOptions
from madengine.deploy.ssh.reconnect import LostError, StoppedError
from madengine.deploy.ssh.remote_node import RemoteNode
from madengine.deploy.ssh.report import Show, conclude, exit_code, show_outcomes
from madengine.deploy.ssh.upload import Upload, report_secrets, sources, upload_of
from madengine.errors import EXIT_DONE, EXIT_FAILURE, RunError
from madengine.files import check_writable
from madengine.process import RESULTS
from madengine.programs import ssh
from madengine.results.perf_csv import check_perf_csv
from madengine.run.names import new_run_id


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


def examine_hosts(options: SshOptions, words: Sequence[str], show: Show) -> int:
    """Run `madengine doctor` with these words on every host, and show each report; return the exit code."""
    with upload_of({}) as upload, connected(options) as fleet:
        outcomes, interrupted = fleet.work_on_all(partial(_examine_host, upload=upload, words=words))
    for outcome in outcomes:
        show(f"{outcome.host}:\n{outcome.reason}\n")
    return exit_code(outcomes, interrupted, EXIT_FAILURE)


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


def _examine_host(remote: RemoteNode, upload: Upload, words: Sequence[str]) -> HostOutcome:
    outcome = _ship_to_host(remote, upload)
    if not outcome.is_good:
        return outcome
    answer = remote.doctor(words)
    report = answer.out.strip() or ssh.explain(answer)
    return HostOutcome(outcome.host, "done", answer.code, report)
