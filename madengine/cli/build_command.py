"""The options of the command `build`, also those that older versions take there and that only a run uses."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from madengine.build.options import BuildOptions
from madengine.config.option import inherited
from madengine.run.options import RunOptions

_IGNORED = "accepted as by older versions: a build runs nothing"


@dataclass(frozen=True)
class BuildCommandOptions(BuildOptions):
    """`-m` is the manifest that is written; everywhere else it is one that is read."""

    manifest_output: Path = inherited(
        BuildOptions, "manifest_output", Path("build_manifest.json"), flags=("--manifest-output", "-m")
    )


@dataclass(frozen=True)
class OptionsOfRuns:
    """Options that have no effect on a build."""

    data_file: Path | None = inherited(RunOptions, "data_file", None, help=_IGNORED)
    output: Path = inherited(RunOptions, "output", Path("perf.csv"), help=_IGNORED)
    force_mirror_local: str = inherited(RunOptions, "force_mirror_local", "", help=_IGNORED)
    skip_gpu_arch: bool = inherited(RunOptions, "skip_gpu_arch", True, help=_IGNORED)
    describe_environment: bool | None = inherited(RunOptions, "describe_environment", None, help=_IGNORED)
