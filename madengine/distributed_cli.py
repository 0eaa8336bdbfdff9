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
from typing import TYPE_CHECKING, NoReturn, TextIO

from madengine import __version__
from madengine.errors import (
    EXIT_CONFIGURATION,
    EXIT_DONE,
    EXIT_FAILURE,
    EXIT_INTERRUPTED,
    ConfigurationError,
    MadengineError,
)

if TYPE_CHECKING:
    from madengine.distributed_orchestrator import BuildOptions, DistributedOrchestrator, Place
    from madengine.node_run import RunOptions

_ENGINES = ("auto", "docker", "podman", "nerdctl")
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
    """Run an existing manifest; without one, build first."""
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
    if name not in _ENGINES:
        raise ConfigurationError(f"MADENGINE_ENGINE={name}: no such engine; set one of {', '.join(_ENGINES)}")
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
        dry_run=options.dry_run,
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
        live_output=options.live_output,
        data_file=options.data_config_file_name,
        force_mirror_local=options.force_mirror_local,
        gpu_mode=options.gpu_mode,
        gpu_wait=options.gpu_wait,
        sample_hz=options.sample_hz,
        pack=options.pack,
        skip_gpu_arch=not options.disable_skip_gpu_arch,
        dry_run=options.dry_run,
    )


def _tags(options: argparse.Namespace) -> tuple[str, ...]:
    from madengine.tools.discover_models import split_tags

    return split_tags(options.tags)


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

    def verb(name: str, action: _Verb, text: str, *groups: Callable[[argparse.ArgumentParser], None]) -> None:
        added = verbs.add_parser(name, help=text, description=text, epilog=_EXIT_CODES, allow_abbrev=False)
        for group in groups:
            group(added)
        added.add_argument("--verbose", action="store_true", help="show the traceback of an error")
        added.set_defaults(verb=action, parser=added)

    choosing = (_selection, _context, _engine, _registry, _building)
    verb("build", _build, "build the models' images, push them, write the manifest", *choosing, _build_summary)
    verb("push", _push, "push the images of a manifest that its registry doesn't have yet", _pushing, _engine)
    verb(
        "run",
        _run,
        "run a manifest's models; without a manifest, build first",
        _manifest,
        *choosing,
        _running,
        _on_gpus,
    )
    verb("full", _full, "build, then run", *choosing, _running, _on_gpus)
    verb("export-config", _export_config, "write what other tools need to plan", _selection, _context, _exporting)
    verb("discover", _discover, "list the models of the package", _selection, _format)
    verb("doctor", _doctor, "check what this machine is fit for", _examining)
    verb("init", _init, "write the starter model package", _directory)
    return parser


def _selection(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--tags",
        "-t",
        nargs="+",
        action="extend",
        metavar="TAG",
        help="models by name or tag, with spaces or commas between, also name:key=value (default: all)",
    )
    parser.add_argument(
        "--ignore-deprecated",
        "--ignore-deprecated-flag",
        action="store_true",
        help="take deprecated models too",
    )


def _context(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--additional-context", "-c", metavar="TEXT", help="context as JSON or a Python literal")
    parser.add_argument("--additional-context-file", "-f", type=Path, metavar="FILE", help="context as a JSON file")


def _engine(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--engine",
        choices=_ENGINES,
        help="container engine (default: $MADENGINE_ENGINE, else the first that answers)",
    )
    parser.add_argument("--dry-run", action="store_true", help="print the shell lines instead of running them")


def _registry(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--registry", "-r", default="", metavar="HOST[:PORT]", help="where images are pushed and pulled"
    )


def _building(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--clean-docker-cache", action="store_true", help="build without the engine's cache")
    parser.add_argument(
        "--manifest-output",
        type=Path,
        default=Path("build_manifest.json"),
        metavar="FILE",
        help="where the manifest is written (default: build_manifest.json)",
    )
    parser.add_argument(
        "--jobs", "-j", type=_jobs, default=0, metavar="N", help="images built at once (default: one a CPU, at least 4)"
    )
    parser.add_argument("--live-output", "-l", action="store_true", help="show the logs as they come")


def _running(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--output", "-o", type=Path, default=Path("perf.csv"), metavar="FILE", help="the table of rows")
    parser.add_argument(
        "--timeout",
        type=_timeout,
        default=-1,
        metavar="SECONDS",
        help="limit of every model's script, 0 is none (default: the model's own, else 7200)",
    )
    parser.add_argument("--keep-alive", action="store_true", help="leave the container for a look around")
    parser.add_argument("--keep-model-dir", action="store_true", help="leave the model's directory in the run's folder")
    parser.add_argument("--skip-model-run", action="store_true", help="pull the images, start nothing")
    parser.add_argument("--data-config-file-name", type=Path, metavar="FILE", help="data sets (default: data.json)")
    parser.add_argument("--force-mirror-local", default="", metavar="DIR", help="keep fetched data in this folder")
    _summary(parser, "run_summary.json, of full full_summary.json")


def _on_gpus(parser: argparse.ArgumentParser) -> None:
    _gpu_mode(parser)
    parser.add_argument(
        "--gpu-wait",
        type=_number_of("seconds", 0, 10**7),
        default=0.0,
        metavar="SECONDS",
        help="wait so long for GPUs that another run holds (default: 0, fail at once)",
    )
    parser.add_argument(
        "--sample-hz",
        type=_number_of("samples a second", 0.1, 10),
        default=1.0,
        metavar="HZ",
        help="GPU samples a second, 0.1 to 10 (default: 1)",
    )
    parser.add_argument("--pack", action="store_true", help="run models side by side, each on GPUs of its own")
    parser.add_argument(
        "--disable-skip-gpu-arch", action="store_true", help="run models also on GPUs that their skip_gpu_arch names"
    )


def _gpu_mode(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--gpu-mode",
        choices=("auto", "devices", "gpus", "cdi"),
        default="auto",
        help="how GPUs are handed to containers (default: auto, as their vendor documents it for the engine)",
    )


def _examining(parser: argparse.ArgumentParser) -> None:
    _registry(parser)
    _gpu_mode(parser)
    parser.add_argument("--engine", choices=_ENGINES, help="container engine (default: the first that answers)")
    parser.add_argument("--json", action="store_true", help="print the checks as JSON")


def _build_summary(parser: argparse.ArgumentParser) -> None:
    _summary(parser, "build_summary.json")


def _summary(parser: argparse.ArgumentParser, default: str) -> None:
    parser.add_argument(
        "--summary-output", "-s", type=Path, metavar="FILE", help=f"what succeeded and what failed (default: {default})"
    )


def _manifest(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--manifest-file", "-m", type=Path, metavar="FILE", help="the manifest to run; where it is missing, build it"
    )


def _pushing(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--manifest-file", "-m", type=Path, default=Path("build_manifest.json"), metavar="FILE", help="the manifest"
    )
    _registry(parser)


def _exporting(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--output", "-o", type=Path, default=Path("execution_config.json"), metavar="FILE")


def _format(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--format", choices=("table", "json", "names"), default="table")


def _directory(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("directory", type=Path, metavar="DIR")


def _timeout(text: str) -> int:
    if not text.removeprefix("-").isdigit() or int(text) < -1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds (0 is no limit)")
    return int(text)


def _jobs(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of jobs (1 or more)")
    return int(text)


def _number_of(what: str, least: float, most: float) -> Callable[[str], float]:
    def number(text: str) -> float:
        with suppress(ValueError):
            if least <= float(text) <= most:
                return float(text)
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of {what} from {least:g} to {most:g}")

    return number


def _unknown(parser: argparse.ArgumentParser, words: Sequence[str]) -> str:
    first = words[0].partition("=")[0]
    known = [name for action in parser._actions for name in action.option_strings]
    if not first.startswith("-"):
        hint = f" (did you mean --tags {' '.join(words)}?)" if "--tags" in known else ""
        return f"unexpected argument {' '.join(words)}{hint}"
    if first in known:
        return f"write {first} after the verb"
    close = difflib.get_close_matches(first, known, n=1)
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
