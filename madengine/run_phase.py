"""The run phase: what a manifest holds for this machine, with its context, its hooks and its credentials, is run."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from madengine import context as contexts
from madengine import manifest as manifests
from madengine import results, selection
from madengine.building import ready_images
from madengine.context import Context
from madengine.data import Data
from madengine.errors import ConfigurationError
from madengine.machine import gpus as gpu_finder
from madengine.manifest import Manifest
from madengine.node_run import NodeRun, RunOptions
from madengine.programs.engine import Docker
from madengine.records import Gpu, Image, Model
from madengine.running import hooks as hook_values
from madengine.running.asked import checked
from madengine.workplace import Workplace

if TYPE_CHECKING:
    from madengine.docker_builder import Failure


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
        defined = hook_values.definitions(options.tools_file, root) or kept.extra.get("tools") or {}
        hooks = checked(context, models, defined)
        chosen, skipped = selection.fitting(kept, context, gpus)
        if options.resume:
            chosen = selection.unfinished(chosen, options.resume, self.say)
        results.check(options.output)
        credentials = self.credentials({*self._data_credentials(options, context), *(one.cred for one, _ in chosen)})
        run = NodeRun(
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
            say=self.say,
            show=self.show,
        )
        with self.engine(credentials, selection.registries(chosen, kept.registry), options.dry_run) as engine:
            if context.container_image:
                run.chosen, run.skipped = self._all_in(context.container_image, models, engine), ()
            if options.dry_run:
                return run.show_lines(engine)
            return run.carry_out(engine, [(_named(failed), failed.error) for failed in not_built])

    def _data_credentials(self, options: RunOptions, context: Context) -> set[str]:
        """The credentials that data sets ask for; keys of data.json that nobody heeds are said."""
        data = Data.load(options.data_file or self.place.root / "data.json", context.values.get("data", {}))
        for key in data.unheeded:
            self.say(f"{key}: not acted on by this version")
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
        kept = manifests.load(manifest_file)
        if not kept.images and not may_be_empty:
            raise ConfigurationError(f"{manifest_file}: holds no images; `madengine build` again")
        kept = selection.with_models(kept, manifest_file, root)
        context, gpus = self._on_this_machine(kept, gpus)
        kept = selection.selected(selection.overridden(kept, options.registry), options.tags, manifest_file)
        self._say_what_is_unheeded(context, [kept.models[image.key] for image in kept.images])
        return kept, context, gpus

    def _on_this_machine(self, kept: Manifest, gpus: tuple[Gpu, ...] | None) -> tuple[Context, tuple[Gpu, ...]]:
        """The context of a run here, and the GPUs that it may use: `gpus`, or those that are found."""
        gpus = gpu_finder.found() if gpus is None else gpus
        detected = {**contexts.host_facts(self.place.environ), "gpu_vendor": gpu_finder.vendor(gpus)}
        context = self.context(detected, kept.context)
        if context.gpu_vendor != gpu_finder.vendor(gpus):
            # Images of the vendor that the context says can use that vendor's GPUs only.
            gpus = gpu_finder.found(context.gpu_vendor)
        return context, gpus

    def _say_what_is_unheeded(self, context: Context, models: Sequence[Model]) -> None:
        if context.unheeded:
            self.say(f"context: {', '.join(context.unheeded)}: not acted on by a run on this machine")
        for model in _distinct(models):
            if keys := [key for key in ("distributed", "slurm") if model.extra.get(key)]:
                self.say(f"{model.name}: {', '.join(keys)}: not acted on by a run on this machine")

    def _all_in(self, name: str, models: Sequence[Model], engine: Docker) -> list[tuple[Model, Image]]:
        """Every model with the context's image."""
        return [(model, self._in_place(name, model, engine)) for model in _distinct(models)]

    def _in_place(self, name: str, model: Model, engine: Docker) -> Image:
        """The context's image for a model, whatever was built; one that is not here the run itself pulls."""
        key, marks = f"local-{model.name}", {"local_image": True}
        if engine.images(name):
            return ready_images.image(engine, key, name, model, marks, self.say)
        return Image(key, docker_image=name, dockerfile=ready_images.NO_DOCKERFILE, registry_image=name, extra=marks)


def _distinct(models: Iterable[Model]) -> list[Model]:
    distinct: list[Model] = []
    for model in models:
        if model not in distinct:
            distinct.append(model)
    return distinct


def _named(failed: Failure) -> Model:
    return Model(name=failed.model_name, dockerfile=failed.dockerfile, scripts="", n_gpus="")
