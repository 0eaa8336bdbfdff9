"""The options of each command: what only the command line has, and the parser of declared options."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from madengine.config.common_options import (
    ContextOptions,
    EngineOptions,
    GpuModeOptions,
    ManifestOptions,
    RowsOptions,
    SummaryOptions,
)
from madengine.config.option import Group, Option, host_and_reason, inherited, option, options_of
from madengine.deploy.target import TARGETS


@dataclass(frozen=True)
class MessageOptions:
    """What is written to stderr; every command has these."""

    verbosity: int = option(
        "-v", "--verbose", default=0, group=Group.OUTPUT,
        help="-v: show each command that is run, with its duration; -vv or --verbose: also the traceback of an error",
    )  # fmt: skip
    log_format: str = option(
        "--log-format", default="text", group=Group.OUTPUT, choices=("text", "json"),
        help="messages on stderr as text or as JSON lines (default: text)",
    )  # fmt: skip


@dataclass(frozen=True)
class RunManifestOptions(ManifestOptions):
    """Which manifest is run; None builds one first."""

    manifest_file: Path | None = inherited(  # type: ignore[assignment]
        ManifestOptions, "manifest_file", None,
        help="the manifest to run as it is; without one, or where it doesn't exist, the images are built first",
    )  # fmt: skip


@dataclass(frozen=True)
class PlaceOptions:
    """Where a manifest runs; empty is where its context says, else this machine."""

    target: str = option(
        "--target", default="", group=Group.SELECTION, choices=("local", *TARGETS),
        help="where the models run (default: where the context or the manifest says, else on this machine)",
    )  # fmt: skip


@dataclass(frozen=True)
class FetchOptions:
    """Where the run was started that is fetched."""

    target: str = option(
        "--target", default="ssh", group=Group.SELECTION, choices=("ssh", "slurm"),
        help="where the run was started (default: ssh)",
    )  # fmt: skip
    output_dir: Path = option(
        "--output-dir", default=Path("results"), group=Group.SLURM, parse=Path, metavar="DIR",
        help="folder of the run that was submitted to Slurm (default: results)",
    )  # fmt: skip


@dataclass(frozen=True)
class FullOptions(SummaryOptions):
    """The summary of build and run together."""

    summary_output: Path = inherited(
        SummaryOptions, "summary_output", Path("full_summary.json"),
        help="what succeeded and what failed (default: full_summary.json)",
    )  # fmt: skip


@dataclass(frozen=True)
class RunSummaryOptions(SummaryOptions, RowsOptions):
    """What is left of a deployment: `deploy` also has the options of a build, whose summary is another one."""


@dataclass(frozen=True)
class ExportOptions:
    """Where the execution configuration is written."""

    output: Path = option(
        "--output", "-o", default=Path("execution_config.json"), group=Group.OUTPUT, parse=Path, metavar="FILE",
        help="default: execution_config.json",
    )  # fmt: skip


@dataclass(frozen=True)
class DiscoverOptions:
    """How models are listed."""

    format: str = option(
        "--format",
        default="table",
        group=Group.OUTPUT,
        choices=("table", "json", "names", "words"),
        help="default: table",
    )


@dataclass(frozen=True)
class DoctorOptions(EngineOptions, GpuModeOptions):
    """How the checks are printed."""

    json: bool = option("--json", default=False, group=Group.OUTPUT, help="print the checks as JSON")


@dataclass(frozen=True)
class InitOptions:
    """Where a package is written."""

    directory: Path = option(
        "directory", default=Path(), group=Group.OUTPUT, parse=Path, metavar="DIR",
        help="a new folder, or one without a package",
    )  # fmt: skip


@dataclass(frozen=True)
class BundleOptions:
    """Where the bundle is written."""

    output: Path = option(
        "--output", "-o", default=Path("madengine.pyz"), group=Group.OUTPUT, parse=Path, metavar="FILE",
        help="default: madengine.pyz",
    )  # fmt: skip


@dataclass(frozen=True)
class CompletionOptions:
    """For which shell."""

    shell: str = option(
        "shell", default="bash", group=Group.OUTPUT, choices=("bash", "zsh", "fish"), metavar="SHELL",
        help="bash, zsh or fish",
    )  # fmt: skip


@dataclass(frozen=True)
class CollectOptions(ManifestOptions):
    """What is merged into which files."""

    directories: tuple[Path, ...] = option(
        "directories", default=(), group=Group.SELECTION, parse=Path, metavar="DIR", many=True,
        help="folders that are searched for results.json and perf.csv files",
    )  # fmt: skip
    output: Path = option(
        "--output", "-o", default=Path("perf.csv"), group=Group.OUTPUT, parse=Path, metavar="FILE",
        help="the table that gets the rows it doesn't have yet (default: perf.csv)",
    )  # fmt: skip
    results: Path = option(
        "--results", default=Path("results.json"), group=Group.OUTPUT, parse=Path, metavar="FILE",
        help="the runs, each with its machine; those that it already has stay (default: results.json)",
    )  # fmt: skip
    failed: tuple[tuple[str, str], ...] = option(
        "--failed", default=(), group=Group.SELECTION, parse=host_and_reason, metavar="HOST=REASON", many=True,
        help="a host that could not run: a row for each model of --manifest-file, in the first DIR",
    )  # fmt: skip


@dataclass(frozen=True)
class ReportOptions:
    """What is reported."""

    files: tuple[Path, ...] = option(
        "files", default=(), group=Group.SELECTION, parse=Path, metavar="FILE", many=True,
        help="perf.csv and results.json files, or folders that are searched for them",
    )  # fmt: skip
    #: None is `report`, unless only other formats are asked for.
    folder: Path | None = option(
        "--output", "-o", default=None, group=Group.OUTPUT, parse=Path, metavar="DIR",
        help="folder of the HTML page (default: report, unless another format is named)",
    )  # fmt: skip
    single_file: bool = option(
        "--single-file", default=False, group=Group.OUTPUT, help="put the chart library into the page too"
    )
    baseline: str = option(
        "--baseline", default="", group=Group.SELECTION, metavar="RESULTS",
        help="show what changed against these results, as compare: a file, a folder or a run id",
    )  # fmt: skip
    title: str = option(
        "--title", default="madengine results", group=Group.OUTPUT, metavar="TEXT", help="title of the HTML page"
    )


@dataclass(frozen=True)
class ToHtmlOptions:
    """Which CSV file becomes a page."""

    csv_file: Path | None = option(
        "--csv-file-path", "--csv-file", default=None, group=Group.SELECTION, parse=Path, metavar="FILE",
        exists="file", help="a CSV file; the page is beside it, with .html in place of .csv",
    )  # fmt: skip


@dataclass(frozen=True)
class ToEmailOptions:
    """Which CSV files become one page."""

    directory: Path = option(
        "--directory", "--dir", default=Path(), group=Group.SELECTION, parse=Path, metavar="DIR",
        help="the folder of the CSV files (default: the current one)",
    )  # fmt: skip
    output: str = option(
        "--output", "-o", default="run_results.html", group=Group.OUTPUT, metavar="NAME",
        help="name of the page in that folder (default: run_results.html)",
    )  # fmt: skip


@dataclass(frozen=True)
class DeployOptions(RunManifestOptions):
    """Where a manifest is deployed."""

    target: str = option(
        "--target", default="ssh", group=Group.SELECTION, choices=tuple(TARGETS),
        help="where the models run (default: ssh)",
    )  # fmt: skip


def build_classes() -> tuple[type, ...]:
    """The options of a build."""
    from madengine.build.options import BuildOptions

    return (BuildOptions, ContextOptions, EngineOptions)


def run_classes() -> tuple[type, ...]:
    """The options of a run on this machine."""
    from madengine.run.options import RunOptions

    return (RunOptions, ContextOptions, EngineOptions)


def deploy_classes() -> tuple[type, ...]:
    """The options that a deployment has whatever its target."""
    return (DeployOptions, RunSummaryOptions, *build_classes())


# --- the parser of declared options ---


def add_options(
    parser: argparse.ArgumentParser, classes: Iterable[type], without: Iterable[str] = ()
) -> dict[str, tuple[Option, Any]]:
    """Add the options of these dataclasses to a parser, grouped by subject; returns them by field name."""
    declared = {name: one for name, one in options_of((*classes, MessageOptions)).items() if name not in without}
    for group in Group:
        named = {name: one for name, one in declared.items() if one[0].group is group}
        if named:
            target = parser.add_argument_group(group.value)
            for name, (how, default) in named.items():
                _add(target, name, how, default)
    return declared


def _add(group: argparse._ArgumentGroup, name: str, how: Option, default: Any) -> None:
    if name == "verbosity":
        group.add_argument(
            how.flags[0], dest=name, action="count", default=default, help="show each command that is run"
        )
        group.add_argument(how.flags[1], dest=name, action="store_const", const=2, help="as -vv: tracebacks too")
    elif not how.flag.startswith("-"):
        more: dict[str, Any] = {"nargs": "*"} if how.many else {}
        choices = how.choices or None
        group.add_argument(name, type=how.parse, metavar=how.metavar, help=how.help, choices=choices, **more)
    elif isinstance(default, bool):
        group.add_argument(*how.flags, dest=name, action=f"store_{str(not default).lower()}", help=how.help)
    else:
        # `extend` can't copy a tuple; a missing list becomes the default in `values_of`.
        default = None if how.many else default
        group.add_argument(*how.flags, dest=name, default=default, help=how.help, **_value(how))


def _value(how: Option) -> dict[str, Any]:
    """What argparse needs to know of an option's value."""
    words: dict[str, Any] = {"type": how.parse, "metavar": how.metavar or None, "choices": how.choices or None}
    if how.many:
        return {**words, "nargs": "+", "action": "extend"}
    return {**words, "nargs": "?", "const": how.bare} if how.bare is not None else words


def values_of(namespace: argparse.Namespace, declared: Mapping[str, tuple[Option, Any]]) -> dict[str, Any]:
    """The value of each option by field name.

    Raises ConfigurationError where the words of a list are wrong.
    """
    values = {}
    for name, (how, default) in declared.items():
        value = getattr(namespace, name)
        if how.many:
            value = how.collect(value) if value else default
        values[name] = value
    return values
