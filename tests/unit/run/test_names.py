from __future__ import annotations

import re
from dataclasses import replace

import pytest

from madengine.records import Image, Model
from madengine.run.names import log_name, new_run_id

MODEL = Model(name="m", dockerfile="docker/m", scripts="scripts/m", n_gpus="0")
IMAGE = Image(key="k", docker_image="k", dockerfile="m.ubuntu.Dockerfile")


@pytest.mark.parametrize(
    ("name", "dockerfile", "key", "expected"),
    [
        ("dummy", "docker/dummy.ubuntu.amd.Dockerfile", "k", "dummy_dummy.ubuntu.amd.run.live.log"),
        ("a/b", "/x/b.ubuntu.dockerfile", "k", "a_b_b.ubuntu.run.live.log"),
        ("dummy", "", "ci-dummy_ubuntu", "dummy_ci-dummy_ubuntu.run.live.log"),
        ("with space$", "x.Dockerfile", "k", "with_space__x.run.live.log"),
    ],
)
def test_a_log_is_named_after_its_model_and_dockerfile(name: str, dockerfile: str, key: str, expected: str) -> None:
    assert log_name(replace(MODEL, name=name), replace(IMAGE, dockerfile=dockerfile, key=key)) == expected


def test_a_log_name_fits_a_file_system() -> None:
    assert len(log_name(replace(MODEL, name="m" * 400), IMAGE)) < 255


def test_runs_of_one_second_have_different_names() -> None:
    ids = {new_run_id() for _ in range(50)}
    assert len(ids) == 50
    assert all(re.fullmatch(r"\d{8}T\d{6}Z-[0-9a-f]{6}", run_id) for run_id in ids)
