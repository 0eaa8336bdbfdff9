"""Python, the disks and the memory."""

from __future__ import annotations

import os
import shutil
import sys
from collections import namedtuple
from pathlib import Path

import pytest

from madengine.doctor.check import FAILED, NOTE, OK, Check
from tests.unit.doctor.conftest import Engine, checks


def test_an_old_python_is_named(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    assert checks()["python"].status == OK
    monkeypatch.setattr(sys, "version_info", (3, 9, 18, "final", 0))
    assert checks()["python"] == Check("python", FAILED, "3.9.18", "apt-get install python3 (3.10 or newer)")


Usage = namedtuple("Usage", "total used free")


@pytest.mark.parametrize(("free", "status"), [(2**29, FAILED), (5 * 2**30, NOTE), (2**40, OK)])
def test_the_room_on_the_disks(engine: Engine, monkeypatch: pytest.MonkeyPatch, free: int, status: str) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(2**41, 0, free if path == Path("/") else 2**40))
    results = checks()
    assert results["disk (here)"].status == OK
    assert results["disk (images)"].status == status
    assert results["disk (images)"].result == f"{free / 2**30:.1f} GiB free in /"
    assert bool(results["disk (images)"].fix) == (status == FAILED)


def test_the_shared_memory_of_a_container_is_half_of_the_hosts(engine: Engine) -> None:
    half = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**31
    assert checks()["shared memory"] == Check("shared memory", OK, f"a container gets {half:.1f} GiB as /dev/shm")
