"""The options of a command line as the values that carry it out."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from madengine.cli import arguments
from madengine.cli.terminal import show
from madengine.errors import ConfigurationError

if TYPE_CHECKING:
    from madengine.build.options import BuildOptions
    from madengine.deploy.kubernetes.options import Options
    from madengine.deploy.kubernetes.plan import PlanInput
    from madengine.deploy.ssh.controller import Fleet, HostRun
    from madengine.distributed_orchestrator import DistributedOrchestrator
    from madengine.run.node import RunOptions
    from madengine.session import Session


def orchestrator(options: argparse.Namespace) -> DistributedOrchestrator:
    """What carries out the phases of a command."""
    from madengine.distributed_orchestrator import DistributedOrchestrator

    return DistributedOrchestrator(session(options))


def session(options: argparse.Namespace) -> Session:
    """The command's session; the starter package never stands in for what a manifest should name."""
    from madengine.session import open_session

    return open_session(
        dict(os.environ),
        Path.cwd(),
        may_be_starter=getattr(options, "manifest_file", None) is None,
        show=show,
        context_file=getattr(options, "additional_context_file", None),
        context_text=getattr(options, "additional_context", None),
        engine_name=engine_name(options) if hasattr(options, "engine") else "auto",
    )


def package_session(engine: str = "auto") -> Session:
    """A session in the model package of the current folder or of MODEL_DIR, if there is one; never in the starter."""
    from madengine.session import open_session

    return open_session(dict(os.environ), Path.cwd(), may_be_starter=False, engine_name=engine)


def engine_name(options: argparse.Namespace) -> str:
    """The engine by the option, else by MADENGINE_ENGINE.

    Raises ConfigurationError where that names none.
    """
    name: str = options.engine or os.environ.get("MADENGINE_ENGINE") or "auto"
    if name not in arguments.ENGINES:
        raise ConfigurationError(f"MADENGINE_ENGINE={name}: no such engine; set one of {', '.join(arguments.ENGINES)}")
    return name


def build_options(options: argparse.Namespace) -> BuildOptions:
    """How the images are built."""
    from madengine.build.options import BuildOptions

    return BuildOptions(
        tags=tags(options),
        registry=options.registry,
        manifest_output=options.manifest_output,
        summary_output=options.summary_output or Path("build_summary.json"),
        no_cache=options.clean_docker_cache,
        live_output=options.live_output,
        ignore_deprecated=options.ignore_deprecated,
        jobs=options.jobs,
        tools_file=options.tools_json_file_name,
        architectures=_architectures(options.target_archs),
        use_image=options.use_image,
        batch=getattr(options, "batch_manifest", None),
        dry_run=options.dry_run,
        credentials_as_build_args=options.credentials_as_build_args,
    )


# What says how images are built, and nothing of how they run.
_BUILD_ALONE = (
    "ignore_deprecated", "clean_docker_cache", "manifest_output", "jobs", "credentials_as_build_args", "target_archs",
    "use_image",
)  # fmt: skip


def given_for_a_build(options: argparse.Namespace) -> list[str]:
    """The options that differ from their defaults and mean something to a build alone."""
    given = [name for name in _BUILD_ALONE if getattr(options, name) != options.parser.get_default(name)]
    return [f"--{name.replace('_', '-')}" for name in given]


def run_options(options: argparse.Namespace, summary: str) -> RunOptions:
    """How the models run; `summary` is the file of the summary where none was named."""
    from madengine.run.node import RunOptions

    return RunOptions(
        output=options.output,
        summary_output=options.summary_output or Path(summary),
        registry=options.registry,
        tags=tags(options),
        timeout=None if options.timeout == -1 else options.timeout,
        keep_alive=options.keep_alive,
        keep_model_dir=options.keep_model_dir,
        skip_model_run=options.skip_model_run,
        run_id=options.run_id,
        live_output=options.live_output,
        data_file=options.data_config_file_name,
        force_mirror_local=options.force_mirror_local,
        gpu_mode=options.gpu_mode,
        gpu_wait=options.gpu_wait,
        sample_hz=options.sample_hz,
        pack=options.pack,
        skip_gpu_arch=not options.disable_skip_gpu_arch,
        resume=options.resume,
        tools_file=options.tools_json_file_name,
        describe_environment=options.generate_sys_env_details,
        isolation=options.isolation,
        quiet=options.quiet,
        dry_run=options.dry_run,
    )


# What a node is told as it was said here; everything else is the controller's own business.
EXAMINING = ("engine", "registry", "gpu_mode", "json")
_RUNNING = (
    "engine", "registry", "gpu_mode", "additional_context", "timeout", "keep_alive", "keep_model_dir", "skip_model_run",
    "live_output", "force_mirror_local", "gpu_wait", "sample_hz", "pack", "disable_skip_gpu_arch",
    "generate_sys_env_details", "isolation",
)  # fmt: skip


def given_words(options: argparse.Namespace, names: Sequence[str]) -> tuple[str, ...]:
    """The options of these names as words again, those that differ from their defaults."""
    words = []
    for name in names:
        value, option = getattr(options, name), f"--{name.replace('_', '-')}"
        if name == "generate_sys_env_details":
            words += [] if value is None else [f"{option}={str(value).lower()}"]
        elif value is True:
            words.append(option)
        elif value not in (False, None, options.parser.get_default(name)):
            words.append(f"{option}={value}")
    return tuple(words)


def host_run(options: argparse.Namespace, manifest_file: Path) -> HostRun:
    """What the hosts are to do.

    Raises ConfigurationError for an option that only this machine could heed.
    """
    from madengine.deploy.ssh.controller import HostRun

    for name in ("data_config_file_name", "resume", "tools_json_file_name"):
        if getattr(options, name):
            raise ConfigurationError(f"--{name.replace('_', '-')} {getattr(options, name)}: not together with --host")
    wanted = tags(options)
    return HostRun(
        manifest=manifest_file,
        registry=options.registry,
        tags=wanted,
        words=(*given_words(options, _RUNNING), *(f"--tags={tag}" for tag in wanted)),
        context=options.additional_context_file,
        run_id=options.run_id,
        output=options.output,
        summary_output=options.summary_output or Path("run_summary.json"),
        quiet=options.quiet,
    )


def names_hosts(options: argparse.Namespace) -> bool:
    """Whether the command is for other machines."""
    return bool(options.host or options.hosts_file)


def fleet(options: argparse.Namespace) -> Fleet:
    """The hosts that are named."""
    from madengine.deploy.ssh.controller import Fleet, FleetOptions
    from madengine.deploy.ssh.hosts import parse_hosts, remote_folder
    from madengine.deploy.ssh.remote_node import Settings

    chosen = FleetOptions(
        hosts=parse_hosts(options.host or (), options.hosts_file),
        forks=options.forks,
        settings=Settings(remote_folder(options.remote_path), options.remote_python, options.reconnect),
        config=options.ssh_config,
        secrets_from=Path(os.environ.get("MODEL_DIR") or ".") if getattr(options, "ship_credentials", False) else None,
    )
    return Fleet(chosen, show=show)


def tags(options: argparse.Namespace) -> tuple[str, ...]:
    """The tags, however they were written."""
    from madengine.tools.discover_models import split_tags

    return split_tags(options.tags)


def kubernetes_options(options: argparse.Namespace) -> Options:
    """What is wanted of the files for Kubernetes."""
    from dataclasses import fields

    from madengine.deploy.kubernetes.options import Options

    given = {field.name: getattr(options, field.name) for field in fields(Options)}
    chosen: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}
    return Options(**{name: value for name, value in chosen.items() if value is not None})


def source(options: argparse.Namespace) -> PlanInput:
    """What the files for Kubernetes are made from."""
    from madengine.deploy.kubernetes.plan import PlanInput

    found = package_session()
    return PlanInput(
        manifest_file=options.manifest_file,
        execution_config=options.execution_config,
        tags=tags(options),
        registry=options.registry,
        root=found.root if found.has_package else None,
        environ=found.environ,
    )


def _architectures(given: Sequence[str] | None) -> tuple[str, ...]:
    if not given:
        return ()
    from madengine.machine.gpus import architecture_name

    names = (name.strip() for word in given for name in word.split(","))
    return tuple(dict.fromkeys(architecture_name(name) for name in names if name))
