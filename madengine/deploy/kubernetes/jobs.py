"""An image and what the user wants -> the values of its Job."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from madengine.build import payload
from madengine.config.log_errors import LogErrors
from madengine.deploy.kubernetes import launch, names
from madengine.deploy.kubernetes.hook_files import HookFiles
from madengine.deploy.kubernetes.options import RESULTS, SERVICE_ACCOUNT, Options
from madengine.deploy.kubernetes.volumes import Volumes
from madengine.errors import ConfigurationError
from madengine.records import Image, Model

LOG = f"{payload.WORKSPACE}/model.run.live.log"
TERMINATION_MESSAGE = "/dev/termination-log"
_RESOURCES = {"AMD": "amd.com/gpu", "NVIDIA": "nvidia.com/gpu"}
_SHARED_MEMORY = "16Gi"


@dataclass(frozen=True)
class Task:
    """What one Job runs: an image of a model with its data and environment; `repeat` numbers those of several nodes.

    `multi_node` is the context's multi_node_args, `shm_size` its SHM_SIZE as a quantity; `log_errors` is what in a log
    makes a failure.
    """

    image: Image
    model: Model
    name: str
    environment: Mapping[str, str]
    data: Volumes
    repeat: int = 0
    given_args: bool = False
    hooks: HookFiles = field(default_factory=HookFiles)
    multi_node: Mapping[str, Any] = field(default_factory=dict)
    shm_size: str = ""
    log_errors: LogErrors = field(default_factory=LogErrors)

    @property
    def reference(self) -> str:
        """The image's name in its registry, by digest where the manifest has one."""
        return self.image.pinned or self.image.registry_image


def facts(task: Task, options: Options) -> dict[str, Any]:
    """What the sidecar and `collect` have to know of a Job to make its rows."""
    return {
        "image": task.image.key,
        "timeout": limit(task.model, options),
        "nodes": options.nodes,
        "gpus": gpu_count(task, options),
        "dataname": task.data.dataname,
        "data_provider_type": task.data.provider,
        "launcher": launch.launcher(task.multi_node, options.nodes),
        "hooked": bool(task.hooks.hooks),
        "has_pre_scripts": bool(task.hooks.hooks.pre_scripts),
        "log_errors": asdict(task.log_errors),
    }


def values(task: Task, options: Options, config: str) -> dict[str, Any]:
    """What the template of a Job is filled with."""
    gpus = gpu_count(task, options)
    resource = gpu_resource(task, options) if gpus else ""
    several = options.nodes > 1
    service = task.name.removesuffix("-job") if several else ""
    return {
        "name": task.name,
        "image_key": task.image.key,
        "labels": labels(task.model, options),
        "annotations": {
            "madengine/model": task.model.name,
            "madengine/config": config,
            **({"madengine/run-id": options.run_id} if options.run_id else {}),
        },
        "queue": options.queue,
        "service": service,
        "several": several,
        "indexed": several or options.repeats > 1,
        "completions": options.nodes if several else options.repeats,
        "parallelism": options.nodes if several else min(options.parallel, options.repeats),
        "deadline": deadline(task.model, options, task.hooks.hooks.seconds),
        "timeout": limit(task.model, options),
        "reference": task.reference,
        "pull_policy": "IfNotPresent" if task.image.registry_digest else "Always",
        "args": [names.literal(word) for word in _words(task)],
        "fields": launch.fields(several),
        "environment": _environment(task, options, gpus, service),
        "gpu_resource": resource,
        "requests": _requests(options),
        "limits": _limits(options, resource, gpus),
        "shared_memory": _shared_memory(task, options),
        "volumes": [*task.data.volumes, *task.hooks.volumes(config)],
        "mounts": [*task.data.mounts, *task.hooks.mounts],
        "tolerations": [*_own_toleration(resource), *options.tolerations],
    }


def shared(options: Options, pods: int, runner_image: str) -> dict[str, Any]:
    """The values that all Jobs of a file have in common."""
    return {
        "namespace": options.namespace,
        "reports": options.results == "configmap",
        "results": RESULTS,
        "runner_image": runner_image,
        "runner_pull_policy": "IfNotPresent" if "@" in runner_image else "Always",
        "run_id": options.run_id,
        "pods": pods,
        "retries": options.retries,
        "ttl": options.ttl,
        "node_labels": options.node_labels,
        "pull_secrets": options.image_pull_secret,
        "env_secrets": options.env_secret,
        "service_account": account(options),
        "host_ipc": options.host_ipc,
        "beyond_baseline": options.beyond_baseline,
        "termination_message": TERMINATION_MESSAGE,
        "workspace": payload.WORKSPACE,
        "engine_host": options.engine_host,
    }


def account(options: Options) -> str:
    """The service account of the pods: the user's own, ours where the sidecar needs one, else the namespace's."""
    return options.service_account or (SERVICE_ACCOUNT if options.results == "configmap" else "")


def labels(model: Model, options: Options) -> dict[str, str]:
    """The labels of a Job and its pods."""
    return {
        "app.kubernetes.io/name": "madengine",
        "app.kubernetes.io/component": "model",
        "madengine/model": names.label(model.name),
        **({"madengine/run": names.label(options.run_id)} if options.run_id else {}),
    }


def limit(model: Model, options: Options) -> int:
    """Seconds that the script may take; 0 is no limit."""
    return model.time_limit(options.timeout)


def deadline(model: Model, options: Options, hooks: int = 0) -> int | None:
    """Seconds after which Kubernetes gives the Job up: scripts, hooks, pulls and queues, one after another."""
    seconds = limit(model, options)
    if not seconds:
        return None
    rounds = 1 if options.nodes > 1 else -(-options.repeats // options.parallel) * (1 + options.retries)
    return (seconds + hooks + options.slack) * rounds


def gpu_count(task: Task, options: Options) -> int:
    """How many GPUs each pod asks for: the card's `n_gpus`, as on a host, where a card without it gets one."""
    if vendor(task.image, options) == "NONE":
        return 0
    if task.model.n_gpus == "-1":
        return options.gpus_per_node or 1
    if not task.model.n_gpus:
        return 1 if vendor(task.image, options) or options.gpu_resource else 0
    return int(task.model.n_gpus)


def vendor(image: Image, options: Options) -> str:
    """AMD, NVIDIA or NONE; empty where neither the image nor the user says."""
    return image.vendor or options.gpu_vendor


def gpu_resource(task: Task, options: Options) -> str:
    """The resource that GPUs are asked for by."""
    if options.gpu_resource:
        return options.gpu_resource
    named = vendor(task.image, options)
    if named not in _RESOURCES:
        raise ConfigurationError(
            f"{task.image.key}: wants {task.model.n_gpus} GPUs, and doesn't say whose; --gpu-resource says it"
        )
    return _RESOURCES[named]


def _own_toleration(resource: str) -> Sequence[Mapping[str, str]]:
    # GPU nodes are commonly kept free of others by a taint of their resource's name.
    return [{"key": resource, "operator": "Exists", "effect": "NoSchedule"}] if resource else []


def _requests(options: Options) -> dict[str, str]:
    stored = {"ephemeral-storage": options.ephemeral_storage} if options.ephemeral_storage else {}
    return {"cpu": options.cpu, "memory": options.memory or "4Gi", **stored}


def _shared_memory(task: Task, options: Options) -> str:
    half = names.half(options.memory) if options.memory else _SHARED_MEMORY
    return options.shm_size or task.shm_size or half


def _limits(options: Options, resource: str, gpus: int) -> dict[str, Any]:
    return {
        **({"memory": options.memory} if options.memory else {}),
        **({"ephemeral-storage": options.ephemeral_storage} if options.ephemeral_storage else {}),
        **({resource: gpus} if gpus else {}),
    }


def _words(task: Task) -> list[str]:
    """Arguments in place of the card's, which the image has itself."""
    if not task.given_args:
        return []
    return ["--", *payload.split(task.model.args, task.model)]


def _environment(task: Task, options: Options, gpus: int, service: str) -> dict[str, str]:
    """The variables of the model's container; the user's come before ours, but not before what reports its end."""
    model = task.model
    told = {
        "MAD_MODEL_NAME": model.name,
        "JENKINS_BUILD_NUMBER": "0",
        "MAD_DEPLOYMENT_TYPE": "kubernetes",
        "MAD_K8S_JOB": "true",
        "MAD_GPU_VENDOR": vendor(task.image, options) or "NONE",
        "MAD_SYSTEM_NGPUS": str(gpus),
        "MAD_RUNTIME_NGPUS": str(gpus),
        # Where NVIDIA's runtime is the default one, an image without a limit would see every GPU of the node.
        **({} if gpus else {"NVIDIA_VISIBLE_DEVICES": "void"}),
        **({"MAD_OUTPUT_CSV": model.multiple_results} if model.multiple_results else {}),
        **task.data.environment,
        **task.hooks.hooks.environment,
        **task.environment,
    }
    ours = {
        "MADENGINE_LOG": LOG,
        "MADENGINE_REPORT": TERMINATION_MESSAGE,
        "MADENGINE_TIMEOUT": str(limit(model, options)),
        **task.hooks.environment,
    }
    for name, value in told.items():
        names.check_variable(name, value)
    written = {name: names.literal(value) for name, value in {**told, **ours}.items()}
    # The only one in which the kubelet is meant to fill something in.
    return {**launch.variables(task.multi_node, task.name, service, options.nodes, gpus), **written}
