"""Which images a build makes, and which it takes as they are."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from madengine import programs
from madengine.build.builder import DockerBuilder, Failure, Recipe
from madengine.build.image_names import log_name
from madengine.build.prebuilt_images import NO_DOCKERFILE, BatchEntry, image_named_by, load_batch, prebuilt_image
from madengine.config.credentials import registry_image, registry_name
from madengine.errors import ConfigurationError, MadengineError
from madengine.files import write_whole
from madengine.records import Image, Model
from madengine.tools.discover_models import DiscoverModels

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class BuildPlan:
    """The images of a build in their order; `ready` names, by the recipe's key, those that are not built.

    `marks` says in the manifest what they are.
    """

    recipes: list[Recipe]
    failures: list[Failure]
    ready: Mapping[str, str] = field(default_factory=dict)
    marks: Mapping[str, object] = field(default_factory=dict)

    def taken(self, builder: DockerBuilder, recipe: Recipe) -> Image | Failure:
        """The image of a recipe that is not built."""
        name = self.ready[recipe.key]
        try:
            image = prebuilt_image(builder.engine, recipe.key, name, recipe.model, self.marks)
            log = builder.log_directory / f"{recipe.log_name}.build.skipped.log"
            write_whole(log, f"not built: {name} ({image.image_id})\n")
        except MadengineError as error:
            logger.info(f"{recipe.key}: {error}")
            return Failure(recipe.model.name, str(recipe.dockerfile), str(error))
        logger.info(f"{recipe.key}: taking {name}")
        if str(recipe.dockerfile) == NO_DOCKERFILE:
            return image
        return replace(
            image,
            dockerfile=str(recipe.dockerfile),
            base_docker=recipe.base_docker,
            docker_sha="",
            gpu_vendor=recipe.gpu_vendor,
            guest_os=recipe.guest_os,
        )

    def shell_lines(self, builder: DockerBuilder, recipe: Recipe) -> Iterator[str]:
        """What is run for an image, as lines for a POSIX shell."""
        if recipe.key in self.ready:
            yield programs.shell_line(builder.engine.pull(self.ready[recipe.key]))
        else:
            yield from builder.shell_lines(recipe)


@dataclass(frozen=True)
class Choice:
    """The models of a build; `entries` are those of a batch manifest, one for each model, or none."""

    models: Sequence[Model]
    entries: Sequence[BatchEntry] = ()
    registry: str = ""

    @property
    def registries(self) -> tuple[str, ...]:
        """The registries of the entries."""
        return tuple(registry_name(entry.registry) for entry in self.entries if entry.registry)

    def plan(self, builder: DockerBuilder, image: str, is_of_context: bool) -> BuildPlan:
        """What is built and what isn't; `image` is one for all models, by the context or by --use-image."""
        if image and self.entries:
            raise ConfigurationError(f"{image}: not together with --batch-manifest, which names the images")
        if image:
            key = "local-{}" if is_of_context else "{}"
            recipes = [_no_recipe(model, key.format(model.name)) for model in self.models]
            names = [image_named_by(model) if image == "auto" else image for model in self.models]
            marks = {"local_image": True, "build_status": "SKIPPED"} if is_of_context else {"prebuilt": True}
            ready = {recipe.key: name for recipe, name in zip(recipes, names, strict=True)}
            return BuildPlan(recipes, [], ready, marks)
        recipes, failures = builder.plan(self.models)
        if not self.entries:
            return BuildPlan(recipes, failures)
        by_model = {id(model): entry for model, entry in zip(self.models, self.entries, strict=True)}
        of = {recipe.key: by_model[id(recipe.model)] for recipe in recipes}
        _refuse_shared_names(recipes, of)
        return BuildPlan(
            [replace(recipe, pushed=self._pushed(builder, recipe, of[recipe.key])) for recipe in recipes],
            failures,
            {key: self._reference(builder, key, entry) for key, entry in of.items() if not entry.build_new},
            {"build_status": "SKIPPED"},
        )

    def _pushed(self, builder: DockerBuilder, recipe: Recipe, entry: BatchEntry) -> tuple[str, ...]:
        if not entry.build_new:
            return ()
        if entry.registry or entry.registry_image:
            return (self._reference(builder, recipe.key, entry),)
        return recipe.pushed

    def _reference(self, builder: DockerBuilder, key: str, entry: BatchEntry) -> str:
        """The name of an entry's image, in the registry where it names one."""
        registry = registry_name(entry.registry) if entry.registry else builder.registry
        return entry.registry_image or (registry_image(registry, key, builder.credentials) if registry else key)


def build_choice(
    found: DiscoverModels, tags: Sequence[str], deprecated: bool, batch: Path | None, registry: str
) -> Choice:
    """The models that the tags select, or those of a batch manifest.

    Raises ConfigurationError for both at once, and where a batch manifest is wrong.
    """
    if batch is None:
        return Choice(found.select(tags, deprecated), registry=registry)
    if tags:
        raise ConfigurationError(f"--tags {' '.join(tags)}: not together with --batch-manifest, which names the models")
    models, entries = [], []
    for entry in load_batch(batch):
        for model in found.select([entry.model_name], deprecated):
            models.append(model)
            entries.append(entry)
    return Choice(models, entries, registry)


def _no_recipe(model: Model, key: str) -> Recipe:
    path = Path(NO_DOCKERFILE)
    return Recipe(key, log_name(model, Path("ready")), model, path, gpu_vendor="", guest_os="", base_docker="")


def _refuse_shared_names(recipes: Sequence[Recipe], of: Mapping[str, BatchEntry]) -> None:
    owners: dict[str, str] = {}
    for recipe in recipes:
        name = of[recipe.key].registry_image
        if name and owners.setdefault(name, recipe.key) != recipe.key:
            raise ConfigurationError(
                f"batch manifest: {name} would be both {owners[name]} and {recipe.key}; "
                "choose one with the context's gpu_vendor, or name a registry instead"
            )
