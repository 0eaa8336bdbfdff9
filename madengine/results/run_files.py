"""results.json files: the runs in them, and the runs of many put together."""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, TypeVar

from madengine import __version__
from madengine.config.models_json import model_of
from madengine.errors import ConfigurationError, MadengineError
from madengine.files import read_json, write_json
from madengine.records import Gpu, GpuCost, Image, Metric, Model, RunResult
from madengine.results.rows import SCHEMA_VERSION

Run = Mapping[str, Any]
_Record = TypeVar("_Record")


def runs_in(path: Path) -> list[Run]:
    """The runs of a results.json, of one run or of many; none where it is another program's file.

    Raises MadengineError where it is broken or of a later madengine.
    """
    found = read_json(path, MadengineError)
    version = found.get("schema_version") if isinstance(found, dict) else None
    if not isinstance(version, int):
        return []
    if version != SCHEMA_VERSION:
        raise MadengineError(
            f"{path}: schema_version {version} is not of madengine {__version__}, which reads "
            f"{SCHEMA_VERSION}; update madengine here"
        )
    runs = found.get("runs", [found])
    if not isinstance(runs, list) or not all(map(_is_run, runs)):
        raise MadengineError(f"{path}: not the results of a run: run_id, environment or results is missing or broken")
    return runs


def _is_run(value: Any) -> bool:
    kinds = {"run_id": str, "environment": dict, "results": list}
    return isinstance(value, dict) and all(isinstance(value.get(name), kind) for name, kind in kinds.items())


def with_host(run: Run, path: Path) -> Run:
    """The run with the name that the controller has for its host, from a path like `<run id>/<host>/…`."""
    parts = path.absolute().parts
    after = (parts[at + 1] for at, part in enumerate(parts[:-2]) if part == run["run_id"])
    host = next(after, run.get("host", ""))
    return run if host in ("", run["environment"].get("machine_name")) else {**run, "host": host}


def _model(card: Mapping[str, Any]) -> Model:
    """The card of a result; of a model that could not be built it may name no Dockerfile and no script."""
    filled = {name: "unknown" for name in ("dockerfile", "scripts") if card.get(name) == ""}
    model = model_of({**card, **filled}, "model")
    return replace(model, dockerfile="" if "dockerfile" in filled else model.dockerfile)


def result(entry: Mapping[str, Any]) -> RunResult:
    """The RunResult that an entry of results.json was made of, as far as its rows need it."""
    given = {
        **entry,
        "model": _model(entry["model"]),
        "image": _record(Image, entry["image"]) if entry.get("image") else None,
        "metrics": tuple(_record(Metric, metric) for metric in entry["metrics"]),
        "gpus": tuple(_record(Gpu, gpu) for gpu in entry.get("gpus", ())),
        "cost": _record(GpuCost, entry["cost"]) if entry.get("cost") else None,
    }
    return _record(RunResult, given)


def _record(kind: Callable[..., _Record], given: Mapping[str, Any]) -> _Record:
    """A record of what it knows of the given fields; a newer madengine may have written more."""
    names = (one.name for one in fields(kind))  # type: ignore[arg-type]
    return kind(**{name: given[name] for name in names if name in given})


def known_runs(path: Path | None) -> list[Run]:
    """The runs that a merged results.json already has. Raises ConfigurationError where it is something else."""
    if path is None or not os.path.lexists(path):
        return []
    try:
        runs = runs_in(path)
    except MadengineError as error:
        raise ConfigurationError(f"{error}; or name another file with --results") from None
    if "runs" not in read_json(path):
        raise ConfigurationError(f"{path}: is not a collection of runs; name another file with --results")
    return runs


def add_runs(path: Path | None, known: list[Run], runs: Iterable[Run]) -> None:
    """Write the known runs and these together, unless that changes nothing or there is no path."""
    every = _each_once([*known, *runs])
    if path is None or every == known:
        return
    write_json(path, {"schema_version": SCHEMA_VERSION, "madengine_version": __version__, "runs": every})


def _each_once(runs: Iterable[Run]) -> list[Run]:
    """The parts of each run and machine put together; the outcome is the same in any order, and if done again."""
    groups: dict[tuple[str, ...], list[Run]] = defaultdict(list)
    for run in runs:
        machine = run["environment"]
        groups[run["run_id"], str(machine.get("machine_name")), str(machine.get("environment_id"))].append(run)
    return [_joined(groups[key]) for key in sorted(groups)]


def _joined(runs: Sequence[Run]) -> Run:
    keys = sorted({key for run in runs for key in run} - {"results"})
    entries = {_canonical(entry): entry for run in runs for entry in run["results"]}
    return {
        **{key: min((run[key] for run in runs if key in run), key=_canonical) for key in keys},
        "results": [entries[text] for text in sorted(entries)],
    }


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True)
