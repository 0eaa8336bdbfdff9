"""A build's plan, carried out or shown: images are built and pushed, prebuilt ones are taken as they are."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timezone

from madengine import programs
from madengine.build.builder import DockerBuilder
from madengine.build.outcome import BuildOutcome
from madengine.build.plan import BuildPlan
from madengine.build.prebuilt_images import NO_DOCKERFILE, prebuilt_image
from madengine.build.recipes import Recipe
from madengine.config.credentials import registry_login
from madengine.errors import MadengineError
from madengine.files import write_whole
from madengine.records import Image
from madengine.results.summaries import BuiltImage, FailedBuild

logger = logging.getLogger(__name__)


def shell_lines(builder: DockerBuilder, plan: BuildPlan, registry: str) -> Iterator[str]:
    """Yield what `execute` runs, as lines for a POSIX shell."""
    yield "set -e"
    if registry and registry_login(builder.credentials, registry):
        yield f"# log in first: {builder.engine.name} login --username NAME --password-stdin {registry}"
    for recipe in plan.recipes:
        if recipe.key in plan.named:
            yield f"# {recipe.key}: its script pulls {plan.prebuilt[recipe.key]}"
        elif recipe.key in plan.prebuilt:
            yield programs.shell_line(builder.engine.pull(plan.prebuilt[recipe.key]))
        else:
            yield from builder.shell_lines(recipe)


def execute(builder: DockerBuilder, plan: BuildPlan) -> BuildOutcome:
    """Build and push what the plan says; a failure ends nothing but itself."""
    images: dict[str, BuiltImage] = {}
    failures = list(plan.failures)

    def done(recipe: Recipe, result: Image | FailedBuild) -> None:
        image = result.image if isinstance(result, FailedBuild) else result
        if image is not None:
            name = recipe.pushed[-1] if recipe.pushed else image.docker_image
            images[recipe.key] = BuiltImage(image, recipe.model, name, datetime.now(timezone.utc))
        if isinstance(result, FailedBuild):
            failures.append(result)

    for recipe in plan.recipes:
        if recipe.key in plan.prebuilt:
            done(recipe, _prebuilt(builder, plan, recipe))
    recipes = [recipe for recipe in plan.recipes if recipe.key not in plan.prebuilt]
    builder.build_all(recipes, builder.options.jobs or max(4, os.cpu_count() or 1), done)
    in_order = (images[recipe.key] for recipe in plan.recipes if recipe.key in images)
    return BuildOutcome(tuple(in_order), tuple(failures))


def _prebuilt(builder: DockerBuilder, plan: BuildPlan, recipe: Recipe) -> Image | FailedBuild:
    """Take the image of a recipe that is not built."""
    name = plan.prebuilt[recipe.key]
    if recipe.key in plan.named:
        logger.info(f"{recipe.key}: its script pulls {name}; nothing is built")
        return Image(recipe.key, docker_image=name, dockerfile=NO_DOCKERFILE, extra=dict(plan.prebuilt_keys))
    try:
        image = prebuilt_image(builder.engine, recipe.key, name, recipe.model, plan.prebuilt_keys)
        log = builder.options.log_directory / f"{recipe.log_name}.build.skipped.log"
        write_whole(log, f"not built: {name} ({image.image_id})\n")
    except MadengineError as error:
        logger.info(f"{recipe.key}: {error}")
        return FailedBuild(recipe.model.name, str(recipe.dockerfile), str(error))
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
