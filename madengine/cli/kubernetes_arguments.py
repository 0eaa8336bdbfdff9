"""The options of `generate k8s` and of `collect --kubernetes`."""

from __future__ import annotations

import argparse
from pathlib import Path

from madengine.cli import arguments
from madengine.deploy.kubernetes import SLACK_SECONDS


def generating(parser: argparse.ArgumentParser) -> None:
    _input(parser)
    _results(parser)
    _placing(parser.add_argument_group("where the pods run, and with what"))
    _ending(parser.add_argument_group("how long, and how often"))
    _opening(parser.add_argument_group("what Pod Security baseline forbids"))


def _input(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--manifest-file", "-m", type=Path, metavar="FILE", help="the manifest (default: build_manifest.json)"
    )
    parser.add_argument(
        "--execution-config",
        type=Path,
        metavar="FILE",
        help="what export-config wrote (default: execution_config.json, where it is there)",
    )
    arguments.tags(parser, "only these models of the manifest; without a manifest, these models of the package")
    parser.add_argument(
        "--registry", "-r", default="", metavar="HOST[:PORT]", help="where the cluster pulls from (default: manifest's)"
    )
    parser.add_argument("--namespace", "-n", default="madengine", metavar="NAME", help="default: madengine")
    parser.add_argument("--output", "-o", type=Path, default=Path(), metavar="DIR", help="folder of the files")
    parser.add_argument(
        "--template-dir", type=Path, metavar="DIR", help="where k8s/*.yaml of your own are looked for first"
    )
    parser.add_argument("--kustomize", action="store_true", help="write kustomization.yaml too: patch, do not edit")
    parser.add_argument("--create-namespace", action="store_true", help="write the Namespace too, with its labels")
    parser.add_argument(
        "--mode",
        choices=("job", "runner"),
        default="job",
        help="job: a Job for each image; runner: one Job that runs the whole manifest with an engine (default: job)",
    )


def _results(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--results",
        choices=("configmap", "pull"),
        default="configmap",
        help="configmap: pods write ConfigMap madengine-results; pull: no sidecar, no roles, `collect` asks the pods",
    )
    parser.add_argument(
        "--runner-image", default="", metavar="IMAGE", help="the sidecar's image, as `madengine runner-image` prints it"
    )
    parser.add_argument("--run-id", default="", metavar="ID", help="name of the run (default: the Job's uid)")


def _placing(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--gpu-vendor", type=str.upper, choices=("AMD", "NVIDIA", "NONE"), help="only images for GPUs of this vendor"
    )
    group.add_argument(
        "--gpu-resource", default="", metavar="NAME", help="default: amd.com/gpu or nvidia.com/gpu, by the image"
    )
    group.add_argument(
        "--gpus-per-node", type=_count, metavar="N", help="GPUs of a node: what n_gpus -1 asks for (default: 1)"
    )
    group.add_argument(
        "--nodes",
        type=_count,
        metavar="N",
        help="pods of each model that run as one (default: NNODES of the context's multi_node_args, else 1)",
    )
    group.add_argument(
        "--may-share-nodes", action="store_true", help="let pods of one run share a node (default: each has its own)"
    )
    group.add_argument("--cpu", default="2", metavar="N", help="CPUs that a pod asks for (default: 2)")
    group.add_argument("--cpu-limit", default="", metavar="N", help="CPU limit of a pod's model (default: none)")
    group.add_argument(
        "--memory", default="", metavar="SIZE", help="request and limit, or none (default: request 4Gi, no limit)"
    )
    group.add_argument("--ephemeral-storage", default="", metavar="SIZE", help="request and limit, for files")
    group.add_argument("--shm-size", default="", metavar="SIZE", help="/dev/shm (default: half of --memory, else 16Gi)")
    group.add_argument("--node-selector", nargs="+", action="extend", default=[], metavar="KEY=VALUE")
    group.add_argument("--toleration", nargs="+", action="extend", default=[], metavar="KEY[=VALUE][:EFFECT]")
    group.add_argument("--queue", default="", metavar="NAME", help="Kueue's local queue")
    group.add_argument("--priority-class", default="", metavar="NAME", help="priority class of the pods")
    group.add_argument(
        "--do-not-disrupt", action="store_true", help="ask Karpenter and the cluster autoscaler not to evict the pods"
    )
    group.add_argument("--run-as", default="", metavar="UID[:GID]", help="user of the model (default: the image's)")
    group.add_argument("--drop-capabilities", action="store_true", help="drop all capabilities of the model")
    group.add_argument("--image-pull-secret", nargs="+", action="extend", default=[], metavar="NAME")
    group.add_argument(
        "--env-secret",
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME",
        help="its keys are variables of the pods, such as <CRED>_PASSWORD for a card's cred",
    )
    group.add_argument("--service-account", default="", metavar="NAME", help="an existing one, in place of ours")
    group.add_argument(
        "--data-volume",
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME=pvc:CLAIM[/PATH]",
        help="where the data set NAME lies; also NAME=nfs:SERVER:/PATH and NAME=hostpath:/PATH (default: data.json)",
    )
    group.add_argument("--data-config-file-name", type=Path, metavar="FILE", help="data sets (default: data.json)")
    group.add_argument("--engine-host", default="", metavar="URL", help="with --mode runner: DOCKER_HOST of the pod")


def _ending(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--timeout",
        type=_seconds,
        metavar="SECONDS",
        help="limit of every script, 0 is none (default: its own)",
    )
    group.add_argument(
        "--slack",
        type=_seconds,
        default=SLACK_SECONDS,
        metavar="SECONDS",
        help=f"what scheduling and pulling may take beside the script (default: {SLACK_SECONDS})",
    )
    group.add_argument(
        "--retries", type=_whole, default=1, metavar="N", help="new pods for one that was killed (default: 1)"
    )
    group.add_argument("--repeats", type=_count, default=1, metavar="N", help="run each model so many times")
    group.add_argument("--parallel", type=_count, default=1, metavar="N", help="repeats at once (default: 1)")
    group.add_argument("--ttl", type=_seconds, metavar="SECONDS", help="remove ended Jobs after so long, 86400 or more")


def _opening(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--host-ipc", action="store_true", help="share the node's IPC namespace with the pods")
    group.add_argument("--host-path", action="store_true", help="mount folders of the node: docker_mounts, local data")


def image(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--base", default="python:3.13-slim", metavar="IMAGE", help="an image with python3 (default: python:3.13-slim)"
    )
    parser.add_argument("--engine", choices=arguments.ENGINES, help="container engine")


def collecting(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("out of a Kubernetes cluster")
    group.add_argument("--kubernetes", action="store_true", help="collect what the pods of a namespace reported")
    group.add_argument("--namespace", "-n", default="madengine", metavar="NAME", help="default: madengine")
    group.add_argument("--kube-context", default="", metavar="NAME", help="default: kubectl's current one")
    group.add_argument("--wait", action="store_true", help="wait until the Jobs have ended; --run-id says of which run")


def _count(text: str) -> int:
    if not text.isdigit() or not 1 <= int(text) <= 100_000:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 on")
    return int(text)


def _whole(text: str) -> int:
    if not text.isdigit() or int(text) > 100:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 to 100")
    return int(text)


def _seconds(text: str) -> int:
    if not text.isdigit() or int(text) > 10**9:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds")
    return int(text)
