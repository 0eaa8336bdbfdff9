"""What each Job runs: an image of a model with its GPUs, data, variables and limits, checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from madengine.build import payload
from madengine.config.artifacts import patterns_for
from madengine.config.context import GUEST_OS, Context
from madengine.config.entry_keys import env_vars
from madengine.config.log_errors import LogErrors, log_errors
from madengine.config.manifest import Manifest
from madengine.data_sets.mounts import Data
from madengine.deploy.kubernetes import launch, names
from madengine.deploy.kubernetes.hook_files import HookFiles
from madengine.deploy.kubernetes.options import Options
from madengine.deploy.kubernetes.payload_files import PayloadFiles
from madengine.deploy.kubernetes.section import with_entry
from madengine.deploy.kubernetes.volumes import Volumes, mounted_folders, sources_of_options, volumes
from madengine.errors import ConfigurationError
from madengine.records import Image, Model, repository

LOG = f"{payload.WORKSPACE}/model.run.live.log"
TERMINATION_MESSAGE = "/dev/termination-log"
_RESOURCES = {"AMD": "amd.com/gpu", "NVIDIA": "nvidia.com/gpu"}
_SHARED_MEMORY = "16Gi"


@dataclass(frozen=True)
class TaskSettings:
    """What all tasks have in common."""

    options: Options
    context: Context
    hooks: HookFiles
    #: By the image, for those that don't carry their scripts.
    payloads: Mapping[str, PayloadFiles] = field(default_factory=dict)

    @property
    def gpu_vendor(self) -> str:
        """The GPU vendor of images that don't name one."""
        return self.options.gpu_vendor or self.context.gpu_vendor


@dataclass(frozen=True)
class Task:
    """What one Job runs."""

    #: The Job's name.
    name: str
    image: Image
    model: Model
    #: How many GPUs each pod requests, and the resource's name.
    gpus: int
    gpu_resource: str
    #: Arguments of entry.sh and variables of the container, escaped for the kubelet.
    arguments: tuple[str, ...]
    environment: Mapping[str, str]
    data: Volumes
    hooks: HookFiles
    payload: PayloadFiles
    shared_memory: str
    #: Seconds that the script may take; 0 is no limit.
    timeout: int
    #: Seconds after which Kubernetes ends the Job; None is no limit.
    deadline: int | None
    launcher: str
    #: The text of the file that names its pods; empty without one.
    hostfile: str
    #: Globs of the files to bring home.
    artifacts: tuple[str, ...]
    #: What in a log makes a failure.
    log_errors: LogErrors
    #: The number of its first run.
    repeat: int
    #: Those of the run and of the model entry.
    options: Options

    @property
    def reference(self) -> str:
        """The image's name, pinned by digest if that is known."""
        if self.image.registry_digest:
            return f"{repository(self.image.registry_image)}@{self.image.registry_digest}"
        return self.image.registry_image


def plan_tasks(
    manifest: Manifest, job_names: Mapping[str, str], settings: TaskSettings, data: Data
) -> tuple[Task, ...]:
    """Return the tasks of a manifest's images. Raises ConfigurationError for what no pod can have."""
    options = settings.options
    overrides = sources_of_options(options.data_volume)
    folders = mounted_folders(settings.context.docker_mounts, options.host_path)
    tasks = []
    for image in manifest.images:
        model = manifest.models[image.key]
        mounted = volumes(model, data, overrides, options.host_path).plus(folders)
        repeated = enumerate(_repeated(job_names[image.key], options), 1)
        tasks += [_task(image, model, name, mounted, settings, number) for number, name in repeated]
    return tuple(tasks)


def _repeated(name: str, options: Options) -> list[str]:
    """Return an image's Jobs: repeats on several nodes are Jobs of their own, because a Job's pods are one run."""
    rounds = options.least_repeats if options.nodes > 1 else 1
    jobs = [name, *(f"{name.removesuffix('-job')}-r{number}-job" for number in range(2, rounds + 1))]
    # As a JobSet names the Jobs that it makes.
    return [f"{job}-0" for job in jobs] if options.is_jobset else jobs


def _task(image: Image, model: Model, name: str, mounted: Volumes, settings: TaskSettings, repeat: int) -> Task:
    options, context, hooks = with_entry(settings.options, model), settings.context, settings.hooks
    settings = replace(settings, options=options)
    gpus = gpu_count(image, model, settings)
    seconds = time_limit(model, options)
    return Task(
        name=name,
        image=image,
        model=model,
        gpus=gpus,
        gpu_resource=_gpu_resource(image, model, settings) if gpus else "",
        arguments=_arguments(model, context),
        environment=_environment(image, model, name, gpus, mounted, settings),
        data=mounted,
        hooks=hooks,
        payload=settings.payloads.get(image.key, PayloadFiles()),
        shared_memory=_shared_memory(context, options),
        timeout=seconds,
        deadline=_deadline(seconds, hooks.hooks.seconds, options),
        launcher=launch.launcher(context.launch_of(model, {}), options.nodes),
        hostfile=launch.hostfile(context.launch_of(model, {}), name, service_name(name), options.nodes, gpus),
        artifacts=patterns_for(model, context, hooks.hooks.artifacts),
        log_errors=log_errors(model.extra, context.values),
        repeat=repeat,
        options=options,
    )


def time_limit(model: Model, options: Options) -> int:
    """Return the seconds that the script may take; 0 is no limit."""
    return model.time_limit(options.timeout)


def _deadline(seconds: int, hook_seconds: int, options: Options) -> int | None:
    """Return the seconds for scripts, hooks, pulls, queues and files, one after another."""
    if not seconds:
        return None
    rounds = 1 if options.nodes > 1 else -(-options.least_repeats // options.parallel) * (1 + options.retries)
    return (seconds + hook_seconds + options.slack + options.artifacts_seconds) * rounds


def gpu_count(image: Image, model: Model, settings: TaskSettings) -> int:
    """Return how many GPUs each pod requests: the entry's `n_gpus`; as on a host, one if it has none."""
    gpu_vendor = vendor(image, settings.gpu_vendor)
    if gpu_vendor == "NONE":
        return 0
    if model.n_gpus == "-1":
        return 1 if settings.options.gpus_per_node is None else settings.options.gpus_per_node
    if not model.n_gpus:
        return 1 if gpu_vendor or settings.options.gpu_resource else 0
    return int(model.n_gpus)


def vendor(image: Image, default: str) -> str:
    """Return AMD, NVIDIA or NONE; `default` if the image doesn't name one."""
    return image.vendor or default


def _gpu_resource(image: Image, model: Model, settings: TaskSettings) -> str:
    if settings.options.gpu_resource:
        return settings.options.gpu_resource
    resource = _RESOURCES.get(vendor(image, settings.gpu_vendor))
    if not resource:
        raise ConfigurationError(
            f"{image.key}: needs {model.n_gpus} GPUs of an unknown vendor; use --gpu-vendor or --gpu-resource"
        )
    return resource


def _shared_memory(context: Context, options: Options) -> str:
    half = names.half(options.memory) if options.has_memory else _SHARED_MEMORY
    return options.shm_size or names.of_docker(context.shm_size) or half


def _arguments(model: Model, context: Context) -> tuple[str, ...]:
    """Return the context's arguments; the image has the entry's own."""
    if context.model_args is None:
        return ()
    return ("--", *map(names.literal, payload.split(model.args, model)))


def _environment(
    image: Image, model: Model, name: str, gpus: int, mounted: Volumes, settings: TaskSettings
) -> dict[str, str]:
    """Return the container's variables; the user's replace ours, except those by which entry.sh reports its end."""
    options, context, hooks = settings.options, settings.context, settings.hooks
    defaults: dict[str, Any] = {
        "MAD_MODEL_NAME": model.name,
        "JENKINS_BUILD_NUMBER": "0",
        "MAD_DEPLOYMENT_TYPE": "kubernetes",
        "MAD_K8S_JOB": "true",
        "MAD_GPU_VENDOR": vendor(image, settings.gpu_vendor) or "NONE",
        "MAD_GUEST_OS": context.guest_os or image.guest_os or GUEST_OS,
        "MAD_SYSTEM_NGPUS": str(gpus),
        "MAD_RUNTIME_NGPUS": str(gpus),
        # If NVIDIA's runtime is the default, an image without a limit would see every GPU of the node.
        **({} if gpus else {"NVIDIA_VISIBLE_DEVICES": "void"}),
        **({"MAD_OUTPUT_CSV": model.multiple_results} if model.multiple_results else {}),
        **env_vars(model),
        **context.env_vars,
        **mounted.environment,
        **hooks.hooks.environment,
        **context.docker_env_vars,
    }
    reserved = {
        "MADENGINE_LOG": LOG,
        "MADENGINE_REPORT": TERMINATION_MESSAGE,
        "MADENGINE_TIMEOUT": str(time_limit(model, options)),
        **hooks.environment,
    }
    for variable, value in defaults.items():
        names.check_variable(variable, value)
    service = service_name(name) if options.nodes > 1 else ""
    # Only these may be expanded by the kubelet.
    expanded = launch.variables(context.launch_of(model, {}), name, service, options.nodes, gpus)
    return {**expanded, **{key: names.literal(value) for key, value in {**defaults, **reserved}.items()}}


def service_name(job: str) -> str:
    """Return the name of the headless Service of a Job on several nodes, and of the JobSet that it is part of."""
    return job.removesuffix("-0").removesuffix("-job")
