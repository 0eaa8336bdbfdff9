"""The command line: options in, one orchestrator call, exit code out."""

from __future__ import annotations

import argparse
import difflib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn, TextIO

from madengine import __version__, arguments
from madengine.errors import (
    EXIT_CONFIGURATION,
    EXIT_DONE,
    EXIT_FAILURE,
    EXIT_INTERRUPTED,
    EXIT_RUN_FAILED,
    ConfigurationError,
    MadengineError,
)
from madengine.kubernetes import arguments as k8s

if TYPE_CHECKING:
    from madengine.distributed_orchestrator import BuildOptions, DistributedOrchestrator, Place
    from madengine.fleet import Errand, Fleet
    from madengine.node_run import RunOptions

_EXIT_CODES = (
    "exit codes: 0 done, 1 failure, 2 a build failed, 3 a run failed, 4 wrong arguments or configuration, "
    "130 interrupted"
)


def main(argv: Sequence[str] | None = None) -> int:
    """Carry out one command line; gives its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    options, unknown = _parser().parse_known_args(words)
    if unknown:
        options.parser.error(_unknown(options.parser, unknown))
    with _signals_interrupt():
        try:
            code: int = options.verb(options)
        except MadengineError as error:
            return _fail(error, error.exit_code, options.verbose)
        except OSError as error:
            return _fail(error, EXIT_FAILURE, options.verbose)
        except KeyboardInterrupt:
            _say("interrupted")
            return EXIT_INTERRUPTED
    return code


# --- verbs ---


def _build(options: argparse.Namespace) -> int:
    return _orchestrator(options).build_phase(_build_options(options)).exit_code


def _push(options: argparse.Namespace) -> int:
    return _orchestrator(options).push_phase(options.manifest_file, options.registry, options.dry_run)


def _run(options: argparse.Namespace) -> int:
    """Run an existing manifest, here or on hosts; without one, build first."""
    if _names_hosts(options):
        return _run_on_hosts(options, options.manifest_file or Path("build_manifest.json"))
    named: Path | None = options.manifest_file
    orchestrator = _orchestrator(options)
    if named is not None and os.path.lexists(named):
        _say(f"{named} is there: running it, nothing is built")
        return orchestrator.run_phase(named, _run_options(options, "run_summary.json"))
    if not orchestrator.place.has_package:
        raise ConfigurationError(
            f"{named}: no such manifest, and no models.json here to build from; name a manifest that is there"
        )
    why = f"{named} is not there" if named else "no --manifest-file given"
    options.manifest_output = named or options.manifest_output
    _say(f"{why}: building first; the manifest goes to {options.manifest_output}")
    return orchestrator.full_phase(_build_options(options), _run_options(options, "run_summary.json"))


def _full(options: argparse.Namespace) -> int:
    run = _run_options(options, "full_summary.json")
    return _orchestrator(options).full_phase(_build_options(options), run)


def _deploy(options: argparse.Namespace) -> int:
    """Build, push, ship and run; what was built runs, whatever else was not."""
    if not options.registry:
        raise ConfigurationError("deploy: the hosts pull from a registry; say which with --registry")
    if options.dry_run:
        _say("the hosts' lines need the manifest that these make: `madengine run --host … --dry-run`")
        return _orchestrator(options).build_phase(_build_options(options)).exit_code
    fleet = _fleet(options)
    summary, options.summary_output = options.summary_output, None
    outcome = _orchestrator(options).build_phase(_build_options(options))
    if not outcome.images:
        return outcome.exit_code
    # The words that chose what to build choose nothing more in the manifest that came of them.
    options.tags, options.summary_output = [], summary
    code = fleet.run(_errand(options, options.manifest_output))
    return outcome.exit_code or code


def _ship(options: argparse.Namespace) -> int:
    return _fleet(options).ship(options.manifest_file)


def _fetch(options: argparse.Namespace) -> int:
    return _fleet(options).fetch(options.run_id, options.output, options.summary_output or Path("run_summary.json"))


def _run_on_hosts(options: argparse.Namespace, manifest_file: Path) -> int:
    fleet = _fleet(options)
    errand = _errand(options, manifest_file)
    return fleet.show_lines(errand) if options.dry_run else fleet.run(errand)


def _export_config(options: argparse.Namespace) -> int:
    orchestrator = _orchestrator(options)
    return orchestrator.export_config(_tags(options), options.output, options.ignore_deprecated)


def _discover(options: argparse.Namespace) -> int:
    from madengine.tools.discover_models import DiscoverModels, report

    models = DiscoverModels(_place(options).root).select(_tags(options), options.ignore_deprecated)
    _show(report(models, options.format))
    return EXIT_DONE


def _doctor(options: argparse.Namespace) -> int:
    import json

    from madengine import credentials, doctor

    if _names_hosts(options):
        return _fleet(options).doctor(_given_words(options, _EXAMINING))
    registry = credentials.registry_name(options.registry) if options.registry else ""
    checks = doctor.examine(_engine_name(options), registry, options.gpu_mode)
    _show(json.dumps(doctor.as_json(checks), indent=2) if options.json else doctor.table(checks))
    return EXIT_DONE if doctor.is_fit(checks) else EXIT_FAILURE


def _init(options: argparse.Namespace) -> int:
    from madengine import package

    for path in package.init(options.directory):
        _show(str(path))
    _say(f"a model package to grow: {options.directory}; `cd {options.directory} && madengine run`")
    return EXIT_DONE


def _collect(options: argparse.Namespace) -> int:
    from madengine import collect

    if options.kubernetes:
        return _collect_kubernetes(options)
    if not options.directories:
        raise ConfigurationError("collect: name the folders to look in, or --kubernetes")
    if options.failed:
        from madengine import manifest

        if not options.run_id:
            raise ConfigurationError("--failed: say of which run with --run-id")
        kept = manifest.load(options.manifest_file)
        for host, reason in options.failed:
            collect.note_failure(options.directories[0] / host, kept, options.run_id, host, reason)
    merged = collect.merge(options.directories, options.output, options.results)
    for problem in merged.problems:
        _say(problem)
    if merged.rows:
        _show(collect.tables(merged.rows))
        _say(f"rows: {merged.added} new in {options.output}; {len(merged.rows)} collected; runs: {options.results}")
    return EXIT_FAILURE if merged.problems else EXIT_DONE


def _collect_kubernetes(options: argparse.Namespace) -> int:
    """Collect out of a cluster; the exit code says whether a model failed there."""
    from madengine import collect as tables
    from madengine.kubernetes import collect, names
    from madengine.programs.kubectl import Kubectl

    if options.directories or options.failed:
        raise ConfigurationError("--kubernetes: not together with folders or --failed")
    names.check_namespace(options.namespace)
    kubectl = Kubectl(options.namespace, options.kube_context)
    came = collect.collected(kubectl, options.output, options.results, options.run_id, options.wait, _say)
    merged = came.merged
    for problem in merged.problems:
        _say(problem)
    if merged.rows:
        _show(tables.tables(merged.rows))
    _say(f"rows: {merged.added} new in {options.output}; runs: {options.results}")
    if not came.attempts and not came.unfinished:
        _say(f"{options.namespace}: no results{options.run_id and f' of run {options.run_id}'} in this namespace")
        return EXIT_FAILURE
    for name in came.unfinished:
        _say(f"{name}: not ended yet; --wait waits for it")
    if came.failed:
        _say(f"failed: {', '.join(sorted(set(came.failed)))}")
        return EXIT_RUN_FAILED
    return EXIT_FAILURE if merged.problems or came.unfinished else EXIT_DONE


def _bundle(options: argparse.Namespace) -> int:
    from madengine import bundle

    _show(str(bundle.write(options.output)))
    return EXIT_DONE


def _generate_ansible(options: argparse.Namespace) -> int:
    from madengine import generate

    made = generate.ansible(options.manifest_file, options.execution_config, options.output, options.template_dir)
    for warning in made.warnings:
        _say(warning)
    for path in made.paths:
        _show(str(path))
    _say("to run it: copy gpu_inventory.example to gpu_inventory and name your nodes in it; then")
    _say(f"ansible-playbook -i gpu_inventory {options.output}")
    return EXIT_DONE


def _runner_image(options: argparse.Namespace) -> int:
    from madengine.distributed_orchestrator import package_place
    from madengine.kubernetes import runner_image

    if not options.registry:
        raise ConfigurationError("runner-image: say with --registry where the cluster pulls from")
    place, _ = package_place(dict(os.environ), Path.cwd(), may_be_starter=False)
    _show(runner_image.push(options.registry, options.base, _engine_name(options), place.root, place.environ, _say))
    return EXIT_DONE


def _generate_k8s(options: argparse.Namespace) -> int:
    from dataclasses import fields

    from madengine.distributed_orchestrator import package_place
    from madengine.kubernetes import generate
    from madengine.kubernetes.options import Options
    from madengine.kubernetes.plan import Source

    given = {field.name: getattr(options, field.name) for field in fields(Options)}
    chosen: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}
    wanted = Options(**{name: value for name, value in chosen.items() if value is not None})
    place, _ = package_place(dict(os.environ), Path.cwd(), may_be_starter=False)
    source = Source(
        manifest_file=options.manifest_file,
        execution_config=options.execution_config,
        tags=_tags(options),
        registry=options.registry,
        root=place.root if place.has_package else None,
        environ=place.environ,
    )
    made = generate.generate(source, wanted, options.output, options.data_config_file_name)
    for warning in made.warnings:
        _say(warning)
    for path in made.paths:
        _show(str(path))
    _say(f"to run them: kubectl create namespace {wanted.namespace}; then kubectl apply -f both, in this order")
    return EXIT_DONE


# --- options to values ---


def _orchestrator(options: argparse.Namespace) -> DistributedOrchestrator:
    from madengine.distributed_orchestrator import DistributedOrchestrator

    return DistributedOrchestrator(place=_place(options), say=_say, show=_show)


def _place(options: argparse.Namespace) -> Place:
    """Where the command works; the starter package never stands in for what a manifest should name."""
    from madengine.distributed_orchestrator import package_place

    place, message = package_place(
        dict(os.environ),
        Path.cwd(),
        may_be_starter=getattr(options, "manifest_file", None) is None,
        context_file=getattr(options, "additional_context_file", None),
        context_text=getattr(options, "additional_context", None),
        engine=_engine_name(options) if hasattr(options, "engine") else "auto",
    )
    if message:
        _say(message)
    return place


def _engine_name(options: argparse.Namespace) -> str:
    name: str = options.engine or os.environ.get("MADENGINE_ENGINE") or "auto"
    if name not in arguments.ENGINES:
        raise ConfigurationError(f"MADENGINE_ENGINE={name}: no such engine; set one of {', '.join(arguments.ENGINES)}")
    return name


def _build_options(options: argparse.Namespace) -> BuildOptions:
    from madengine.distributed_orchestrator import BuildOptions

    return BuildOptions(
        tags=_tags(options),
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


def _run_options(options: argparse.Namespace, summary: str) -> RunOptions:
    from madengine.node_run import RunOptions

    return RunOptions(
        output=options.output,
        summary_output=options.summary_output or Path(summary),
        registry=options.registry,
        tags=_tags(options),
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
        dry_run=options.dry_run,
    )


# What a node is told as it was said here; everything else is the controller's own business.
_EXAMINING = ("engine", "registry", "gpu_mode", "json")
_RUNNING = (
    "engine", "registry", "gpu_mode", "additional_context", "timeout", "keep_alive", "keep_model_dir", "skip_model_run",
    "live_output", "force_mirror_local", "gpu_wait", "sample_hz", "pack", "disable_skip_gpu_arch",
    "generate_sys_env_details", "isolation",
)  # fmt: skip


def _given_words(options: argparse.Namespace, names: Sequence[str]) -> tuple[str, ...]:
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


def _errand(options: argparse.Namespace, manifest_file: Path) -> Errand:
    from madengine.fleet import Errand

    for name in ("data_config_file_name", "resume", "tools_json_file_name"):
        if getattr(options, name):
            raise ConfigurationError(f"--{name.replace('_', '-')} {getattr(options, name)}: not together with --host")
    tags = _tags(options)
    return Errand(
        manifest=manifest_file,
        registry=options.registry,
        tags=tags,
        words=(*_given_words(options, _RUNNING), *(f"--tags={tag}" for tag in tags)),
        context=options.additional_context_file,
        run_id=options.run_id,
        output=options.output,
        summary_output=options.summary_output or Path("run_summary.json"),
    )


def _names_hosts(options: argparse.Namespace) -> bool:
    return bool(options.host or options.hosts_file)


def _fleet(options: argparse.Namespace) -> Fleet:
    from madengine import fleet
    from madengine.remote_node import Settings

    chosen = fleet.FleetOptions(
        hosts=fleet.hosts(options.host or (), options.hosts_file),
        forks=options.forks,
        settings=Settings(fleet.remote_folder(options.remote_path), options.remote_python, options.reconnect),
        config=options.ssh_config,
        secrets_from=Path(os.environ.get("MODEL_DIR") or ".") if options.ship_credentials else None,
    )
    return fleet.Fleet(chosen, say=_say, show=_show)


def _tags(options: argparse.Namespace) -> tuple[str, ...]:
    from madengine.tools.discover_models import split_tags

    return split_tags(options.tags)


def _architectures(given: Sequence[str] | None) -> tuple[str, ...]:
    from madengine.gpus import architecture_name

    names = (name.strip() for word in given or () for name in word.split(","))
    return tuple(dict.fromkeys(architecture_name(name) for name in names if name))


# --- the parser ---

_Verb = Callable[[argparse.Namespace], int]


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        _say(f"{self.prog.partition(' ')[2] or 'madengine'}: {message}; see `{self.prog} --help`")
        sys.exit(EXIT_CONFIGURATION)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="madengine",
        description="Build the images of machine-learning models once, run them anywhere, collect the numbers.",
        epilog=_EXIT_CODES,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"madengine {__version__}")
    verbs = parser.add_subparsers(metavar="VERB", required=True, parser_class=_Parser)

    def verb(
        name: str, action: _Verb, text: str, *groups: Callable[[argparse.ArgumentParser], None], among: Any = verbs
    ) -> None:
        added = among.add_parser(name, help=text, description=text, epilog=_EXIT_CODES, allow_abbrev=False)
        for group in groups:
            group(added)
        added.add_argument("--verbose", action="store_true", help="show the traceback of an error")
        added.set_defaults(verb=action, parser=added)

    choosing = (
        arguments.selection,
        arguments.context,
        arguments.engine,
        arguments.registry,
        arguments.building,
        arguments.images,
        arguments.tools,
    )
    verb(
        "build",
        _build,
        "build the models' images, push them, write the manifest",
        *choosing,
        arguments.batch,
        arguments.build_summary,
    )
    verb(
        "push",
        _push,
        "push the images of a manifest that its registry doesn't have yet",
        arguments.pushing,
        arguments.engine,
    )
    verb(
        "run",
        _run,
        "run a manifest's models; without a manifest, build first",
        arguments.manifest,
        *choosing,
        arguments.running,
        arguments.around,
        arguments.on_gpus,
        arguments.on_hosts,
    )
    verb("full", _full, "build, then run", *choosing, arguments.running, arguments.around, arguments.on_gpus)
    verb(
        "export-config",
        _export_config,
        "write what other tools need to plan",
        arguments.selection,
        arguments.context,
        arguments.exporting,
    )
    verb("discover", _discover, "list the models of the package", arguments.selection, arguments.format)
    verb(
        "deploy",
        _deploy,
        "build, push, and run on hosts over ssh",
        *choosing,
        arguments.running,
        arguments.around,
        arguments.on_gpus,
        arguments.on_hosts,
    )
    verb("ship", _ship, "copy madengine.pyz and the manifest to hosts", arguments.shipping, arguments.on_hosts)
    verb(
        "fetch",
        _fetch,
        "collect what runs left on hosts, following those that still go on",
        arguments.fetching,
        arguments.on_hosts,
    )
    verb(
        "doctor",
        _doctor,
        "check what this machine is fit for, or what hosts are",
        arguments.examining,
        arguments.on_hosts,
    )
    verb("init", _init, "write the starter model package", arguments.directory)
    verb(
        "collect",
        _collect,
        "merge the results of many runs and hosts into one table",
        arguments.collecting,
        arguments.failures,
        k8s.collecting,
    )
    verb("bundle", _bundle, "write madengine.pyz, which runs on any node with python3", arguments.bundling)
    verb(
        "runner-image",
        _runner_image,
        "build and push the image of Kubernetes' sidecar, and print its name by digest",
        arguments.registry,
        k8s.image,
    )
    text = "write the files that another tool runs a manifest from"
    generate = verbs.add_parser("generate", help=text, description=text, epilog=_EXIT_CODES, allow_abbrev=False)
    tools = generate.add_subparsers(metavar="TOOL", required=True, parser_class=_Parser)
    verb(
        "ansible",
        _generate_ansible,
        "write an Ansible playbook for the nodes of an inventory",
        arguments.playbook,
        among=tools,
    )
    verb("k8s", _generate_k8s, "write what kubectl applies: a Job for each image", k8s.generating, among=tools)
    return parser


def _unknown(parser: argparse.ArgumentParser, words: Sequence[str]) -> str:
    first = words[0].partition("=")[0]
    known = [name for action in parser._actions for name in action.option_strings]
    if not first.startswith("-"):
        hint = f" (did you mean --tags {' '.join(words)}?)" if "--tags" in known else ""
        return f"unexpected argument {' '.join(words)}{hint}"
    if first in known:
        return f"write {first} after the verb"
    close = difflib.get_close_matches(first, known, n=1, cutoff=0.75)
    return f"unknown option {' '.join(words)}" + (f" (did you mean {close[0]}?)" if close else "")


# --- messages and signals ---

_one_at_a_time = threading.Lock()


def _say(line: str) -> None:
    with _one_at_a_time:
        try:
            print(line, file=sys.stderr, flush=True)  # noqa: T201
        except OSError:
            # That nobody can hear us any more is no reason to give up the work.
            _mute(sys.stderr)


def _show(text: str) -> None:
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    try:
        print(text.encode(encoding, "backslashreplace").decode(encoding), flush=True)  # noqa: T201
    except BrokenPipeError:
        # Whoever read our output (`| head`) has enough.
        _mute(sys.stdout)
    except OSError as error:
        _mute(sys.stdout)
        raise MadengineError(f"stdout: can't be written: {error.strerror}") from error


def _mute(stream: TextIO) -> None:
    """Send a broken stream's output nowhere: the interpreter would complain when it flushes it at the end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _fail(error: MadengineError | OSError, code: int, verbose: bool) -> int:
    from madengine import programs

    if verbose:
        import traceback

        _say(programs.redact("".join(traceback.format_exception(error))))
    told = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) and error.filename else str(error)
    _say(programs.redact(f"madengine: error: {' '.join(told.splitlines())}"))
    return code


_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def _signals_interrupt() -> Iterator[None]:
    """Ctrl-C, TERM and a lost terminal all end a command the same way; more of them don't stop the tidying up."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in _ENDING}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, _interrupted)
    try:
        yield
    finally:
        stopped = signal.getsignal(signal.SIGINT) is _still_stopping
        for number, handler in before.items():
            # One more signal on the way out would turn our exit code into the signal's.
            signal.signal(number, signal.SIG_IGN if stopped else handler)


def _interrupted(number: int, frame: FrameType | None) -> NoReturn:
    for again in _ENDING:
        signal.signal(again, _still_stopping)
    raise KeyboardInterrupt


def _still_stopping(number: int, frame: FrameType | None) -> None:
    # Not `_say`: what this interrupts may hold its lock.
    with suppress(OSError):
        os.write(2, b"already stopping; a container gets some seconds to end\n")


if __name__ == "__main__":
    sys.exit(main())
