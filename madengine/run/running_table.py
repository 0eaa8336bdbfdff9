"""What runs, as a table and as JSON; also that of other hosts, which is checked."""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any

from madengine.files import parse_json
from madengine.results.table import printable, text_table
from madengine.run.running import RunningModel

Record = Mapping[str, Any]
_TEXTS = [field.name for field in fields(RunningModel) if field.name != "gpus"]


def as_record(models: Sequence[RunningModel]) -> Record:
    """Return what runs here, as JSON's types."""
    entries = [{**asdict(one), "gpus": list(one.gpus), "seconds": one.seconds} for one in models]
    return {"host": socket.gethostname(), "models": entries}


def record_of(text: str, host: str) -> Record:
    """Return what another host prints with `--json`, under the name that it has here.

    Raise ValueError if it is something else.
    """
    content = parse_json(text)
    models = content.get("models") if isinstance(content, dict) else None
    if not isinstance(models, list) or not all(isinstance(model, dict) for model in models):
        raise ValueError("expected an object with a list of models")
    return {"host": host, "models": [_checked(model) for model in models]}


def _checked(model: Mapping[str, Any]) -> dict[str, Any]:
    gpus, seconds = model.get("gpus"), model.get("seconds")
    return {
        **{name: str(model.get(name) or "") for name in _TEXTS},
        "gpus": [str(gpu) for gpu in gpus] if isinstance(gpus, list) else [],
        "seconds": seconds if isinstance(seconds, int) else None,
    }


def table(records: Sequence[Record], has_hosts: bool = False) -> str:
    """Return a line for each model, with its host if `has_hosts`."""
    lines = [
        [printable(str(cell)) for cell in ([record["host"]] if has_hosts else []) + _cells(model)]
        for record in records
        for model in record["models"]
    ]
    if not lines:
        return "nothing runs"
    headers = [*(["host"] if has_hosts else []), "model", "state", "since", "for", "GPUs", "log"]
    return text_table(lines, headers)


def _cells(model: Mapping[str, Any]) -> list[str]:
    log = model["log"] or (f"by {model['user']}" if model["user"] else "")
    return [model["model"], model["state"], model["since"], duration(model["seconds"]), ",".join(model["gpus"]), log]


def duration(seconds: int | None) -> str:
    """Return a duration as people write it, `1:02:03` or `2:03`; empty if it is unknown."""
    if seconds is None:
        return ""
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
