"""The command line: options in, one orchestrator call, exit code out."""

from __future__ import annotations

import argparse
import difflib
import logging
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from madengine import __version__
from madengine.cli import arguments
from madengine.cli import kubernetes_arguments as k8s
from madengine.cli import option_values as values
from madengine.cli.terminal import configure_logging, fail, print_error, show, signals_interrupt
from madengine.errors import (
    EXIT_CONFIGURATION,
    EXIT_DONE,
    EXIT_FAILURE,
    EXIT_INTERRUPTED,
    EXIT_RUN_FAILED,
    ConfigurationError,
    MadengineError,
)

logger = logging.getLogger("madengine.cli")

_EXIT_CODES = (
    "exit codes: 0 done, 1 failure, 2 a build failed, 3 a run failed, 4 wrong arguments or configuration, "
    "130 interrupted"
)


def main(argv: Sequence[str] | None = None) -> int:
    """Carry out one command line; gives its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    options, unknown = _parser(words).parse_known_args(words)
    if unknown:
        options.parser.error(_unknown(options.parser, unknown))
    configure_logging(options.verbose, options.log_format)
    with signals_interrupt():
        try:
            code: int = options.verb(options)
        except MadengineError as error:
            return fail(error, error.exit_code, options.verbose)
        except OSError as error:
            return fail(error, EXIT_FAILURE, options.verbose)
        except KeyboardInterrupt:
            logger.info("interrupted")
            return EXIT_INTERRUPTED
    return code


# --- verbs ---


def _build(options: argparse.Namespace) -> int:
    return values.orchestrator(options).build_phase(values.build_options(options)).exit_code


def _push(options: argparse.Namespace) -> int:
    return values.orchestrator(options).push_phase(options.manifest_file, options.registry, options.dry_run)


def _run(options: argparse.Namespace) -> int:
    """Run an existing manifest, here or on hosts; without one, build first."""
    if values.names_hosts(options):
        manifest_file = options.manifest_file or Path("build_manifest.json")
        _say_what_only_a_build_heeds(options, manifest_file)
        return _run_on_hosts(options, manifest_file)
    named: Path | None = options.manifest_file
    orchestrator = values.orchestrator(options)
    if named is not None and os.path.lexists(named):
        _say_what_only_a_build_heeds(options, named)
        if not options.quiet:
            logger.info(f"{named} is there: running it, nothing is built")
        return orchestrator.run_phase(named, values.run_options(options, "run_summary.json"))
    if not orchestrator.place.has_package:
        raise ConfigurationError(
            f"{named}: no such manifest, and no models.json here to build from; name a manifest that is there"
        )
    why = f"{named} is not there" if named else "no --manifest-file given"
    options.manifest_output = named or options.manifest_output
    logger.info(f"{why}: building first; the manifest goes to {options.manifest_output}")
    return orchestrator.full_phase(values.build_options(options), values.run_options(options, "run_summary.json"))


def _say_what_only_a_build_heeds(options: argparse.Namespace, manifest_file: Path) -> None:
    if given := values.given_for_a_build(options):
        logger.info(f"{', '.join(given)}: not heeded, because {manifest_file} is run as it is and nothing is built")


def _full(options: argparse.Namespace) -> int:
    run = values.run_options(options, "full_summary.json")
    return values.orchestrator(options).full_phase(values.build_options(options), run)


def _deploy(options: argparse.Namespace) -> int:
    """Build, push, ship and run; what was built runs, whatever else was not."""
    if not options.registry:
        raise ConfigurationError("deploy: the hosts pull from a registry; say which with --registry")
    if options.dry_run:
        logger.info("the hosts' lines need the manifest that these make: `madengine run --host … --dry-run`")
        return values.orchestrator(options).build_phase(values.build_options(options)).exit_code
    fleet = values.fleet(options)
    summary, options.summary_output = options.summary_output, None
    outcome = values.orchestrator(options).build_phase(values.build_options(options))
    if not outcome.images:
        return outcome.exit_code
    # The words that chose what to build choose nothing more in the manifest that came of them.
    options.tags, options.summary_output = [], summary
    code = fleet.run(values.host_run(options, options.manifest_output))
    return outcome.exit_code or code


def _ship(options: argparse.Namespace) -> int:
    return values.fleet(options).ship(options.manifest_file)


def _fetch(options: argparse.Namespace) -> int:
    return values.fleet(options).fetch(
        options.run_id, options.output, options.summary_output or Path("run_summary.json")
    )


def _run_on_hosts(options: argparse.Namespace, manifest_file: Path) -> int:
    fleet = values.fleet(options)
    host_run = values.host_run(options, manifest_file)
    return fleet.show_lines(host_run) if options.dry_run else fleet.run(host_run)


def _export_config(options: argparse.Namespace) -> int:
    orchestrator = values.orchestrator(options)
    return orchestrator.export_config(values.tags(options), options.output, options.ignore_deprecated)


def _discover(options: argparse.Namespace) -> int:
    from madengine.tools.discover_models import DiscoverModels, report

    models = DiscoverModels(values.place(options).root).select(values.tags(options), options.ignore_deprecated)
    show(report(models, options.format))
    return EXIT_DONE


def _doctor(options: argparse.Namespace) -> int:
    import json

    from madengine import doctor
    from madengine.config.credentials import registry_name

    if values.names_hosts(options):
        return values.fleet(options).doctor(values.given_words(options, values.EXAMINING))
    registry = registry_name(options.registry) if options.registry else ""
    checks = doctor.examine(values.engine_name(options), registry, options.gpu_mode)
    show(json.dumps(doctor.as_json(checks), indent=2) if options.json else doctor.table(checks))
    return EXIT_DONE if doctor.is_fit(checks) else EXIT_FAILURE


def _init(options: argparse.Namespace) -> int:
    from madengine.config.package import init_package

    for path in init_package(options.directory):
        show(str(path))
    logger.info(f"a model package to grow: {options.directory}; `cd {options.directory} && madengine run`")
    return EXIT_DONE


def _collect(options: argparse.Namespace) -> int:
    from madengine.results.merge import merge, note_failure, tables

    if options.kubernetes:
        return _collect_kubernetes(options)
    if not options.directories:
        raise ConfigurationError("collect: name the folders to look in, or --kubernetes")
    if options.failed:
        from madengine.config.manifest import load_manifest

        if not options.run_id:
            raise ConfigurationError("--failed: say of which run with --run-id")
        kept = load_manifest(options.manifest_file)
        for host, reason in options.failed:
            note_failure(options.directories[0] / host, kept, options.run_id, host, reason)
    merged = merge(options.directories, options.output, options.results)
    for problem in merged.problems:
        logger.info(problem)
    if merged.rows:
        show(tables(merged.rows))
        logger.info(
            f"rows: {merged.added} new in {options.output}; {len(merged.rows)} collected; runs: {options.results}"
        )
    return EXIT_FAILURE if merged.problems else EXIT_DONE


def _collect_kubernetes(options: argparse.Namespace) -> int:
    """Collect out of a cluster; the exit code says whether a model failed there."""
    from madengine.deploy.kubernetes import names
    from madengine.deploy.kubernetes.collect import collect_results
    from madengine.programs.kubectl import Kubectl
    from madengine.results.merge import tables

    if options.directories or options.failed:
        raise ConfigurationError("--kubernetes: not together with folders or --failed")
    names.check_namespace(options.namespace)
    kubectl = Kubectl(options.namespace, options.kube_context)
    came = collect_results(kubectl, options.output, options.results, options.run_id, options.wait)
    merged = came.merged
    for problem in merged.problems:
        logger.info(problem)
    if merged.rows:
        show(tables(merged.rows))
    logger.info(f"rows: {merged.added} new in {options.output}; runs: {options.results}")
    if not came.attempts and not came.unfinished:
        logger.info(
            f"{options.namespace}: no results{options.run_id and f' of run {options.run_id}'} in this namespace"
        )
        return EXIT_FAILURE
    for name in came.unfinished:
        logger.info(f"{name}: not ended yet; --wait waits for it")
    if came.failed:
        logger.info(f"failed: {', '.join(sorted(set(came.failed)))}")
        return EXIT_RUN_FAILED
    return EXIT_FAILURE if merged.problems or came.unfinished else EXIT_DONE


def _bundle(options: argparse.Namespace) -> int:
    from madengine.deploy.bundle import write_bundle

    show(str(write_bundle(options.output)))
    return EXIT_DONE


def _generate_ansible(options: argparse.Namespace) -> int:
    from madengine.deploy.ansible import generate_ansible

    made = generate_ansible(options.manifest_file, options.execution_config, options.output, options.template_dir)
    for warning in made.warnings:
        logger.info(warning)
    for path in made.paths:
        show(str(path))
    logger.info("to run it: copy gpu_inventory.example to gpu_inventory and name your nodes in it; then")
    logger.info(f"ansible-playbook -i gpu_inventory {options.output}")
    return EXIT_DONE


def _runner_image(options: argparse.Namespace) -> int:
    from madengine.deploy.kubernetes import runner_image

    if not options.registry:
        raise ConfigurationError("runner-image: say with --registry where the cluster pulls from")
    place = values.package()
    show(runner_image.push(options.registry, options.base, values.engine_name(options), place.root, place.environ))
    return EXIT_DONE


def _generate_k8s(options: argparse.Namespace) -> int:
    from madengine.deploy.kubernetes.generate import generate_kubernetes

    wanted = values.kubernetes_options(options)
    made = generate_kubernetes(values.source(options), wanted, options.output, options.data_config_file_name)
    for warning in made.warnings:
        logger.info(warning)
    for path in made.paths:
        show(str(path))
    logger.info(f"to run them: kubectl create namespace {wanted.namespace}; then kubectl apply -f both, in this order")
    return EXIT_DONE


# --- the parser ---

_Verb = Callable[[argparse.Namespace], int]
_Group = Callable[[argparse.ArgumentParser], None]


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        print_error(f"{self.prog.partition(' ')[2] or 'madengine'}: {message}; see `{self.prog} --help`")
        sys.exit(EXIT_CONFIGURATION)


_CHOOSING = (
    arguments.selection,
    arguments.context,
    arguments.engine,
    arguments.registry,
    arguments.building,
    arguments.images,
    arguments.tools,
)
_RUNNING = (*_CHOOSING, arguments.running, arguments.around, arguments.on_gpus)
# What each verb does, in words too, and its options.
_VERBS: tuple[tuple[str, _Verb, str, tuple[_Group, ...]], ...] = (
    (
        "build",
        _build,
        "build the models' images, push them, write the manifest",
        (*_CHOOSING, arguments.batch, arguments.build_summary),
    ),
    (
        "push",
        _push,
        "push the images of a manifest that its registry doesn't have yet",
        (arguments.pushing, arguments.engine),
    ),
    (
        "run",
        _run,
        "run a manifest's models; without a manifest, build first",
        (arguments.manifest, *_RUNNING, arguments.copying_to_hosts),
    ),
    ("full", _full, "build, then run", (*_RUNNING,)),
    (
        "export-config",
        _export_config,
        "write what other tools need to plan",
        (arguments.selection, arguments.context, arguments.exporting),
    ),
    ("discover", _discover, "list the models of the package", (arguments.selection, arguments.format)),
    ("deploy", _deploy, "build, push, and run on hosts over ssh", (*_RUNNING, arguments.copying_to_hosts)),
    ("ship", _ship, "copy madengine.pyz and the manifest to hosts", (arguments.shipping, arguments.copying_to_hosts)),
    (
        "fetch",
        _fetch,
        "collect what runs left on hosts, following those that still go on",
        (arguments.fetching, arguments.on_hosts),
    ),
    (
        "doctor",
        _doctor,
        "check what this machine is fit for, or what hosts are",
        (arguments.examining, arguments.on_hosts),
    ),
    ("init", _init, "write the starter model package", (arguments.directory,)),
    (
        "collect",
        _collect,
        "merge the results of many runs and hosts into one table",
        (arguments.collecting, arguments.failures, k8s.collecting),
    ),
    ("bundle", _bundle, "write madengine.pyz, which runs on any node with python3", (arguments.bundling,)),
    (
        "runner-image",
        _runner_image,
        "build and push the image of Kubernetes' sidecar, and print its name by digest",
        (arguments.registry, k8s.image),
    ),
)
_GENERATORS: tuple[tuple[str, _Verb, str, tuple[_Group, ...]], ...] = (
    ("ansible", _generate_ansible, "write an Ansible playbook for the nodes of an inventory", (arguments.playbook,)),
    ("k8s", _generate_k8s, "write what kubectl applies: a Job for each image", (k8s.generating,)),
)


def _parser(words: Sequence[str]) -> argparse.ArgumentParser:
    """The parser of these words: every verb has a name in it, those that the words name have their options too."""
    parser = _Parser(
        prog="madengine",
        description="Build the images of machine-learning models once, run them anywhere, collect the numbers.",
        epilog=_EXIT_CODES,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"madengine {__version__}")
    verbs = parser.add_subparsers(metavar="VERB", required=True, parser_class=_Parser)
    for name, action, text, groups in _VERBS:
        _add(verbs, name, action, text, groups if name in words else ())
    text = "write the files that another tool runs a manifest from"
    generate = verbs.add_parser("generate", help=text, description=text, epilog=_EXIT_CODES, allow_abbrev=False)
    tools = generate.add_subparsers(metavar="TOOL", required=True, parser_class=_Parser)
    for name, action, text, groups in _GENERATORS:
        _add(tools, name, action, text, groups if name in words else ())
    return parser


def _add(among: Any, name: str, action: _Verb, text: str, groups: Sequence[_Group]) -> None:
    added = among.add_parser(name, help=text, description=text, epilog=_EXIT_CODES, allow_abbrev=False)
    for group in groups:
        group(added)
    added.add_argument(
        "-v", dest="verbose", action="count", default=0, help="show each command that is run, and its duration"
    )
    added.add_argument(
        "--verbose", dest="verbose", action="store_const", const=2, help="like -vv: the traceback of an error too"
    )
    added.add_argument("--log-format", choices=("text", "json"), default="text", help="messages as text or JSON lines")
    added.set_defaults(verb=action, parser=added)


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


if __name__ == "__main__":
    sys.exit(main())
