"""The options of `generate k8s`, checked, and those of `collect --kubernetes`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from madengine.config.common_options import (
    ExecutionConfigOptions,
    ManifestOptions,
    NodesOptions,
    RepeatOptions,
    RunIdOptions,
    TemplateOptions,
    TimeoutOptions,
)
from madengine.config.option import Group, changed, inherited, option, options_of, whole_number
from madengine.deploy.kubernetes import SLACK_SECONDS, names
from madengine.errors import ConfigurationError

RESULTS = "madengine-results"
LOGS = "madengine-logs"
SERVICE_ACCOUNT = "madengine"
#: the sidecar's user and group
SIDECAR_USER = 65532
#: what a sidecar's report may take
REPORT_SECONDS = 120
# What copying files to a claim may take.
_COPY_SECONDS = 900
#: --memory without a request and a limit
NONE = "none"
_NODES_LIMIT = 10_000
_COUNT = whole_number("pods or runs", 1, 100_000)
_SECONDS = whole_number("seconds", 0, 10**9)


_K8S = Group.KUBERNETES


@dataclass(frozen=True)
class KubeContextOptions:
    """Which cluster; empty is kubectl's current context."""

    kube_context: str = option(
        "--kube-context", default="", group=_K8S, metavar="NAME", help="kubectl's context (default: its current one)"
    )


@dataclass(frozen=True)
class SidecarOptions:
    """What the sidecar's image is built on."""

    base: str = option(
        "--base", default="python:3.13-slim", group=_K8S, metavar="IMAGE",
        help="an image with python3, for the sidecar's (default: python:3.13-slim)",
    )  # fmt: skip


@dataclass(frozen=True)
class Options(RunIdOptions, TimeoutOptions, TemplateOptions, RepeatOptions, NodesOptions):
    """The options of the generated files; times are in seconds, an empty string or None is unset."""

    run_id: str = inherited(RunIdOptions, "run_id", "", help="name of the run (default: the Job's uid)")
    namespace: str = option(
        "--namespace", "-n", default="madengine", group=_K8S, metavar="NAME", help="default: madengine"
    )
    mode: str = option(
        "--mode", default="job", group=_K8S, choices=("job", "runner"),
        help="job: a Job for each image; runner: one Job that runs the whole manifest with an engine (default: job)",
    )  # fmt: skip
    results: str = option(
        "--results", default="configmap", group=_K8S, choices=("configmap", "pull"),
        help="configmap: pods write ConfigMap madengine-results; pull: no sidecar, no roles, `collect` asks the pods",
    )  # fmt: skip
    runner_image: str = option(
        "--runner-image", default="", group=_K8S, metavar="IMAGE",
        help="the sidecar's image, as `madengine runner-image` prints it",
    )  # fmt: skip
    gpu_vendor: str = option(
        "--gpu-vendor", default="", group=_K8S, parse=str.upper, choices=("AMD", "NVIDIA", "NONE"),
        help="only images for GPUs of this vendor",
    )  # fmt: skip
    gpu_resource: str = option(
        "--gpu-resource", default="", group=_K8S, metavar="NAME",
        help="default: amd.com/gpu or nvidia.com/gpu, by the image",
    )  # fmt: skip
    gpus_per_node: int | None = option(
        "--gpus-per-node", default=None, group=_K8S, parse=whole_number("GPUs", 0, 100_000), metavar="N",
        help="GPUs of a node: what n_gpus -1 asks for (default: 1); under Slurm those of every job",
    )  # fmt: skip
    gpu_metrics_from_node: bool = option(
        "--gpu-metrics-from-node", default=False, group=_K8S,
        help="let the sidecar see all GPUs of the node, by NVIDIA's runtime, to measure the pod's",
    )  # fmt: skip
    gpu_metrics_url: str = option(
        "--gpu-metrics-url", default="", group=_K8S, metavar="URL",
        help="DCGM's or AMD's exporter, for GPUs that the sidecar doesn't see, such as http://{node}:9400/metrics",
    )  # fmt: skip
    jobset: bool = option(
        "--jobset", default=False, group=_K8S, help="several nodes as a JobSet, which the cluster has to have"
    )
    exclusive_topology: str = option(
        "--exclusive-topology", default="", group=_K8S, metavar="KEY",
        help="with --jobset: label of nodes whose every value, such as a rack, one run has for itself",
    )  # fmt: skip
    cpu: str = option("--cpu", default="2", group=_K8S, metavar="N", help="CPUs that a pod requests (default: 2)")
    memory: str = option(
        "--memory",
        default="",
        group=_K8S,
        metavar="SIZE",
        help="request and limit, or none (default: request 4Gi, no limit)",
    )
    may_share_nodes: bool = option(
        "--may-share-nodes",
        default=False,
        group=_K8S,
        help="let pods of one run share a node (default: each has its own)",
    )
    cpu_limit: str = option(
        "--cpu-limit", default="", group=_K8S, metavar="N", help="CPU limit of a pod's model (default: none)"
    )
    priority_class: str = option(
        "--priority-class", default="", group=_K8S, metavar="NAME", help="priority class of the pods"
    )
    do_not_disrupt: bool = option(
        "--do-not-disrupt", default=False, group=_K8S,
        help="ask Karpenter and the cluster autoscaler not to evict the pods",
    )  # fmt: skip
    run_as: str = option(
        "--run-as", default="", group=_K8S, metavar="UID[:GID]", help="user of the model (default: the image's)"
    )
    drop_capabilities: bool = option(
        "--drop-capabilities", default=False, group=_K8S, help="drop all capabilities of the model"
    )
    ephemeral_storage: str = option(
        "--ephemeral-storage", default="", group=_K8S, metavar="SIZE", help="request and limit, for files"
    )
    shm_size: str = option(
        "--shm-size", default="", group=_K8S, metavar="SIZE", help="/dev/shm (default: half of --memory, else 16Gi)"
    )
    node_selector: tuple[str, ...] = option(
        "--node-selector", default=(), group=_K8S, many=True, metavar="KEY=VALUE", help="labels that a node must have"
    )
    architecture: str = option(
        "--architecture", default="", group=_K8S, metavar="NAME",
        help="processors of the nodes, such as amd64 or arm64 (default: any)",
    )  # fmt: skip
    toleration: tuple[str, ...] = option(
        "--toleration", default=(), group=_K8S, many=True, metavar="KEY[=VALUE][:EFFECT]",
        help="taints of nodes that the pods tolerate",
    )  # fmt: skip
    artifacts_pvc: str = option(
        "--artifacts-pvc", default="", group=_K8S, metavar="CLAIM[/PATH]",
        help="where sidecars put artifacts and profilers' files, as RUN ID/POD/artifacts",
    )  # fmt: skip
    artifacts_wait: int = option(
        "--artifacts-wait", default=0, group=_K8S, parse=_SECONDS, metavar="SECONDS",
        help="how long a pod that has ended holds such files for `collect`, and its GPUs (default: 0)",
    )  # fmt: skip
    queue: str = option("--queue", default="", group=_K8S, metavar="NAME", help="Kueue's local queue")
    image_pull_secret: tuple[str, ...] = option(
        "--image-pull-secret", default=(), group=_K8S, many=True, metavar="NAME", help="Secrets with registry logins"
    )
    env_secret: tuple[str, ...] = option(
        "--env-secret", default=(), group=_K8S, many=True, metavar="NAME",
        help="Secrets whose keys become variables of the pods, such as <CRED>_PASSWORD for a model entry's cred",
    )  # fmt: skip
    service_account: str = option(
        "--service-account", default="", group=_K8S, metavar="NAME", help="an existing one, in place of madengine's"
    )
    data_volume: tuple[str, ...] = option(
        "--data-volume", default=(), group=_K8S, many=True, metavar="NAME=pvc:CLAIM[/PATH]",
        help="where the data set NAME is; also NAME=nfs:SERVER:/PATH and NAME=hostpath:/PATH (default: data.json)",
    )  # fmt: skip
    engine_host: str = option(
        "--engine-host", default="", group=_K8S, metavar="URL", help="with --mode runner: DOCKER_HOST of the pod"
    )
    slack: int = option(
        "--slack", default=SLACK_SECONDS, group=_K8S, parse=_SECONDS, metavar="SECONDS",
        help=f"what scheduling and pulling may take beside the script (default: {SLACK_SECONDS})",
    )  # fmt: skip
    retries: int = option(
        "--retries", default=1, group=_K8S, parse=whole_number("retries", 0, 100), metavar="N",
        help="new pods for one that was killed (default: 1)",
    )  # fmt: skip
    parallel: int = option(
        "--parallel", default=1, group=_K8S, parse=_COUNT, metavar="N", help="repeats at once (default: 1)"
    )
    ttl: int | None = option(
        "--ttl", default=None, group=_K8S, parse=_SECONDS, metavar="SECONDS",
        help="remove ended Jobs after this time, 86400 or more",
    )  # fmt: skip
    host_ipc: bool = option(
        "--host-ipc",
        default=False,
        group=_K8S,
        help="share the node's IPC namespace (Pod Security baseline forbids it)",
    )
    host_path: bool = option(
        "--host-path", default=False, group=_K8S,
        help="mount folders of the node: docker_mounts, local data (Pod Security baseline forbids it)",
    )  # fmt: skip
    create_namespace: bool = option(
        "--create-namespace", default=False, group=_K8S, help="write the Namespace too, with its labels"
    )
    kustomize: bool = option(
        "--kustomize",
        default=False,
        group=_K8S,
        help="write base/ too, and once a kustomization.yaml for your patches of it",
    )

    def __post_init__(self) -> None:
        """Raise ConfigurationError, naming the option, for what no cluster would accept."""
        self._check_repeats()
        names.check_namespace(self.namespace)
        if self.run_id and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}", self.run_id):
            raise ConfigurationError(
                f"--run-id: expected up to 100 letters, digits, '-', '_', '.', got {self.run_id!r}"
            )
        self._check_resources()
        if self.queue:
            names.check_name("--queue", self.queue)
            names.check_label("--queue", self.queue)
        for flag, objects in (
            ("--image-pull-secret", self.image_pull_secret),
            ("--env-secret", self.env_secret),
            ("--priority-class", (self.priority_class,) if self.priority_class else ()),
            ("--service-account", (self.service_account,) if self.service_account else ()),
        ):
            for name in objects:
                names.check_name(flag, name)
        if self.ttl is not None and self.ttl < 86400:
            raise ConfigurationError(
                f"--ttl: expected 86400 or more, got {self.ttl}; a Job's pods and logs are deleted with it"
            )
        if self.gpu_metrics_url and not re.fullmatch(r"https?://[!-~]+", self.gpu_metrics_url):
            raise ConfigurationError(
                f"--gpu-metrics-url: expected http:// or https://, got {self.gpu_metrics_url!r}; {{node}} in it is the "
                "address of the pod's node"
            )
        if self.exclusive_topology:
            names.check_key("--exclusive-topology", self.exclusive_topology)
            if not self.jobset:
                raise ConfigurationError("--exclusive-topology: requires --jobset")
        if self.artifacts_pvc:
            names.check_name("--artifacts-pvc", self.artifacts_claim["claim"])
            if ".." in self.artifacts_claim["path"].split("/"):
                raise ConfigurationError(f"--artifacts-pvc: expected a path without .., got {self.artifacts_pvc!r}")
        if self.brings_artifacts and (self.results == "pull" or self.mode == "runner"):
            raise ConfigurationError(
                "--artifacts-pvc, --artifacts-wait: the sidecar of a model's Job brings the files; "
                "leave out --results pull and --mode runner"
            )
        if self.engine_host and self.mode != "runner":
            raise ConfigurationError("--engine-host: requires --mode runner")

    def _check_repeats(self) -> None:
        self.check_repeats()
        declared = options_of((RepeatOptions,))
        for name in changed((RepeatOptions,), vars(self)):
            if name != "repeat" and self.mode == "job":
                raise ConfigurationError(
                    f"{declared[name][0].flag}: not supported in pods, which know nothing of each other and may be on "
                    "different nodes; use --repeat, or --mode runner"
                )

    def _check_resources(self) -> None:
        for flag, text in (("--memory", self.memory), ("--shm-size", self.shm_size)):
            if text and (flag, text) != ("--memory", NONE):
                names.check_bytes(flag, text)
        if self.ephemeral_storage:
            names.check_bytes("--ephemeral-storage", self.ephemeral_storage)
        names.check_cpus("--cpu", self.cpu)
        if self.cpu_limit:
            names.check_cpus("--cpu-limit", self.cpu_limit)
        if self.run_as and not re.fullmatch(r"[0-9]{1,10}(:[0-9]{1,10})?", self.run_as):
            raise ConfigurationError(f"--run-as: expected UID or UID:GID in numbers, got {self.run_as!r}")
        if not 0 <= self.nodes <= _NODES_LIMIT:
            raise ConfigurationError(f"--nodes: expected up to {_NODES_LIMIT}, got {self.nodes}")
        names.check_label("--architecture", self.architecture)
        if self.gpu_resource:
            names.check_key("--gpu-resource", self.gpu_resource)

    @property
    def brings_artifacts(self) -> bool:
        return bool(self.artifacts_pvc or self.artifacts_wait)

    @property
    def artifacts_claim(self) -> dict[str, str]:
        """The claim and the folder in it; empty without one."""
        claim, _, path = self.artifacts_pvc.partition("/")
        return {"claim": claim, "path": path.strip("/")} if claim else {}

    @property
    def artifacts_seconds(self) -> int:
        """How long a pod may go on after its report, to bring files home."""
        return self.artifacts_wait or (_COPY_SECONDS if self.artifacts_pvc else 0)

    @property
    def is_jobset(self) -> bool:
        return self.jobset and self.nodes > 1

    @property
    def has_memory(self) -> bool:
        return self.memory not in ("", NONE)

    @property
    def node_labels(self) -> dict[str, str]:
        """The node selector."""
        labels = {"kubernetes.io/arch": self.architecture} if self.architecture else {}
        for text in self.node_selector:
            key, equals, value = text.partition("=")
            if not equals:
                raise ConfigurationError(f"--node-selector: expected KEY=VALUE, got {text!r}")
            names.check_key("--node-selector", key)
            names.check_label("--node-selector", value)
            labels[key] = value
        return labels

    @property
    def tolerations(self) -> list[dict[str, str]]:
        """The tolerations of the pods."""
        return [_toleration(text) for text in self.toleration]

    @property
    def beyond_baseline(self) -> list[str]:
        """The options that Pod Security baseline forbids."""
        return [name for name, is_on in (("--host-ipc", self.host_ipc), ("--host-path", self.host_path)) if is_on]


def _toleration(text: str) -> dict[str, str]:
    rest, colon, effect = text.partition(":")
    key, equals, value = rest.partition("=")
    names.check_key("--toleration", key)
    names.check_label("--toleration", value)
    if colon and effect not in ("NoSchedule", "PreferNoSchedule", "NoExecute"):
        raise ConfigurationError(
            f"--toleration: expected the effect NoSchedule, PreferNoSchedule or NoExecute, got {effect!r} in {text!r}"
        )
    taint = {"key": key, "operator": "Equal", "value": value} if equals else {"key": key, "operator": "Exists"}
    return {**taint, **({"effect": effect} if colon else {})}


@dataclass(frozen=True)
class GenerateKubernetesOptions(ManifestOptions, ExecutionConfigOptions):
    """What the files are made from, and where they are written."""

    manifest_file: Path | None = inherited(ManifestOptions, "manifest_file", None)  # type: ignore[assignment]
    directory: Path = option(
        "--output", "-o", default=Path(), group=Group.OUTPUT, parse=Path, metavar="DIR",
        help="folder of the files (default: the current one)",
    )  # fmt: skip


@dataclass(frozen=True)
class CollectKubernetesOptions(KubeContextOptions):
    """What is collected from a cluster."""

    kubernetes: bool = option(
        "--kubernetes", default=False, group=Group.KUBERNETES, help="collect what the pods of a namespace reported"
    )
    namespace: str = option(
        "--namespace", "-n", default="madengine", group=Group.KUBERNETES, metavar="NAME", help="default: madengine"
    )
    prune: bool = option(
        "--prune", default=False, group=Group.KUBERNETES,
        help="remove from the cluster what was collected: reports, and input that no Job uses",
    )  # fmt: skip
    wait: bool = option(
        "--wait", default=False, group=Group.KUBERNETES,
        help="wait until the Jobs have ended; --run-id limits it to one run",
    )  # fmt: skip
