"""Which images a build makes, and which it takes as they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from madengine.build.image_names import log_name
from madengine.build.prebuilt_images import NO_DOCKERFILE, BatchEntry, image_named_by, load_batch
from madengine.build.recipes import Planner, Recipe
from madengine.config.credentials import registry_image, registry_name
from madengine.errors import ConfigurationError
from madengine.records import Model
from madengine.results.summaries import FailedBuild
from madengine.tools.discover_models import DiscoverModels


@dataclass(frozen=True)
class BuildPlan:
    """The images of a build in their order."""

    recipes: list[Recipe]
    failures: list[FailedBuild]
    #: The names of the images that are not built, by the recipe's key.
    prebuilt: Mapping[str, str] = field(default_factory=dict)
    #: What the manifest's entries of these say besides.
    prebuilt_keys: Mapping[str, object] = field(default_factory=dict)
    #: The keys of those that are only named: the models' scripts pull them on nodes.
    named: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Choice:
    """The models of a build."""

    models: Sequence[Model]
    #: Those of a batch manifest, one for each model, or none.
    entries: Sequence[BatchEntry] = ()

    @property
    def registries(self) -> tuple[str, ...]:
        """The registries of the entries."""
        return tuple(registry_name(entry.registry) for entry in self.entries if entry.registry)

    def plan(self, planner: Planner, image: str, is_of_context: bool) -> BuildPlan:
        """Plan what is built and what isn't; `image` is one for all models, by the context or by --use-image.

        Raises ConfigurationError where that and a batch manifest contradict one another, or names do.
        """
        if image and self.entries:
            raise ConfigurationError(f"{image}: not together with --batch-manifest, which names the images")
        if image:
            return self._of_one_image(image, is_of_context)
        named = [] if self.entries or planner.registry else [each for each in self.models if planner.is_on_host(each)]
        recipes, failures = planner.recipes([model for model in self.models if model not in named])
        if not self.entries:
            names = {model.name: _name_on_host(model) for model in named}
            recipes += [_no_recipe(model, model.name) for model in named]
            return BuildPlan(recipes, failures, names, {"local_image": True}, frozenset(names))
        by_model = {id(model): entry for model, entry in zip(self.models, self.entries, strict=True)}
        entries = {recipe.key: by_model[id(recipe.model)] for recipe in recipes}
        _refuse_shared_names(recipes, entries)
        return BuildPlan(
            [replace(recipe, pushed=_pushed(planner, recipe, entries[recipe.key])) for recipe in recipes],
            failures,
            {key: _name(planner, key, entry) for key, entry in entries.items() if not entry.build_new},
            {"build_status": "SKIPPED"},
        )

    def _of_one_image(self, image: str, is_of_context: bool) -> BuildPlan:
        prefix = "local-" if is_of_context else ""
        recipes = [_no_recipe(model, f"{prefix}{model.name}") for model in self.models]
        names = {recipe.key: image_named_by(recipe.model) if image == "auto" else image for recipe in recipes}
        keys = {"local_image": True, "build_status": "SKIPPED"} if is_of_context else {"prebuilt": True}
        return BuildPlan(recipes, [], names, keys)


def build_choice(models: DiscoverModels, tags: Sequence[str], deprecated: bool, batch_manifest: Path | None) -> Choice:
    """Choose the models that the tags select, or those of a batch manifest.

    Raises ConfigurationError for both at once, and where a batch manifest is wrong.
    """
    if batch_manifest is None:
        return Choice(models.select(tags, deprecated))
    if tags:
        raise ConfigurationError(f"--tags {' '.join(tags)}: not together with --batch-manifest, which names the models")
    pairs = [
        (model, entry)
        for entry in load_batch(batch_manifest)
        for model in models.select([entry.model_name], deprecated)
    ]
    return Choice([model for model, _ in pairs], [entry for _, entry in pairs])


def _pushed(planner: Planner, recipe: Recipe, entry: BatchEntry) -> tuple[str, ...]:
    if not entry.build_new:
        return ()
    if entry.registry or entry.registry_image:
        return (_name(planner, recipe.key, entry),)
    return recipe.pushed


def _name(planner: Planner, key: str, entry: BatchEntry) -> str:
    """The name of an entry's image, in the registry where it names one."""
    registry = registry_name(entry.registry) if entry.registry else planner.registry
    return entry.registry_image or (registry_image(registry, key, planner.credentials) if registry else key)


def _name_on_host(model: Model) -> str:
    """Return the image that a script pulls by itself. Raises ConfigurationError where its model names none."""
    try:
        return image_named_by(model)
    except ConfigurationError:
        raise ConfigurationError(
            f"{model.name}: its script starts containers itself, and no image is named; set env_vars.DOCKER_IMAGE_NAME "
            "or --use-image, or build and push one with --registry"
        ) from None


def _no_recipe(model: Model, key: str) -> Recipe:
    return Recipe(key, log_name(model, Path("ready")), model, Path(NO_DOCKERFILE))


def _refuse_shared_names(recipes: Sequence[Recipe], entries: Mapping[str, BatchEntry]) -> None:
    owners: dict[str, str] = {}
    for recipe in recipes:
        name = entries[recipe.key].registry_image
        if name and owners.setdefault(name, recipe.key) != recipe.key:
            raise ConfigurationError(
                f"batch manifest: {name} would be both {owners[name]} and {recipe.key}; "
                "choose one with the context's gpu_vendor, or name a registry instead"
            )
