"""What came of a build's plan, and what the manifest and the summary say of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any, NamedTuple

from madengine.build.builder import DockerBuilder, Failure, Recipe
from madengine.build.plan import BuildPlan
from madengine.config.context import Context
from madengine.config.manifest import Manifest
from madengine.errors import EXIT_BUILD_FAILED, EXIT_DONE
from madengine.records import Image, Model
from madengine.results.rows import BuiltImage, FailedBuild, build_summary


class RecipeResult(NamedTuple):
    """An image, what it was built from, and when it was ready."""

    recipe: Recipe
    image: Image
    at: datetime


@dataclass(frozen=True)
class BuildOutcome:
    """What a build phase made (in the plan's order) and what failed."""

    images: tuple[RecipeResult, ...]
    failures: tuple[Failure, ...]

    @property
    def exit_code(self) -> int:
        return EXIT_BUILD_FAILED if self.failures else EXIT_DONE

    def manifest(self, registry: str, context: Context, tools: Mapping[str, Any], models: Sequence[Model]) -> Manifest:
        """The manifest of what was made; `tools` are the package's, `models` all that were to be built."""
        required = sorted({model.cred for model in models if model.cred})
        return Manifest(
            images=tuple(built.image for built in self.images),
            models={built.image.key: built.recipe.model for built in self.images},
            registry=registry,
            context=context.for_manifest,
            extra={
                # A node has no tools.json to look its tools up in.
                **({"tools": tools} if tools else {}),
                **({"credentials_required": required} if required else {}),
            },
        )

    def summary(self, registry: str, seconds: float) -> dict[str, Any]:
        """The content of build_summary.json; what was built and could not be pushed has failed."""
        broken = {failed.image.key for failed in self.failures if failed.image}
        built = [
            BuiltImage(image, recipe.model, recipe.pushed[-1] if recipe.pushed else image.docker_image, at)
            for recipe, image, at in self.images
            if image.key not in broken
        ]
        failed = [FailedBuild(one.model_name, one.dockerfile, one.error, one.log_file) for one in self.failures]
        return build_summary(built, failed, seconds, registry)


def carried_out(plan: BuildPlan, builder: DockerBuilder, jobs: int) -> BuildOutcome:
    """Build and push what the plan says, `jobs` at a time; a failure ends nothing but itself."""
    images: dict[str, RecipeResult] = {}
    recipes, failed = plan.recipes, list(plan.failures)

    def done(recipe: Recipe, came: Image | Failure) -> None:
        image = came.image if isinstance(came, Failure) else came
        if image is not None:
            images[recipe.key] = RecipeResult(recipe, image, datetime.now(timezone.utc))
        if isinstance(came, Failure):
            failed.append(came)

    for recipe in recipes:
        if recipe.key in plan.ready:
            done(recipe, plan.taken(builder, recipe))
    builder.build_all([recipe for recipe in recipes if recipe.key not in plan.ready], jobs, done)
    in_order = [images[recipe.key] for recipe in recipes if recipe.key in images]
    return BuildOutcome(tuple(in_order), tuple(failed))
