"""A namespace of a Kubernetes cluster as a target."""

from __future__ import annotations

import logging
import os
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from madengine import programs
from madengine.config.common_options import (
    ContextOptions,
    DataFileOptions,
    ExecutionConfigOptions,
    RegistryOptions,
    RowsOptions,
    TagOptions,
)
from madengine.config.manifest import load_manifest
from madengine.config.option import from_options
from madengine.deploy.kubernetes.collect import Collected, collect_results
from madengine.deploy.kubernetes.generate import CONFIGMAP, JOB, generate_kubernetes
from madengine.deploy.kubernetes.options import KubeContextOptions, Options, SidecarOptions
from madengine.deploy.kubernetes.plan import PlanInput
from madengine.deploy.kubernetes.runner_image import push
from madengine.deploy.kubernetes.section import with_section
from madengine.deploy.target import Prepared
from madengine.errors import EXIT_DONE, EXIT_FAILURE, EXIT_RUN_FAILED, ConfigurationError, MadengineError
from madengine.files import check_writable
from madengine.programs.kubectl import NAME, Kubectl
from madengine.results.perf_csv import check_perf_csv
from madengine.results.statistics import tables
from madengine.run.names import new_run_id
from madengine.session import Session

if TYPE_CHECKING:
    from plumbum.commands.base import BaseCommand

logger = logging.getLogger(__name__)

_APPLY_SECONDS = 300.0


@dataclass(frozen=True)
class KubernetesRun(RowsOptions, DataFileOptions, KubeContextOptions, SidecarOptions):
    """Where the files for kubectl go, which cluster takes them, and where its rows go."""

    #: of the files that kubectl applies
    folder: Path = Path()
    #: the runs and their environments, as `madengine collect` writes them
    results: Path = Path("results.json")


@dataclass
class KubernetesTarget:
    """Jobs of one namespace; those of an earlier run with the same names are replaced once they have ended."""

    OPTIONS: ClassVar[tuple[type, ...]] = (
        *(Options, KubernetesRun, ExecutionConfigOptions, TagOptions, RegistryOptions, ContextOptions),
    )

    source: PlanInput
    options: Options
    run: KubernetesRun
    show: Callable[[str], None]
    #: where the sidecar's image is built, where none is named; None builds none
    session: Session | None = None
    #: what `follow` has collected, None until all Jobs have ended
    _collected: Collected | None = field(default=None, init=False)

    @classmethod
    def from_values(cls, values: Mapping[str, Any], manifest_file: Path, session: Session) -> KubernetesTarget:
        """Return the target for a manifest, out of the parsed options and the context's `k8s` object."""
        of_manifest = load_manifest(manifest_file).context if manifest_file.exists() else {}
        values = with_section(values, session.context({}, of_manifest))
        source = PlanInput(
            manifest_file=manifest_file,
            execution_config=values["execution_config"],
            tags=values["tags"],
            registry=values["registry"],
            root=session.root if session.has_package else None,
            environ=session.environ,
            context_file=session.context_file,
            context_text=session.context_text,
        )
        run = from_options(KubernetesRun, values)
        builder = None if values["dry_run"] else session
        return cls(source, from_options(Options, values), run, session.show, builder)

    def check(self) -> None:
        """Raise ConfigurationError where kubectl isn't installed or the rows can't be written; name the run."""
        if not programs.installed_path(NAME):
            raise ConfigurationError("kubectl is not installed, or not on PATH")
        check_perf_csv(self.run.output)
        check_writable(self.run.results)
        self.options = replace(self.options, run_id=self.options.run_id or new_run_id())

    def prepare(self) -> Prepared:
        """Write the files that kubectl applies, after the sidecar's image is pushed if none is named."""
        if self.session and not self.options.runner_image and self.options.results != "pull":
            registry = self.source.registry or load_manifest(self.source.path).registry
            if not registry:
                raise ConfigurationError("--runner-image: expected an image, or --registry to push the sidecar's to")
            self.options = replace(self.options, runner_image=push(self.session, registry, self.run.base))
        prepared = generate_kubernetes(self.source, self.options, self.run.folder, self.run.data_file)
        return replace(prepared, lines=self._lines())

    def start(self) -> None:
        """Apply the files, after the ended Jobs of an earlier run are deleted."""
        kubectl = self._kubectl
        kubectl.log_caller_settings(os.environ)
        if names := kubectl.active_jobs(self._jobs):
            raise MadengineError(
                f"{', '.join(names)}: still running or queued in {kubectl.namespace}; wait, or `kubectl delete` them"
            )
        if not self.options.create_namespace and not kubectl.has_namespace():
            _log(kubectl.create_namespace())
        _log(kubectl.apply(self.run.folder / CONFIGMAP))
        # A Job runs only once.
        _log(kubectl.delete(self._jobs))
        _log(kubectl.apply(self._jobs))

    def follow(self) -> None:
        """Wait until all Jobs of the run have ended, and collect."""
        self._collected = self._collect(wait=True)

    def collect(self) -> int:
        """Show the rows that have been collected, after `stop` those that there are."""
        collection = self._collected or self._collect(wait=False)
        return report_collected(collection, self._kubectl.namespace, self.options.run_id, self.run.output, self.show)

    def stop(self) -> None:
        """Delete the Jobs, and wait until their pods have reported and ended."""
        logger.info("interrupted: deleting the Jobs")
        _log(self._kubectl.delete(self._jobs, "--cascade=foreground", "--timeout=120s"))

    @property
    def _kubectl(self) -> Kubectl:
        return Kubectl(self.options.namespace, self.run.kube_context)

    @property
    def _jobs(self) -> Path:
        return self.run.folder / JOB

    def _collect(self, wait: bool) -> Collected:
        return collect_results(self._kubectl, self.run.output, self.run.results, self.options.run_id, wait)

    def _lines(self) -> tuple[str, ...]:
        kubectl, line = self._kubectl, programs.shell_line
        create = f"{line(kubectl.get_namespace())} || {line(kubectl.create_namespace())}"
        commands = [kubectl.apply(self.run.folder / CONFIGMAP), kubectl.delete(self._jobs), kubectl.apply(self._jobs)]
        words = ["--kubernetes", f"--namespace={kubectl.namespace}", "--wait", f"--output={self.run.output}"]
        run_id = [f"--run-id={self.options.run_id}"] if self.options.run_id else []
        context = [f"--kube-context={kubectl.context}"] if kubectl.context else []
        return (
            *([] if self.options.create_namespace else [create]),
            *map(line, commands),
            shlex.join(["madengine", "collect", *words, *run_id, *context]),
        )


def report_collected(
    collection: Collected, namespace: str, run_id: str, output: Path, show: Callable[[str], None]
) -> int:
    """Show the rows of a collection and log what is missing; return the exit code."""
    merged = collection.merged
    for problem in merged.problems:
        logger.info(problem)
    if merged.rows:
        show(tables(merged.rows))
    logger.info(f"rows: {merged.added} new in {output}")
    if not collection.attempts and not collection.unfinished:
        logger.info(f"no results{f' of run {run_id}' if run_id else ''} in namespace {namespace}")
        return EXIT_FAILURE
    for name in collection.unfinished:
        logger.info(f"{name}: has not ended yet; `madengine collect --kubernetes --wait` waits for it")
    if collection.failed:
        logger.info(f"failed: {', '.join(sorted(set(collection.failed)))}")
        return EXIT_RUN_FAILED
    return EXIT_FAILURE if merged.problems or collection.unfinished else EXIT_DONE


def _log(command: BaseCommand) -> None:
    """Run a command of kubectl and log what it prints; raise CommandError where it fails."""
    for line in programs.ask(command, seconds=_APPLY_SECONDS).splitlines():
        logger.info(line)
