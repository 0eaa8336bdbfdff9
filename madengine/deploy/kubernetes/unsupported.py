"""What a manifest, a card or the context asks for and a pod does not get, a line each."""

from __future__ import annotations

from collections.abc import Sequence

from madengine.config import artifacts
from madengine.config.context import Context
from madengine.config.manifest import Manifest
from madengine.deploy.kubernetes import launch
from madengine.deploy.kubernetes.hook_files import HookFiles
from madengine.deploy.kubernetes.options import Options
from madengine.records import Model


def warnings(kept: Manifest, context: Context, hooks: HookFiles, options: Options) -> list[str]:
    """The lines; Jobs of single images lack more than a runner, which has an engine.

    Raises ConfigurationError for artifacts and multi_node_args that are wrong.
    """
    models = list({model.name: model for model in (kept.models[image.key] for image in kept.images)}.values())
    found = [] if options.env_secret else [_credential(model) for model in models if model.cred]
    patterns = dict.fromkeys(
        pattern for model in models for pattern in artifacts.patterns_for(model, context, hooks.hooks.artifacts)
    )
    if patterns:
        found.append(
            f"artifacts {', '.join(patterns)}: not brought back, a pod's files go with it; --kustomize can patch a "
            "volume in for the workspace"
        )
    if hooks.missing:
        way_out = "build with this context" + (", or generate in the package" if options.mode == "job" else "")
        found.append(
            f"hooks {', '.join(hooks.missing)}: not in the images, which carry scripts/common and what the context of "
            f"`build` names; {way_out}"
        )
    if options.mode == "runner":
        return found
    return [*found, *_of_cards(models), *_of_context(context), *launch.warnings(context.multi_node_args, options.nodes)]


def _credential(model: Model) -> str:
    code = ", unless only its url needed it, whose code is in the image" if model.url else ""
    return (
        f"{model.name}: cred {model.cred}: its script expects {model.cred}_<KEY>, such as {model.cred}_USERNAME and "
        f"{model.cred}_PASSWORD{code}; --env-secret names a Secret with these keys"
    )


def _of_cards(models: Sequence[Model]) -> list[str]:
    engine_options = [
        f"{model.name}: additional_docker_run_options {model.additional_docker_run_options!r} mean nothing to a "
        "pod; see --shm-size, --host-ipc, and --kustomize to patch"
        for model in models
        if model.additional_docker_run_options.strip()
    ]
    architectures = [
        f"{model.name}: skip_gpu_arch {model.skip_gpu_arch!r}: nobody knows a pod's GPU before it runs; "
        "--node-selector keeps it off such nodes"
        for model in models
        if model.skip_gpu_arch.strip()
    ]
    return [*engine_options, *architectures]


def _of_context(context: Context) -> list[str]:
    keys = context.ignored_in_pods
    return [f"context: {', '.join(keys)}: not acted on in pods"] if keys else []
