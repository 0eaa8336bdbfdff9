"""How a run on this machine is carried out: what the user chose."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from madengine.errors import ConfigurationError
from madengine.run.names import run_directory


@dataclass(frozen=True)
class RunOptions:
    """How models are run. Raises ConfigurationError for a run id whose results the new ones would replace."""

    output: Path = Path("perf.csv")
    summary_output: Path = Path("run_summary.json")
    #: The summary becomes a part of a larger one, which alone is named to the user.
    is_part: bool = False
    #: The registry to pull from in place of the manifest's; empty is the manifest's.
    registry: str = ""
    #: Names or tags of the models to run; none are all.
    tags: tuple[str, ...] = ()
    #: The limit of every script in seconds, in place of the model's own; 0 is none, None is unset.
    timeout: int | None = None
    #: The container keeps running after its script, and no later run removes it.
    keep_alive: bool = False
    keep_model_dir: bool = False
    skip_model_run: bool = False
    live_output: bool = False
    #: The data.json in place of the package's.
    data_file: Path | None = None
    #: The folder that fetched data go to.
    force_mirror_local: str = ""
    gpu_mode: str = "auto"
    #: How long to wait for GPUs that another run holds, in seconds.
    gpu_wait: float = 0.0
    #: Samples of each GPU per second.
    sample_hz: float = 1.0
    #: Models run side by side, each on GPUs of its own.
    pack: bool = False
    #: Skip models whose `skip_gpu_arch` names a GPU of this machine.
    skip_gpu_arch: bool = True
    #: A perf.csv; models that succeeded according to it are left out.
    resume: Path | None = None
    #: The name of the run; empty is a new one.
    run_id: str = ""
    #: The tools.json in place of the package's.
    tools_file: Path | None = None
    #: Each container describes its environment; None is unset: the context decides, and by default it does.
    describe_environment: bool | None = None
    #: `least` privileges, or `compat` for the flags of older madengine.
    isolation: str = "least"
    #: No table at the end.
    quiet: bool = False
    #: Print the commands only.
    dry_run: bool = False

    def __post_init__(self) -> None:
        if self.run_id and (run_directory(self.run_id) / "results.json").exists():
            raise ConfigurationError(
                f"{run_directory(self.run_id)}: holds the results of an earlier run; use another --run-id"
            )
