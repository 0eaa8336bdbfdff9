"""One function a command: parsed values in, the exit code out."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from madengine.cli.options import (
    DeployOptions,
    DoctorOptions,
    RunSummaryOptions,
    build_classes,
    deploy_classes,
    run_classes,
)
from madengine.cli.places import check_place, names_hosts, needs_registry, placed
from madengine.cli.terminal import show
from madengine.config.common_options import (
    ENGINES,
    RegistryOptions,
)
from madengine.config.option import Option, changed, from_options, options_of, words_again, words_for_hosts
from madengine.config.values import shown_key
from madengine.deploy.placement import LOCAL
from madengine.deploy.target import TARGETS, run_on, target_class
from madengine.errors import EXIT_DONE, EXIT_FAILURE, ConfigurationError

if TYPE_CHECKING:
    from madengine.build.options import BuildOptions
    from madengine.deploy.ssh.options import SshOptions
    from madengine.deploy.target import Prepared, Target
    from madengine.distributed_orchestrator import DistributedOrchestrator
    from madengine.run.options import RunOptions
    from madengine.session import Session

logger = logging.getLogger(__name__)

_CLUSTERS = ("kubernetes", "slurm")
_LOCAL_SWITCHES = ("keep_alive", "keep_model_dir", "skip_model_run")

Values = Mapping[str, Any]


# --- build, push, run ---


def build(values: Values) -> int:
    from madengine.cli.build_command import OptionsOfRuns

    declared = options_of((OptionsOfRuns,))
    if flags := [declared[name][0].flag for name in changed((OptionsOfRuns,), values)]:
        logger.info(f"{', '.join(flags)} ignored: a build runs nothing")
    check_place(_session(values).context({}, {}))
    if values["build_on_compute"]:
        from madengine.deploy.slurm.compute_build import build_on_compute

        words = words_again(build_classes(), values, ("build_on_compute",))
        return build_on_compute(words, values["manifest_output"], values["registry"], _session(values).context({}, {}))
    return _orchestrator(values).build_phase(_build_options(values)).exit_code


def push(values: Values) -> int:
    return _orchestrator(values).push_phase(values["manifest_file"], values["registry"], values["dry_run"])


def run(values: Values) -> int:
    """Run an existing manifest, here or on hosts; without one, build first."""
    manifest_file: Path | None = values["manifest_file"]
    name = placed(values, manifest_file, _session(values))
    if name in (LOCAL, "ssh"):
        _source_env_file(values, manifest_file or Path("build_manifest.json"))
    if name == "ssh":
        return _run_on_hosts(values, manifest_file or Path("build_manifest.json"))
    if name != LOCAL:
        return _run_on_target(values, name, manifest_file)
    orchestrator = _orchestrator({**values, "target": name})
    if manifest_file is not None and os.path.lexists(manifest_file):
        _log_ignored_options(values, manifest_file, run_classes())
        if not values["quiet"]:
            logger.info(f"{manifest_file} exists: running it, nothing is built")
        return orchestrator.run_phase(manifest_file, _run_options(values))
    if not orchestrator.session.has_package:
        raise ConfigurationError(
            f"{manifest_file}: no such manifest, and no models.json here to build from; name an existing manifest"
        )
    orchestrator.refuse_unsupported(values["nodes"])
    output = manifest_file or values["manifest_output"]
    shown = shown_key(str(output))
    reason = f"{shown} does not exist" if manifest_file else "no --manifest-file"
    logger.info(f"{reason}: building first; the manifest is written to {shown}")
    return orchestrator.full_phase(_build_options(values, manifest_output=output), _run_options(values))


def full(values: Values) -> int:
    """Build, then run here."""
    _source_env_file(values, values["manifest_output"])
    return _orchestrator(values).full_phase(_build_options(values), _run_options(values))


def _log_ignored_options(values: Values, manifest_file: Path, used: tuple[type, ...]) -> None:
    """Name the options of a build that are of no use where nothing is built."""
    classes = (RunSummaryOptions, *build_classes())
    build, known = options_of(classes), {"dry_run", *options_of(used)}
    flags = [build[name][0].flag for name in changed(classes, values) if name not in known]
    if flags:
        logger.info(f"{', '.join(flags)} ignored: {manifest_file} exists, so nothing is built")


def _build_options(values: Values, **more: Any) -> BuildOptions:
    from madengine.build.options import BuildOptions

    return from_options(BuildOptions, values, **more)


def _run_options(values: Values, **more: Any) -> RunOptions:
    from madengine.run.options import RunOptions

    return from_options(RunOptions, values, **more)


# --- other machines ---


def _source_env_file(values: Values, manifest_file: Path) -> None:
    """Take the variables of the context's `env_file`, which is beside the manifest, into this process."""
    from madengine.config.context import load_context
    from madengine.config.manifest import load_manifest
    from madengine.session import SOURCED

    of_manifest = load_manifest(manifest_file).context if os.path.lexists(manifest_file) else {}
    of_user = values.get("additional_context_file"), values.get("additional_context")
    name = load_context({}, of_manifest, *of_user).values.get("env_file")
    if not name or os.environ.get(SOURCED):
        return
    from madengine.programs.bash import sourced

    variables = sourced(manifest_file.parent / str(name), os.environ)
    logger.info(f"env_file {name}: sets {', '.join(sorted(variables)) or 'nothing'}")
    os.environ.update({**variables, SOURCED: ",".join(sorted(variables)) or "none"})


def _run_on_target(values: Values, name: str, manifest_file: Path | None) -> int:
    """Run a manifest, or what is built first, on a target whose options are those of its context, else defaults."""
    defaults = {key: default for key, (_, default) in options_of(target_class(name).OPTIONS).items()}
    exists = manifest_file is not None and os.path.lexists(manifest_file)
    return deploy({**defaults, **values, "target": name, "manifest_file": manifest_file if exists else None})


def _run_on_hosts(values: Values, manifest_file: Path) -> int:
    from madengine.deploy.ssh.target import SshTarget

    _log_ignored_options(values, manifest_file, SshTarget.OPTIONS)
    target = SshTarget.from_values(values, manifest_file, _session(values))
    return _show_lines(target) if values["dry_run"] else run_on(target)


def deploy(values: Values) -> int:
    """Build and push, unless a manifest is named, and run on the target; what was built runs in any case."""
    values = _without_local_switches(values)
    _refuse_options_of_other_targets(values)
    named: Path | None = values["manifest_file"]
    if values["target"] == "ssh":
        _source_env_file(values, named or values["manifest_output"])
    if named:
        _log_ignored_options(values, named, (*target_class(values["target"]).OPTIONS, DeployOptions))
        target = _target(values, named)
        return _show_lines(target) if values["dry_run"] else run_on(target)
    if needs_registry(values, partial(_session, values)):
        raise ConfigurationError("deploy: the images are pulled from a registry; name it with --registry")
    build_options = _build_options(values, summary_output=Path("build_summary.json"))
    if values["dry_run"]:
        logger.info("the target's lines need the manifest that these lines write: `madengine deploy --manifest-file …`")
        return _orchestrator(values).build_phase(build_options).exit_code
    # The tags that selected what to build select nothing more in the manifest that was made from them.
    target = _target({**values, "tags": ()}, build_options.manifest_output)
    target.check()
    outcome = _orchestrator(values).build_phase(build_options)
    if not outcome.images:
        return outcome.exit_code
    code = run_on(target)
    return outcome.exit_code or code


def _without_local_switches(values: Values) -> Values:
    """Return the values for a cluster, whose containers end with their jobs, without what is for this machine.

    madengine 2 ignores them there too.
    """
    declared = options_of(run_classes())
    switches = [name for name in _LOCAL_SWITCHES if values.get(name)] if values["target"] in _CLUSTERS else []
    if switches:
        flags = ", ".join(declared[name][0].flag for name in switches)
        logger.warning(f"{flags} ignored: not for a run on a cluster")
    return {**values, **dict.fromkeys(switches, False)}


def _target(values: Values, manifest_file: Path) -> Target:
    return target_class(values["target"]).from_values(values, manifest_file, _session(values))


def _refuse_options_of_other_targets(values: Values) -> None:
    """Raise ConfigurationError for an option that only other targets have."""
    known = options_of((*target_class(values["target"]).OPTIONS, *deploy_classes()))
    for name in TARGETS:
        declared = options_of(target_class(name).OPTIONS)
        for key in changed(target_class(name).OPTIONS, values):
            if key not in known:
                raise ConfigurationError(f"{declared[key][0].flag}: not an option of --target {values['target']}")


def _show_lines(target: Target) -> int:
    for line in target.prepare().lines:
        show(line)
    return EXIT_DONE


def ship(values: Values) -> int:
    from madengine.deploy.ssh.verbs import ship

    return ship(ssh_options_of(values), values["manifest_file"], show)


def fetch(values: Values) -> int:
    """Collect a run that was started earlier, and follow it until it ends."""
    from madengine.deploy.ssh.verbs import fetch

    if values["target"] == "slurm":
        return _fetch_from_slurm(values)

    return fetch(ssh_options_of(values), values["run_id"], values["output"], values["summary_output"], show)


def _fetch_from_slurm(values: Values) -> int:
    from madengine.deploy.slurm.target import SlurmTarget

    if not values["run_id"]:
        raise ConfigurationError("fetch --target slurm: name the run with --run-id")
    return run_on(SlurmTarget.of_run(values["run_id"], values["output_dir"], values["output"], show))


def ssh_options_of(values: Values) -> SshOptions:
    """Which hosts the options name, and how they are reached."""
    from madengine.deploy.ssh.hosts import ssh_options
    from madengine.deploy.ssh.options import CopyOptions

    return ssh_options(from_options(CopyOptions, values))


# --- what there is ---


def export_config(values: Values) -> int:
    return _orchestrator(values).export_config(values["tags"], values["output"], values["ignore_deprecated"])


def discover(values: Values) -> int:
    from madengine.tools.discover_models import DiscoverModels, report

    models = DiscoverModels(_session(values).root).select(values["tags"], values["ignore_deprecated"])
    show(report(models, values["format"]))
    return EXIT_DONE


def doctor(values: Values) -> int:
    import json

    from madengine.config.credentials import registry_name
    from madengine.doctor.examination import as_json, examine, is_fit, table

    if names_hosts(values):
        from madengine.deploy.ssh.verbs import command_on_hosts

        words = words_for_hosts((DoctorOptions, RegistryOptions), values)
        return command_on_hosts(ssh_options_of(values), "doctor", words, show)
    registry = registry_name(values["registry"]) if values["registry"] else ""
    checks = examine(engine_name(values), registry, values["gpu_mode"])
    show(json.dumps(as_json(checks), indent=2) if values["json"] else table(checks))
    return EXIT_DONE if is_fit(checks) else EXIT_FAILURE


def init(values: Values) -> int:
    from madengine.config.package import init_package

    for path in init_package(values["directory"]):
        show(str(path))
    logger.info(f"starter package written to {values['directory']}; `cd {values['directory']} && madengine run`")
    return EXIT_DONE


def bundle(values: Values) -> int:
    from madengine.deploy.bundle import write_bundle

    show(str(write_bundle(values["output"])))
    return EXIT_DONE


def completion(values: Values, options: Mapping[str, Sequence[Option]]) -> int:
    from madengine.cli.completion import completion_script
    from madengine.cli.descriptions import DESCRIPTIONS
    from madengine.cli.fish_completion import fish_script

    if values["shell"] == "fish":
        show(fish_script(options, DESCRIPTIONS).rstrip("\n"))
        return EXIT_DONE
    show(completion_script(values["shell"], options).rstrip("\n"))
    return EXIT_DONE


# --- what other tools need ---


def generate_ansible(values: Values) -> int:
    from madengine.deploy.ansible.generate import generate_ansible
    from madengine.deploy.ansible.options import PlaybookOptions

    options = from_options(PlaybookOptions, values)
    _show_prepared(generate_ansible(options))
    logger.info("to run it: copy gpu_inventory.example to gpu_inventory and name your nodes in it; then")
    logger.info(f"ansible-playbook -i gpu_inventory {options.playbook}")
    return EXIT_DONE


def generate_slurm(values: Values) -> int:
    from madengine.deploy.slurm.target import SlurmTarget

    target = SlurmTarget.from_values(values, values["manifest_file"], _session(values))
    prepared = target.prepare()
    _show_prepared(prepared)
    for line in prepared.lines:
        logger.info(f"to run it: {line}")
    return EXIT_DONE


def generate_k8s(values: Values) -> int:
    from madengine.config.manifest import Manifest, load_manifest
    from madengine.deploy.kubernetes.generate import generate_kubernetes
    from madengine.deploy.kubernetes.options import Options
    from madengine.deploy.kubernetes.plan import PlanInput
    from madengine.deploy.kubernetes.section import with_section

    session = _package_session()
    source = PlanInput(
        manifest_file=values["manifest_file"],
        execution_config=values["execution_config"],
        tags=values["tags"],
        registry=values["registry"],
        root=session.root if session.has_package else None,
        environ=session.environ,
    )
    manifest = load_manifest(source.path) if os.path.lexists(source.path) else Manifest((), {})
    options = from_options(Options, with_section(values, source.context(manifest)))
    _show_prepared(generate_kubernetes(source, options, values["directory"], values["data_file"]))
    logger.info(f"to run them: kubectl create namespace {options.namespace}; then kubectl apply -f both, in this order")
    return EXIT_DONE


def _show_prepared(prepared: Prepared) -> None:
    for warning in prepared.warnings:
        logger.warning(warning)
    for path in prepared.files:
        show(str(path))


def runner_image(values: Values) -> int:
    from madengine.deploy.kubernetes import runner_image

    if not values["registry"]:
        raise ConfigurationError("runner-image: name with --registry where the cluster pulls from")
    show(runner_image.push(_package_session(engine_name(values)), values["registry"], values["base"]))
    return EXIT_DONE


# --- the session ---


def quiet_orchestrator(values: Values) -> DistributedOrchestrator:
    """The phases of a command whose own outcome is all that it prints."""
    from dataclasses import replace

    from madengine.distributed_orchestrator import DistributedOrchestrator

    return DistributedOrchestrator(replace(_session(values), show=lambda _: None))


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
        engine_name=engine_name(values) if "engine" in values else "auto",
        here=values.get("target") == LOCAL,
    )


def _package_session(engine: str = "auto") -> Session:
    """A session in the model package of the current folder or of MODEL_DIR, if there is one; never in the starter."""
    from madengine.session import open_session

    return open_session(dict(os.environ), Path.cwd(), may_be_starter=False, engine_name=engine)


def engine_name(values: Values) -> str:
    """The engine by the option, else by MADENGINE_ENGINE.

    Raises ConfigurationError where that names none.
    """
    name: str = values["engine"] or os.environ.get("MADENGINE_ENGINE") or "auto"
    if name not in ENGINES:
        raise ConfigurationError(f"MADENGINE_ENGINE={name}: no such engine; expected one of {', '.join(ENGINES)}")
    return name
