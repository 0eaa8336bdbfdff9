"""The build phase: the selected models built and pushed, manifest and summary written."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from madengine import programs
from madengine.build.builder import DockerBuilder, Failure
from madengine.build.outcome import BuildOutcome, carried_out
from madengine.build.plan import BuildPlan, build_choice
from madengine.build.source_code import ModelCode
from madengine.config.context import Context, host_facts
from madengine.config.credentials import Credentials, registry_login, registry_name
from madengine.config.hooks import Hooks, hook_definitions, hook_files
from madengine.config.manifest import save_manifest
from madengine.config.validation import log_ignored_keys, validated_hooks
from madengine.data_sets.fetch import Client
from madengine.files import check_writable, write_json
from madengine.programs.secret_files import private_folder
from madengine.session import Workplace
from madengine.tools.discover_models import DiscoverModels

logger = logging.getLogger(__name__)

DEFAULT_MANIFEST = Path("build_manifest.json")


@dataclass(frozen=True)
class BuildOptions:
    """How images are built; an empty `registry` pushes nowhere.

    `tools_file` is a tools.json in place of the package's, `architectures` are those that each image is built for;
    `use_image` is an image for all models that is there already (`auto` is the card's own), `batch` a file that says
    for each model whether it is built. With `is_part` the summary goes into a larger one, which alone is named.
    """

    tags: tuple[str, ...] = ()
    registry: str = ""
    manifest_output: Path = DEFAULT_MANIFEST
    summary_output: Path = Path("build_summary.json")
    is_part: bool = False
    no_cache: bool = False
    live_output: bool = False
    ignore_deprecated: bool = False
    jobs: int = 0
    tools_file: Path | None = None
    architectures: tuple[str, ...] = ()
    use_image: str = ""
    batch: Path | None = None
    dry_run: bool = False
    credentials_as_build_args: bool = False


class BuildPhase(Workplace):
    """One build at a workplace."""

    def carry_out(self, options: BuildOptions, detected: Mapping[str, Any] | None = None) -> BuildOutcome:
        """Build and push the selected models, and write manifest and summary; `detected` narrows the choice."""
        began = time.monotonic()
        choice = build_choice(
            DiscoverModels(self.place.root), options.tags, options.ignore_deprecated, options.batch, options.registry
        )
        models = choice.models
        context = self.context({**host_facts(self.place.environ), **(detected or {})}, {})
        log_ignored_keys(context, models)
        defined = hook_definitions(options.tools_file, self.place.root)
        hooks = validated_hooks(context, models, defined)
        if not options.dry_run:
            check_writable(options.manifest_output, options.summary_output)
        credentials = self.credentials({model.cred for model in models})
        registry = registry_name(options.registry) if options.registry else ""
        with self._builder(options, context, credentials, hooks, registry, choice.registries) as builder:
            plan = choice.plan(builder, options.use_image or context.container_image, bool(context.container_image))
            if options.dry_run:
                return self._shown(builder, plan)
            self._say_failures(plan.failures)
            outcome = carried_out(plan, builder, options.jobs or _default_jobs())
        save_manifest(outcome.manifest(registry, context, defined, models), options.manifest_output)
        self._summarise(outcome, registry, options, time.monotonic() - began)
        logger.info(f"manifest: {options.manifest_output}")
        return outcome

    @contextmanager
    def _builder(
        self,
        options: BuildOptions,
        context: Context,
        credentials: Credentials,
        hooks: Hooks,
        registry: str,
        others: Sequence[str],
    ) -> Iterator[DockerBuilder]:
        """What builds, logged in at its registry and the others; the code that models name is gone afterwards."""
        stopping = threading.Event()
        with (
            self.engine(credentials, [registry, *others], options.dry_run) as engine,
            private_folder() as folder,
        ):
            yield DockerBuilder(
                engine=engine,
                root=self.place.root,
                context=context,
                credentials=credentials,
                registry=registry,
                log_directory=options.manifest_output.parent / "build_logs",
                no_cache=options.no_cache,
                live_output=options.live_output,
                architectures=self._architectures(options.architectures, context),
                beside=hook_files(hooks, self.place.root),
                stopping=stopping,
                code=ModelCode(folder, self.place.root, credentials, Client(stopping)),
                credentials_as_build_args=options.credentials_as_build_args,
            )

    def _architectures(self, asked: Sequence[str], context: Context) -> tuple[str, ...]:
        given = context.docker_build_arg.get("MAD_SYSTEM_GPU_ARCHITECTURE")
        if asked and given:
            logger.info(f"--target-archs: not heeded, docker_build_arg says MAD_SYSTEM_GPU_ARCHITECTURE is {given}")
            return ()
        return tuple(asked)

    def _shown(self, builder: DockerBuilder, plan: BuildPlan) -> BuildOutcome:
        self.show("set -e")
        if builder.registry and registry_login(builder.credentials, builder.registry):
            self.show(
                f"# log in first: {builder.engine.name} login --username NAME --password-stdin {builder.registry}"
            )
        for recipe in plan.recipes:
            for line in plan.shell_lines(builder, recipe):
                self.show(programs.redact(line))
        self._say_failures(plan.failures)
        return BuildOutcome((), tuple(plan.failures))

    def _say_failures(self, failures: Sequence[Failure]) -> None:
        for failed in failures:
            logger.info(f"{failed.model_name}: {failed.error}")

    def _summarise(self, outcome: BuildOutcome, registry: str, options: BuildOptions, seconds: float) -> None:
        summary = outcome.summary(registry, seconds)
        write_json(options.summary_output, summary)
        for recipe, image, _ in outcome.images:
            self.show(f"{recipe.key}  {image.reference}")
        built, failed = len(summary["successful_builds"]), len(summary["failed_builds"])
        where_to = "" if options.is_part else f"; summary: {options.summary_output}"
        logger.info(f"built {built} of {built + failed} images in {seconds:.1f} s{where_to}")


def _default_jobs() -> int:
    return max(4, os.cpu_count() or 1)
