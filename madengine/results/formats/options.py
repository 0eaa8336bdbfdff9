"""The table of report files; the options and their documentation are derived from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, make_dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from madengine.config.option import Group, option
from madengine.errors import ConfigurationError
from madengine.results.formats import Results


class Format(NamedTuple):
    """A file that another system reads."""

    #: of the option's field: `gitlab_metrics` is `--gitlab-metrics FILE`
    name: str
    help: str

    @property
    def flag(self) -> str:
        return f"--{self.name.replace('_', '-')}"

    def text(self, report: Results) -> str:
        """Return the content of the file: that of the function `text` in the module of the format's name."""
        module = import_module(f"madengine.results.formats.{self.name}")
        content: str = module.text(report)
        return content


FORMATS = (
    Format("junit", "JUnit XML: a suite for each host, a case for each model and metric"),
    Format("markdown", "Markdown, for the comment of a merge request"),
    Format("openmetrics", "OpenMetrics text, for Prometheus"),
    Format("gitlab_metrics", "GitLab's metrics report, which a merge request compares with its target branch"),
)


def _declared(one: Format) -> tuple[str, object, Any]:
    field = option(one.flag, default=None, group=Group.OUTPUT, parse=Path, metavar="FILE", help=one.help)
    return one.name, Path | None, field


#: The options of every command that has results.
FormatOptions: type = make_dataclass("FormatOptions", map(_declared, FORMATS), frozen=True)


@dataclass(frozen=True)
class MadengineTwoOptions:
    """What commands write that add rows to a perf.csv."""

    madengine2_files: bool = option(
        "--madengine2-files", default=False, group=Group.OUTPUT,
        help="also write perf_entry.*, perf_super.*, perf_entry_super.* and common_info.json, as madengine 2",
    )  # fmt: skip


def requested(values: Mapping[str, Any]) -> dict[Path, Format]:
    """Return the files that the options name, each with its format.

    Raises ConfigurationError for one that two options name.
    """
    files: dict[Path, Format] = {}
    for one in FORMATS:
        if path := values.get(one.name):
            if path in files:
                raise ConfigurationError(f"{path}: named by {files[path].flag} and {one.flag}; expected one each")
            files[path] = one
    return files


def is_github_job(environ: Mapping[str, str]) -> bool:
    """Return whether this is a job of GitHub Actions, which shows what failed without a file being named."""
    return environ.get("GITHUB_ACTIONS") == "true"
