"""The build phase: the selected models built and pushed, manifest and summary written."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timezone
from typing import Any

from madengine import programs
from madengine.build.builder import DockerBuilder
from madengine.build.options import BuildOptions
from madengine.build.outcome import BuildOutcome
from madengine.build.plan import BuildPlan, build_choice
from madengine.build.prebuilt_images import NO_DOCKERFILE, prebuilt_image
from madengine.build.recipes import Planner, Recipe
from madengine.build.source_code import ModelCode
from madengine.config.context import Context, host_facts
from madengine.config.credentials import Credentials, registry_login, registry_name
from madengine.config.hooks import Hooks, hook_definitions, hook_files
from madengine.config.manifest import save_manifest
from madengine.config.validation import log_ignored_keys, validated_hooks
from madengine.data_sets.fetch import Client
from madengine.errors import MadengineError
from madengine.files import check_writable, write_json, write_whole
from madengine.programs.secret_files import private_folder
from madengine.records import Image
from madengine.results.summaries import BuiltImage, FailedBuild
from madengine.session import Session
from madengine.tools.discover_models import DiscoverModels

logger = logging.getLogger(__name__)


def build(session: Session, options: BuildOptions, detected: Mapping[str, Any] | None = None) -> BuildOutcome:
    """Build and push the selected models, and write manifest and summary; `detected` narrows the choice.

    Raises MadengineError for what keeps the build from starting.
    """
    started = time.monotonic()
    choice = build_choice(DiscoverModels(session.root), options.tags, options.ignore_deprecated, options.batch)
    context = session.context({**host_facts(session.environ), **(detected or {})}, {})
    log_ignored_keys(context, choice.models)
    tools = hook_definitions(options.tools_file, session.root)
    hooks = validated_hooks(context, choice.models, tools)
    if not options.dry_run:
        check_writable(options.manifest_output, options.summary_output)
    credentials = session.credentials({model.cred for model in choice.models})
    registry = registry_name(options.registry) if options.registry else ""
    planner = Planner(session.root, context, credentials, registry, _architectures(options.architectures, context))
    plan = choice.plan(planner, options.use_image or context.container_image, bool(context.container_image))
    with _builder(session, options, credentials, hooks, [registry, *choice.registries]) as builder:
        if options.dry_run:
            return _show_lines(session, builder, plan, registry)
        _log_failures(plan)
        outcome = _build_images(builder, plan)
    save_manifest(outcome.manifest(registry, context, tools, choice.models), options.manifest_output)
    _summarise(session, outcome, registry, options, time.monotonic() - started)
    logger.info(f"manifest: {options.manifest_output}")
    return outcome


def _architectures(architectures: Sequence[str], context: Context) -> tuple[str, ...]:
    of_context = context.docker_build_arg.get("MAD_SYSTEM_GPU_ARCHITECTURE")
    if architectures and of_context:
        logger.info(f"--target-archs: ignored: docker_build_arg sets MAD_SYSTEM_GPU_ARCHITECTURE to {of_context}")
        return ()
    return tuple(architectures)


@contextmanager
def _builder(
    session: Session, options: BuildOptions, credentials: Credentials, hooks: Hooks, registries: Sequence[str]
) -> Iterator[DockerBuilder]:
    """What builds, logged in at the registries; the code that models name is gone afterwards."""
    stopping = threading.Event()
    with session.engine(credentials, registries, options.dry_run) as engine, private_folder() as folder:
        yield DockerBuilder(
            engine=engine,
            root=session.root,
            credentials=credentials,
            options=options,
            beside=hook_files(hooks, session.root),
            code=ModelCode(folder, session.root, credentials, Client(stopping)),
            stopping=stopping,
        )


def _show_lines(session: Session, builder: DockerBuilder, plan: BuildPlan, registry: str) -> BuildOutcome:
    """Show what would be run, as lines for a POSIX shell."""
    session.show("set -e")
    if registry and registry_login(builder.credentials, registry):
        session.show(f"# log in first: {builder.engine.name} login --username NAME --password-stdin {registry}")
    for recipe in plan.recipes:
        if recipe.key in plan.prebuilt:
            session.show(programs.shell_line(builder.engine.pull(plan.prebuilt[recipe.key])))
        else:
            for line in builder.shell_lines(recipe):
                session.show(programs.redact(line))
    _log_failures(plan)
    return BuildOutcome((), tuple(plan.failures))


def _log_failures(plan: BuildPlan) -> None:
    for failure in plan.failures:
        logger.info(f"{failure.model_name}: {failure.error}")


def _build_images(builder: DockerBuilder, plan: BuildPlan) -> BuildOutcome:
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
    return BuildOutcome(tuple(images[recipe.key] for recipe in plan.recipes if recipe.key in images), tuple(failures))


def _prebuilt(builder: DockerBuilder, plan: BuildPlan, recipe: Recipe) -> Image | FailedBuild:
    """Take the image of a recipe that is not built."""
    name = plan.prebuilt[recipe.key]
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


def _summarise(session: Session, outcome: BuildOutcome, registry: str, options: BuildOptions, seconds: float) -> None:
    summary = outcome.summary(registry, seconds)
    write_json(options.summary_output, summary)
    for built in outcome.images:
        session.show(f"{built.image.key}  {built.image.reference}")
    built_count, failed_count = len(summary["successful_builds"]), len(summary["failed_builds"])
    where = "" if options.is_part else f"; summary: {options.summary_output}"
    logger.info(f"built {built_count} of {built_count + failed_count} images in {seconds:.1f} s{where}")
