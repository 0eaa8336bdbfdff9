"""The tables and views of an SQL database, made where they are missing, and extended where they are older."""

from __future__ import annotations

import time
from typing import Any

from sqlalchemy import (
    Column,
    Connection,
    Engine,
    Float,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    insert,
    inspect,
    select,
    text,
    update,
)
from sqlalchemy.dialects.mysql import DOUBLE, LONGTEXT
from sqlalchemy.exc import DBAPIError

from madengine.errors import ConfigurationError
from madengine.results.rows import COLUMNS

#: Raised with every change that an older madengine could not write to.
VERSION = 1
#: Characters of a cell that is indexed; a longer one is cut.
KEY_CHARACTERS = 255
# Attempts at making the tables, where other uploaders do the same.
_ATTEMPTS = 8

_LONG = Text().with_variant(LONGTEXT(), "mysql", "mariadb")
_NUMBER = Float(53).with_variant(DOUBLE(), "mysql", "mariadb")
#: Columns of perf.csv that are searched by, and those that hold a number; the rest is text of any length.
KEYS = (
    "model", "variant", "metric", "status", "machine_name", "run_id", "started", "environment_id", "image_digest",
    "gpu_architecture", "pipeline", "build_number",
)  # fmt: skip
NUMBERS = (
    "build_duration", "test_duration", "data_download_duration", "run_duration", "peak_gpu_memory_mib",
    "idle_gpu_memory_mib", "mean_gpu_utilization", "p95_gpu_utilization", "energy_j", "mean_power_w", "peak_power_w",
    "peak_temperature_c", "throttled_percent", "sample_hz",
)  # fmt: skip

_metadata = MetaData()


def _table(name: str, *columns: Column[Any]) -> Table:
    # All of Unicode, and names that differ in case are two, whatever the server's default is.
    choices = {"engine": "InnoDB", "charset": "utf8mb4", "collate": "utf8mb4_bin"}
    options: dict[str, Any] = {
        f"{kind}_{key}": value for kind in ("mysql", "mariadb") for key, value in choices.items()
    }
    return Table(name, _metadata, *columns, **options)


_version = _table("madengine_schema", Column("version", Integer, primary_key=True))


def _key(name: str, **how: Any) -> Column[Any]:
    return Column(name, String(KEY_CHARACTERS), **how)


def _column_of(name: str) -> Column[Any]:
    if name in KEYS:
        return _key(name, index=name in ("run_id", "model", "started"))
    return Column(name, _NUMBER if name in NUMBERS else _LONG)


RUNS = _table(
    "madengine_runs",
    _key("run_id", primary_key=True),
    _key("started"),
    _key("madengine_version"),
    #: of the first upload, ISO 8601 in UTC
    _key("uploaded"),
)
ENVIRONMENTS = _table(
    "madengine_environments",
    _key("environment_id", primary_key=True),
    *(Column(name, _LONG) for name in ("os", "kernel", "cpu", "engine", "gpu", "driver")),
    Column("gpus", Integer),
    Column("memory_mib", Integer),
    #: JSON, all that is known
    Column("document", _LONG),
)
MACHINES = _table(
    "madengine_machines",
    #: digest of the run, the machine and its environment
    Column("id", String(64), primary_key=True),
    _key("run_id", index=True),
    _key("machine_name"),
    _key("environment_id"),
)
RESULTS = _table(
    "madengine_results",
    #: digest of what makes two rows the same measurement
    Column("id", String(64), primary_key=True),
    #: `performance` as a number; NULL if the row is no success
    Column("value", _NUMBER),
    *(_column_of(name) for name in COLUMNS),
    #: JSON, the further columns of multiple results
    Column("extra", _LONG),
)
SERIES = _table(
    "madengine_series",
    Column("id", String(64), primary_key=True),
    _key("run_id", index=True),
    _key("machine_name"),
    _key("model"),
    Column("directory", _LONG),
)
SAMPLES = _table(
    "madengine_samples",
    Column("series_id", String(64), primary_key=True),
    Column("gpu", Integer, primary_key=True, autoincrement=False),
    #: seconds since the epoch
    Column("time", _NUMBER, primary_key=True),
    *(Column(name, _NUMBER) for name in ("memory_used_mib", "utilization_percent", "power_w", "temperature_c")),
    Column("throttled", Integer),
)

#: By name, in SQL that all of these databases understand.
VIEWS = {
    "madengine_history": """
        SELECT started, model, variant, metric, value, machine_name, gpu_architecture, n_gpus, image_digest, git_commit,
               run_id, pipeline, build_number
        FROM madengine_results WHERE value IS NOT NULL""",
    "madengine_latest": """
        SELECT r.* FROM madengine_results r JOIN (
            SELECT model, variant, metric, machine_name, MAX(started) AS newest FROM madengine_results
            GROUP BY model, variant, metric, machine_name) n
        ON r.model = n.model AND r.variant = n.variant AND r.metric = n.metric AND r.machine_name = n.machine_name
           AND r.started = n.newest""",
    "madengine_failures": """
        SELECT started, run_id, machine_name, model, variant, status, reason, image_digest
        FROM madengine_results WHERE status = 'FAILURE'""",
    "madengine_daily": """
        SELECT SUBSTR(started, 1, 10) AS day, model, variant, metric, gpu_architecture, COUNT(*) AS n,
               MIN(value) AS lowest, AVG(value) AS mean, MAX(value) AS highest
        FROM madengine_results WHERE value IS NOT NULL
        GROUP BY SUBSTR(started, 1, 10), model, variant, metric, gpu_architecture""",
    "madengine_hosts": """
        SELECT machine_name, model, variant, metric, COUNT(*) AS n, MIN(value) AS lowest, AVG(value) AS mean,
               MAX(value) AS highest, AVG(mean_power_w) AS mean_power_w, MAX(peak_temperature_c) AS peak_temperature_c
        FROM madengine_results WHERE value IS NOT NULL GROUP BY machine_name, model, variant, metric""",
}


def prepare(engine: Engine) -> None:
    """Make what is missing of the tables, their columns and the views.

    Raises ConfigurationError if the database is of a later madengine. Two processes may do so at once.
    """
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            with engine.begin() as connection:
                if not _is_current(connection):
                    _update(connection)
            return
        except DBAPIError:
            # Another process has made the same table, or locks it.
            if attempt == _ATTEMPTS:
                raise
            time.sleep(0.05 * attempt)


def check_version(connection: Connection) -> None:
    """Raise ConfigurationError if the database has no tables of ours, or those of a later madengine."""
    if _stored_version(connection) == 0:
        raise ConfigurationError("the database has no tables of madengine; `madengine upload` makes them")


def _stored_version(connection: Connection) -> int:
    """Return the version of the tables, 0 if there are none."""
    if not inspect(connection).has_table(_version.name):
        return 0
    version = connection.execute(select(_version.c.version)).scalar() or 0
    if version > VERSION:
        raise ConfigurationError(
            f"the database has tables of version {version}, and this madengine writes {VERSION}; update madengine here"
        )
    return version


def _is_current(connection: Connection) -> bool:
    return _stored_version(connection) == VERSION and not _missing_columns(connection)


def _missing_columns(connection: Connection) -> list[Column[Any]]:
    """Return the columns that the tables of an older madengine lack: perf.csv has got more since."""
    inspector = inspect(connection)
    missing = []
    for table in _metadata.sorted_tables:
        if inspector.has_table(table.name):
            existing = {column["name"] for column in inspector.get_columns(table.name)}
            missing += [column for column in table.columns if column.name not in existing]
    return missing


def _update(connection: Connection) -> None:
    for name in VIEWS:
        connection.execute(text(f"DROP VIEW IF EXISTS {name}"))
    for column in _missing_columns(connection):
        kind = column.type.compile(connection.dialect)
        default = " DEFAULT ''" if column.name in KEYS else ""
        connection.execute(text(f"ALTER TABLE {column.table.name} ADD COLUMN {column.name} {kind}{default}"))
    _metadata.create_all(connection)
    for name, query in VIEWS.items():
        connection.execute(text(f"CREATE VIEW {name} AS {query}"))
    if connection.execute(update(_version).values(version=VERSION)).rowcount == 0:
        connection.execute(insert(_version).values(version=VERSION))
