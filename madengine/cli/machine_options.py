"""The options of what looks at a machine: status, logs, cleanup."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from madengine.config.common_options import EngineOptions
from madengine.config.option import Group, OnHosts, inherited, number, option, run_id


@dataclass(frozen=True)
class AllEnginesOptions(EngineOptions):
    """The engines that are asked."""

    engine: str | None = inherited(
        EngineOptions, "engine", None, help="container engine (default: $MADENGINE_ENGINE, else all that answer)"
    )


@dataclass(frozen=True)
class StatusOptions(AllEnginesOptions):
    """How what runs is printed."""

    json: bool = option("--json", default=False, group=Group.OUTPUT, help="print it as JSON")


@dataclass(frozen=True)
class LogsOptions(AllEnginesOptions):
    """Whose log is printed."""

    model: str = option(
        "model", default="", group=Group.SELECTION, metavar="MODEL", help="the model's name, as `status` shows it"
    )
    follow: bool = option("--follow", "-f", default=False, group=Group.OUTPUT, help="go on until the model ends")
    run_id: str = option(
        "--run-id", default="", group=Group.SELECTION, parse=run_id, metavar="ID",
        help="of this run (default: the one that runs now, else the newest)",
    )  # fmt: skip


@dataclass(frozen=True)
class CleanupOptions(AllEnginesOptions):
    """What is removed."""

    everything: bool = option(
        "--all", default=False, group=Group.SELECTION, on_hosts=OnHosts.FORWARDED,
        help="also containers that stay on purpose (--keep-alive) or have ended, and caches of any age",
    )  # fmt: skip
    #: Days.
    older_than: float = option(
        "--older-than", default=30.0, group=Group.SELECTION, parse=number("days", 0, 36500), metavar="DAYS",
        help="caches that were not used in so many days (default: 30)", on_hosts=OnHosts.FORWARDED,
    )  # fmt: skip
    workspace: Path | None = option(
        "--workspace", default=None, group=Group.SELECTION, parse=Path, metavar="DIR",
        help="also the caches of models in this workspace", on_hosts=OnHosts.FORWARDED,
    )  # fmt: skip
    dry_run: bool = option(
        "--dry-run", default=False, group=Group.OUTPUT, help="list what would be removed", on_hosts=OnHosts.FORWARDED
    )
