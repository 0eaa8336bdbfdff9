"""Rows and environments out of an SQL database, as they are read from files."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from sqlalchemy import Engine, select

from madengine.files import parse_json
from madengine.results.database.schema import ENVIRONMENTS, MACHINES, RESULTS, check_version
from madengine.results.results_json import Run
from madengine.results.rows import COLUMNS, Row


def read_rows(engine: Engine, run_id: str = "") -> list[Row]:
    """Return the rows of a run, of all runs without an id, in order of their start.

    Raises ConfigurationError if there are no tables of ours.
    """
    columns = [column for column in RESULTS.columns if column.name in (*COLUMNS, "extra")]
    query = select(*columns).order_by(RESULTS.c.started, RESULTS.c.id)
    with engine.connect() as connection:
        check_version(connection)
        rows = connection.execute(query.where(RESULTS.c.run_id == run_id) if run_id else query).mappings()
        return [_row(dict(row)) for row in rows]


def read_runs(engine: Engine, run_id: str = "") -> list[Run]:
    """Return the runs, each on one machine with its description; their results are the rows."""
    query = select(MACHINES.c.run_id, MACHINES.c.machine_name, ENVIRONMENTS.c.document).join(
        ENVIRONMENTS, MACHINES.c.environment_id == ENVIRONMENTS.c.environment_id
    )
    with engine.connect() as connection:
        rows = connection.execute(query.where(MACHINES.c.run_id == run_id) if run_id else query).all()
    return [
        {"run_id": run, "environment": {**_document(text), "machine_name": name}, "results": []}
        for run, name, text in rows
    ]


def _row(values: dict[str, Any]) -> Row:
    extra = _document(values.pop("extra"))
    cells = {name: str(cell) for name, cell in extra.items()}
    return {**cells, **{name: str(value) for name, value in values.items() if value not in (None, "")}}


def _document(text: str | None) -> dict[str, Any]:
    with suppress(ValueError):
        document = parse_json(text or "{}")
        return document if isinstance(document, dict) else {}
    return {}
