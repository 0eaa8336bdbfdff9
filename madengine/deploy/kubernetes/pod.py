"""What came of a pod: a result and its perf.csv rows, out of what entry.sh left or told."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from madengine.build.payload import WORKSPACE
from madengine.config.hooks import SCRIPT_MARK
from madengine.config.log_errors import LogErrors
from madengine.config.manifest import Manifest
from madengine.errors import MadengineError
from madengine.programs import nvidia_smi
from madengine.programs.engine import State
from madengine.records import FAILURE, SUCCESS, Gpu, Image, Model, RunResult
from madengine.results.metrics import MetricScan
from madengine.results.results_json import results_json
from madengine.results.rows import result_rows
from madengine.run.outcome import run_outcome

LOG = Path("model.run.live.log")
_CHUNK = 1 << 20
_DEPLOYED = {"MAD_DEPLOYMENT_TYPE": "kubernetes"}
NEVER_STARTED = "the image's entry.sh never started"
STOPPED = "stopped before its script had ended: evicted, deleted, or past the Job's deadline"
KILLED = "killed before its script had ended, without a warning: out of memory, as a rule"
OUT_OF_MEMORY = "out of memory: the kernel killed it"


@dataclass(frozen=True)
class Pod:
    """One pod of a Job: where and as what it ran. `index` is None without indexes, `nodes` counts those of one run.

    `hooked` says that it was given hooks, `log_errors` what in its log makes a failure.
    """

    namespace: str
    name: str
    job: str
    run_id: str
    image: Image
    model: Model
    node: str = ""
    index: int | None = None
    timeout: int = 0
    nodes: int = 1
    gpus: int = 0
    dataname: str = ""
    data_provider_type: str = ""
    launcher: str = "native"
    hooked: bool = False
    has_pre_scripts: bool = False
    log_errors: LogErrors = field(default_factory=LogErrors)

    @property
    def is_worker(self) -> bool:
        """Whether another pod of the same run measures."""
        return self.nodes > 1 and bool(self.index)


def describe_pod(kept: Manifest, jobs_json: str, job: str, **known: Any) -> Pod:
    """A pod of a Job, by what the input ConfigMap says of it. Raises MadengineError where that is broken or nothing."""
    try:
        facts = json.loads(jobs_json)[job]
        image = next(image for image in kept.images if image.key == facts["image"])
        return Pod(
            job=job,
            image=image,
            model=kept.models[image.key],
            **{name: facts[name] for name in ("timeout", "nodes", "gpus", "dataname", "data_provider_type")},
            **{name: facts[name] for name in ("launcher", "hooked", "has_pre_scripts") if name in facts},
            log_errors=LogErrors(**{name: tuple(texts) for name, texts in facts.get("log_errors", {}).items()}),
            **known,
        )
    except (ValueError, KeyError, TypeError, StopIteration) as error:
        raise MadengineError(f"the input ConfigMap says nothing of Job {job}: {error}") from None


def pod_result(pod: Pod, workspace: Path, state: State | None = None, reason: str = "", **known: Any) -> RunResult:
    """What came of a pod's model. `state` is how the cluster says that it ended, `known` what else the result tells."""
    # A warm-up before the script is no measurement.
    scan = MetricScan(SCRIPT_MARK.encode() if pod.has_pre_scripts else b"")
    try:
        with (workspace / LOG).open("rb") as log:
            while chunk := log.read(_CHUNK):
                scan.feed(chunk)
    except OSError:
        pass  # it never began to write; the reason says why
    scan.finish()
    gpus = given_gpus(_text(workspace / ".gpus"))
    began = RunResult(
        run_id=pod.run_id,
        model=pod.model,
        image=pod.image,
        status=FAILURE,
        machine_name=pod.node,
        gpu_vendor=gpus[0].vendor if gpus else pod.image.gpu_vendor,
        gpu_architecture=gpus[0].architecture if gpus else "",
        n_gpus=str(pod.gpus),
        engine=f"kubernetes {pod.namespace}/{pod.name}",
        image_digest=pod.image.registry_digest,
        git_commit=pod.image.git_commit,
        dataname=pod.dataname,
        data_provider_type=pod.data_provider_type,
        directory=str(workspace),
        log_file=f"{WORKSPACE}/{LOG}",
        gpus=gpus,
    )
    began = replace(began, **known)
    if not reason and state is None and not (workspace / "entry.json").exists():
        reason = why_unfinished(workspace)
    try:
        came = run_outcome(began, state, scan, reason, pod.timeout, "", pod.hooked)
        came = _unless_log_errors(came, pod.log_errors, workspace / LOG)
    except OSError as error:
        came = replace(began, reason=f"{error.filename}: {error.strerror}")
    return replace(came, directory=WORKSPACE)


def _unless_log_errors(came: RunResult, asked: LogErrors, log: Path) -> RunResult:
    """A failure where the user's error patterns are in the log of what would be a success."""
    if came.status != SUCCESS or not asked.patterns or not log.exists():
        return came
    with log.open("rb") as lines:
        reason = asked.first_in(lines)
    return replace(came, status=FAILURE, reason=reason) if reason else came


def why_unfinished(workspace: Path) -> str:
    """Why there is no entry.json, as far as the workspace tells."""
    if said := _text(workspace / ".failed"):
        return said.strip()
    if not (workspace / ".gpus").exists():
        return NEVER_STARTED
    return STOPPED if (workspace / ".stopped").exists() else KILLED


def pod_rows(pod: Pod, came: RunResult, channel: str = "") -> list[dict[str, str]]:
    """The perf.csv rows of a pod; of several nodes the first measures, and the others have a row where they fail."""
    if pod.is_worker and came.exit_code == 0:
        return []
    whole = str(pod.gpus * pod.nodes)
    more = {
        "n_gpus": whole,
        "nnodes": str(pod.nodes),
        "gpus_per_node": str(pod.gpus),
        "engine": f"{came.engine} ({channel})" if channel else came.engine,
    }
    return [{**row, **more} for row in result_rows(came, {**_DEPLOYED, "MAD_LAUNCHER": pod.launcher})]


def pod_document(pod: Pod, came: RunResult, machine: Mapping[str, Any]) -> dict[str, Any]:
    """The result as a results.json, with the pod; `machine` is what is known of its node."""
    described = {"machine_name": pod.node, **machine}
    where = {"namespace": pod.namespace, "name": pod.name, "job": pod.job, "index": pod.index}
    return {**results_json(pod.run_id, [came], described), "pod": where}


def given_gpus(noted: str) -> tuple[Gpu, ...]:
    """The GPUs that entry.sh has noted: render nodes of AMD's, lines of NVIDIA's tool."""
    lines = [line.removeprefix("gpu: ") for line in noted.splitlines() if line.startswith("gpu: ")]
    rendered = [line for line in lines if re.fullmatch(r"/dev/dri/renderD[0-9]+", line)]
    listed = nvidia_smi.gpus_of_csv("\n".join(line for line in lines if line not in rendered))
    return listed or _of_kernel(rendered)


def _of_kernel(rendered: Sequence[str]) -> tuple[Gpu, ...]:
    """AMD's GPUs by render node; this node's kernel tells more of them to a sidecar that runs beside."""
    if not rendered:
        return ()
    from madengine.programs import amd_sysfs

    known = {gpu.render_node: gpu for gpu in amd_sysfs.gpus().items}
    return tuple(known.get(node, Gpu("AMD", index, render_node=node)) for index, node in enumerate(rendered))


def unpack_report(told: str, folder: Path, model: Model) -> bool:
    """Lay out, as the workspace that it was told of, what entry.sh reported; whether that was all of it.

    `told` is a termination message, or the log's lines of it without their mark.
    """
    lines = told.splitlines()
    if not lines or not lines[0].startswith('{"exit_code":'):
        return False
    (folder / "entry.json").write_text(lines[0], encoding="utf-8")
    gpus = [line for line in lines if line.startswith("gpu: ")]
    (folder / ".gpus").write_text("\n".join(gpus), encoding="utf-8")
    rest = [line for line in lines[1:] if not line.startswith("gpu: ")]
    is_whole = rest[-1:] == ["end"]
    if not is_whole:
        return False  # a number that is cut off would be another number
    rest = rest[:-1]
    name = Path(model.multiple_results).name if model.multiple_results else str(LOG)
    if model.multiple_results and not any(line.strip() for line in rest):
        return True  # the script left none
    target = folder / (model.multiple_results or name)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text("\n".join(rest).strip("\n") + "\n", encoding="utf-8")
    return True


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
