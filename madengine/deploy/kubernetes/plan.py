"""Everything that the files are rendered from, read and checked: a manifest, or the package if there is none."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from madengine import __version__
from madengine.config.context import Context, load_context
from madengine.config.credentials import registry_name
from madengine.config.manifest import Manifest, load_manifest
from madengine.config.nodes import common_node_count
from madengine.data_sets.mounts import Data
from madengine.deploy.execution_config import execution_context
from madengine.deploy.kubernetes import names
from madengine.deploy.kubernetes.hook_files import definitions, hook_files
from madengine.deploy.kubernetes.input_config import InputConfig, job_configs, runner_config
from madengine.deploy.kubernetes.options import Options
from madengine.deploy.kubernetes.payload_files import payload_files
from madengine.deploy.kubernetes.section import with_entry_gpus
from madengine.deploy.kubernetes.tasks import Task, TaskSettings, plan_tasks, vendor
from madengine.deploy.kubernetes.unsupported import plan_warnings
from madengine.errors import ConfigurationError
from madengine.records import Image, Model
from madengine.run.selection import selected_images, with_gpu_count, with_models, with_registry
from madengine.session import Session

DEFAULT_MANIFEST = Path("build_manifest.json")
DEFAULT_CONFIG = Path("execution_config.json")


@dataclass(frozen=True)
class PlanInput:
    """What the files are made from."""

    #: The manifest and the execution configuration; None if the user named none.
    manifest_file: Path | None = None
    execution_config: Path | None = None
    #: The models to select, and the registry in place of the manifest's.
    tags: tuple[str, ...] = ()
    registry: str = ""
    #: The model package, if any.
    root: Path | None = None
    environ: Mapping[str, str] | None = None
    #: The user's context, over those of manifest and execution configuration.
    context_file: Path | None = None
    context_text: str | None = None

    @property
    def path(self) -> Path:
        return self.manifest_file or DEFAULT_MANIFEST

    def manifest(self) -> tuple[Manifest, dict[str, str]]:
        """Return the selected images, and the Job's name of every image, selected or not.

        Raises ConfigurationError for an invalid manifest, tag or package.
        """
        if self.manifest_file is None and not os.path.lexists(DEFAULT_MANIFEST):
            return self._discover()
        manifest = load_manifest(self.path)
        if not manifest.images:
            raise ConfigurationError(f"{self.path}: no images; `madengine build` again")
        manifest = with_models(manifest, self.path, self.root)
        job_names = name_jobs(manifest)
        manifest = with_registry(manifest, self.registry)
        for image in manifest.images:
            if not (image.registry_image and image.registry_digest):
                raise ConfigurationError(
                    f"{self.path}: {image.key}: not in a registry, which a cluster pulls from; "
                    "`madengine push --registry …` or build with --registry"
                )
        return selected_images(manifest, self.tags, self.path), job_names

    def context(self, manifest: Manifest) -> Context:
        """Return the context of the manifest, the execution configuration and the user; the later wins."""
        return load_context(manifest.context, self._configuration(), self.context_file, self.context_text)

    def _configuration(self) -> Mapping[str, Any]:
        if self.execution_config is None and not os.path.lexists(DEFAULT_CONFIG):
            return {}
        return execution_context(self.execution_config or DEFAULT_CONFIG)

    def _discover(self) -> tuple[Manifest, dict[str, str]]:
        """Return the images that `build` would push, by name: their digests are unknown."""
        from madengine.build.recipes import Planner
        from madengine.tools.discover_models import DiscoverModels

        if self.root is None:
            raise ConfigurationError(f"{DEFAULT_MANIFEST}: no such manifest, and no models.json here; build first")
        if not self.registry:
            raise ConfigurationError(
                f"{DEFAULT_MANIFEST}: no such manifest; build first, or name the images' registry with --registry"
            )
        registry = registry_name(self.registry)
        credentials = Session(self.root, environ=self.environ or {}).credentials()
        planner = Planner(self.root, Context(), credentials, registry)
        recipes, failures = planner.recipes(DiscoverModels(self.root).select(self.tags, False))
        for failure in failures:
            raise ConfigurationError(f"{failure.model_name}: {failure.error}")
        images = tuple(
            Image(
                key=recipe.key,
                docker_image=recipe.key,
                dockerfile=str(recipe.dockerfile),
                base_docker=recipe.base_docker,
                gpu_vendor=recipe.gpu_vendor,
                guest_os=recipe.guest_os,
                registry_image=recipe.pushed[0],
                self_contained=True,
            )
            for recipe in recipes
        )
        manifest = Manifest(images, {recipe.key: recipe.model for recipe in recipes}, registry)
        return manifest, name_jobs(manifest)


@dataclass(frozen=True)
class Plan:
    """What the files contain."""

    options: Options
    manifest: Manifest
    #: The Jobs' tasks; none if one runner runs the whole manifest.
    tasks: tuple[Task, ...]
    configs: tuple[InputConfig, ...]
    #: The image of the sidecar, or of the runner; empty if there is neither.
    runner_image: str
    #: Seconds that the hooks of one model may take.
    hook_seconds: int
    warnings: tuple[str, ...]

    @property
    def beyond_baseline(self) -> list[str]:
        """The options that Pod Security baseline forbids, of the run or of any Job."""
        each = [self.options, *(task.options for task in self.tasks)]
        return list(dict.fromkeys(name for options in each for name in options.beyond_baseline))

    def config_of(self, job: str) -> str:
        """Return the name of a Job's input ConfigMap."""
        return next(config.name for config in self.configs if job in config.jobs)

    @property
    def pods(self) -> int:
        """How many pods share the ConfigMap of the results."""
        each = self.options.nodes if self.options.nodes > 1 else self.options.least_repeats
        return each * len(self.tasks) or 1


def load_plan(source: PlanInput, options: Options, data_file: Path | None = None) -> Plan:
    """Read and check everything. Raises ConfigurationError for an invalid manifest, configuration or option."""
    manifest, job_names = source.manifest()
    context = source.context(manifest)
    manifest = with_args(for_vendor(manifest, options, source.path), context)
    manifest = with_gpu_count(with_entry_gpus_of(manifest, options), context)
    selected = {image.key: manifest.models[image.key] for image in manifest.images}
    options = replace(options, nodes=common_node_count(options.nodes, context, selected))
    data_file = data_file or (source.root or Path()) / "data.json"
    data = Data.load(data_file, context.values.get("data", {}), provided=manifest.provided_data)
    runner = options.mode == "runner"
    runner_image = _runner_image(manifest, options)
    tools = definitions(manifest, source.root)
    root = None if runner else source.root  # a runner's pod has no package
    payloads = payload_files(manifest, root)
    settings = TaskSettings(options, context, hook_files(manifest, context, tools, root), payloads)
    tasks = () if runner else plan_tasks(manifest, job_names, settings, data)
    configs = (runner_config(manifest, settings, tools),) if runner else job_configs(manifest, tasks, settings)
    lines = [
        *plan_warnings(manifest, settings, runner_image),
        *(f"ignored: {key}" for key in data.ignored_keys),
        *_size_warnings(configs),
    ]
    hook_seconds = settings.hooks.hooks.seconds
    return Plan(options, manifest, tasks, configs, runner_image, hook_seconds, tuple(map(names.one_line, lines)))


def name_jobs(manifest: Manifest) -> dict[str, str]:
    """Return by image: `madengine-<model>-job`, and for further images of a model a name that tells them apart.

    The names depend on the whole manifest, so that a Job has the same name whichever others are selected.
    """
    job_names: dict[str, str] = {}
    seen: set[str] = set()
    for image in manifest.images:
        model = manifest.models[image.key].name
        stem = image.key.removeprefix("ci-") if model in seen else model
        seen.add(model)
        taken = set(job_names.values())
        name = names.job_name(stem, taken)
        job_names[image.key] = names.job_name(f"{stem} {image.key}", taken) if name in taken else name
    return job_names


def for_vendor(manifest: Manifest, options: Options, path: Path) -> Manifest:
    """Return the images for GPUs of the vendor that the options name; all images if they name none."""
    selected = options.gpu_vendor or {"amd.com": "AMD", "nvidia.com": "NVIDIA"}.get(
        options.gpu_resource.partition("/")[0], ""
    )
    if not selected:
        return manifest
    images = tuple(image for image in manifest.images if vendor(image, "") in (selected, ""))
    if not images:
        raise ConfigurationError(f"{path}: no image for gpu_vendor {selected}")
    return replace(manifest, images=images)


def with_entry_gpus_of(manifest: Manifest, options: Options) -> Manifest:
    """Return the models with the GPUs that their entries' `k8s` objects ask for; a runner's pod has those of all."""
    if options.mode == "runner":
        return manifest
    return replace(manifest, models={key: with_entry_gpus(model) for key, model in manifest.models.items()})


def with_args(manifest: Manifest, context: Context) -> Manifest:
    """Return the models with the arguments that they run with, which their rows then have too."""
    if context.model_args is None:
        return manifest
    models: dict[str, Model] = {key: replace(model, args=context.model_args) for key, model in manifest.models.items()}
    return replace(manifest, models=models)


def _size_warnings(configs: Sequence[InputConfig]) -> list[str]:
    if any(config.too_large_to_apply for config in configs):
        return [
            "the input ConfigMap is larger than `kubectl apply` accepts (262,144 bytes); use `kubectl apply "
            "--server-side`"
        ]
    if len(configs) > 1:
        return [
            f"the input is in {len(configs)} ConfigMaps, so that `kubectl apply` accepts them without --server-side"
        ]
    return []


def _runner_image(manifest: Manifest, options: Options) -> str:
    if options.runner_image or (options.results == "pull" and options.mode == "job"):
        return options.runner_image
    if not manifest.registry:
        raise ConfigurationError(
            "the sidecar's image is unknown without a registry; use --runner-image with the output of `madengine "
            "runner-image`, or --results pull, which needs none"
        )
    return f"{manifest.registry}/madengine/runner:{__version__}"
