"""A manifest becomes folders, one for each task of a job array, and a script for each array."""

from __future__ import annotations

import base64
import io
import re
import shlex
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from madengine.config.manifest import Manifest, load_manifest, save_manifest
from madengine.config.package import template
from madengine.config.values import shown_key
from madengine.deploy.bundle import sources_bundle
from madengine.deploy.slurm.options import SlurmOptions
from madengine.deploy.slurm.settings import JobShape, SlurmSettings, sbatch_lines
from madengine.errors import ConfigurationError
from madengine.files import read_json, write_whole
from madengine.programs.slurm import NUMBER_SUFFIX
from madengine.records import Image
from madengine.run.names import slug

BUNDLE, MANIFEST = "madengine.pyz", "manifest.json"
#: the jobs of a run's tasks
RECORD = "slurm.json"
# From the warning to the end of a job, for the container's stop and the row.
_WARNING_SECONDS = 60
_BATCH = "slurm/job.sh"
# Before it, where nodes share nothing.
_UNSHARED = "slurm/unshared.sh"
_PAYLOAD = "# payload\n"


@dataclass(frozen=True)
class ArrayTask:
    """What one job of the array runs."""

    number: int
    #: what its job and its folder are called
    name: str
    manifest: Manifest
    #: GPUs of each node that it asks Slurm for
    gpus: int
    shape: JobShape

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
    #: whether files come to the nodes that no script may hold
    has_private_files: bool = False


def tasks_of(manifest: Manifest, settings: SlurmSettings) -> list[ArrayTask]:
    """Return a task for each model, or one for all of them.

    Raises ConfigurationError for what a model asks Slurm for and can't have.
    """
    is_one_job = settings.of_run.one_job
    groups: dict[str, list[Image]] = {}
    for image in manifest.images:
        model = manifest.models.get(image.key)
        groups.setdefault("" if is_one_job else model.name if model else image.key, []).append(image)
    return [_task(number, name, manifest, images, settings) for number, (name, images) in enumerate(groups.items())]


def _task(number: int, name: str, manifest: Manifest, images: Sequence[Image], settings: SlurmSettings) -> ArrayTask:
    shapes = [settings.of_model(manifest.models.get(image.key)) for image in images]
    if any(shape != shapes[0] for shape in shapes):
        raise ConfigurationError("--one-job: model entries ask Slurm for different things (`slurm`); leave it out")
    return ArrayTask(
        number=number,
        name=name or "models",
        manifest=_part(manifest, images),
        gpus=max(_gpu_count(manifest, image, shapes[0].options) for image in images),
        shape=shapes[0],
    )


def write_task(task: ArrayTask, run_folder: Path) -> None:
    """Write a task's manifest, without the choice of GPUs, which is Slurm's."""
    folder = task.folder_in(run_folder)
    folder.mkdir(parents=True, exist_ok=True)
    context = {key: value for key, value in task.manifest.context.items() if key != "docker_gpus"}
    models = {
        key: replace(model, extra={**model.extra, **({"slurm": task.shape.section} if task.shape.is_on_host else {})})
        for key, model in task.manifest.models.items()
    }
    save_manifest(replace(task.manifest, context=context, models=models), folder / MANIFEST)


def submitted_jobs(run_folder: Path) -> dict[str, int]:
    """Return the jobs of a run's tasks, by the names of the tasks' folders.

    Raises ConfigurationError where none was submitted, or the record isn't one.
    """
    record = read_json(run_folder / RECORD, missing={"jobs": _jobs_by_hand(run_folder)})
    jobs = record.get("jobs") if isinstance(record, dict) else None
    if not isinstance(jobs, dict) or not jobs:
        raise ConfigurationError(f"{run_folder}: no run that was submitted to Slurm")
    for name, job in jobs.items():
        if not isinstance(job, int):
            raise ConfigurationError(f"{run_folder / RECORD}: {shown_key(name)}: expected a job's number")
    return jobs


def _jobs_by_hand(run_folder: Path) -> dict[str, int]:
    """Return the jobs of the tasks' folders whose scripts were submitted by the lines that `--dry-run` prints."""
    jobs: dict[str, int] = {}
    for note in run_folder.glob(f"*.sh{NUMBER_SUFFIX}"):
        number = re.match(r"(\d{1,18})(;|\s|$)", note.read_text(encoding="utf-8"))
        array = re.search(r"^#SBATCH --array=([\d,]+)", note.with_suffix("").read_text(encoding="utf-8"), re.MULTILINE)
        for task in array[1].split(",") if number and array else ():
            jobs.update({folder.name: int(number[1]) for folder in run_folder.glob(f"{task}-*") if number})
    return jobs


def read_task(folder: Path) -> ArrayTask:
    """Return the task of a folder that `write_task` has written. Raises ConfigurationError for another one."""
    number, _, name = folder.name.partition("-")
    if not number.isdecimal():
        raise ConfigurationError(f"{folder}: not the folder of a Slurm job")
    return ArrayTask(int(number), name, load_manifest(folder / MANIFEST), 0, JobShape(SlurmOptions()))


def write_scripts(tasks: Sequence[ArrayTask], setting: JobSetting) -> list[tuple[Path, list[ArrayTask]]]:
    """Write a script for the tasks that ask for the same; return each with its tasks."""
    groups: list[list[ArrayTask]] = []
    for task in tasks:
        same = next((group for group in groups if (group[0].gpus, group[0].shape) == (task.gpus, task.shape)), None)
        if same is None:
            groups.append([task])
        else:
            same.append(task)
    scripts: list[tuple[Path, list[ArrayTask]]] = []
    for group in groups:
        path = setting.run_folder / _script_name(group[0], [path.name for path, _ in scripts])
        parts = [*_header(group, setting), *_variables(group[0], path.name, setting)]
        if setting.options.node_folder:
            parts.append(template(_UNSHARED))
        parts.append(template(_BATCH))
        if setting.options.node_folder:
            parts.append(_PAYLOAD + _payload(group, setting.run_folder))
        write_whole(path, "\n".join(parts), 0o755)
        scripts.append((path, group))
    return scripts


def _payload(tasks: Sequence[ArrayTask], run_folder: Path) -> str:
    """Return madengine and the tasks' manifests as a compressed tar, in base64."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as archive:
        _add(archive, "madengine.pyz", sources_bundle())
        for task in tasks:
            path = task.folder_in(run_folder) / MANIFEST
            _add(archive, str(path.relative_to(run_folder)), path.read_bytes())
    return base64.encodebytes(file.getvalue()).decode()


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    archive.addfile(entry, io.BytesIO(content))


def _script_name(task: ArrayTask, others: Sequence[str]) -> str:
    nodes = f"-{task.shape.nodes}-nodes" if task.shape.nodes > 1 else ""
    stem = f"job-{task.gpus}-gpus{nodes}"
    names = (f"{stem}.sh", *(f"{stem}-{number}.sh" for number in range(2, len(others) + 2)))
    return next(name for name in names if name not in others)


def log_path(run_folder: Path, job: int, number: int) -> Path:
    """Return where Slurm writes what a task prints."""
    return run_folder / f"slurm-{job}_{number}.log"


def _header(tasks: Sequence[ArrayTask], setting: JobSetting) -> Iterator[str]:
    gpus, shape = tasks[0].gpus, tasks[0].shape
    numbers = ",".join(str(task.number) for task in tasks)
    limit = f"%{setting.options.max_running}" if setting.options.max_running else ""
    name = slug(tasks[0].name) if len(tasks) == 1 else setting.run_id
    yield "#!/bin/bash -l"
    for words in (
        f"--job-name=madengine-{name}",
        f"--array={numbers}{limit}",
        *_places(setting),
        f"--nodes={shape.nodes}",
        f"--ntasks-per-node={shape.ntasks_per_node or 1}",
        # What this machine's shell has set, such as a virtual environment, is nothing for a node.
        "--export=NONE",
        # Of a job that is queued again, the log has each attempt.
        "--open-mode=append",
        *([] if shape.options.requeue else ["--no-requeue"]),
        f"--signal=B:TERM@{_WARNING_SECONDS}",
        *([f"--gpus-per-node={gpus}"] if gpus else []),
        *sbatch_lines(shape.options),
    ):
        yield f"#SBATCH {words}"


def _places(setting: JobSetting) -> Sequence[str]:
    """Return where a job works and logs; where nodes share nothing, its script writes the log to the task's folder."""
    if setting.options.node_folder:
        return ("--output=/dev/null", "--chdir=/")
    return (f"--output={setting.run_folder}/slurm-%A_%a.log",)


def _variables(task: ArrayTask, script: str, setting: JobSetting) -> Iterator[str]:
    """Yield what the script's fixed part uses, quoted for bash."""
    shared = {"run_folder": str(setting.run_folder), "submit_folder": str(setting.submit_folder), "script": script}
    own = {
        "node_folder": setting.options.node_folder,
        "run_id": setting.run_id,
        "private": "yes" if setting.has_private_files else "",
    }
    values = {"python": setting.options.remote_python, **(own if setting.options.node_folder else shared)}
    if not setting.options.node_folder:
        yield f"starter=({shlex.quote(f'{setting.run_folder}/{BUNDLE}')})"
    yield from (f"{name}={shlex.quote(value)}" for name, value in values.items())
    yield f"modules=({shlex.join(setting.options.modules)})"
    shape = task.shape
    yield f"check={'yes' if shape.options.enable_node_check else ''}"
    engine = [word for word in setting.words if word.startswith("--engine=")]
    yield f"engine=({shlex.join(engine)})"
    yield f"nodes={1 if shape.is_on_host else shape.nodes}"
    yield f"words=({shlex.join([*setting.words, *([] if shape.is_on_host else [f'--nodes={shape.nodes}'])])})"
    exported = {**setting.environ, **task.shape.variables}
    yield from (f"export {name}={shlex.quote(value)}" for name, value in exported.items())


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
