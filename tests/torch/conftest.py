"""Models that train with PyTorch for CPUs: the hosts of the fleet and Slurm on them, with other models."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.bed.components import Registry, outcome
from tests.engine.conftest import _missing
from tests.engine.packages import Package
from tests.fleet.conftest import CHECKOUT, _command, base_image, bed, cluster, controller, fleet, hosts, registry, slurm

__all__ = ["base_image", "bed", "cluster", "controller", "fleet", "hosts", "registry", "slurm"]

# Each rank gives its number, so that the sum tells whether all of them took part. FAILS names one that raises; with
# MEETING, a folder, two runs train at the same time.
TRAINING = """\
import os
import time

import torch
import torch.distributed as dist

dist.init_process_group("gloo")
rank = dist.get_rank()
if meeting := os.environ.get("MEETING"):
    open(f"{meeting}/{os.environ['MASTER_PORT']}", "w").close()
    while len(os.listdir(meeting)) < 2:
        time.sleep(0.05)
for step in range(10):
    if step == 5 and str(rank) == os.environ.get("FAILS"):
        raise ValueError("the loss is not a number")
    total = torch.tensor([float(rank)])
    dist.all_reduce(total)
    time.sleep(0.05)
print(f"rank {rank} of {dist.get_world_size()}\\n", end="")
if rank == 0:
    print(f"performance: {total.item():g} sum_of_ranks")
dist.destroy_process_group()
"""
_ENVIRONMENT = CHECKOUT / ".cache/torch"


@pytest.fixture(scope="session")
def torch_options() -> str:
    """Options that give a container this machine's PyTorch, and the libraries that it needs, to read."""
    python = _ENVIRONMENT / "bin/python"
    if not python.exists():
        _missing(f"PyTorch is not in {_ENVIRONMENT}")
    prefix = outcome([str(python), "-c", "import sys; print(sys.base_prefix)"], {}).stdout.strip()
    folders = {"/usr", "/lib", "/lib64", str(_ENVIRONMENT), prefix}
    mounts = [f"--volume={folder}:{folder}:ro" for folder in sorted(folders) if Path(folder).is_dir()]
    return " ".join([*mounts, f"--env=PATH={_ENVIRONMENT}/bin:/usr/bin:/bin", "--env=PYTHONDONTWRITEBYTECODE=1"])


@pytest.fixture(scope="session")
def built(
    bed: Mapping[str, str],
    base_image: str,
    registry: Registry,
    torch_options: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """The manifest of `together`, for several nodes, `dies`, one of whose ranks raises, and `alone`, for one node."""
    if "no_docker" in bed:
        _missing(bed["no_docker"])
    package = Package(tmp_path_factory.mktemp("torch") / "package", base_image)
    processes = {"launcher": "torchrun", "nproc_per_node": 2}
    for name, options in (("together", ""), ("dies", "--env=FAILS=3"), ("alone", "--network=host")):
        prefix = package.add(
            name,
            # Without this file libc looks for each address in the DNS first.
            steps="RUN echo 'hosts: files' >/etc/nsswitch.conf",
            script="$MAD_MULTI_NODE_RUNNER train.py\n",
            distributed=processes,
            additional_docker_run_options=f"{torch_options} {options}",
        )
        (package.folder / f"scripts/{prefix}/train.py").write_text(TRAINING, encoding="utf-8")
    address = registry.address.replace("127.0.0.1", "localhost")
    environment = {"DOCKER_HOST": bed["DOCKER_HOST"], "PYTHONPATH": str(CHECKOUT)}
    outcome(_command("build", "--registry", address), environment, cwd=package.folder)
    return package.folder / "build_manifest.json"
