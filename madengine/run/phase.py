"""The run phase: what a manifest holds for this machine, with its context, its hooks and its credentials, is run."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from madengine.build.prebuilt_images import NO_DOCKERFILE, prebuilt_image
from madengine.config.context import Context, host_facts
from madengine.config.hooks import hook_definitions
from madengine.config.manifest import Manifest, load_manifest
from madengine.config.validation import log_ignored_keys, validated_hooks
from madengine.data_sets.mounts import Data
from madengine.errors import ConfigurationError
from madengine.machine.gpus import NONE, detected_vendor, find_gpus
from madengine.programs.engine import Docker
from madengine.records import Gpu, Image, Model
from madengine.results.rows import check_perf_csv
from madengine.run.node import LocalRun, RunOptions
from madengine.run.selection import (
    images_for_machine,
    pull_registries,
    selected_images,
    unfinished_models,
    with_models,
    with_registry,
)
from madengine.session import Workplace

logger = logging.getLogger(__name__)

if TYPE_CHECKING:
    from madengine.build.builder import Failure


class RunPhase(Workplace):
    """One run at a workplace."""

    def carry_out(
        self,
        manifest_file: Path,
        options: RunOptions,
        not_built: Iterable[Failure] = (),
        gpus: tuple[Gpu, ...] | None = None,
    ) -> int:
        """Run a manifest's models on this machine, one after another; every one gets a row."""
        not_built = tuple(not_built)
        root = self.place.root if self.place.has_package else None
        kept, context, gpus = self._asked_for(manifest_file, options, root, gpus, may_be_empty=bool(not_built))
        models = [kept.models[image.key] for image in kept.images]
        defined = hook_definitions(options.tools_file, root) or kept.extra.get("tools") or {}
        hooks = validated_hooks(context, models, defined)
        chosen, skipped = images_for_machine(kept, context, gpus)
        if options.resume:
            chosen = unfinished_models(chosen, options.resume)
        check_perf_csv(options.output)
        credentials = self.credentials({*self._data_credentials(options, context), *(one.cred for one, _ in chosen)})
        run = LocalRun(
            options=options,
            context=context,
            gpus=gpus,
            chosen=chosen,
            skipped=skipped,
            root=root,
            data_folder=self.place.root,
            environ=self.place.environ,
            credentials=credentials,
            hooks=hooks,
            show=self.show,
        )
        with self.engine(credentials, pull_registries(chosen, kept.registry), options.dry_run) as engine:
            if context.container_image:
                run.chosen, run.skipped = self._all_in(context.container_image, models, engine), ()
            if options.dry_run:
                return run.show_lines(engine)
            return run.carry_out(engine, [(_named(failed), failed.error) for failed in not_built])

    def _data_credentials(self, options: RunOptions, context: Context) -> set[str]:
        """The credentials that data sets ask for; keys of data.json that nobody heeds are said."""
        data = Data.load(options.data_file or self.place.root / "data.json", context.values.get("data", {}))
        for key in data.ignored_keys:
            logger.info(f"{key}: not acted on by this version")
        return data.credential_names()

    def _asked_for(
        self,
        manifest_file: Path,
        options: RunOptions,
        root: Path | None,
        gpus: tuple[Gpu, ...] | None,
        may_be_empty: bool,
    ) -> tuple[Manifest, Context, tuple[Gpu, ...]]:
        """What is asked for of a manifest (a model for every image of it), and the context and the GPUs of its run."""
        kept = load_manifest(manifest_file)
        if not kept.images and not may_be_empty:
            raise ConfigurationError(f"{manifest_file}: holds no images; `madengine build` again")
        kept = with_models(kept, manifest_file, root)
        context, gpus = self._on_this_machine(kept, gpus)
        kept = selected_images(with_registry(kept, options.registry), options.tags, manifest_file)
        if not options.is_part:
            log_ignored_keys(context, [kept.models[image.key] for image in kept.images])
        return kept, context, gpus

    def _on_this_machine(self, kept: Manifest, gpus: tuple[Gpu, ...] | None) -> tuple[Context, tuple[Gpu, ...]]:
        """The context of a run here, and the GPUs that it may use: `gpus`, or those that are found."""
        gpus = find_gpus() if gpus is None else gpus
        detected = {**host_facts(self.place.environ), "gpu_vendor": detected_vendor(gpus)}
        context = self.context(detected, _context_here(kept, gpus))
        if context.gpu_vendor != detected_vendor(gpus):
            # Images of the vendor that the context says can use that vendor's GPUs only.
            gpus = find_gpus(context.gpu_vendor)
        return context, gpus

    def _all_in(self, name: str, models: Sequence[Model], engine: Docker) -> list[tuple[Model, Image]]:
        """Every model with the context's image."""
        return [(model, self._in_place(name, model, engine)) for model in _distinct(models)]

    def _in_place(self, name: str, model: Model, engine: Docker) -> Image:
        """The context's image for a model, whatever was built; one that is not here the run itself pulls."""
        key, marks = f"local-{model.name}", {"local_image": True}
        if engine.images(name):
            return prebuilt_image(engine, key, name, model, marks)
        return Image(key, docker_image=name, dockerfile=NO_DOCKERFILE, registry_image=name, extra=marks)


def _context_here(manifest: Manifest, gpus: tuple[Gpu, ...]) -> Mapping[str, Any]:
    """Return the manifest's context, with its gpu_vendor only if this machine has such GPUs: others skip its images."""
    vendor = Context(manifest.context).gpu_vendor
    if vendor in (NONE, detected_vendor(gpus)) or (vendor and find_gpus(vendor)):
        return manifest.context
    return {key: value for key, value in manifest.context.items() if key != "gpu_vendor"}


def _distinct(models: Iterable[Model]) -> list[Model]:
    distinct: list[Model] = []
    for model in models:
        if model not in distinct:
            distinct.append(model)
    return distinct


def _named(failed: Failure) -> Model:
    return Model(name=failed.model_name, dockerfile=failed.dockerfile, scripts="", n_gpus="")
