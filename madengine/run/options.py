"""The options of a run."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path

from madengine.config.common_options import (
    BuildAndRunOptions,
    DataFileOptions,
    GpuModeOptions,
    NodesOptions,
    RepeatOptions,
    RowsOptions,
    RunIdOptions,
    TimeoutOptions,
)
from madengine.config.option import Group, OnHosts, changed, number, option, options_of, whole_number, yes_or_no
from madengine.errors import ConfigurationError
from madengine.results.compare_options import VerdictOptions
from madengine.run.names import run_directory

ISOLATIONS = ("least", "compat")


# Of pairs, six are the fewest with which one series can be told from chance; ten do for up to 25 series.
_PAIRS = 10


@dataclass(frozen=True)
class AgainstOptions(VerdictOptions):
    """With which manifest another one is compared."""

    against: Path | None = option(
        "--against", default=None, group=Group.RUN, parse=Path, metavar="OLD", exists="file", on_hosts=OnHosts.COPIED,
        help="run the models of this manifest in turn with those of --manifest-file, and say what got better or worse",
    )  # fmt: skip
    seed: int | None = option(
        "--seed", default=None, group=Group.RUN, parse=whole_number("seeds", 0, 2**63), metavar="N",
        help="of the random order of --against (default: another one each time)", on_hosts=OnHosts.FORWARDED,
    )  # fmt: skip


@dataclass(frozen=True)
class RunOptions(
    BuildAndRunOptions,
    RowsOptions,
    RunIdOptions,
    TimeoutOptions,
    DataFileOptions,
    GpuModeOptions,
    RepeatOptions,
    AgainstOptions,
    NodesOptions,
):
    """How models are run."""

    #: A perf.csv; images that succeeded according to it are left out.
    resume: Path | None = option(
        "--resume", default=None, group=Group.SELECTION, parse=Path, metavar="FILE", on_hosts=OnHosts.REFUSED,
        help="leave out the images that succeeded according to this perf.csv, if it exists",
    )  # fmt: skip
    quiet: bool = option(
        "--quiet", "-q", default=False, group=Group.OUTPUT, help="print a line for each result and no table at the end"
    )
    keep_alive: bool = option(
        "--keep-alive", default=False, group=Group.RUN, help="keep the container running for debugging",
        on_hosts=OnHosts.FORWARDED,
    )  # fmt: skip
    keep_model_dir: bool = option(
        "--keep-model-dir", default=False, group=Group.RUN, help="keep the model's directory in the run's folder",
        on_hosts=OnHosts.FORWARDED,
    )  # fmt: skip
    skip_model_run: bool = option(
        "--skip-model-run", default=False, group=Group.RUN, help="pull the images and start nothing",
        on_hosts=OnHosts.FORWARDED,
    )  # fmt: skip
    force_mirror_local: str = option(
        "--force-mirror-local", default="", group=Group.RUN, metavar="DIR", help="keep fetched data in this folder",
        on_hosts=OnHosts.FORWARDED,
    )  # fmt: skip
    #: Relative to the current folder; on a host to the one where madengine runs there.
    workspace: str = option(
        "--workspace", default="", group=Group.RUN, metavar="DIR", on_hosts=OnHosts.FORWARDED,
        help="the folder that is /myworkspace in every run that names it, for what scripts download",
    )  # fmt: skip
    #: Seconds.
    gpu_wait: float = option(
        "--gpu-wait", default=0.0, group=Group.GPUS, parse=number("seconds", 0, 10**7), metavar="SECONDS",
        help="how long to wait for GPUs in use by another run (default: 0, fail at once)", on_hosts=OnHosts.FORWARDED,
    )  # fmt: skip
    #: Samples a second.
    sample_hz: float = option(
        "--sample-hz", default=1.0, group=Group.GPUS, parse=number("samples a second", 0.1, 10), metavar="HZ",
        help="GPU samples a second, 0.1 to 10 (default: 1)", on_hosts=OnHosts.FORWARDED,
    )  # fmt: skip
    pack: bool = option(
        "--pack", default=False, group=Group.GPUS, help="run models side by side, each on GPUs of its own",
        on_hosts=OnHosts.FORWARDED,
    )  # fmt: skip
    #: Whether the model entries' `skip_gpu_arch` counts.
    skip_gpu_arch: bool = option(
        "--disable-skip-gpu-arch", default=True, group=Group.GPUS,
        help="run models also on GPUs that their skip_gpu_arch names", on_hosts=OnHosts.FORWARDED,
    )  # fmt: skip
    #: Whether containers describe what a script finds there; None is the context's `gen_sys_env_details`, else yes.
    describe_environment: bool | None = option(
        "--generate-sys-env-details", "--sys-env-details", default=None, group=Group.RUN, parse=yes_or_no, bare=True,
        metavar="true|false", help="describe what each script finds in its container (default: true)",
        on_hosts=OnHosts.FORWARDED,
    )  # fmt: skip
    #: `least` privileges, or `compat`: the container flags of older madengine.
    isolation: str = option(
        "--isolation", default="least", group=Group.RUN, choices=ISOLATIONS, on_hosts=OnHosts.FORWARDED,
        help="least privileges, or compat for exactly the container flags of older madengine (default: least)",
    )  # fmt: skip
    require_pinned_image: bool = option(
        "--require-pinned-image", default=False, group=Group.RUN, on_hosts=OnHosts.FORWARDED,
        help="run no image that the manifest doesn't pin by a registry's digest",
    )  # fmt: skip
    cleanup_perf: bool = option(
        "--cleanup-perf", default=False, group=Group.OUTPUT,
        help="remove perf_entry.* and perf_entry_super.* of the current folder after the run",
    )  # fmt: skip
    #: The summary becomes part of a larger one, and only that one is named in messages.
    is_part: bool = False

    def __post_init__(self) -> None:
        """Raise ConfigurationError for options that contradict one another, or an earlier run."""
        super().__post_init__()
        self.check_repeats()
        self._check_against()
        if self.resume and self.is_repeated:
            raise ConfigurationError("--resume: can't be combined with repeated runs; run the missing models by --tags")
        if self.run_id and (run_directory(self.run_id) / "results.json").exists():
            raise ConfigurationError(
                f"{run_directory(self.run_id)}: holds the results of an earlier run; use another --run-id"
            )

    @property
    def is_repeated(self) -> bool:
        """Whether the runs of a model are numbered."""
        return bool(self.against) or super().is_repeated

    @property
    def least_repeats(self) -> int:
        """How often each model runs in any case, or each pair of models."""
        return self.repeat or (_PAIRS if self.against else 1)

    def with_seed(self) -> RunOptions:
        """Return the options with a seed for the order of --against, a new one if none is set."""
        return self if self.seed is not None else replace(self, seed=int.from_bytes(os.urandom(4), "big"))

    def _check_against(self) -> None:
        """Raise ConfigurationError for an option that needs --against, or that would distort its comparison."""
        if self.against is None:
            declared = options_of((AgainstOptions,))
            for name in changed((AgainstOptions,), vars(self)):
                raise ConfigurationError(f"{declared[name][0].flag}: only with --against")
        elif self.pack:
            raise ConfigurationError("--pack: can't be combined with --against: models side by side disturb each other")
        elif self.until_stable is not None:
            raise ConfigurationError(
                "--until-stable: can't be combined with --against; name the number of pairs with --repeat"
            )
        elif self.resume:
            raise ConfigurationError("--resume: can't be combined with --against")
