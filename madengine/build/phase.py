"""The build phase: the selected models built and pushed, manifest and summary written."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from madengine.build.builder import DockerBuilder
from madengine.build.execution import execute, shell_lines
from madengine.build.image_archives import save_archives
from madengine.build.options import BuildOptions
from madengine.build.outcome import BuildOutcome
from madengine.build.package_files import check_inside
from madengine.build.plan import Choice, build_choice
from madengine.build.recipes import Planner
from madengine.config.context import Context, host_facts
from madengine.config.context_keys import JOB_FLAGS
from madengine.config.credentials import Credentials, registry_name
from madengine.config.hooks import Hooks, hook_definitions, hook_files
from madengine.config.ignored_keys import log_ignored_keys
from madengine.config.manifest import Manifest, save_manifest
from madengine.config.validation import validated_hooks
from madengine.files import check_writable, write_json
from madengine.process import private_folder
from madengine.programs import redact
from madengine.records import Model
from madengine.session import Session
from madengine.tools.discover_models import DiscoverModels

logger = logging.getLogger(__name__)

if TYPE_CHECKING:
    from madengine.build.source_code import ModelCode


def build(
    session: Session, options: BuildOptions, detected: Mapping[str, Any] | None = None, architecture: str = ""
) -> BuildOutcome:
    """Build and push the selected models, and write manifest and summary; `detected` narrows the choice.

    `architecture` is that of this machine's GPUs, for the Dockerfiles that ask for it.
    Raises MadengineError for what keeps the build from starting.
    """
    started = time.monotonic()
    choice = build_choice(DiscoverModels(session.root), options.tags, options.ignore_deprecated, options.batch)
    context = session.context({**host_facts(session.environ), **(detected or {})}, {})
    # The manifest has those that only some targets honour.
    log_ignored_keys(context, choice.models, honoured=(*JOB_FLAGS, "env_file"))
    tools = hook_definitions(options.tools_file, session.root)
    hooks = validated_hooks(context, choice.models, tools)
    if not options.dry_run:
        check_writable(options.manifest_output, options.summary_output)
    credentials = session.credentials({model.cred for model in choice.models})
    registry = registry_name(options.registry) if options.registry else ""
    architectures = _architectures(options.architectures, context)
    planner = Planner(session.root, context, credentials, registry, architectures, options.outside_files, architecture)
    image = options.use_image or context.container_image
    plan = choice.plan(planner, image, is_of_context=bool(context.container_image))
    with _builder(session, options, credentials, hooks, registry, choice) as builder:
        for failure in plan.failures:
            logger.info(f"{failure.model_name}: {failure.error}")
        if options.dry_run:
            for line in shell_lines(builder, plan, registry):
                session.show(redact(line))
            return BuildOutcome((), tuple(plan.failures))
        outcome = execute(builder, plan)
        if not registry:
            save_archives(builder.engine, [built.image for built in outcome.images], session.environ)
    summary = outcome.summary(registry, time.monotonic() - started)
    data = _provided_data(session.root, choice.models)
    _save(outcome.manifest(registry, context, tools, choice.models, data), summary, options)
    _report(session, outcome, summary, options)
    return outcome


def _provided_data(root: Path, models: Sequence[Model]) -> list[str]:
    if not any(model.data for model in models):
        return []
    from madengine.data_sets.mounts import provided_names

    return provided_names(root / "data.json", models)


def _architectures(architectures: Sequence[str], context: Context) -> tuple[str, ...]:
    of_context = context.docker_build_arg.get("MAD_SYSTEM_GPU_ARCHITECTURE")
    if architectures and of_context:
        logger.info(f"--target-archs: ignored: docker_build_arg sets MAD_SYSTEM_GPU_ARCHITECTURE to {of_context}")
        return ()
    return tuple(architectures)


@contextmanager
def _builder(
    session: Session,
    options: BuildOptions,
    credentials: Credentials,
    hooks: Hooks,
    registry: str,
    choice: Choice,
) -> Iterator[DockerBuilder]:
    """What builds, logged in at the registries; the code that models name is gone afterwards."""
    stopping, beside = threading.Event(), hook_files(hooks, session.root)
    if not options.outside_files:
        check_inside(beside.values(), session.root)
    # Without a registry, Docker Hub is where base images are pulled that are not here.
    pushed, pulled = [registry] if registry else [], choice.registries if registry else ("", *choice.registries)
    engine_ready = session.engine(credentials, pushed, options.dry_run, may_fail=pulled)
    with engine_ready as engine, private_folder() as folder:
        code = _model_code(choice.models, folder, session.root, credentials, stopping)
        yield DockerBuilder(
            engine=engine,
            root=session.root,
            credentials=credentials,
            options=options,
            beside=beside,
            code=replace(code, commit=options.commit) if code else None,
            stopping=stopping,
        )


def _model_code(
    models: Sequence[Model], folder: Path, root: Path, credentials: Credentials, stopping: threading.Event
) -> ModelCode | None:
    if not any(model.url for model in models):
        return None
    from madengine.build.source_code import ModelCode
    from madengine.data_sets.fetch import Client

    return ModelCode(folder, root, credentials, Client(stopping))


def _save(manifest: Manifest, summary: Mapping[str, Any], options: BuildOptions) -> None:
    """Write both files at once: each waits for the disk."""
    with ThreadPoolExecutor(max_workers=2) as pool:
        writes = [
            pool.submit(save_manifest, manifest, options.manifest_output),
            pool.submit(write_json, options.summary_output, summary),
        ]
    for write in writes:
        write.result()


def _report(session: Session, outcome: BuildOutcome, summary: Mapping[str, Any], options: BuildOptions) -> None:
    for built in outcome.images:
        session.show(f"{built.image.key}  {built.image.reference}")
    built_count, failed_count = len(summary["successful_builds"]), len(summary["failed_builds"])
    where = "" if options.is_part else f"; summary: {options.summary_output}"
    logger.info(
        f"built {built_count} of {built_count + failed_count} images in {summary['total_build_time']:.1f} s{where}"
    )
    logger.info(f"manifest: {options.manifest_output}")
