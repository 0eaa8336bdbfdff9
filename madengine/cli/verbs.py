"""One function a command: parsed values in, the exit code out."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from madengine.cli.options import (
    BundleOptions,
    CollectKubernetesOptions,
    CollectOptions,
    DiscoverOptions,
    DoctorOptions,
    ExportOptions,
    FullOptions,
    GenerateAnsibleOptions,
    GenerateKubernetesOptions,
    InitOptions,
    RunManifestOptions,
    RunnerImageOptions,
)
from madengine.cli.terminal import show
from madengine.config.common_options import (
    ENGINES,
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
from madengine.config.option import changed, from_options, options_of, refuse_on_hosts, words_for_hosts
from madengine.errors import EXIT_DONE, EXIT_FAILURE, EXIT_RUN_FAILED, ConfigurationError

if TYPE_CHECKING:
    from madengine.build.options import BuildOptions
    from madengine.deploy.ssh.controller import Fleet, HostRun
    from madengine.distributed_orchestrator import DistributedOrchestrator
    from madengine.run.options import RunOptions
    from madengine.session import Session

logger = logging.getLogger(__name__)

Values = Mapping[str, Any]


class Verb(NamedTuple):
    """A command: what it runs, the dataclasses of its options, and which of their options it doesn't have."""

    run: Callable[[Values], int]
    options: Callable[[], tuple[type, ...]]
    without: tuple[str, ...] = ()


# --- build, push, run ---


def _build(values: Values) -> int:
    return _orchestrator(values).build_phase(_build_options(values)).exit_code


def _push(values: Values) -> int:
    return _orchestrator(values).push_phase(values["manifest_file"], values["registry"], values["dry_run"])


def _run(values: Values) -> int:
    """Run an existing manifest, here or on hosts; without one, build first."""
    manifest_file: Path | None = values["manifest_file"]
    if _names_hosts(values):
        return _run_on_hosts(values, manifest_file or Path("build_manifest.json"))
    orchestrator = _orchestrator(values)
    if manifest_file is not None and os.path.lexists(manifest_file):
        _log_ignored_build_options(values, manifest_file)
        if not values["quiet"]:
            logger.info(f"{manifest_file} exists: running it, nothing is built")
        return orchestrator.run_phase(manifest_file, _run_options(values))
    if not orchestrator.session.has_package:
        raise ConfigurationError(
            f"{manifest_file}: no such manifest, and no models.json here to build from; name an existing manifest"
        )
    reason = f"{manifest_file} does not exist" if manifest_file else "no --manifest-file"
    output = manifest_file or values["manifest_output"]
    logger.info(f"{reason}: building first; the manifest is written to {output}")
    return orchestrator.full_phase(_build_options(values, manifest_output=output), _run_options(values))


def _full(values: Values) -> int:
    return _orchestrator(values).full_phase(_build_options(values), _run_options(values))


def _log_ignored_build_options(values: Values, manifest_file: Path) -> None:
    """Name the options that only a build uses."""
    from madengine.build.options import BuildOptions
    from madengine.run.options import RunOptions

    build, run = options_of((BuildOptions,)), options_of((RunOptions,))
    flags = [build[name][0].flag for name in changed((BuildOptions,), values) if name not in run]
    if flags:
        logger.info(f"{', '.join(flags)} ignored: {manifest_file} exists, so nothing is built")


def _build_options(values: Values, **more: Any) -> BuildOptions:
    from madengine.build.options import BuildOptions

    return from_options(BuildOptions, values, **more)


def _run_options(values: Values, **more: Any) -> RunOptions:
    from madengine.run.options import RunOptions

    return from_options(RunOptions, values, **more)


# --- hosts ---


def _run_on_hosts(values: Values, manifest_file: Path) -> int:
    _log_ignored_build_options(values, manifest_file)
    fleet, host_run = _fleet(values), _host_run(values, manifest_file)
    return fleet.show_lines(host_run) if values["dry_run"] else fleet.run(host_run)


def _deploy(values: Values) -> int:
    """Build, push, ship and run; what was built runs even where other images were not."""
    if not values["registry"]:
        raise ConfigurationError("deploy: the hosts pull from a registry; name it with --registry")
    build_options = _build_options(values, summary_output=Path("build_summary.json"))
    if values["dry_run"]:
        logger.info("the hosts' lines need the manifest that these make: `madengine run --host … --dry-run`")
        return _orchestrator(values).build_phase(build_options).exit_code
    fleet = _fleet(values)
    outcome = _orchestrator(values).build_phase(build_options)
    if not outcome.images:
        return outcome.exit_code
    # The tags that selected what to build select nothing more in the manifest that was made from them.
    code = fleet.run(_host_run({**values, "tags": ()}, values["manifest_output"]))
    return outcome.exit_code or code


def _ship(values: Values) -> int:
    return _fleet(values).ship(values["manifest_file"])


def _fetch(values: Values) -> int:
    return _fleet(values).fetch(values["run_id"], values["output"], values["summary_output"])


def _names_hosts(values: Values) -> bool:
    return bool(values["host"] or values["hosts_file"])


def _fleet(values: Values) -> Fleet:
    from madengine.deploy.ssh.controller import Fleet, FleetOptions
    from madengine.deploy.ssh.hosts import parse_hosts, remote_folder
    from madengine.deploy.ssh.remote_node import Settings

    options = FleetOptions(
        hosts=parse_hosts(values["host"], values["hosts_file"]),
        forks=values["forks"],
        settings=Settings(remote_folder(values["remote_path"]), values["remote_python"], values["reconnect"]),
        config=values["ssh_config"],
        secrets_from=Path(os.environ.get("MODEL_DIR") or ".") if values.get("ship_credentials") else None,
    )
    return Fleet(options, show=show)


def _host_run(values: Values, manifest_file: Path) -> HostRun:
    """What the hosts are to run.

    Raises ConfigurationError for an option that can't be used on another host.
    """
    from madengine.deploy.ssh.controller import HostRun
    from madengine.run.options import RunOptions

    classes = (RunOptions, EngineOptions, ContextOptions)
    refuse_on_hosts(classes, values)
    return HostRun(
        manifest=manifest_file,
        registry=values["registry"],
        tags=values["tags"],
        words=words_for_hosts(classes, values),
        context=values["additional_context_file"],
        run_id=values["run_id"],
        output=values["output"],
        summary_output=values["summary_output"],
        quiet=values["quiet"],
    )


# --- what there is ---


def _export_config(values: Values) -> int:
    return _orchestrator(values).export_config(values["tags"], values["output"], values["ignore_deprecated"])


def _discover(values: Values) -> int:
    from madengine.tools.discover_models import DiscoverModels, report

    models = DiscoverModels(_session(values).root).select(values["tags"], values["ignore_deprecated"])
    show(report(models, values["format"]))
    return EXIT_DONE


def _doctor(values: Values) -> int:
    import json

    from madengine import doctor
    from madengine.config.credentials import registry_name

    if _names_hosts(values):
        words = words_for_hosts((DoctorOptions, RegistryOptions), values)
        return _fleet(values).doctor((*words, *(["--json"] if values["json"] else [])))
    registry = registry_name(values["registry"]) if values["registry"] else ""
    checks = doctor.examine(_engine_name(values), registry, values["gpu_mode"])
    show(json.dumps(doctor.as_json(checks), indent=2) if values["json"] else doctor.table(checks))
    return EXIT_DONE if doctor.is_fit(checks) else EXIT_FAILURE


def _init(values: Values) -> int:
    from madengine.config.package import init_package

    for path in init_package(values["directory"]):
        show(str(path))
    logger.info(f"starter package written to {values['directory']}; `cd {values['directory']} && madengine run`")
    return EXIT_DONE


def _bundle(values: Values) -> int:
    from madengine.deploy.bundle import write_bundle

    show(str(write_bundle(values["output"])))
    return EXIT_DONE


# --- results ---


def _collect(values: Values) -> int:
    from madengine.results.merge import merge, tables

    if values["kubernetes"]:
        return _collect_kubernetes(values)
    if not values["directories"]:
        raise ConfigurationError("collect: expected folders to search, or --kubernetes")
    if values["failed"]:
        _add_failed_hosts(values)
    merged = merge(values["directories"], values["output"], values["results"])
    for problem in merged.problems:
        logger.info(problem)
    if merged.rows:
        show(tables(merged.rows))
        logger.info(
            f"rows: {merged.added} new in {values['output']}; {len(merged.rows)} collected; runs: {values['results']}"
        )
    return EXIT_FAILURE if merged.problems else EXIT_DONE


def _add_failed_hosts(values: Values) -> None:
    from madengine.config.manifest import load_manifest
    from madengine.results.failed_hosts import note_failure

    if not values["run_id"]:
        raise ConfigurationError("--failed: name the run with --run-id")
    manifest = load_manifest(values["manifest_file"])
    for host, reason in values["failed"]:
        note_failure(values["directories"][0] / host, manifest, values["run_id"], host, reason)


def _collect_kubernetes(values: Values) -> int:
    """Collect from a cluster; the exit code says whether a model failed there."""
    from madengine.deploy.kubernetes.collect import collected
    from madengine.deploy.kubernetes.names import check_namespace
    from madengine.programs.kubectl import Kubectl
    from madengine.results.merge import tables

    if values["directories"] or values["failed"]:
        raise ConfigurationError("--kubernetes: can't be combined with folders or --failed")
    check_namespace(values["namespace"])
    kubectl = Kubectl(values["namespace"], values["kube_context"])
    result = collected(kubectl, values["output"], values["results"], values["run_id"], values["wait"])
    merged = result.merged
    for problem in merged.problems:
        logger.info(problem)
    if merged.rows:
        show(tables(merged.rows))
    logger.info(f"rows: {merged.added} new in {values['output']}; runs: {values['results']}")
    if not result.attempts and not result.unfinished:
        of_run = f" of run {values['run_id']}" if values["run_id"] else ""
        logger.info(f"{values['namespace']}: no results{of_run} in this namespace")
        return EXIT_FAILURE
    for name in result.unfinished:
        logger.info(f"{name}: still running; --wait waits for it")
    if result.failed:
        logger.info(f"failed: {', '.join(sorted(set(result.failed)))}")
        return EXIT_RUN_FAILED
    return EXIT_FAILURE if merged.problems or result.unfinished else EXIT_DONE


def _compare(values: Values) -> int:
    from madengine.results.compare_options import CompareOptions
    from madengine.results.comparison import compare
    from madengine.results.comparison_table import render

    comparison = compare(from_options(CompareOptions, values))
    for problem in comparison.problems:
        logger.warning(problem)
    show(render(comparison))
    return comparison.exit_code()


# --- what other tools need ---


def _generate_ansible(values: Values) -> int:
    from madengine.deploy.ansible import generate_ansible

    execution_config = values["execution_config"] or Path("execution_config.json")
    generated = generate_ansible(values["manifest_file"], execution_config, values["playbook"], values["template_dir"])
    _show_generated(generated.paths, generated.warnings)
    logger.info("to run it: copy gpu_inventory.example to gpu_inventory and name your nodes in it; then")
    logger.info(f"ansible-playbook -i gpu_inventory {values['playbook']}")
    return EXIT_DONE


def _generate_k8s(values: Values) -> int:
    from madengine.deploy.kubernetes.generate import generate_kubernetes
    from madengine.deploy.kubernetes.options import Options
    from madengine.deploy.kubernetes.plan import PlanInput

    session = _package_session()
    source = PlanInput(
        manifest_file=values["manifest_file"],
        execution_config=values["execution_config"],
        tags=values["tags"],
        registry=values["registry"],
        root=session.root if session.has_package else None,
        environ=session.environ,
    )
    options = from_options(Options, values)
    generated = generate_kubernetes(source, options, values["directory"], values["data_file"])
    _show_generated(generated.paths, generated.warnings)
    logger.info(f"to run them: kubectl create namespace {options.namespace}; then kubectl apply -f both, in this order")
    return EXIT_DONE


def _show_generated(paths: tuple[Path, ...], warnings: tuple[str, ...]) -> None:
    for warning in warnings:
        logger.warning(warning)
    for path in paths:
        show(str(path))


def _runner_image(values: Values) -> int:
    from madengine.deploy.kubernetes import runner_image

    if not values["registry"]:
        raise ConfigurationError("runner-image: name with --registry where the cluster pulls from")
    show(runner_image.push(_package_session(_engine_name(values)), values["registry"], values["base"]))
    return EXIT_DONE


# --- the session ---


def _orchestrator(values: Values) -> DistributedOrchestrator:
    from madengine.distributed_orchestrator import DistributedOrchestrator

    return DistributedOrchestrator(_session(values))


def _session(values: Values) -> Session:
    """The command's session; the starter package never stands in for what a manifest should name."""
    from madengine.session import open_session

    return open_session(
        dict(os.environ),
        Path.cwd(),
        may_be_starter=values.get("manifest_file") is None,
        show=show,
        context_file=values.get("additional_context_file"),
        context_text=values.get("additional_context"),
        engine_name=_engine_name(values) if "engine" in values else "auto",
    )


def _package_session(engine: str = "auto") -> Session:
    """A session in the model package of the current folder or of MODEL_DIR, if there is one; never in the starter."""
    from madengine.session import open_session

    return open_session(dict(os.environ), Path.cwd(), may_be_starter=False, engine_name=engine)


def _engine_name(values: Values) -> str:
    """The engine by the option, else by MADENGINE_ENGINE.

    Raises ConfigurationError where that names none.
    """
    name: str = values["engine"] or os.environ.get("MADENGINE_ENGINE") or "auto"
    if name not in ENGINES:
        raise ConfigurationError(f"MADENGINE_ENGINE={name}: no such engine; expected one of {', '.join(ENGINES)}")
    return name


# --- the table of commands ---


def _build_classes() -> tuple[type, ...]:
    from madengine.build.options import BuildOptions

    return (BuildOptions, ContextOptions, EngineOptions)


def _run_classes() -> tuple[type, ...]:
    from madengine.run.options import RunOptions

    return (RunManifestOptions, RunOptions, *_build_classes(), *_copy_classes())


def _full_classes() -> tuple[type, ...]:
    from madengine.run.options import RunOptions

    return (FullOptions, RunOptions, *_build_classes())


def _deploy_classes() -> tuple[type, ...]:
    from madengine.run.options import RunOptions

    return (RunOptions, *_build_classes(), *_copy_classes())


def _host_classes() -> tuple[type, ...]:
    from madengine.deploy.ssh.options import HostOptions

    return (HostOptions,)


def _copy_classes() -> tuple[type, ...]:
    from madengine.deploy.ssh.options import CopyOptions

    return (CopyOptions,)


def _compare_classes() -> tuple[type, ...]:
    from madengine.results.compare_options import CompareOptions

    return (CompareOptions,)


def _kubernetes_classes() -> tuple[type, ...]:
    from madengine.config.common_options import DataFileOptions, TagOptions
    from madengine.deploy.kubernetes.options import Options

    return (GenerateKubernetesOptions, TagOptions, RegistryOptions, Options, DataFileOptions)


VERBS: Mapping[str, Verb] = {
    "build": Verb(_build, _build_classes),
    "push": Verb(_push, lambda: (ManifestOptions, RegistryOptions, EngineOptions, DryRunOptions)),
    "run": Verb(_run, _run_classes, without=("batch",)),
    "full": Verb(_full, _full_classes, without=("batch",)),
    "export-config": Verb(_export_config, lambda: (SelectionOptions, ContextOptions, ExportOptions)),
    "discover": Verb(_discover, lambda: (SelectionOptions, DiscoverOptions)),
    "deploy": Verb(_deploy, _deploy_classes, without=("batch",)),
    "ship": Verb(_ship, lambda: (ManifestOptions, *_copy_classes())),
    "fetch": Verb(_fetch, lambda: (RunIdOptions, RowsOptions, SummaryOptions, *_host_classes())),
    "doctor": Verb(_doctor, lambda: (RegistryOptions, DoctorOptions, *_host_classes())),
    "init": Verb(_init, lambda: (InitOptions,)),
    "collect": Verb(_collect, lambda: (CollectOptions, CollectKubernetesOptions, RunIdOptions)),
    "compare": Verb(_compare, _compare_classes),
    "bundle": Verb(_bundle, lambda: (BundleOptions,)),
    "runner-image": Verb(_runner_image, lambda: (RegistryOptions, RunnerImageOptions)),
    "generate ansible": Verb(_generate_ansible, lambda: (GenerateAnsibleOptions,)),
    "generate k8s": Verb(_generate_k8s, _kubernetes_classes),
}
