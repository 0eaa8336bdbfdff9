"""A manifest and what the user wants -> the files that kubectl applies."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from madengine import __version__
from madengine.config.context import Context
from madengine.config.log_errors import log_errors
from madengine.config.manifest import SCHEMA_VERSION, Manifest
from madengine.config.models_json import entry_of
from madengine.data_sets.mounts import Data
from madengine.deploy.kubernetes import hook_files, jobs, launch, names, plan, unsupported, volumes
from madengine.deploy.kubernetes.hook_files import HookFiles
from madengine.deploy.kubernetes.jobs import Task
from madengine.deploy.kubernetes.options import Options
from madengine.deploy.render import Block, render
from madengine.deploy.target import Prepared
from madengine.errors import ConfigurationError
from madengine.files import write_whole
from madengine.programs.engine import is_loopback
from madengine.records import Image

CONFIGMAP, JOB, KUSTOMIZATION = "k8s-madengine-configmap.yaml", "k8s-madengine-job.yaml", "kustomization.yaml"
RUNNER_JOB = "madengine-runner-job"
# etcd takes 1 MiB; the rest is for the object's other fields.
_CONFIG_LIMIT = 1_000_000


def generate_kubernetes(
    source: plan.PlanInput, options: Options, output: Path, data_file: Path | None = None
) -> Prepared:
    """Write the ConfigMap, Job and (asked for) kustomization files into the folder `output`.

    Raises ConfigurationError for what is wrong in the manifest, the configuration or the options, with nothing written,
    and MadengineError where a file can't be written.
    """
    kept, names_of = source.manifest()
    context = source.context(kept)
    kept = plan.with_args(plan.for_vendor(kept, options, source.path), context)
    options = replace(options, nodes=options.nodes or launch.nodes(context.multi_node_args))
    data = Data.load(data_file or (source.root or Path()) / "data.json", context.values.get("data", {}))
    runner = options.mode == "runner"
    runner_image = _runner_image(kept, options)
    tools = hook_files.definitions(kept, source.root)
    hooks = hook_files.hook_files(kept, context, tools, None if runner else source.root)
    tasks = [] if runner else _tasks(kept, names_of, context, data, hooks, options)
    config = _config(kept, context, tools, tasks, options)
    config.update({} if runner else hooks.texts)
    _check_size(config)
    values = _values(config, tasks, options, runner_image)
    if runner:
        values["job"] = _runner(kept, options, hooks.hooks.seconds, values["config"])
    texts = {
        output / name: render(template, values, options.template_dir, plain=True)
        for name, template in _templates(options).items()
    }
    for path, text in texts.items():
        write_whole(path, text)
    ignored_keys = [f"{key}: not acted on by this version" for key in data.ignored_keys]
    left_out = unsupported.warnings(kept, context, hooks, options)
    return Prepared(tuple(texts), (*left_out, *_warnings(kept, options, runner_image), *ignored_keys))


def _values(config: Mapping[str, str], tasks: list[Task], options: Options, runner_image: str) -> dict[str, Any]:
    """What the templates are given; `config` is what the pods are told, and gives the ConfigMap its name."""
    name = f"madengine-config-{hashlib.sha256(json.dumps(config).encode()).hexdigest()[:10]}"
    pods = sum((options.nodes if options.nodes > 1 else options.repeats) for _ in tasks) or 1
    common = jobs.shared(options, pods, runner_image)
    return {
        **common,
        "config": name,
        "entries": [(key, _as_lines(text)) for key, text in config.items()],
        "create_namespace": options.create_namespace,
        "own_account": common["reports"] and not options.service_account,
        "jobs": [jobs.values(task, options, name) for task in tasks],
    }


def _templates(options: Options) -> dict[str, str]:
    """The template of each file."""
    job = "k8s/runner.yaml" if options.mode == "runner" else "k8s/job.yaml"
    asked = {KUSTOMIZATION: "k8s/kustomization.yaml"} if options.kustomize else {}
    return {CONFIGMAP: "k8s/configmap.yaml", JOB: job, **asked}


def _tasks(
    kept: Manifest, names_of: Mapping[str, str], context: Context, data: Data, hooks: HookFiles, options: Options
) -> list[Task]:
    given = volumes.on_command_line(options.data_volume)
    folders = volumes.mounted_folders(context.docker_mounts, options.host_path)
    # Repeats of what runs on several nodes are Jobs of their own: all pods of a Job are one run.
    rounds = options.repeats if options.nodes > 1 else 1
    tasks = []
    for image in kept.images:
        model = kept.models[image.key]
        mine = volumes.volumes(model, data, given, options.host_path)
        whole = volumes.Volumes(
            (*mine.volumes, *folders.volumes),
            (*mine.mounts, *folders.mounts),
            mine.environment,
            mine.dataname,
            mine.provider,
        )
        for repeat in range(rounds):
            stem = names_of[image.key].removesuffix("-job")
            name = f"{stem}-r{repeat + 1}-job" if repeat else f"{stem}-job"
            tasks.append(
                Task(
                    image,
                    model,
                    name,
                    context.docker_env_vars,
                    whole,
                    repeat,
                    given_args=context.model_args is not None,
                    hooks=hooks,
                    multi_node=context.multi_node_args,
                    shm_size=names.of_docker(context.shm_size),
                    log_errors=log_errors(model.extra, context.values),
                )
            )
    return tasks


def _config(
    kept: Manifest, context: Context, tools: Mapping[str, Any], tasks: list[Task], options: Options
) -> dict[str, str]:
    """What the pods are told, as JSON: the images and their models; a runner is told the context and the tools too."""
    told = {} if tasks else {"context": context.values, **({"tools": tools} if tools else {})}
    manifest = {
        "built_images": {image.key: _entry(image) for image in kept.images},
        "built_models": {image.key: entry_of(kept.models[image.key]) for image in kept.images},
        "registry": kept.registry,
        "context": {},
        "schema_version": SCHEMA_VERSION,
        "madengine_version": __version__,
        **told,
    }
    facts: dict[str, Any] = {task.name: jobs.facts(task, options) for task in tasks}
    if not tasks:
        facts = {RUNNER_JOB: {"mode": "runner"}}
    return {"manifest.json": json.dumps(manifest, indent=2), "jobs.json": json.dumps(facts, indent=2)}


def _check_size(config: Mapping[str, str]) -> None:
    size = sum(len(text.encode()) for text in config.values())
    if size > _CONFIG_LIMIT:
        raise ConfigurationError(
            f"the manifest takes {size} bytes, and a ConfigMap holds {_CONFIG_LIMIT}; choose some models with --tags"
        )


def _as_lines(text: str) -> str:
    """The text as a block that is easy to read, where YAML reads that back as the same text."""
    lines = text.split("\n")
    may_be_block = all(line.isascii() and (line.isprintable() or not line) and line == line.rstrip() for line in lines)
    is_script = text.endswith("\n") and not text.endswith("\n\n")
    return (
        Block(text) if may_be_block and lines[0].strip() == lines[0] != "" and (is_script or text[0] == "{") else text
    )


def _entry(image: Image) -> dict[str, Any]:
    """The manifest's entry; the extra keys of older versions hold build commands, with secrets in them."""
    told = {field.name: getattr(image, field.name) for field in fields(Image) if field.name not in ("key", "extra")}
    return {name: value for name, value in told.items() if value not in ("", 0) and name != "log_file"}


def _runner_image(kept: Manifest, options: Options) -> str:
    """The image of the sidecar, and of `--mode runner`."""
    if options.runner_image or (options.results == "pull" and options.mode == "job"):
        return options.runner_image
    if not kept.registry:
        raise ConfigurationError(
            "no registry to find the sidecar's image in: `madengine runner-image` prints what --runner-image takes; "
            "or --results pull, which needs none"
        )
    return f"{kept.registry}/madengine/runner:{__version__}"


def _runner(kept: Manifest, options: Options, hooks: int, config: str) -> dict[str, Any]:
    limits = [jobs.limit(kept.models[image.key], options) for image in kept.images]
    first = kept.models[kept.images[0].key]
    return {
        "name": RUNNER_JOB,
        "labels": {**jobs.labels(first, options), "madengine/model": "all"},
        "annotations": {
            "madengine/config": config,
            **({"madengine/run-id": options.run_id} if options.run_id else {}),
        },
        "command": [
            "python3",
            "-m",
            "madengine.distributed_cli",
            "run",
            "--manifest-file=/config/manifest.json",
            *([f"--run-id={options.run_id}"] if options.run_id else []),
            *([f"--timeout={options.timeout}"] if options.timeout is not None else []),
        ],
        "queue": options.queue,
        "deadline": sum(limits) + (hooks + options.slack) * len(limits) if all(limits) else None,
        "requests": {"cpu": options.cpu, "memory": options.memory or "1Gi"},
        "tolerations": options.tolerations,
    }


def _warnings(kept: Manifest, options: Options, runner_image: str) -> list[str]:
    models = [kept.models[image.key] for image in kept.images]
    found: list[str] = []
    vendors = sorted({jobs.vendor(image, options) or "any" for image in kept.images})
    if len(vendors) > 1 and options.mode == "job":
        found.append(f"the images are for GPUs of {', '.join(vendors)}: a Job for each; --gpu-vendor chooses")
    if options.mode == "job" and not options.gpus_per_node:
        everything = sorted({model.name for model in models if model.n_gpus == "-1"})
        if everything:
            found.append(
                f"{', '.join(everything)}: n_gpus -1 is all GPUs of a node, which nobody can ask Kubernetes for: 1 is "
                "asked for; --gpus-per-node says how many a node has"
            )
    if any(not image.registry_digest for image in kept.images):
        found.append("without a manifest nobody knows the images' digests: the pods run what their tags mean then")
    if kept.registry and is_loopback(kept.registry):
        found.append(f"{kept.registry} is the node itself on a node; --registry names an address that the nodes reach")
    if options.beyond_baseline:
        found.append(
            f"{', '.join(options.beyond_baseline)}: Pod Security baseline forbids it; the namespace needs the label "
            "pod-security.kubernetes.io/enforce=privileged"
        )
    if runner_image and not options.runner_image:
        found.append(f"{runner_image} has to be there: `madengine runner-image --registry {kept.registry}` pushes it")
    return found
