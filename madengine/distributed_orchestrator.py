"""The phases end to end: build, push, run, full, export-config."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from madengine.errors import EXIT_DONE, EXIT_FAILURE
from madengine.files import check_writable, read_json, write_json
from madengine.programs import uninterrupted
from madengine.session import Session

logger = logging.getLogger(__name__)

if TYPE_CHECKING:
    from madengine.build.options import BuildOptions
    from madengine.build.outcome import BuildOutcome
    from madengine.config.context import Context
    from madengine.records import Gpu
    from madengine.results.summaries import FailedBuild
    from madengine.run.options import RunOptions


@dataclass(frozen=True)
class ThisMachine:
    """The GPUs of this machine, and what they say about an image for it."""

    #: None where a run has to look for them again.
    gpus: tuple[Gpu, ...] | None
    detected: Mapping[str, Any]
    architecture: str


@dataclass(frozen=True)
class DistributedOrchestrator:
    """Runs the phases of a session, and imports only what each needs.

    Every phase returns the command's exit code, and raises MadengineError for what keeps it from starting.
    """

    session: Session

    def build_phase(
        self, options: BuildOptions, detected: Mapping[str, Any] | None = None, architecture: str = ""
    ) -> BuildOutcome:
        """Build and push the selected models, and write manifest and summary; `detected` narrows the choice.

        `architecture` is that of this machine's GPUs, for the Dockerfiles that ask for it.
        """
        with self.session.engine_search():
            # An interrupt in the middle of a dataclass would be a RuntimeError.
            with uninterrupted():
                from madengine.build.phase import build

            return build(self.session, options, detected, architecture)

    def push_phase(self, manifest_file: Path, registry: str, dry_run: bool) -> int:
        """Push the images of a manifest that its registry doesn't have yet; the manifest then pins them."""
        from madengine.build.push import push

        return push(self.session, manifest_file, registry, dry_run)

    def run_phase(
        self,
        manifest_file: Path,
        options: RunOptions,
        not_built: Iterable[FailedBuild] = (),
        gpus: tuple[Gpu, ...] | None = None,
    ) -> int:
        """Run a manifest's models on this machine; every one gets a row."""
        from madengine.run.phase import run_manifest

        return run_manifest(self.session, manifest_file, options, not_built, gpus)

    def this_machine(self, nodes: int) -> ThisMachine:
        """Return what a build and a run here need to know of this machine's GPUs.

        Raises ConfigurationError where the context asks for what no run here can do, or for several `nodes`.
        """
        from madengine.machine.gpus import architecture_of, detected_context, find_gpus
        from madengine.machine.visible_gpus import visible_gpus

        context = self.refuse_unsupported(nodes)
        self.session.choose_rocm()
        gpus = find_gpus()
        visible = gpus.items if context.docker_gpus else tuple(visible_gpus(gpus.items, self.session.environ))
        return ThisMachine(
            gpus=None if gpus.fails else gpus.items,
            detected=detected_context(replace(gpus, items=visible)),
            architecture=architecture_of(visible),
        )

    def refuse_unsupported(self, nodes: int) -> Context:
        """Return the user's context.

        Raises ConfigurationError where it asks for what no run here can do, or for several `nodes`.
        """
        from madengine.config.nodes import refuse_other_nodes
        from madengine.config.validation import refuse_unsupported

        context = self.session.context({}, {})
        refuse_unsupported(context)
        refuse_other_nodes(nodes, context)
        return context

    def full_phase(self, build: BuildOptions, options: RunOptions) -> int:
        """Build for this machine's GPUs, then run the images."""
        from madengine.results.perf_csv import check_perf_csv

        # Before the build, which is for this vendor.
        here = self.this_machine(options.nodes)
        check_perf_csv(options.output)
        summary = options.summary_output
        build_part, run_part = (
            summary.with_name(f"{summary.stem}.{part}{summary.suffix}") for part in ("build", "run")
        )
        build = replace(build, summary_output=build_part, is_part=True)
        options = replace(options, summary_output=run_part, is_part=True, tags=())
        if not build.dry_run:
            check_writable(summary)
        outcome = self.build_phase(build, here.detected, here.architecture)
        if build.dry_run:
            logger.info(
                "the run's lines need the manifest that these write: `madengine run --manifest-file … --dry-run`"
            )
            return outcome.exit_code
        code = EXIT_FAILURE
        try:
            code = self.run_phase(build.manifest_output, options, outcome.failures, here.gpus)
            code = outcome.exit_code or code
        finally:
            # An interrupted run has a summary too.
            _join_summaries(summary, {"build_phase": build_part, "run_phase": run_part}, code)
        return code

    def export_config(self, tags: Sequence[str], output: Path, ignore_deprecated: bool) -> int:
        """Write what other tools need to plan: models, context and the names of the credentials; needs no GPU."""
        from madengine.config.ignored_keys import log_ignored_keys
        from madengine.config.models_json import entry_of
        from madengine.tools.discover_models import DiscoverModels

        models = DiscoverModels(self.session.root).select(tags, ignore_deprecated)
        context = self.session.context({}, {})
        log_ignored_keys(context, models)
        write_json(
            output,
            {
                "models": [entry_of(model) for model in models],
                "context": {
                    "docker_env_vars": context.docker_env_vars,
                    "docker_mounts": context.docker_mounts,
                    "gpu_vendor": context.gpu_vendor,
                    "docker_gpus": context.docker_gpus,
                },
                "credentials_required": sorted({model.cred for model in models if model.cred}),
            },
        )
        logger.info(f"execution configuration of {len(models)} model{'s' * (len(models) != 1)}: {output}")
        return EXIT_DONE


def _join_summaries(summary: Path, parts: Mapping[str, Path], code: int) -> None:
    # A part that could not be written, as on a full disk, was reported then.
    contents = {name: read_json(path, missing={}) for name, path in parts.items()}
    write_json(summary, {**contents, "overall_success": code == EXIT_DONE})
    for path in parts.values():
        path.unlink(missing_ok=True)
    logger.info(f"summary: {summary}")
