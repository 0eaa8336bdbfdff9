"""The options of `generate k8s`, checked."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from madengine.deploy.kubernetes import SLACK_SECONDS, names
from madengine.errors import ConfigurationError

RESULTS = "madengine-results"
SERVICE_ACCOUNT = "madengine"
#: --memory without a request and a limit
NONE = "none"
_NODES_LIMIT = 10_000


@dataclass(frozen=True)
class Options:
    """The options of `generate k8s`; `madengine.cli.kubernetes_arguments` describes each.

    Times are in seconds; None and the empty string are unset; `nodes` 0 is the context's NNODES.
    """

    namespace: str = "madengine"
    mode: str = "job"
    results: str = "configmap"
    runner_image: str = ""
    run_id: str = ""
    gpu_vendor: str = ""
    gpu_resource: str = ""
    gpus_per_node: int | None = None
    nodes: int = 0
    cpu: str = "2"
    memory: str = ""
    ephemeral_storage: str = ""
    shm_size: str = ""
    node_selector: tuple[str, ...] = ()
    toleration: tuple[str, ...] = ()
    queue: str = ""
    image_pull_secret: tuple[str, ...] = ()
    env_secret: tuple[str, ...] = ()
    service_account: str = ""
    data_volume: tuple[str, ...] = ()
    engine_host: str = ""
    timeout: int | None = None
    slack: int = SLACK_SECONDS
    retries: int = 1
    repeats: int = 1
    parallel: int = 1
    ttl: int | None = None
    host_ipc: bool = False
    host_path: bool = False
    may_share_nodes: bool = False
    cpu_limit: str = ""
    priority_class: str = ""
    drop_capabilities: bool = False
    run_as: str = ""
    do_not_disrupt: bool = False
    create_namespace: bool = False
    kustomize: bool = False
    template_dir: Path | None = None

    def __post_init__(self) -> None:
        """Raise ConfigurationError, naming the option, for what no cluster would accept."""
        names.check_namespace(self.namespace)
        if self.run_id and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}", self.run_id):
            raise ConfigurationError(
                f"--run-id: expected up to 100 letters, digits, '-', '_', '.', got {self.run_id!r}"
            )
        self._check_resources()
        if self.queue:
            names.check_name("--queue", self.queue)
            names.check_label("--queue", self.queue)
        for option, objects in (
            ("--image-pull-secret", self.image_pull_secret),
            ("--env-secret", self.env_secret),
            ("--priority-class", (self.priority_class,) if self.priority_class else ()),
            ("--service-account", (self.service_account,) if self.service_account else ()),
        ):
            for name in objects:
                names.check_name(option, name)
        if self.ttl is not None and self.ttl < 86400:
            raise ConfigurationError(
                f"--ttl: expected 86400 or more, got {self.ttl}; a Job's pods and logs are deleted with it"
            )
        if self.engine_host and self.mode != "runner":
            raise ConfigurationError("--engine-host: requires --mode runner")

    def _check_resources(self) -> None:
        for option, text in (("--memory", self.memory), ("--shm-size", self.shm_size)):
            if text and (option, text) != ("--memory", NONE):
                names.check_bytes(option, text)
        if self.ephemeral_storage:
            names.check_bytes("--ephemeral-storage", self.ephemeral_storage)
        names.check_cpus("--cpu", self.cpu)
        if self.cpu_limit:
            names.check_cpus("--cpu-limit", self.cpu_limit)
        if self.run_as and not re.fullmatch(r"[0-9]{1,10}(:[0-9]{1,10})?", self.run_as):
            raise ConfigurationError(f"--run-as: expected UID or UID:GID in numbers, got {self.run_as!r}")
        if not 0 <= self.nodes <= _NODES_LIMIT:
            raise ConfigurationError(f"--nodes: expected up to {_NODES_LIMIT}, got {self.nodes}")
        if self.gpu_resource:
            names.check_key("--gpu-resource", self.gpu_resource)

    @property
    def has_memory(self) -> bool:
        return self.memory not in ("", NONE)

    @property
    def node_labels(self) -> dict[str, str]:
        """The node selector."""
        labels = {}
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
