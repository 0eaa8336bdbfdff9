"""The table of commands: for each, its function and the dataclasses of its options."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from madengine.cli import database_verbs, machine_verbs, result_verbs, verbs
from madengine.cli.machine_options import CleanupOptions, LogsOptions, StatusOptions
from madengine.cli.options import (
    BundleOptions,
    CollectOptions,
    CompletionOptions,
    DiscoverOptions,
    DoctorOptions,
    ExportOptions,
    FetchOptions,
    FullOptions,
    InitOptions,
    MessageOptions,
    PlaceOptions,
    ReportOptions,
    RunManifestOptions,
    ToEmailOptions,
    ToHtmlOptions,
    build_classes,
    deploy_classes,
    run_classes,
)
from madengine.cli.reporting import new_rows, reported
from madengine.config.common_options import (
    ContextOptions,
    DryRunOptions,
    EngineOptions,
    ManifestOptions,
    RegistryOptions,
    RowsOptions,
    RunIdOptions,
    SelectionOptions,
    SummaryOptions,
)
from madengine.config.option import Option, options_of
from madengine.deploy.target import TARGETS, target_class
from madengine.results.database.options import MongoOptions, UploadOptions
from madengine.results.formats.options import FormatOptions, MadengineTwoOptions
from madengine.results.mail.options import EmailOptions

_REPORTS = (FormatOptions, MadengineTwoOptions)


class Verb(NamedTuple):
    """A command: what it runs, the dataclasses of its options, and which of their options it doesn't have."""

    run: Callable[[verbs.Values], int]
    options: Callable[[], tuple[type, ...]]
    without: tuple[str, ...] = ()
    #: Whether it removes what a killed madengine left, before it begins.
    tidies: bool = True

    def declared(self) -> list[Option]:
        """Return the options that a user can give."""
        declared = options_of((*self.options(), MessageOptions))
        return [option for key, (option, _) in declared.items() if key not in self.without]


def _build_command_classes() -> tuple[type, ...]:
    from madengine.cli.build_command import BuildCommandOptions, OptionsOfRuns

    return (BuildCommandOptions, *build_classes(), OptionsOfRuns)


def _full_classes() -> tuple[type, ...]:
    from madengine.run.options import RunOptions

    return (FullOptions, RunOptions, *build_classes(), *_REPORTS)


def _run_verb_classes() -> tuple[type, ...]:
    return (RunManifestOptions, PlaceOptions, *run_classes(), *build_classes(), *_copy_classes(), *_REPORTS)


def _all_deploy_classes() -> tuple[type, ...]:
    return (*deploy_classes(), *(one for name in TARGETS for one in target_class(name).OPTIONS), *_REPORTS)


def _host_classes() -> tuple[type, ...]:
    from madengine.deploy.ssh.options import HostOptions

    return (HostOptions,)


def _copy_classes() -> tuple[type, ...]:
    from madengine.deploy.ssh.options import CopyOptions

    return (CopyOptions,)


def _playbook_classes() -> tuple[type, ...]:
    from madengine.deploy.ansible.options import GeneratePlaybookOptions

    return (GeneratePlaybookOptions,)


def _sidecar_classes() -> tuple[type, ...]:
    from madengine.deploy.kubernetes.options import SidecarOptions

    return (RegistryOptions, EngineOptions, SidecarOptions)


def _collect_classes() -> tuple[type, ...]:
    from madengine.deploy.kubernetes.options import CollectKubernetesOptions

    return (CollectOptions, CollectKubernetesOptions, RunIdOptions, *_REPORTS)


def _fetch_classes() -> tuple[type, ...]:
    return (FetchOptions, RunIdOptions, RowsOptions, SummaryOptions, *_host_classes(), *_REPORTS)


def _bisect_classes() -> tuple[type, ...]:
    from madengine.bisect.options import BisectOptions
    from madengine.run.options import RunOptions

    return (BisectOptions, RunOptions, *build_classes())


def _history_classes() -> tuple[type, ...]:
    from madengine.results.history_options import HistoryOptions

    return (HistoryOptions,)


def _compare_classes() -> tuple[type, ...]:
    from madengine.results.compare_options import CompareOptions

    return (CompareOptions,)


def _completion(values: verbs.Values) -> int:
    return verbs.completion(values, {name: verb.declared() for name, verb in VERBS.items()})


def _kubernetes_classes() -> tuple[type, ...]:
    from madengine.config.common_options import DataFileOptions, TagOptions
    from madengine.deploy.kubernetes.options import GenerateKubernetesOptions, Options

    return (GenerateKubernetesOptions, TagOptions, RegistryOptions, Options, DataFileOptions)


def _slurm_classes() -> tuple[type, ...]:
    from madengine.deploy.slurm.target import SlurmTarget

    return (ManifestOptions, *SlurmTarget.OPTIONS)


# What a bisection decides itself.
_NOT_OF_BISECT = (
    "batch", "dry_run", "registry", "manifest_output", "summary_output", "output", "run_id", "resume", "pack", "quiet",
    "repeat", "until_stable", "max_repeats", "keep_going", "skip_model_run", "keep_alive", "use_image",
    "against", "require_pinned_image", "cleanup_perf", "live_output", "markdown", "fail_on", "seed", "nodes",
)  # fmt: skip

VERBS: Mapping[str, Verb] = {
    "build": Verb(verbs.build, _build_command_classes),
    "push": Verb(verbs.push, lambda: (ManifestOptions, RegistryOptions, EngineOptions, DryRunOptions)),
    "run": Verb(new_rows(verbs.run), _run_verb_classes, without=("batch",)),
    "full": Verb(new_rows(verbs.full), _full_classes, without=("batch",)),
    "export-config": Verb(verbs.export_config, lambda: (SelectionOptions, ContextOptions, ExportOptions)),
    "discover": Verb(verbs.discover, lambda: (SelectionOptions, DiscoverOptions)),
    "deploy": Verb(new_rows(verbs.deploy), _all_deploy_classes, without=("batch",)),
    "ship": Verb(verbs.ship, lambda: (ManifestOptions, *_copy_classes())),
    "fetch": Verb(new_rows(verbs.fetch), _fetch_classes),
    "doctor": Verb(verbs.doctor, lambda: (RegistryOptions, DoctorOptions, *_host_classes())),
    "status": Verb(machine_verbs.status, lambda: (StatusOptions, *_host_classes())),
    "logs": Verb(machine_verbs.logs, lambda: (LogsOptions, *_host_classes())),
    "cleanup": Verb(machine_verbs.cleanup, lambda: (CleanupOptions, *_host_classes()), tidies=False),
    "init": Verb(verbs.init, lambda: (InitOptions,)),
    "collect": Verb(reported(result_verbs.collect), _collect_classes),
    "compare": Verb(result_verbs.compare, _compare_classes),
    "history": Verb(result_verbs.history, _history_classes),
    "bisect": Verb(result_verbs.bisect, _bisect_classes, without=_NOT_OF_BISECT),
    "report": Verb(reported(result_verbs.report), lambda: (ReportOptions, FormatOptions, EmailOptions)),
    "report to-html": Verb(result_verbs.to_html, lambda: (ToHtmlOptions,)),
    "report to-email": Verb(result_verbs.to_email, lambda: (ToEmailOptions, EmailOptions)),
    "upload": Verb(database_verbs.upload, lambda: (UploadOptions,)),
    "database": Verb(database_verbs.database, lambda: (MongoOptions,)),
    "bundle": Verb(verbs.bundle, lambda: (BundleOptions,)),
    "completion": Verb(_completion, lambda: (CompletionOptions,)),
    "runner-image": Verb(verbs.runner_image, _sidecar_classes),
    "generate ansible": Verb(verbs.generate_ansible, _playbook_classes),
    "generate k8s": Verb(verbs.generate_k8s, _kubernetes_classes),
    "generate slurm": Verb(verbs.generate_slurm, _slurm_classes, without=("dry_run",)),
}
