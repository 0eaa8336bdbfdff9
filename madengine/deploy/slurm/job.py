"""A manifest becomes folders, one for each task of a job array, and a script for each array."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from madengine.config.manifest import Manifest, load_manifest, save_manifest
from madengine.config.package import template
from madengine.deploy.slurm.options import SlurmOptions
from madengine.deploy.slurm.settings import sbatch_lines
from madengine.errors import ConfigurationError
from madengine.files import write_whole
from madengine.records import Image
from madengine.run.names import slug

MANIFEST = "manifest.json"
# From the warning to the end of a job, for the container's stop and the row.
_WARNING_SECONDS = 60
_BATCH = "slurm/job.sh"


@dataclass(frozen=True)
class ArrayTask:
    """What one job of the array runs."""

    number: int
    #: what its job and its folder are called
    name: str
    manifest: Manifest
    #: GPUs that it asks Slurm for
    gpus: int

    def folder_in(self, run_folder: Path) -> Path:
        return run_folder / f"{self.number}-{slug(self.name)}"


@dataclass(frozen=True)
class JobSetting:
    """What is the same for all jobs of a run."""

    run_id: str
    options: SlurmOptions
    #: absolute, and shared by all nodes
    run_folder: Path
    #: where credential.json and data.json are looked for
    submit_folder: Path
    #: of the node's `madengine`, without the manifest
    words: Sequence[str]
    #: variables for the rows' cells that a node can't know
    environ: Mapping[str, str]


def tasks_of(manifest: Manifest, options: SlurmOptions) -> list[ArrayTask]:
    """Return a task for each model, or one for all of them.

    Raises ConfigurationError for a model whose number of GPUs Slurm can't be asked for.
    """
    groups: dict[str, list[Image]] = {}
    for image in manifest.images:
        model = manifest.models.get(image.key)
        groups.setdefault("" if options.one_job else model.name if model else image.key, []).append(image)
    return [
        ArrayTask(
            number=number,
            name=name or "models",
            manifest=_part(manifest, images),
            gpus=max(_gpu_count(manifest, image, options) for image in images),
        )
        for number, (name, images) in enumerate(groups.items())
    ]


def write_task(task: ArrayTask, run_folder: Path) -> None:
    """Write a task's manifest, without the choice of GPUs, which is Slurm's."""
    folder = task.folder_in(run_folder)
    folder.mkdir(parents=True, exist_ok=True)
    context = {key: value for key, value in task.manifest.context.items() if key != "docker_gpus"}
    save_manifest(replace(task.manifest, context=context), folder / MANIFEST)


def read_task(folder: Path) -> ArrayTask:
    """Return the task of a folder that `write_task` has written. Raises ConfigurationError for another one."""
    number, _, name = folder.name.partition("-")
    if not number.isdecimal():
        raise ConfigurationError(f"{folder}: not the folder of a Slurm job")
    return ArrayTask(int(number), name, load_manifest(folder / MANIFEST), 0)


def write_scripts(tasks: Sequence[ArrayTask], setting: JobSetting) -> list[tuple[Path, list[ArrayTask]]]:
    """Write a script for the tasks that ask for equally many GPUs; return each with its tasks."""
    by_gpus: dict[int, list[ArrayTask]] = {}
    for task in tasks:
        by_gpus.setdefault(task.gpus, []).append(task)
    scripts = []
    for gpus, group in by_gpus.items():
        path = setting.run_folder / f"job-{gpus}-gpus.sh"
        write_whole(path, "\n".join([*_header(group, gpus, setting), *_variables(setting), template(_BATCH)]), 0o755)
        scripts.append((path, group))
    return scripts


def log_path(run_folder: Path, job: int, number: int) -> Path:
    """Return where Slurm writes what a task prints."""
    return run_folder / f"slurm-{job}_{number}.log"


def _header(tasks: Sequence[ArrayTask], gpus: int, setting: JobSetting) -> Iterator[str]:
    numbers = ",".join(str(task.number) for task in tasks)
    limit = f"%{setting.options.max_running}" if setting.options.max_running else ""
    name = slug(tasks[0].name) if len(tasks) == 1 else setting.run_id
    yield "#!/bin/bash -l"
    for words in (
        f"--job-name=madengine-{name}",
        f"--array={numbers}{limit}",
        f"--output={setting.run_folder}/slurm-%A_%a.log",
        "--nodes=1",
        "--ntasks=1",
        # What this machine's shell has set, such as a virtual environment, is nothing for a node.
        "--export=NONE",
        # Of a job that is queued again, the log has each attempt.
        "--open-mode=append",
        *([] if setting.options.requeue else ["--no-requeue"]),
        f"--signal=B:TERM@{_WARNING_SECONDS}",
        *([f"--gpus-per-node={gpus}"] if gpus else []),
        *sbatch_lines(setting.options),
    ):
        yield f"#SBATCH {words}"


def _variables(setting: JobSetting) -> Iterator[str]:
    """Yield what the script's fixed part uses, quoted for bash."""
    values = {
        "run_folder": str(setting.run_folder),
        "submit_folder": str(setting.submit_folder),
        "python": setting.options.remote_python,
    }
    yield from (f"{name}={shlex.quote(value)}" for name, value in values.items())
    yield f"modules=({shlex.join(setting.options.modules)})"
    yield f"words=({shlex.join(setting.words)})"
    yield from (f"export {name}={shlex.quote(value)}" for name, value in setting.environ.items())


def _part(manifest: Manifest, images: Sequence[Image]) -> Manifest:
    keys = {image.key for image in images}
    models = {key: model for key, model in manifest.models.items() if key in keys}
    return replace(manifest, images=tuple(images), models=models)


def _gpu_count(manifest: Manifest, image: Image, options: SlurmOptions) -> int:
    model = manifest.models.get(image.key)
    vendor = image.vendor or str(manifest.context.get("gpu_vendor") or "").upper()
    if vendor == "NONE":
        return 0
    if options.gpus_per_node is not None:
        return options.gpus_per_node
    if model is None or not model.n_gpus:
        return 1 if vendor else 0
    if model.n_gpus == "-1":
        raise ConfigurationError(
            f"{model.name}: runs on all GPUs of a node, and Slurm has to be asked for a number: --gpus-per-node"
        )
    return int(model.n_gpus)
