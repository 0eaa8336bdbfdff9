"""The options of every verb, in groups: what may be typed, what it means, and what is no value for it."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from madengine.engine_names import ENGINE_NAMES

ENGINES = ("auto", *ENGINE_NAMES)
ISOLATIONS = ("least", "compat")
_ROWS = "the table that gets a row for each result (default: perf.csv)"
_MANIFEST = "the manifest (default: build_manifest.json)"


def tags(parser: argparse.ArgumentParser, text: str) -> None:
    """How models are chosen; `text` says out of what."""
    parser.add_argument("--tags", "-t", nargs="+", action="extend", metavar="TAG", help=text)


def selection(parser: argparse.ArgumentParser) -> None:
    tags(parser, "models by name or tag, with spaces or commas between, also name:key=value (default: all)")
    parser.add_argument(
        "--ignore-deprecated",
        "--ignore-deprecated-flag",
        action="store_true",
        help="take deprecated models too",
    )


def context(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--additional-context", "-c", metavar="TEXT", help="context as JSON or a Python literal")
    parser.add_argument("--additional-context-file", "-f", type=Path, metavar="FILE", help="context as a JSON file")


def engine(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--engine",
        choices=ENGINES,
        help="container engine (default: $MADENGINE_ENGINE, else the first that answers)",
    )
    parser.add_argument("--dry-run", action="store_true", help="print the shell lines instead of running them")


def registry(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--registry", "-r", default="", metavar="HOST[:PORT]", help="where images are pushed and pulled"
    )


def building(parser: argparse.ArgumentParser) -> None:
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
    parser.add_argument(
        "--credentials-as-build-args",
        action="store_true",
        help="give builds the models' credentials as arguments too, which stay readable in the images",
    )


def running(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--output", "-o", type=Path, default=Path("perf.csv"), metavar="FILE", help=_ROWS)
    parser.add_argument(
        "--timeout",
        type=_timeout,
        default=-1,
        metavar="SECONDS",
        help="limit of every model's script, 0 is none (default: the model's own, else 7200)",
    )
    parser.add_argument(
        "--run-id",
        type=_run_id,
        default="",
        metavar="ID",
        help="name of the run and its folder in runs/ (default: new)",
    )
    parser.add_argument(
        "--resume", type=Path, metavar="FILE", help="leave out the images that have succeeded by this perf.csv"
    )
    parser.add_argument("--quiet", "-q", action="store_true", help="a line for each result, and no table at the end")
    parser.add_argument("--keep-alive", action="store_true", help="leave the container for a look around")
    parser.add_argument("--keep-model-dir", action="store_true", help="leave the model's directory in the run's folder")
    parser.add_argument("--skip-model-run", action="store_true", help="pull the images, start nothing")
    parser.add_argument("--data-config-file-name", type=Path, metavar="FILE", help="data sets (default: data.json)")
    parser.add_argument("--force-mirror-local", default="", metavar="DIR", help="keep fetched data in this folder")
    _summary(parser, "run_summary.json, or full_summary.json for full")


def on_gpus(parser: argparse.ArgumentParser) -> None:
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


def examining(parser: argparse.ArgumentParser) -> None:
    registry(parser)
    _gpu_mode(parser)
    parser.add_argument("--engine", choices=ENGINES, help="container engine (default: the first that answers)")
    parser.add_argument("--json", action="store_true", help="print the checks as JSON")


def on_hosts(parser: argparse.ArgumentParser) -> None:
    _hosts(parser)


def copying_to_hosts(parser: argparse.ArgumentParser) -> None:
    _hosts(parser).add_argument(
        "--ship-credentials", action="store_true", help="copy credential.json and data.json to the hosts too"
    )


def _hosts(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    hosts = parser.add_argument_group("on other hosts, over ssh")
    hosts.add_argument(
        "--host",
        nargs="+",
        action="extend",
        metavar="HOST",
        help="[user@]host[:port] or names of your ssh config, with spaces or commas between",
    )
    hosts.add_argument("--hosts-file", type=Path, metavar="FILE", help="hosts, one a line")
    hosts.add_argument("--forks", type=_forks, default=16, metavar="N", help="hosts at once (default: 16)")
    hosts.add_argument(
        "--remote-path",
        default="madengine",
        metavar="DIR",
        help="folder on the hosts, from the home there; %%h is the host's name (default: madengine)",
    )
    hosts.add_argument(
        "--remote-python", default="python3", metavar="NAME", help="python3 of the hosts (default: python3)"
    )
    hosts.add_argument("--ssh-config", type=Path, metavar="FILE", help="in place of ~/.ssh/config")
    hosts.add_argument(
        "--reconnect",
        type=_number_of("seconds", 0, 10**7),
        default=600.0,
        metavar="SECONDS",
        help="try so long to reach a host again whose connection broke (default: 600)",
    )
    return hosts


def shipping(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--manifest-file", "-m", type=Path, default=Path("build_manifest.json"), metavar="FILE", help=_MANIFEST
    )


def fetching(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--run-id", type=_run_id, default="", metavar="ID", help="which run (default: the newest of each host)"
    )
    parser.add_argument("--output", "-o", type=Path, default=Path("perf.csv"), metavar="FILE", help=_ROWS)
    _summary(parser, "run_summary.json")


def tools(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--tools-json-file-name",
        "--tools-config",
        type=Path,
        metavar="FILE",
        help="definitions of tools beside those that come with madengine (default: scripts/common/tools.json)",
    )


def images(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--target-archs",
        "-a",
        nargs="+",
        action="extend",
        metavar="ARCH",
        help="an image for each of these GPU architectures, such as gfx942, with spaces or commas between",
    )
    parser.add_argument(
        "--use-image",
        default="",
        metavar="IMAGE",
        help="build nothing, take an image that is there; auto is the card's env_vars.DOCKER_IMAGE_NAME",
    )


def batch(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--batch-manifest",
        type=Path,
        metavar="FILE",
        help="JSON in place of --tags: which models are built, and which only named",
    )


def around(parser: argparse.ArgumentParser) -> None:
    """What is around a script: its container, and what describes it."""
    parser.add_argument(
        "--generate-sys-env-details",
        "--sys-env-details",
        type=_yes_or_no,
        nargs="?",
        const=True,
        metavar="true|false",
        help="leave a description of what each script finds in its container (default: true)",
    )
    parser.add_argument(
        "--isolation",
        choices=ISOLATIONS,
        default="least",
        help="least privileges, or compat for exactly the container flags of older madengine (default: least)",
    )


def build_summary(parser: argparse.ArgumentParser) -> None:
    _summary(parser, "build_summary.json")


def _summary(parser: argparse.ArgumentParser, default: str) -> None:
    parser.add_argument(
        "--summary-output", "-s", type=Path, metavar="FILE", help=f"what succeeded and what failed (default: {default})"
    )


def manifest(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--manifest-file",
        "-m",
        type=Path,
        metavar="FILE",
        help="the manifest to run, as it is; where it is missing, or none is named, it is built first, and only then "
        "the options of a build count",
    )


def pushing(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--manifest-file", "-m", type=Path, default=Path("build_manifest.json"), metavar="FILE", help=_MANIFEST
    )
    registry(parser)


def exporting(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--output",
        "-o",
        type=Path,
        default=Path("execution_config.json"),
        metavar="FILE",
        help="default: execution_config.json",
    )


def format(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--format", choices=("table", "json", "names"), default="table", help="default: table")


def directory(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("directory", type=Path, metavar="DIR", help="a new folder, or one without a package")


def collecting(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "directories", type=Path, nargs="*", metavar="DIR", help="where results.json and perf.csv files are looked for"
    )
    parser.add_argument(
        "--output",
        "-o",
        type=Path,
        default=Path("perf.csv"),
        metavar="FILE",
        help="the table that gets the rows it doesn't have yet (default: perf.csv)",
    )
    parser.add_argument(
        "--results",
        type=Path,
        default=Path("results.json"),
        metavar="FILE",
        help="the runs and the machine of each; those it already has stay (default: results.json)",
    )


def failures(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--failed",
        type=_failed_host,
        action="append",
        metavar="HOST=REASON",
        help="a host that could not run: a row for each model of --manifest-file, kept in the first DIR",
    )
    parser.add_argument(
        "--manifest-file", "-m", type=Path, default=Path("build_manifest.json"), metavar="FILE", help="for --failed"
    )
    parser.add_argument("--run-id", type=_run_id, default="", metavar="ID", help="for --failed and --kubernetes")


def playbook(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--manifest-file", "-m", type=Path, default=Path("build_manifest.json"), metavar="FILE", help=_MANIFEST
    )
    parser.add_argument(
        "--execution-config",
        type=Path,
        default=Path("execution_config.json"),
        metavar="FILE",
        help="what export-config wrote (default: execution_config.json)",
    )
    parser.add_argument(
        "--output",
        "-o",
        type=Path,
        default=Path("madengine_distributed.yml"),
        metavar="FILE",
        help="the playbook (default: madengine_distributed.yml)",
    )
    parser.add_argument(
        "--template-dir", type=Path, metavar="DIR", help="where ansible/playbook.yml of your own is looked for first"
    )


def bundling(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--output", "-o", type=Path, default=Path("madengine.pyz"), metavar="FILE", help="default: madengine.pyz"
    )


def _failed_host(text: str) -> tuple[str, str]:
    host, equals, reason = text.partition("=")
    if not host or not equals or "/" in host:
        raise argparse.ArgumentTypeError(f"{text!r} is not HOST=REASON")
    return host, reason


def _yes_or_no(text: str) -> bool:
    if text.strip().lower() not in ("true", "false", "yes", "no", "1", "0"):
        raise argparse.ArgumentTypeError(f"{text!r} is not true or false")
    return text.strip().lower() in ("true", "yes", "1")


def _run_id(text: str) -> str:
    # It names a folder, containers and a label; 200 characters of a container's name are kept.
    if text and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}", text):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a run id: a letter or digit, then up to 99 letters, digits, '-', '_' and '.'"
        )
    return text


def _timeout(text: str) -> int:
    if not text.removeprefix("-").isdigit() or int(text) < -1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds (0 is no limit)")
    return int(text)


def _jobs(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of jobs (1 or more)")
    return int(text)


def _forks(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of hosts (1 or more)")
    return int(text)


def _number_of(what: str, least: float, most: float) -> Callable[[str], float]:
    def number(text: str) -> float:
        with suppress(ValueError):
            if least <= float(text) <= most:
                return float(text)
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of {what} from {least:g} to {most:.10g}")

    return number
