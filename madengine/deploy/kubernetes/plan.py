"""Which images become Jobs, and under which names: out of a manifest, or out of the package where there is none."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from madengine.config.context import Context, load_context
from madengine.config.credentials import registry_name
from madengine.config.manifest import Manifest, load_manifest
from madengine.deploy.execution_config import execution_context
from madengine.deploy.kubernetes import names
from madengine.deploy.kubernetes.jobs import vendor
from madengine.deploy.kubernetes.options import Options
from madengine.errors import ConfigurationError
from madengine.records import Image, Model
from madengine.run.selection import selected_images, with_registry
from madengine.session import Session

DEFAULT_MANIFEST = Path("build_manifest.json")
DEFAULT_CONFIG = Path("execution_config.json")


@dataclass(frozen=True)
class PlanInput:
    """What the files are made from: `tags` and `registry` narrow or replace what the manifest says.

    `manifest_file` and `execution_config` are None where the user named none; `root` is the model package, None where
    there is none.
    """

    manifest_file: Path | None = None
    execution_config: Path | None = None
    tags: tuple[str, ...] = ()
    registry: str = ""
    root: Path | None = None
    environ: Mapping[str, str] | None = None

    @property
    def path(self) -> Path:
        return self.manifest_file or DEFAULT_MANIFEST

    def manifest(self) -> tuple[Manifest, dict[str, str]]:
        """The images that are wanted, and the Job's name of every image, wanted or not.

        Raises ConfigurationError for a manifest, tag or package that can't be used.
        """
        if self.manifest_file is None and not os.path.lexists(DEFAULT_MANIFEST):
            return self._discovered()
        kept = load_manifest(self.path)
        if not kept.images:
            raise ConfigurationError(f"{self.path}: holds no images; `madengine build` again")
        for image in kept.images:
            if image.key not in kept.models or not image.self_contained:
                raise ConfigurationError(
                    f"{self.path}: {image.key}: an older manifest, whose images don't carry their scripts; "
                    "`madengine build` again"
                )
        names_of = job_names(kept)
        kept = with_registry(kept, self.registry)
        for image in kept.images:
            if not (image.registry_image and image.registry_digest):
                raise ConfigurationError(
                    f"{self.path}: {image.key} was never pushed, and a cluster can only pull; "
                    "`madengine push --registry …` or build with --registry"
                )
        return selected_images(kept, self.tags, self.path), names_of

    def context(self, kept: Manifest) -> Context:
        """What the manifest and the execution configuration say of the runs; the latter wins."""
        return load_context(kept.context, self._configuration(), None, None)

    def _configuration(self) -> Mapping[str, Any]:
        """What export-config said, where it did."""
        if self.execution_config is None and not os.path.lexists(DEFAULT_CONFIG):
            return {}
        return execution_context(self.execution_config or DEFAULT_CONFIG)

    def _discovered(self) -> tuple[Manifest, dict[str, str]]:
        """The images that `build` would push, by name: without a manifest nobody knows their digests."""
        from madengine.build.recipes import Planner
        from madengine.tools.discover_models import DiscoverModels

        if self.root is None:
            raise ConfigurationError(f"{DEFAULT_MANIFEST}: no such manifest, and no models.json here; build first")
        if not self.registry:
            raise ConfigurationError(
                f"{DEFAULT_MANIFEST}: no such manifest; build first, or say with --registry where the images are"
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
        kept = Manifest(images, {recipe.key: recipe.model for recipe in recipes}, registry)
        return kept, job_names(kept)


def job_names(kept: Manifest) -> dict[str, str]:
    """By image: `madengine-<model>-job`, and for further images of a model what tells them apart too.

    They depend on the whole manifest, so that a Job has the same name whichever others are chosen.
    """
    named: dict[str, str] = {}
    seen: set[str] = set()
    for image in kept.images:
        model = kept.models[image.key].name
        wanted = image.key.removeprefix("ci-") if model in seen else model
        seen.add(model)
        named[image.key] = names.job_name(wanted, named.values())
        if named[image.key] in list(named.values())[:-1]:
            named[image.key] = names.job_name(f"{wanted} {image.key}", named.values())
    return named


def for_vendor(kept: Manifest, options: Options, path: Path) -> Manifest:
    """The images for GPUs of the vendor that the user, or the resource's name, says; of all vendors otherwise."""
    wanted = options.gpu_vendor or {"amd.com": "AMD", "nvidia.com": "NVIDIA"}.get(
        options.gpu_resource.partition("/")[0], ""
    )
    if not wanted:
        return kept
    blind = replace(options, gpu_vendor="")
    images = tuple(image for image in kept.images if vendor(image, blind) in (wanted, ""))
    if not images:
        raise ConfigurationError(f"{path}: none of its images is for gpu_vendor {wanted}")
    return replace(kept, images=images)


def with_args(kept: Manifest, context: Context) -> Manifest:
    """The models with the arguments that they run with, which their rows then have too."""
    if context.model_args is None:
        return kept
    models: dict[str, Model] = {key: replace(model, args=context.model_args) for key, model in kept.models.items()}
    return replace(kept, models=models)
