"""Checks the container engine."""

from __future__ import annotations

from collections.abc import Iterator

from madengine.doctor.check import FAILED, OK, Check, Subject
from madengine.errors import EngineError
from madengine.programs.engine_finder import find_engine


def check_engine(subject: Subject) -> Iterator[Check]:
    try:
        subject.engine = find_engine(subject.engine_name)
    except EngineError as error:
        yield Check("engine", FAILED, str(error), error.fix or "apt-get install podman, or: systemctl start docker")
        return
    yield Check("engine", OK, f"{subject.engine.name} {subject.engine.version}")
