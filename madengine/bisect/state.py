"""The state of a bisection: a file that is replaced as a whole after each step, so that it goes on after any end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from madengine.bisect.search import BAD, GOOD, SKIPPED
from madengine.errors import ConfigurationError
from madengine.files import read_json, write_json

SCHEMA_VERSION = 1
_EVIDENCE = frozenset({"n", "median", "change_percent", "interval_percent", "p"})


@dataclass(frozen=True)
class Version:
    """One version of the model: a commit with its subject, or a value."""

    name: str
    title: str = ""


@dataclass(frozen=True)
class Step:
    """What came of one version."""

    verdict: str
    #: Why it was skipped.
    reason: str = ""
    #: The series that decided, as `compare --json` has it; empty where it was skipped without one.
    evidence: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class BisectState:
    """All that is known of a bisection."""

    #: What the user asked for; another bisection has another one.
    question: Mapping[str, Any]
    #: From good to bad.
    versions: tuple[Version, ...]
    #: By the number of the version.
    steps: Mapping[int, Step]
    #: What names the series that decides; empty before bad was compared.
    series: Mapping[str, str] = field(default_factory=dict)
    #: Percent of good's median from which on a version is bad: half of what bad is worse by.
    threshold: float = 0.0

    @property
    def verdicts(self) -> dict[int, str]:
        """The verdicts by the number of the version."""
        return {number: step.verdict for number, step in self.steps.items()}

    def with_step(self, number: int, step: Step) -> BisectState:
        return replace(self, steps={**self.steps, number: step})


def load_state(path: Path, question: Mapping[str, Any]) -> BisectState | None:
    """Return the state in a file, None where there is none.

    Raises ConfigurationError where it is broken, or of another bisection.
    """
    document = read_json(path, missing={})
    if document == {}:
        return None
    try:
        state = _state(document)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ConfigurationError(
            f"{path}: not the state of a bisection ({error!r:.60}); remove it, or name another --directory"
        ) from None
    if state.question != question:
        names = sorted(name for name in {*state.question, *question} if state.question.get(name) != question.get(name))
        raise ConfigurationError(
            f"{path}: holds a bisection with other values of {', '.join(names)}; name another --directory, or remove it"
        )
    return state


def save_state(path: Path, state: BisectState) -> None:
    """Write the state, whole."""
    write_json(
        path,
        {
            "schema_version": SCHEMA_VERSION,
            "question": dict(state.question),
            "versions": [{"name": one.name, "title": one.title} for one in state.versions],
            "series": dict(state.series),
            "threshold_percent": state.threshold,
            "steps": {
                str(number): {"verdict": step.verdict, "reason": step.reason, "evidence": dict(step.evidence)}
                for number, step in sorted(state.steps.items())
            },
        },
    )


def _state(document: Any) -> BisectState:
    if document["schema_version"] != SCHEMA_VERSION:
        raise ValueError(f"schema_version {document['schema_version']}")
    versions = tuple(Version(str(one["name"]), str(one["title"])) for one in document["versions"])
    steps = {int(number): _step(step) for number, step in document["steps"].items()}
    ends = steps[0].verdict, steps[len(versions) - 1].verdict if len(versions) - 1 in steps else BAD
    if len(versions) < 2 or not all(0 <= number < len(versions) for number in steps) or ends != (GOOD, BAD):
        raise ValueError("versions and steps")
    series = {str(name): str(value) for name, value in document["series"].items()}
    return BisectState(dict(document["question"]), versions, steps, series, float(document["threshold_percent"]))


def _step(value: Any) -> Step:
    step = Step(value["verdict"], str(value["reason"]), dict(value["evidence"]))
    if step.verdict not in (GOOD, BAD, SKIPPED):
        raise ValueError(f"verdict {step.verdict!r:.40}")
    if step.evidence and not _EVIDENCE.issubset(step.evidence):
        raise ValueError("evidence")
    return step
