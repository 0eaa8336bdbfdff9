"""A plan -> the files that kubectl applies."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

from madengine.config.common_options import RepeatOptions
from madengine.config.option import words_for_hosts
from madengine.deploy.kubernetes.input_config import RUNNER_JOB
from madengine.deploy.kubernetes.jobs import (
    common_limits,
    job_annotations,
    job_values,
    labels,
    pod_values,
    shared_values,
)
from madengine.deploy.kubernetes.options import NONE, Options
from madengine.deploy.kubernetes.plan import Plan, PlanInput, load_plan
from madengine.deploy.kubernetes.tasks import time_limit
from madengine.deploy.render import render
from madengine.deploy.target import Prepared
from madengine.files import write_whole

logger = logging.getLogger(__name__)

CONFIGMAP, JOB, KUSTOMIZATION = "k8s-madengine-configmap.yaml", "k8s-madengine-job.yaml", "kustomization.yaml"
#: The folder that kustomize reads, which belongs to madengine; the kustomization beside it is the user's.
BASE = "base"


def generate_kubernetes(source: PlanInput, options: Options, output: Path, data_file: Path | None = None) -> Prepared:
    """Write the ConfigMap and Job files into the folder `output`, and for kustomize a base and, once, an overlay.

    Raises ConfigurationError for an invalid manifest, configuration or option, with nothing written, and
    MadengineError if a file can't be written.
    """
    plan = load_plan(source, options, data_file)
    texts = {output / name: text for name, text in render_files(plan).items()}
    overlay = output / KUSTOMIZATION
    if overlay in texts and os.path.lexists(overlay):
        del texts[overlay]
        logger.info(f"{overlay}: unchanged, it is yours; {output / BASE} is new")
    for path, text in texts.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, text)
    return Prepared(tuple(texts), plan.warnings)


def render_files(plan: Plan) -> dict[str, str]:
    """Return the text of each file. Raises ConfigurationError for an invalid template of the user's."""
    values = _values(plan)
    texts = {
        name: render(template, values, plan.options.template_dir, plain=True)
        for name, template in _templates(plan.options).items()
    }
    copies = {f"{BASE}/{name}": texts[name] for name in (CONFIGMAP, JOB)} if plan.options.kustomize else {}
    return {**texts, **copies}


def _templates(options: Options) -> dict[str, str]:
    job = "k8s/runner.yaml" if options.mode == "runner" else "k8s/job.yaml"
    base, overlay = f"{BASE}/{KUSTOMIZATION}", KUSTOMIZATION
    kustomization = {base: "k8s/base.yaml", overlay: "k8s/kustomization.yaml"} if options.kustomize else {}
    return {CONFIGMAP: "k8s/configmap.yaml", JOB: job, **kustomization}


def _values(plan: Plan) -> dict[str, Any]:
    options = plan.options
    shared = shared_values(options, plan.pods, plan.runner_image)
    values = {
        **shared,
        "configs": plan.configs,
        "server_side": any(config.too_large_to_apply for config in plan.configs),
        "create_namespace": options.create_namespace,
        "own_account": shared["reports"] and not options.service_account,
        "jobs": [job_values(task, task.options, plan.config_of(task.name)) for task in plan.tasks],
        "beyond_baseline": plan.beyond_baseline,
    }
    return {**values, "job": _runner(plan)} if options.mode == "runner" else values


def _runner(plan: Plan) -> dict[str, Any]:
    """Return the values of the one Job that runs the whole manifest."""
    options, models = plan.options, [plan.manifest.models[image.key] for image in plan.manifest.images]
    limits = [time_limit(model, options) for model in models]
    rounds = options.warmup + options.most_repeats
    return {
        "name": RUNNER_JOB,
        "labels": {**labels(models[0], options), "madengine/model": "all"},
        "config": plan.config_of(RUNNER_JOB),
        "annotations": job_annotations(options, plan.config_of(RUNNER_JOB)),
        "command": [
            "python3",
            "-m",
            "madengine.distributed_cli",
            "run",
            "--target=local",
            "--manifest-file=/config/manifest.json",
            *([f"--run-id={options.run_id}"] if options.run_id else []),
            *([f"--timeout={options.timeout}"] if options.timeout is not None else []),
            *words_for_hosts((RepeatOptions,), vars(options)),
        ],
        "queue": options.queue,
        "deadline": rounds * (sum(limits) + (plan.hook_seconds + options.slack) * len(limits)) if all(limits) else None,
        "requests": {"cpu": options.cpu, **({} if options.memory == NONE else {"memory": options.memory or "1Gi"})},
        "limits": common_limits(options),
        "tolerations": options.tolerations,
        **pod_values(options),
    }
