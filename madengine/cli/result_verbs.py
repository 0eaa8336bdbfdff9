"""The commands that read results: collect, compare, history, report."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from madengine.cli.reporting import ReportRows
from madengine.cli.terminal import show
from madengine.cli.verbs import Values
from madengine.config.option import from_options
from madengine.errors import EXIT_DONE, EXIT_FAILURE, ConfigurationError
from madengine.results.mail.options import EmailOptions

if TYPE_CHECKING:
    from email.message import EmailMessage

    from madengine.results.page.content import PageResults

logger = logging.getLogger(__name__)


def collect(values: Values, report: ReportRows) -> int:
    """Merge what is in folders, or in a cluster; the report is of all that was collected, new or not."""
    from madengine.results.merge import merge
    from madengine.results.statistics import tables

    if values["kubernetes"]:
        return _collect_kubernetes(values, report)
    if not values["directories"]:
        raise ConfigurationError("collect: expected folders to search, or --kubernetes")
    if values["failed"]:
        _add_failed_hosts(values)
    merged = merge(values["directories"], values["output"], values["results"])
    report.rows = merged.rows
    for problem in merged.problems:
        logger.info(problem)
    if merged.rows:
        show(tables(merged.rows))
        logger.info(
            f"rows: {merged.added} new in {values['output']}; {len(merged.rows)} collected; runs: {values['results']}"
        )
    return EXIT_FAILURE if merged.problems else EXIT_DONE


def _add_failed_hosts(values: Values) -> None:
    from madengine.config.manifest import load_manifest
    from madengine.results.failed_hosts import note_failure

    if not values["run_id"]:
        raise ConfigurationError("--failed: name the run with --run-id")
    manifest = load_manifest(values["manifest_file"])
    for host, reason in values["failed"]:
        note_failure(values["directories"][0] / host, manifest, values["run_id"], host, reason)


def _collect_kubernetes(values: Values, report: ReportRows) -> int:
    """Collect from a cluster; the exit code says whether a model failed there."""
    from madengine.deploy.kubernetes.collect import collect_results, prune
    from madengine.deploy.kubernetes.names import check_namespace
    from madengine.deploy.kubernetes.target import report_collected
    from madengine.programs.kubectl import Kubectl

    if values["directories"] or values["failed"]:
        raise ConfigurationError("--kubernetes: can't be combined with folders or --failed")
    check_namespace(values["namespace"])
    kubectl = Kubectl(values["namespace"], values["kube_context"])
    result = collect_results(kubectl, values["output"], values["results"], values["run_id"], values["wait"])
    report.rows = result.merged.rows
    code = report_collected(result, values["namespace"], values["run_id"], values["output"], show)
    for line in prune(kubectl, result) if values["prune"] else ():
        logger.info(line)
    return code


def compare(values: Values) -> int:
    from madengine.results.compare_options import CompareOptions
    from madengine.results.comparison import compare_results
    from madengine.results.comparison_table import render

    comparison = compare_results(from_options(CompareOptions, values))
    for problem in comparison.problems:
        logger.warning(problem)
    show(render(comparison))
    return comparison.exit_code()


def history(values: Values) -> int:
    """Print the series over time; an option says how."""
    import json

    from madengine.results.history import history_of
    from madengine.results.history_json import as_json
    from madengine.results.history_options import HistoryOptions
    from madengine.results.history_table import as_table

    history = history_of(from_options(HistoryOptions, values))
    for problem in history.problems:
        logger.warning(problem)
    show(json.dumps(as_json(history), indent=2, allow_nan=False) if history.options.json else as_table(history))
    return EXIT_DONE


def bisect(values: Values) -> int:
    """Find the version that made a model worse; exit with 0 if it is one, 1 if several are left."""
    import json

    from madengine.bisect.options import BisectOptions
    from madengine.bisect.phase import bisect
    from madengine.bisect.report import as_json, as_table, is_decided
    from madengine.build.options import BuildOptions
    from madengine.cli.verbs import quiet_orchestrator
    from madengine.run.options import RunOptions

    options = from_options(BisectOptions, values)
    # What decides is the bisection's; a run has the same options for a comparison of its own.
    run = from_options(RunOptions, {name: value for name, value in values.items() if not hasattr(options, name)})
    state = bisect(quiet_orchestrator(values), options, from_options(BuildOptions, values), run)
    show(json.dumps(as_json(state), indent=2, allow_nan=False) if options.json else as_table(state))
    return EXIT_DONE if is_decided(state) else EXIT_FAILURE


def report(values: Values, report_rows: ReportRows) -> int:
    """Write reports of the results in files and folders: a page, unless only other formats are named."""
    from madengine.results.formats.options import requested
    from madengine.results.page.sources import read_sources
    from madengine.results.page.write import chart_library, write_page

    if not values["files"]:
        raise ConfigurationError("report: expected files or folders with results (perf.csv, results.json)")
    folder: Path | None = values["folder"]
    mail = from_options(EmailOptions, values)
    asks_for_page = folder or values["single_file"] or values["baseline"]
    has_page = bool(asks_for_page or not (requested(values) or mail.is_used))
    if has_page:
        chart_library()
    source, problems = read_sources(values["files"], values["baseline"])
    report_rows.rows = source.rows
    for problem in problems:
        logger.info(problem)
    pages = []
    if has_page:
        # A message has one file, without a library beside it.
        is_single = values["single_file"] or mail.is_used
        pages.append(write_page(source, folder or Path("report"), values["title"], is_single))
        show(str(pages[0]))
    if mail.is_used:
        _mail(_message_of(source), pages, mail)
    return EXIT_FAILURE if problems else EXIT_DONE


def _message_of(source: PageResults) -> EmailMessage:
    """Return a message with the results, and the verdicts against a baseline."""
    from madengine.results.comparison_table import as_table
    from madengine.results.formats import Results
    from madengine.results.mail.message import results_message

    verdicts = as_table(source.comparison) if source.comparison else ""
    return results_message(Results(source.rows), verdicts)


def to_html(values: Values) -> int:
    """Write a CSV file as a page and print its table, as madengine 2."""
    from madengine.results.page import plain_tables
    from madengine.results.table import printable, text_table

    if not values["csv_file"]:
        raise ConfigurationError("report to-html: name a CSV file with --csv-file-path")
    table, path = plain_tables.to_html(values["csv_file"])
    lines = [[printable(cell) for cell in cells] for cells in table.lines]
    show(text_table(lines, [printable(name) for name in table.columns]))
    logger.info(f"page: {path}")
    return EXIT_DONE


def to_email(values: Values) -> int:
    """Write the CSV files of a folder as one page, as madengine 2."""
    from madengine.results.page import plain_tables

    options = from_options(EmailOptions, values)
    written = plain_tables.to_email(values["directory"], values["output"])
    if not written:
        logger.info(f"{values['directory']}: no CSV files with a table, nothing written")
        return EXIT_DONE
    tables, page = written
    logger.info(f"page: {page}")
    if options.is_used:
        from madengine.results.mail.message import tables_message

        _mail(tables_message(tables), [page], options)
    return EXIT_DONE


def _mail(message: EmailMessage, pages: Sequence[Path], options: EmailOptions) -> None:
    from madengine.results.mail.message import attach
    from madengine.results.mail.sending import deliver

    attach(message, pages)
    logger.info(deliver(message, options, os.environ, Path(os.environ.get("MODEL_DIR") or ".")))
