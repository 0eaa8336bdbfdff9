"""A build on a node of Slurm, for clusters whose login nodes have no container engine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from madengine import programs
from madengine.config.context import Context
from madengine.config.manifest import load_manifest, save_manifest
from madengine.deploy.bundle import write_bundle
from madengine.deploy.slurm.settings import SlurmSettings, sbatch_lines
from madengine.errors import EXIT_BUILD_FAILED, EXIT_DONE, ConfigurationError

# As madengine 2 has it.
_TIME = "02:00:00"
_BUNDLE = "build.pyz"


def build_on_compute(words: Sequence[str], manifest_file: Path, registry: str, context: Context) -> int:
    """Run `build` with these words on a node, which has this folder; mark the images; return the exit code.

    Raises ConfigurationError without a registry, and for what Slurm can't be asked for.
    """
    if not registry:
        raise ConfigurationError("--build-on-compute: the images would stay on that node; push them with --registry")
    options = SlurmSettings({}, context).of_run
    if options.node_folder:
        raise ConfigurationError("--build-on-compute: node_folder is unsupported: nodes need the package; leave it out")
    options = replace(options, time=options.time or _TIME, requeue=False)
    bundle = write_bundle(Path.cwd() / options.output_dir / _BUNDLE)
    line = ("--nodes=1", "--ntasks=1", *sbatch_lines(options), options.remote_python, str(bundle), "build", *words)
    code = programs.foreground(programs.program("srun", *line))
    if code in (EXIT_DONE, EXIT_BUILD_FAILED) and manifest_file.exists():
        _mark(manifest_file, {"built_on_compute": True})
    return code


def _mark(path: Path, marks: Mapping[str, bool]) -> None:
    manifest = load_manifest(path)
    images = tuple(replace(image, extra={**image.extra, **marks}) for image in manifest.images)
    save_manifest(replace(manifest, images=images), path)
