"""Checks the models of the current folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from madengine.config.package import package_root
from madengine.doctor.check import FAILED, NOTE, OK, Check, Subject
from madengine.errors import MadengineError
from madengine.tools.discover_models import DiscoverModels


def check_models(subject: Subject) -> Iterator[Check]:
    """Check model discovery, which only a build needs."""
    root, is_starter = package_root(os.environ, Path.cwd())
    if is_starter:
        yield Check("models", NOTE, "no models.json here")
        return
    try:
        yield Check("models", OK, f"{len(DiscoverModels(root).models())} in {root}")
    except MadengineError as error:
        yield Check("models", FAILED, str(error), f"fix it; `madengine discover` in {root} reads it again")
