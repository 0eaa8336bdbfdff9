"""What a build makes, and what it only names: images that scripts pull themselves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from madengine.build.plan import Choice
from madengine.build.recipes import Planner
from madengine.config.context import Context
from madengine.config.credentials import Credentials
from madengine.errors import ConfigurationError
from madengine.records import Model

MULTI = {"distributed": {"launcher": "slurm_multi"}}


def multi(**extra: Any) -> Model:
    return Model("m", "docker/m", "scripts/m", extra={**MULTI, **extra})


def planner(root: Path, registry: str = "") -> Planner:
    return Planner(root, Context(), Credentials(), registry)


def test_an_image_that_a_script_pulls_is_named_only(tmp_path: Path) -> None:
    plan = Choice([multi(env_vars={"DOCKER_IMAGE_NAME": "org/i:1"})]).plan(planner(tmp_path), "", False)
    assert (plan.prebuilt, plan.named, plan.failures) == ({"m": "org/i:1"}, frozenset({"m"}), [])
    built = Choice([multi(env_vars={"DOCKER_IMAGE_NAME": "org/i:1"})]).plan(planner(tmp_path, "reg:5000"), "", False)
    assert not built.named
    assert len(built.failures) == 1, "there is no Dockerfile to build"


def test_one_that_is_named_nowhere_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="m: its script starts containers itself, and no image is named; set"):
        Choice([multi()]).plan(planner(tmp_path), "", False)
