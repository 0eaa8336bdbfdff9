"""A hundred models under a real Slurm of three hosts: by madengine, by the same array typed by hand, and by docker."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from tests.bench.racks import CHECKOUT, FLEET

_MODELS = 100
_NODES = 3


class Seconds(NamedTuple):
    """How long each took, from the submission to the last row, or the end of the last job."""

    ours: float
    #: the array that madengine wrote, by `sbatch --wait`
    same_array: float
    #: an array that calls docker alone
    docker: float


def seconds(fleet: Path, manifest: Path, image: str, docker_host: str) -> Seconds:
    """Run the manifest's model a hundred times on the fleet, in each of the three ways."""
    _call(fleet, [str(CHECKOUT / "tests/bed/slurm"), "up", str(fleet), str(_NODES)])
    archive = fleet / "shared/image.tar"
    subprocess.run(["docker", "save", f"--output={archive}", image], env=_with(DOCKER_HOST=docker_host), check=True)
    for number in range(1, _NODES + 1):
        _on(fleet, number, "docker load --quiet --input /shared/image.tar")
    folder = Path(tempfile.mkdtemp(prefix="bench-", dir=fleet / "shared"))
    folder.chmod(0o755)
    (folder / "build_manifest.json").write_text(json.dumps(_copies(json.loads(manifest.read_text()))))
    inside = f"cd /shared/{folder.name}; "
    program = f"env PYTHONPATH={CHECKOUT} {sys.executable} -m madengine.distributed_cli"
    words = f"{program} {{}} --manifest-file=build_manifest.json --run-id={{}}"
    ours = _timed(fleet, inside + words.format("deploy --target=slurm", "ours"))
    rows = (folder / "perf.csv").read_text().count("SUCCESS")
    if rows != _MODELS:
        sys.exit(f"bench: {rows} of {_MODELS} models succeeded")
    _on(fleet, 1, inside + words.format("generate slurm", "hand"))
    [script] = (folder / "results/hand").glob("job-*.sh")
    same = _timed(fleet, f"{inside} sbatch --wait results/hand/{script.name}")
    line = shlex.join(["docker", "run", "--rm", "--entrypoint=sh", image, "-c", "sleep 1; echo performance: 1 runs"])
    array = f"sbatch --wait --array=0-{_MODELS - 1} --output=/dev/null --wrap={shlex.quote(line)}"
    return Seconds(ours, same, _timed(fleet, inside + array))


def _copies(manifest: dict[str, dict[str, dict[str, object]]]) -> dict[str, object]:
    """The manifest with its only model a hundred times, on nodes that have the image."""
    [image], [model] = manifest["built_images"].values(), manifest["built_models"].values()
    here = {**image, "registry_image": None, "registry_digest": None}
    names = [f"m{number}" for number in range(_MODELS)]
    images, models = dict.fromkeys(names, here), {name: {**model, "name": name} for name in names}
    return {**manifest, "registry": None, "built_images": images, "built_models": models}


def _timed(fleet: Path, script: str) -> float:
    began = time.perf_counter()
    _on(fleet, 1, script)
    return time.perf_counter() - began


def _on(fleet: Path, number: int, script: str) -> None:
    _call(fleet, [str(FLEET), "run", str(number), "sh", "-c", script])


def _call(fleet: Path, words: list[str]) -> None:
    path = f"{os.environ['PATH']}:/usr/sbin:/sbin"
    ended = subprocess.run(words, env=_with(FLEET_DIR=str(fleet), PATH=path), capture_output=True, text=True)
    if ended.returncode != 0:
        sys.exit(f"bench: {shlex.join(words)[:300]} ended with {ended.returncode}:\n{ended.stdout}{ended.stderr}")


def _with(**more: str) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("DOCKER_")}
    return {**inherited, **more}
