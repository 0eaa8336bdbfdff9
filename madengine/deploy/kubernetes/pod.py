"""One pod of a Job, as the input ConfigMap describes it; anyone with access to the namespace may have written that."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from madengine.config.artifacts import patterns
from madengine.config.log_errors import LogErrors
from madengine.config.manifest import Manifest
from madengine.errors import MadengineError
from madengine.files import parse_json
from madengine.machine.gpu_profiles import PROFILES
from madengine.records import Image, Model

_NODES_LIMIT = 100_000
_SECONDS_LIMIT = 10**9


@dataclass(frozen=True)
class Pod:
    """One pod of a Job: where and as what it ran."""

    namespace: str
    name: str
    job: str
    run_id: str
    image: Image
    model: Model
    node: str = ""
    #: Its completion index; None if its Job is not indexed.
    index: int | None = None
    #: Seconds that the script may take; 0 is no limit.
    timeout: int = 0
    #: The number of the Job's first run, from 1; 0 where nothing is repeated.
    first_repeat: int = 0
    #: How many pods are one run, and the GPUs of each.
    nodes: int = 1
    gpus: int = 0
    dataname: str = ""
    data_provider_type: str = ""
    launcher: str = "native"
    #: Whether it has hooks, and whether some run before the script.
    hooked: bool = False
    has_pre_scripts: bool = False
    #: What in its log makes a failure.
    log_errors: LogErrors = field(default_factory=LogErrors)
    #: Globs of the files to bring home, and whether a profiler's are among them by their names.
    artifacts: tuple[str, ...] = ()
    wrapped: bool = False
    #: What is made of the GPU samples (`power`, `vram`), and the files' names by variable.
    profiles: tuple[str, ...] = ()
    profile_names: Mapping[str, str] = field(default_factory=dict)

    @property
    def repeat(self) -> int:
        """Which of the model's repeated runs it is, from 1; 0 where nothing is repeated."""
        return self.first_repeat and self.first_repeat + ((self.index or 0) if self.nodes == 1 else 0)

    @property
    def is_worker(self) -> bool:
        """Whether another pod of the same run measures."""
        return self.nodes > 1 and bool(self.index)


def describe_pod(manifest: Manifest, jobs_json: str, job: str, **known: Any) -> Pod:
    """Return a pod of a Job. Raises MadengineError if the input ConfigMap doesn't describe it."""
    try:
        facts = parse_json(jobs_json)[job]
        image = next(image for image in manifest.images if image.key == facts["image"])
        model = manifest.models[image.key]
        return Pod(job=job, image=image, model=_checked(model), **_fields(facts), **known)
    except (ValueError, KeyError, TypeError, AttributeError, StopIteration) as error:
        raise MadengineError(f"the input ConfigMap doesn't describe Job {job}: {error}") from None


def _checked(model: Model) -> Model:
    path = PurePosixPath(model.multiple_results)
    if path.is_absolute() or ".." in path.parts:
        raise ValueError(f"multiple_results: expected a relative path without .., got {model.multiple_results[:80]!r}")
    return model


def _fields(facts: Mapping[str, Any]) -> dict[str, Any]:
    texts = {name: _text(name, facts[name]) for name in ("dataname", "data_provider_type")}
    errors = facts.get("log_errors", {})
    return {
        **texts,
        "timeout": _number("timeout", facts["timeout"], 0, _SECONDS_LIMIT),
        "first_repeat": _number("repeat", facts.get("repeat", 0), 0, _NODES_LIMIT),
        "nodes": _number("nodes", facts["nodes"], 1, _NODES_LIMIT),
        "gpus": _number("gpus", facts["gpus"], 0, _NODES_LIMIT),
        "launcher": _text("launcher", facts.get("launcher", "native")),
        "hooked": facts.get("hooked") is True,
        "has_pre_scripts": facts.get("has_pre_scripts") is True,
        "artifacts": patterns([_text("artifacts", text) for text in facts.get("artifacts", ())], "artifacts"),
        "wrapped": facts.get("wrapped") is True,
        "profiles": tuple(kind for kind in facts.get("profiles", ()) if kind in PROFILES),
        "profile_names": {str(name): _text("name", text) for name, text in facts.get("profile_names", {}).items()},
        "log_errors": LogErrors(**{name: tuple(_text(name, text) for text in texts) for name, texts in errors.items()}),
    }


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{name}: expected a string, got {value!r:.80}")
    return value


def _number(name: str, value: Any, least: int, most: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise ValueError(f"{name}: expected {least} to {most}, got {value!r:.80}")
    return value
