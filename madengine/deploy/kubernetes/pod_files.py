"""The files that a pod's run leaves: brought together by its sidecar, into a claim or for `collect` to fetch."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path, PurePath

from madengine.build.payload import model_directory
from madengine.config import artifacts
from madengine.deploy.kubernetes.pod import Pod
from madengine.deploy.kubernetes.remains import LOG
from madengine.machine.gpu_profiles import write_gpu_profiles
from madengine.records import SERIES_FILE, Artifact, Gpu
from madengine.run.outcome import script_start

#: where the sidecar has the claim of --artifacts-pvc
CLAIM = Path("/artifacts")
# In the workspace: that the files are complete, and that they were fetched.
READY, FETCHED = ".artifacts-ready", ".artifacts-fetched"
_OURS = (LOG.name, SERIES_FILE, READY, FETCHED, ".reporter", ".gpus", ".report", ".stopped")
_POLL_SECONDS = 0.5


def bring_files(pod: Pod, workspace: Path, gpus: Sequence[Gpu], claim: Path | None) -> tuple[Artifact, ...]:
    """Bring a run's artifacts and its profilers' files together; return each with its size.

    They go below the claim, to a folder of this pod, else to the workspace's own. What can't be brought is logged.
    """
    profiles = write_gpu_profiles(workspace, SERIES_FILE, pod.profiles, gpus, pod.profile_names)
    patterns = [*pod.artifacts, *(profile.path for profile in profiles)]
    if pod.wrapped:
        patterns += artifacts.tool_outputs(workspace, model_directory(pod.model), script_start(workspace))
    if not patterns:
        return ()
    into = (claim, PurePath(pod.run_id, pod.name)) if claim else None
    return artifacts.bring(workspace, model_directory(pod.model), patterns, besides=_OURS, may_move=False, into=into)


def wait_until_fetched(workspace: Path, seconds: float) -> bool:
    """Wait until `collect` has fetched the files, at most `seconds`; return whether it has.

    A pod that was told to stop doesn't wait: its node may be drained.
    """
    for name in (READY, FETCHED):
        with suppress(OSError):
            (workspace / name).unlink()
    with suppress(OSError):
        (workspace / READY).touch()
    deadline = time.monotonic() + seconds
    while not os.path.lexists(workspace / FETCHED):
        if time.monotonic() >= deadline or os.path.lexists(workspace / ".stopped"):
            return False
        time.sleep(_POLL_SECONDS)
    return True
