"""The RUN steps of podman's builds, which keep running when only the build is ended."""

from __future__ import annotations

import os
import signal
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

# What podman gets to clean up a build whose step was ended.
TIDY_SECONDS = 5.0


def end() -> None:
    """End the steps of the builds that we have started, and wait until podman has cleaned up."""
    builds = _running()
    for step in [step for steps in builds.values() for step in steps]:
        with suppress(ProcessLookupError):
            os.kill(step, signal.SIGKILL)
    deadline = time.monotonic() + TIDY_SECONDS
    while any(Path(f"/proc/{build}").exists() for build in builds) and time.monotonic() < deadline:
        time.sleep(0.02)


def _running() -> dict[int, list[int]]:
    """Return the podman builds among our children that run a step now, each with that step's processes."""
    children = _children()
    builds = {build: _below(build, children) for build in children[os.getpid()]}
    steps = {
        build: [step for process in below if _is_step_runner(process) for step in children[process]]
        for build, below in builds.items()
    }
    return {build: processes for build, processes in steps.items() if processes}


def _is_step_runner(process: int) -> bool:
    """Whether it is the process between a podman build and the container of a step."""
    try:
        return Path(f"/proc/{process}/cmdline").read_bytes().rstrip(b"\0") == b"buildah-oci-runtime"
    except OSError:
        return False


def _below(process: int, children: Mapping[int, Sequence[int]]) -> list[int]:
    return [one for child in children[process] for one in (child, *_below(child, children))]


def _children() -> Mapping[int, Sequence[int]]:
    """Return the processes of this machine by their parent's id (field 4 of stat, after the name's bracket)."""
    children = defaultdict(list)
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError, IndexError):
            children[int(stat.read_text(errors="replace").rpartition(")")[2].split()[1])].append(int(stat.parent.name))
    return children
