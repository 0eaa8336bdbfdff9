"""results.json: everything known about a run; and the runs of many machines in one file."""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any, TypeVar

from madengine import __version__
from madengine.errors import ConfigurationError, MadengineError
from madengine.files import read_json, write_json
from madengine.records import Artifact, Gpu, GpuCost, GpuProcess, Image, Metric, Model, RunResult

SCHEMA_VERSION = 1

Run = Mapping[str, Any]
_Record = TypeVar("_Record")


# --- of one run ---


def results_json(run_id: str, results: Iterable[RunResult], environment: Mapping[str, Any]) -> dict[str, Any]:
    """Return the document results.json; `environment` describes the node (never its environment variables)."""
    return {
        "schema_version": SCHEMA_VERSION,
        "madengine_version": __version__,
        "run_id": run_id,
        "environment": dict(environment),
        "results": [result_json(result) for result in results],
    }


def result_json(result: RunResult) -> dict[str, Any]:
    """Return everything known about a run, for results.json."""
    return {field.name: _json(getattr(result, field.name)) for field in fields(result)}


def _json(value: Any) -> Any:
    if isinstance(value, Model):
        from madengine.config.models_json import entry_of

        return entry_of(value)
    if isinstance(value, Image):
        # The extra keys of an older madengine's manifest hold build commands, with secrets in them.
        return {field.name: getattr(value, field.name) for field in fields(value) if field.name != "extra"}
    if isinstance(value, Gpu | GpuCost | GpuProcess | Artifact):
        return asdict(value)
    if isinstance(value, RunResult):
        return result_json(value)
    if isinstance(value, Metric):
        return {**{field.name: getattr(value, field.name) for field in fields(value)}, "extra": dict(value.extra)}
    return [_json(item) for item in value] if isinstance(value, tuple) else value


# --- reading ---


def runs_in(path: Path) -> list[Run]:
    """Return the runs of a results.json, of one run or of many; none if it is another program's file.

    Raises MadengineError if it is broken or of a later madengine.
    """
    document = read_json(path, MadengineError)
    version = document.get("schema_version") if isinstance(document, dict) else None
    if not isinstance(version, int):
        return []
    if version != SCHEMA_VERSION:
        raise MadengineError(
            f"{path}: unsupported schema_version {version}: madengine {__version__} reads "
            f"{SCHEMA_VERSION}; update madengine here"
        )
    runs = document.get("runs", [document])
    if not isinstance(runs, list) or not all(map(_is_run, runs)):
        raise MadengineError(f"{path}: not the results of a run: run_id, environment or results is missing or broken")
    return runs


def _is_run(value: Any) -> bool:
    kinds = {"run_id": str, "environment": dict, "results": list}
    return isinstance(value, dict) and all(isinstance(value.get(name), kind) for name, kind in kinds.items())


def result_of(entry: Mapping[str, Any]) -> RunResult:
    """Return the RunResult that an entry of results.json was made of, as far as its rows need it."""
    values = {
        **entry,
        "model": _model(entry["model"]),
        "image": _record(Image, entry["image"]) if entry.get("image") else None,
        "metrics": tuple(_record(Metric, metric) for metric in entry["metrics"]),
        "gpus": tuple(_record(Gpu, gpu) for gpu in entry.get("gpus", ())),
        "cost": _record(GpuCost, entry["cost"]) if entry.get("cost") else None,
        "parts": tuple(map(result_of, entry.get("parts", ()))),
    }
    return _record(RunResult, values)


def _model(entry: Mapping[str, Any]) -> Model:
    """Return the model of a result; one that could not be built may name no Dockerfile and no script."""
    from madengine.config.models_json import model_of

    unknown = {name: "unknown" for name in ("dockerfile", "scripts") if entry.get(name) == ""}
    model = model_of({**entry, **unknown}, "model")
    return replace(model, dockerfile="" if "dockerfile" in unknown else model.dockerfile)


def _record(kind: Callable[..., _Record], values: Mapping[str, Any]) -> _Record:
    """Return a record of the values that it has fields for; a newer madengine may have written more."""
    names = (field.name for field in fields(kind))  # type: ignore[arg-type]
    return kind(**{name: values[name] for name in names if name in values})


# --- the runs of many machines ---


def with_host(run: Run, path: Path) -> Run:
    """Return the run with the controller's name for its host, from a path like `<run id>/<host>/…`."""
    parts = path.absolute().parts
    names = (parts[index + 1] for index, part in enumerate(parts[:-2]) if part == run["run_id"])
    host = next(names, run.get("host", ""))
    return run if host in ("", run["environment"].get("machine_name")) else {**run, "host": host}


def known_runs(path: Path | None) -> list[Run]:
    """Return the runs that a merged results.json already has. Raises ConfigurationError if it is another file."""
    if path is None or not os.path.lexists(path):
        return []
    try:
        runs = runs_in(path)
    except MadengineError as error:
        raise ConfigurationError(f"{error}; or name another file with --results") from None
    if "runs" not in read_json(path):
        raise ConfigurationError(f"{path}: not a collection of runs; name another file with --results")
    return runs


def add_runs(path: Path | None, known: list[Run], runs: Iterable[Run]) -> None:
    """Write the known runs and these together, unless that changes nothing or there is no path."""
    merged = _each_once([*known, *runs])
    if path is None or merged == known:
        return
    write_json(path, {"schema_version": SCHEMA_VERSION, "madengine_version": __version__, "runs": merged})


def _each_once(runs: Iterable[Run]) -> list[Run]:
    """Join the parts of each run and machine; the outcome is the same in any order, and if done again."""
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
