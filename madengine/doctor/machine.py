"""Checks python, the disks and the memory."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from madengine.doctor.check import FAILED, NOTE, OK, Check, Subject

OLDEST_PYTHON = (3, 10)
# Free space: below the first a run fails, below the second an image may not fit.
LITTLE_DISK, SMALL_DISK = 2**30, 20 * 2**30


def check_python(subject: Subject) -> Iterator[Check]:
    version = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info >= OLDEST_PYTHON:
        yield Check("python", OK, version)
    else:
        yield Check("python", FAILED, version, "apt-get install python3 (3.10 or newer)")


def check_disk(subject: Subject) -> Iterator[Check]:
    engine = subject.engine
    prune = f"; `{engine.name} image prune` removes unused images" if engine else ""
    root = engine.image_root() if engine else None
    for name, path in (("disk (here)", Path.cwd()), ("disk (images)", root)):
        if path is None or not path.exists():
            continue
        free = shutil.disk_usage(path).free
        result = f"{free / 2**30:.1f} GiB free in {path}"
        if free < LITTLE_DISK:
            yield Check(name, FAILED, result, f"free space in {path}{prune}")
        else:
            yield Check(name, NOTE if free < SMALL_DISK else OK, result)


def check_shared_memory(subject: Subject) -> Iterator[Check]:
    half = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2
    yield Check("shared memory", OK, f"a container gets {half / 2**30:.1f} GiB as /dev/shm")
