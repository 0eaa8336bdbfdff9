"""Many hosts on this machine for a benchmark: a fleet, and the playbook that does the same on it."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CHECKOUT = Path(__file__).parents[2]
FLEET = CHECKOUT / "tests/bed/fleet"
PROGRAMS = Path(sys.executable).parent


@contextmanager
def hosts(count: int) -> Iterator[Path]:
    """So many hosts with a dockerd each; gives the fleet's folder."""
    # Short: it holds sockets.
    folder = Path(tempfile.mkdtemp(prefix="fleet-", dir="/tmp"))
    # Each host has an engine of its own; the test bed's is not theirs.
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("DOCKER_")}
    environment = {**inherited, "FLEET_DIR": str(folder), "FLEET_OWNER": str(os.getpid())}
    try:
        subprocess.run([FLEET, "up", str(count), "own"], env=environment, check=True)
        yield folder
    finally:
        subprocess.run([FLEET, "down"], env=environment, check=True)


@contextmanager
def playbook(folder: Path, fleet: Path, bed: Path) -> Iterator[list[str]]:
    """The command that runs a folder's manifest on all hosts by Ansible, as many at once as there are."""
    inventory = (fleet / "inventory.ini").read_text().replace("[fleet", "[gpu_nodes")
    machine = inventory.partition("ansible_host=")[2].split()[0].rpartition(".")[0] + ".254"
    with _registry(machine, bed / "plain", fleet) as address:
        (folder / "gpu_inventory").write_text(
            f"{inventory}madengine_path=/home/fleet/by-ansible\nregistry_url={address}\nmadengine_engine=docker\n"
        )
        for verb in (["export-config"], ["generate", "ansible"]):
            line = [sys.executable, "-m", "madengine.distributed_cli", *verb]
            subprocess.run(line, cwd=folder, env={**os.environ, "PYTHONPATH": str(CHECKOUT)}, check=True)
        settings = {
            "ANSIBLE_HOME": str(fleet / "ansible"),
            "ANSIBLE_SSH_CONTROL_PATH_DIR": str(fleet / "cp"),
            "ANSIBLE_PIPELINING": "1",
            "ANSIBLE_FORKS": "16",
            "PATH": f"{PROGRAMS}:{os.environ['PATH']}",
        }
        yield ["env", *(f"{name}={value}" for name, value in settings.items()), *_PLAY]


_PLAY = ["ansible-playbook", "-i", "gpu_inventory", "madengine_distributed.yml", "-e", "madengine_poll=1"]


@contextmanager
def _registry(machine: str, storage: Path, scratch: Path) -> Iterator[str]:
    """The images of another registry once more, at an address that the hosts reach."""
    settings, log = scratch / "registry.yml", scratch / "registry.log"
    settings.write_text(
        f"version: 0.1\nhttp: {{addr: '{machine}:0', secret: x}}\nstorage: {{filesystem: {{rootdirectory: {storage}}}}}"
    )
    # REGISTRY_AUTH_FILE is podman's, but this program would take it for a setting.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("REGISTRY")}
    with log.open("w") as output:
        words = ["docker-registry", "serve", str(settings)]
        process = subprocess.Popen(words, env=environment, stdout=output, stderr=output)
    try:
        limit = time.monotonic() + 30
        while "listening on" not in (said := log.read_text()):
            if time.monotonic() > limit:
                sys.exit(f"bench: docker-registry did not start: {said}")
            time.sleep(0.05)
        yield said.partition("listening on")[2].split('"')[0].strip()
    finally:
        process.terminate()
        process.wait(20)


def check(table: Path, count: int) -> None:
    """A benchmark counts only where every run left its row, and the row is a success."""
    with table.open(newline="") as file:
        rows = [row["status"] for row in csv.DictReader(file)]
    if rows != ["SUCCESS"] * count:
        sys.exit(f"bench: {rows.count('SUCCESS')} of {len(rows)} rows are successes; {count} were expected")
