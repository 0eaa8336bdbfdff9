"""A task -> the values of its Job, and the facts that its rows need."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from madengine import __version__
from madengine.build import payload
from madengine.deploy.kubernetes import launch, names
from madengine.deploy.kubernetes.options import (
    LOGS,
    NONE,
    REPORT_SECONDS,
    RESULTS,
    SERVICE_ACCOUNT,
    SIDECAR_USER,
    Options,
)
from madengine.deploy.kubernetes.tasks import TERMINATION_MESSAGE, Task, service_name
from madengine.records import Model


def facts(task: Task, options: Options) -> dict[str, Any]:
    """Return what the sidecar and `collect` need to know of a Job to write its rows."""
    return {
        "image": task.image.key,
        "timeout": task.timeout,
        "nodes": options.nodes,
        **({"repeat": task.repeat} if options.repeat else {}),
        "gpus": task.gpus,
        "dataname": task.data.dataname,
        "data_provider_type": task.data.provider,
        "launcher": task.launcher,
        "hooked": bool(task.hooks.hooks),
        "has_pre_scripts": bool(task.hooks.hooks.pre_scripts),
        "log_errors": asdict(task.log_errors),
        **_artifact_facts(task, options),
    }


def _artifact_facts(task: Task, options: Options) -> dict[str, Any]:
    """Return what the sidecar brings home; nothing if there is no place for it."""
    if not options.brings_artifacts:
        return {}
    hooks = task.hooks.hooks
    names_of_files = {name: value for name, value in hooks.environment.items() if name.endswith("_OUTPUT_FILE")}
    return {
        "artifacts": list(task.artifacts),
        "wrapped": bool(hooks.wrapper),
        "profiles": list(hooks.series),
        "profile_names": names_of_files,
    }


def job_values(task: Task, options: Options, config: str) -> dict[str, Any]:
    """Return the values of a Job's template; `config` is the name of the input ConfigMap."""
    several = options.nodes > 1
    nodes = launch.hostfile_volumes(task.name, config) if task.hostfile else []
    return {
        "name": task.name,
        "config": config,
        "image_key": task.image.key,
        "labels": labels(task.model, options),
        "annotations": {"madengine/model": task.model.name, **job_annotations(options, config)},
        "queue": options.queue,
        "service": service_name(task.name) if several else "",
        "several": several,
        "spread": several and not options.may_share_nodes,
        "indexed": several or options.least_repeats > 1,
        "completions": options.nodes if several else options.least_repeats,
        "parallelism": options.nodes if several else min(options.parallel, options.least_repeats),
        "deadline": task.deadline,
        "timeout": task.timeout,
        "reference": task.reference,
        "pull_policy": "IfNotPresent" if task.image.registry_digest else "Always",
        "args": task.arguments,
        "fields": launch.fields(several),
        "environment": task.environment,
        "gpu_resource": task.gpu_resource,
        "requests": _requests(options),
        "limits": _limits(task, options),
        "shared_memory": task.shared_memory,
        "volumes": [*task.data.volumes, *task.hooks.volumes(config), *task.payload.volumes(config), *nodes],
        "mounts": [
            *task.data.mounts,
            *task.hooks.mounts,
            *task.payload.mounts,
            *(launch.hostfile_mounts() if nodes else []),
        ],
        "tolerations": [*_gpu_tolerations(task), *options.tolerations],
        **pod_values(options),
    }


def pod_values(options: Options) -> dict[str, Any]:
    """Return the values of a Job's pods that a model entry may have of its own."""
    return {
        "retries": options.retries,
        "ttl": options.ttl,
        "node_labels": {"kubernetes.io/os": "linux", **options.node_labels},
        "pull_secrets": options.image_pull_secret,
        "host_ipc": options.host_ipc,
    }


def shared_values(options: Options, pods: int, runner_image: str) -> dict[str, Any]:
    """Return the values that all Jobs of a file have in common."""
    return {
        # Those of the run, for templates of older versions.
        **pod_values(options),
        "namespace": options.namespace,
        "reports": options.results == "configmap",
        "results": RESULTS,
        "logs": LOGS,
        "version": names.label(__version__),
        "runner_image": runner_image,
        "runner_pull_policy": "IfNotPresent" if "@" in runner_image else "Always",
        "run_id": options.run_id,
        "pods": pods,
        "env_secrets": options.env_secret,
        # The user's own, ours if the sidecar needs one, else the namespace's default.
        "service_account": options.service_account or (SERVICE_ACCOUNT if options.results == "configmap" else ""),
        "priority_class": options.priority_class,
        "do_not_disrupt": options.do_not_disrupt,
        "cpu_limit": options.cpu_limit,
        "security": _security(options),
        "termination_message": TERMINATION_MESSAGE,
        "workspace": payload.WORKSPACE,
        "engine_host": options.engine_host,
        "jobset": options.is_jobset,
        "exclusive_topology": options.exclusive_topology,
        "gpu_metrics_url": names.literal(options.gpu_metrics_url).replace("{node}", "$(HOST_IP)"),
        "node_gpus": options.gpu_metrics_from_node,
        "artifacts_wait": 0 if options.artifacts_pvc else options.artifacts_wait,
        "artifacts_claim": options.artifacts_claim,
        "sidecar_user": SIDECAR_USER,
        # What reporting takes if the API server is busy, and bringing the files home.
        "grace_seconds": REPORT_SECONDS + options.artifacts_seconds,
    }


def labels(model: Model, options: Options) -> dict[str, str]:
    """Return the labels of a Job and its pods."""
    return {
        "app.kubernetes.io/name": "madengine",
        "app.kubernetes.io/managed-by": "madengine",
        "app.kubernetes.io/version": names.label(__version__),
        "app.kubernetes.io/component": "model",
        "madengine/model": names.label(model.name),
        **({"madengine/run": names.label(options.run_id)} if options.run_id else {}),
    }


def job_annotations(options: Options, config: str) -> dict[str, str]:
    """Return the annotations by which `collect` finds a Job's input and run."""
    waits = options.artifacts_wait and not options.artifacts_pvc
    return {
        "madengine/config": config,
        **({"madengine/run-id": options.run_id} if options.run_id else {}),
        **({"madengine/artifacts-wait": str(options.artifacts_wait)} if waits else {}),
    }


def _gpu_tolerations(task: Task) -> list[Mapping[str, str]]:
    # GPU nodes commonly have a taint named like their resource.
    return [{"key": task.gpu_resource, "operator": "Exists", "effect": "NoSchedule"}] if task.gpu_resource else []


def _requests(options: Options) -> dict[str, str]:
    storage = {"ephemeral-storage": options.ephemeral_storage} if options.ephemeral_storage else {}
    memory = {} if options.memory == NONE else {"memory": options.memory or "4Gi"}
    return {"cpu": options.cpu, **memory, **storage}


def _security(options: Options) -> dict[str, Any]:
    """Return the securityContext of the model's container."""
    user, _, group = options.run_as.partition(":")
    return {
        "allowPrivilegeEscalation": False,
        **({"capabilities": {"drop": ["ALL"]}} if options.drop_capabilities else {}),
        **({"runAsUser": int(user), "runAsNonRoot": user != "0"} if user else {}),
        **({"runAsGroup": int(group)} if group else {}),
    }


def common_limits(options: Options) -> dict[str, str]:
    """Return the limits of the container of a model, or of a runner, without its GPUs."""
    return {
        **({"cpu": options.cpu_limit} if options.cpu_limit else {}),
        **({"memory": options.memory} if options.has_memory else {}),
        **({"ephemeral-storage": options.ephemeral_storage} if options.ephemeral_storage else {}),
    }


def _limits(task: Task, options: Options) -> dict[str, str]:
    return {
        **common_limits(options),
        # A server keeps it as a string: as a number, `kubectl apply` would find a change each time.
        **({task.gpu_resource: str(task.gpus)} if task.gpus else {}),
    }
