"""Options that several commands share, each declared once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from madengine.config.option import (
    Group,
    OnHosts,
    comma_separated,
    number,
    option,
    run_id,
    time_limit,
    whole_number,
)
from madengine.errors import ConfigurationError
from madengine.records import ENGINE_NAMES, RUN_ENGINE_NAMES

#: The names that `--engine` takes; `auto` is the first engine in which a container starts.
ENGINES = ("auto", *ENGINE_NAMES, *RUN_ENGINE_NAMES)


def _tags(words: tuple[str, ...]) -> tuple[str, ...]:
    tags = comma_separated(words)
    if words and not tags:
        raise ConfigurationError("--tags is empty; name a tag, or leave --tags out for all models")
    return tags


@dataclass(frozen=True)
class TagOptions:
    """Which models of a package or of a manifest; none are all."""

    tags: tuple[str, ...] = option(
        "--tags", "-t", default=(), group=Group.SELECTION, metavar="TAG", many=True, collect=_tags,
        help="models by name or tag, separated by spaces or commas, also name:key=value (default: all)",
        on_hosts=OnHosts.FORWARDED,
    )  # fmt: skip


@dataclass(frozen=True)
class SelectionOptions(TagOptions):
    """Which models of a package."""

    ignore_deprecated: bool = option(
        "--ignore-deprecated", "--ignore-deprecated-flag", default=False, group=Group.SELECTION,
        help="include deprecated models",
    )  # fmt: skip


@dataclass(frozen=True)
class ManifestOptions:
    """Which manifest."""

    manifest_file: Path = option(
        "--manifest-file", "-m", default=Path("build_manifest.json"), group=Group.SELECTION, parse=Path, metavar="FILE",
        help="the manifest (default: build_manifest.json)",
    )  # fmt: skip


@dataclass(frozen=True)
class ContextOptions:
    """What the user adds to the detected context."""

    additional_context: str | None = option(
        "--additional-context", "-c", default=None, group=Group.SELECTION, metavar="TEXT",
        help="context as JSON or a Python literal", on_hosts=OnHosts.FORWARDED,
    )  # fmt: skip
    additional_context_file: Path | None = option(
        "--additional-context-file", "-f", default=None, group=Group.SELECTION, parse=Path, metavar="FILE",
        help="context as a JSON file", on_hosts=OnHosts.COPIED, exists="file",
    )  # fmt: skip


@dataclass(frozen=True)
class EngineOptions:
    """Which container engine; None is MADENGINE_ENGINE, else auto."""

    engine: str | None = option(
        "--engine", default=None, group=Group.RUN, choices=ENGINES, on_hosts=OnHosts.FORWARDED,
        help="container engine (default: $MADENGINE_ENGINE, else the first in which a container starts)",
    )  # fmt: skip


@dataclass(frozen=True)
class DryRunOptions:
    """Whether anything is run."""

    dry_run: bool = option(
        "--dry-run", default=False, group=Group.OUTPUT, help="print the shell lines instead of running them"
    )


@dataclass(frozen=True)
class RegistryOptions:
    """Where images are pushed and pulled; empty is nowhere, or where the manifest says."""

    registry: str = option(
        "--registry", "-r", default="", group=Group.SELECTION, metavar="HOST[:PORT]",
        help="where images are pushed and pulled", on_hosts=OnHosts.FORWARDED,
    )  # fmt: skip


@dataclass(frozen=True)
class GpuModeOptions:
    """How GPUs are passed to containers."""

    gpu_mode: str = option(
        "--gpu-mode", default="auto", group=Group.GPUS, choices=("auto", "devices", "gpus", "cdi"),
        help="how GPUs are passed to containers (default: auto, as their vendor documents it for the engine)",
        on_hosts=OnHosts.FORWARDED,
    )  # fmt: skip


@dataclass(frozen=True)
class RunIdOptions:
    """What a run is called."""

    run_id: str = option(
        "--run-id", default="", group=Group.OUTPUT, parse=run_id, metavar="ID",
        help="name of the run and of its folder (default: a new one)",
    )  # fmt: skip


@dataclass(frozen=True)
class RowsOptions:
    """Where rows are appended."""

    output: Path = option(
        "--output", "-o", default=Path("perf.csv"), group=Group.OUTPUT, parse=Path, metavar="FILE",
        help="the table that gets a row for each result (default: perf.csv)",
    )  # fmt: skip


@dataclass(frozen=True)
class SummaryOptions:
    """Where the summary of a command is written."""

    summary_output: Path = option(
        "--summary-output", "-s", default=Path("run_summary.json"), group=Group.OUTPUT, parse=Path, metavar="FILE",
        help="what succeeded and what failed (default: run_summary.json)",
    )  # fmt: skip


@dataclass(frozen=True)
class DataFileOptions:
    """Which data sets are known; None is the package's data.json."""

    data_file: Path | None = option(
        "--data-config-file-name", "--data-config", default=None, group=Group.RUN, parse=Path, metavar="FILE",
        help="data sets (default: data.json)", on_hosts=OnHosts.REFUSED, exists="file",
    )  # fmt: skip


@dataclass(frozen=True)
class TimeoutOptions:
    """How long a model's script may run."""

    #: Seconds; 0 is no limit, None is the model's own.
    timeout: int | None = option(
        "--timeout", default=None, group=Group.RUN, parse=time_limit, metavar="SECONDS",
        help="time limit of each model's script, 0 for none (default: the model's own, else 7200)",
        on_hosts=OnHosts.FORWARDED,
    )  # fmt: skip


#: Rounds of --until-stable, if --max-repeats doesn't say how many.
_MOST_ROUNDS = 30
#: Below this number of values no interval of their median has a confidence of 95 %.
_LEAST_FOR_INTERVAL = 6


@dataclass(frozen=True)
class RepeatOptions:
    """How often each model runs."""

    #: 0 is once, and its row is not numbered.
    repeat: int = option(
        "--repeat", "--repeats", default=0, group=Group.RUN, parse=whole_number("runs", 1, 10_000), metavar="N",
        help="run each model N times, in rounds of all models (default: 1; with --against 10)",
        on_hosts=OnHosts.FORWARDED,
    )  # fmt: skip
    warmup: int = option(
        "--warmup", default=0, group=Group.RUN, parse=whole_number("runs", 0, 10_000), metavar="K",
        help="K rounds before these; what they measure is in results.json only", on_hosts=OnHosts.FORWARDED,
    )  # fmt: skip
    #: Percent of the median.
    until_stable: float | None = option(
        "--until-stable", default=None, group=Group.RUN, parse=number("percent", 0.001, 1000), metavar="PERCENT",
        help="repeat each model until the 95 %% interval of its median is at most this wide",
        on_hosts=OnHosts.FORWARDED,
    )  # fmt: skip
    max_repeats: int | None = option(
        "--max-repeats", default=None, group=Group.RUN, parse=whole_number("runs", _LEAST_FOR_INTERVAL, 10_000),
        metavar="M", help=f"with --until-stable: at most M times (default: {_MOST_ROUNDS})",
        on_hosts=OnHosts.FORWARDED,
    )  # fmt: skip
    keep_going: bool = option(
        "--keep-going", default=False, group=Group.RUN, on_hosts=OnHosts.FORWARDED,
        help="run a model that failed in a round in the next ones too",
    )  # fmt: skip

    @property
    def is_repeated(self) -> bool:
        """Whether the runs of a model are numbered."""
        return bool(self.repeat or self.warmup or self.until_stable)

    @property
    def least_repeats(self) -> int:
        """How often each model runs in any case."""
        return self.repeat or 1

    @property
    def most_repeats(self) -> int:
        """How often each model runs at most."""
        if self.until_stable is None:
            return self.least_repeats
        return self.max_repeats or max(_MOST_ROUNDS, self.least_repeats)

    def check_repeats(self) -> None:
        """Raise ConfigurationError for options that contradict one another."""
        if self.max_repeats is not None and self.until_stable is None:
            raise ConfigurationError("--max-repeats: only with --until-stable; --repeat is a fixed number")
        if self.most_repeats < self.least_repeats:
            raise ConfigurationError(f"--max-repeats {self.max_repeats}: less than --repeat {self.repeat}")


@dataclass(frozen=True)
class NodesOptions:
    """On how many nodes each model runs; 0 is what the context or the model entry says, else 1."""

    nodes: int = option(
        "--nodes", default=0, group=Group.RUN, parse=whole_number("nodes", 1, 100_000), metavar="N",
        help="nodes that run each model together, as one (default: nnodes of `distributed`, else 1)",
        on_hosts=OnHosts.FORWARDED,
    )  # fmt: skip


@dataclass(frozen=True)
class ForksOptions:
    """How many hosts at once."""

    forks: int = option(
        "--forks", default=16, group=Group.HOSTS, parse=whole_number("hosts", 1), metavar="N",
        help="hosts at once (default: 16)",
    )  # fmt: skip


@dataclass(frozen=True)
class TemplateOptions:
    """Whose templates are used."""

    template_dir: Path | None = option(
        "--template-dir", default=None, group=Group.OUTPUT, parse=Path, metavar="DIR", exists="folder",
        help="a folder whose templates (ansible/playbook.yml, k8s/*.yaml) replace madengine's own",
    )  # fmt: skip


@dataclass(frozen=True)
class ExecutionConfigOptions:
    """Which execution configuration; None is execution_config.json where it exists."""

    execution_config: Path | None = option(
        "--execution-config", "-e", default=None, group=Group.SELECTION, parse=Path, metavar="FILE", exists="file",
        help="what export-config wrote (default: execution_config.json)",
    )  # fmt: skip


@dataclass(frozen=True)
class BuildAndRunOptions(TagOptions, RegistryOptions, DryRunOptions, SummaryOptions):
    """What a build and a run have in common."""

    live_output: bool = option(
        "--live-output", "-l", default=False, group=Group.OUTPUT, help="show the logs as they are written",
        on_hosts=OnHosts.FORWARDED,
    )  # fmt: skip
    tools_file: Path | None = option(
        "--tools-json-file-name", "--tools-config", default=None, group=Group.RUN, parse=Path, metavar="FILE",
        help="definitions of tools beside madengine's own (default: scripts/common/tools.json)",
        on_hosts=OnHosts.REFUSED, exists="file",
    )  # fmt: skip
