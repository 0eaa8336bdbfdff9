"""What pods don't support, and what a user should know before applying the files, a line each."""

from __future__ import annotations

from collections.abc import Sequence

from madengine.config import artifacts
from madengine.config.context import Context, expanded
from madengine.config.entry_keys import env_vars
from madengine.config.ignored_keys import ignored_entry_keys, unknown_context_keys
from madengine.config.manifest import Manifest
from madengine.deploy.kubernetes import launch
from madengine.deploy.kubernetes.options import Options
from madengine.deploy.kubernetes.section import asks_for_own, with_entry
from madengine.deploy.kubernetes.tasks import TaskSettings, gpu_count, vendor
from madengine.programs.image_references import is_loopback
from madengine.records import Model


def plan_warnings(manifest: Manifest, settings: TaskSettings, runner_image: str) -> list[str]:
    """Return the lines. Raises ConfigurationError for invalid artifacts and multi_node_args."""
    models = list({model.name: model for model in (manifest.models[image.key] for image in manifest.images)}.values())
    lines = _of_files(models, settings)
    if settings.options.mode == "job":  # a runner has an engine
        lines += _of_entries(models)
        lines += _of_context(settings.context)
        lines += _of_variables(models, settings.context)
        lines += launch.warnings(settings.context.multi_node_args, settings.options.nodes)
        lines += _of_gpus(manifest, settings)
    else:
        lines += [f"ignored: {model.name}: k8s: one pod runs all models" for model in models if asks_for_own(model)]
    options = settings.options
    each = [with_entry(options, model) for model in models] if options.mode == "job" else [options]
    beyond_baseline = list(dict.fromkeys(name for one in each for name in one.beyond_baseline))
    return [*lines, *_of_images(manifest), *_of_cluster(manifest, options, beyond_baseline, runner_image)]


def _of_files(models: Sequence[Model], settings: TaskSettings) -> list[str]:
    """Return the lines about files that pods need or leave."""
    options, hooks = settings.options, settings.hooks
    lines = [] if options.env_secret else [_credential(model) for model in models if model.cred]
    patterns = dict.fromkeys(
        pattern
        for model in models
        for pattern in artifacts.patterns_for(model, settings.context, hooks.hooks.artifacts)
    )
    if patterns and not options.brings_artifacts:
        remedy = "use --artifacts-pvc or --artifacts-wait"
        if options.mode == "runner":
            remedy = "mount a volume on the workspace with a patch (--kustomize)"
        lines.append(f"artifacts {', '.join(patterns)}: not collected, a pod's files are deleted with it; {remedy}")
    if (kinds := hooks.hooks.series) and not options.brings_artifacts:
        tools = ", ".join(f"gpu_info_{kind}_profiler" for kind in kinds)
        lines.append(f"ignored in pods: tools {tools}: their files need --artifacts-pvc or --artifacts-wait")
    if hooks.missing:
        remedy = "build with this context" + (", or generate in the package" if options.mode == "job" else "")
        lines.append(
            f"hooks {', '.join(hooks.missing)}: not in the images, which contain scripts/common and the scripts that "
            f"the context of `build` names; {remedy}"
        )
    return lines


def _credential(model: Model) -> str:
    code = ", unless they are only for its url, whose code is in the image" if model.url else ""
    return (
        f"{model.name}: cred {model.cred}: its script expects {model.cred}_<KEY>, such as {model.cred}_USERNAME and "
        f"{model.cred}_PASSWORD{code}; name a Secret with these keys with --env-secret"
    )


def _of_entries(models: Sequence[Model]) -> list[str]:
    engine_options = [
        f"ignored: {model.name}: additional_docker_run_options {model.additional_docker_run_options!r}; pods have "
        "--shm-size and --host-ipc, and --kustomize for patches"
        for model in models
        if model.additional_docker_run_options.strip()
    ]
    architectures = [
        f"ignored: {model.name}: skip_gpu_arch {model.skip_gpu_arch!r}: a pod's GPU is unknown until it runs; exclude "
        "such nodes with --node-selector"
        for model in models
        if model.skip_gpu_arch.strip()
    ]
    caches = [
        f"ignored: {model.name}: caches {', '.join(model.caches)}: a pod's folders are deleted with it; mount a volume "
        "there with a patch (--kustomize)"
        for model in models
        if model.caches
    ]
    return [*engine_options, *architectures, *caches, *ignored_entry_keys(models)]


def _of_context(context: Context) -> list[str]:
    keys = context.ignored_in_pods
    named = [f"ignored in pods: context: {', '.join(keys)}"] if keys else []
    return [*named, *unknown_context_keys(context)]


def _of_variables(models: Sequence[Model], context: Context) -> list[str]:
    variables = [*context.env_vars.items(), *(pair for model in models for pair in env_vars(model).items())]
    names = dict.fromkeys(name for name, value in variables if expanded(value, {}) != value)
    if not names:
        return []
    return [f"env_vars {', '.join(names)}: pods get ${{NAME}} as it is, without a node's variables; write the value"]


def _of_gpus(manifest: Manifest, settings: TaskSettings) -> list[str]:
    vendors = sorted({vendor(image, settings.gpu_vendor) or "any" for image in manifest.images})
    lines = []
    if len(vendors) > 1:
        lines.append(f"images for GPUs of {', '.join(vendors)}: a Job for each; select with --gpu-vendor")
    pairs = [(image, manifest.models[image.key]) for image in manifest.images]
    unlimited = {model.name for image, model in pairs if model.n_gpus == "-1" and gpu_count(image, model, settings)}
    if unlimited and settings.options.gpus_per_node is None:
        lines.append(
            f"{', '.join(sorted(unlimited))}: n_gpus -1 means all GPUs of a node, which Kubernetes can't express: each "
            "pod requests 1; set the GPUs of a node with --gpus-per-node"
        )
    return lines


def _of_images(manifest: Manifest) -> list[str]:
    lines = []
    if any(not image.registry_digest for image in manifest.images):
        lines.append("no manifest, so digests are unknown: pods run whatever the images' tags point to at that time")
    if manifest.registry and is_loopback(manifest.registry):
        lines.append(f"{manifest.registry}: on a node this is the node itself; use --registry with a reachable address")
    return lines


def _of_cluster(manifest: Manifest, options: Options, beyond_baseline: Sequence[str], runner_image: str) -> list[str]:
    lines = []
    if beyond_baseline:
        lines.append(
            f"{', '.join(beyond_baseline)}: forbidden by Pod Security baseline; label the namespace "
            "pod-security.kubernetes.io/enforce=privileged"
        )
    if options.is_jobset and not options.queue:
        lines.append(
            "--jobset: without --queue, some of its pods may start while there is no room for the others; Kueue admits "
            "all or none"
        )
    if options.jobset and not options.is_jobset:
        lines.append("ignored: --jobset: requires --nodes 2 or more")
    if runner_image and not options.runner_image:
        lines.append(f"required: {runner_image}; `madengine runner-image --registry {manifest.registry}` pushes it")
    return lines
