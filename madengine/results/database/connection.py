"""A connection to an SQL database: its URL without a password, the login, and errors as one line."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from madengine import programs
from madengine.config.credentials import load_credentials
from madengine.errors import ConfigurationError, MadengineError

if TYPE_CHECKING:
    from sqlalchemy import URL, Engine

    from madengine.results.results_json import Run
    from madengine.results.rows import Row

#: The kinds of databases, each with SQLAlchemy's name for its driver.
_DRIVERS = {
    "postgresql": "postgresql+psycopg",
    "mysql": "mysql+pymysql",
    "mariadb": "mariadb+pymysql",
    "sqlite": "sqlite",
}
_INSTALL = "pip install 'madengine[database]'"
_ENTRY = "DATABASE"
# How long a process waits for another one's writes to an SQLite file, in seconds.
_BUSY_SECONDS = 120


def is_database_url(text: str) -> bool:
    """Return whether a source of results is a database, not a file."""
    return text.partition("://")[0] in _DRIVERS and "://" in text


@contextmanager
def connected(url: str, environ: Mapping[str, str], root: Path, must_exist: bool = False) -> Iterator[Engine]:
    """Yield the database of a URL, with the login of credential.json at `root` or of the environment.

    Raises ConfigurationError for a wrong URL, one with a password, and a missing library, and MadengineError for what
    the database refuses in the block.
    """
    try:
        from sqlalchemy.exc import SQLAlchemyError
    except ImportError:
        raise ConfigurationError(f"databases need SQLAlchemy, which is not installed here: {_INSTALL}") from None
    address = _address(url, environ, root)
    if must_exist and address.get_backend_name() == "sqlite" and not Path(address.database or "").is_file():
        raise ConfigurationError(f"{address.database}: no such database file")
    try:
        engine = _engine(address)
        try:
            yield engine
        finally:
            engine.dispose()
    except ModuleNotFoundError as error:
        raise ConfigurationError(f"{url}: needs {error.name}, which is not installed here: {_INSTALL}") from None
    except SQLAlchemyError as error:
        raise MadengineError(f"{address.render_as_string()}: {_reason(error)}") from error


def read_database(source: str) -> tuple[list[Row], list[Run]]:
    """Return the rows and the runs of a database, of one run with `#RUN_ID` at the end of its URL.

    Raises ConfigurationError and MadengineError as `connected` does.
    """
    url, _, run_id = source.partition("#")
    with connected(url, os.environ, Path(os.environ.get("MODEL_DIR") or "."), must_exist=True) as engine:
        from madengine.results.database.read import read_rows, read_runs

        return read_rows(engine, run_id), read_runs(engine, run_id)


def _address(url: str, environ: Mapping[str, str], root: Path) -> URL:
    from sqlalchemy import make_url
    from sqlalchemy.exc import ArgumentError

    kind = url.partition("://")[0]
    if not is_database_url(url):
        raise ConfigurationError(
            f"{_without_login(url)}: expected a URL: {', '.join(f'{name}://' for name in _DRIVERS)}"
        )
    try:
        address = make_url(url)
    except (ArgumentError, ValueError):
        raise ConfigurationError(
            f"{_without_login(url)}: not a database's URL; write {kind}://USER@HOST/DATABASE"
        ) from None
    if address.password is not None or any("password" in key or key == "passwd" for key in address.query):
        programs.hide([str(address.password)] if address.password else [])
        raise ConfigurationError(
            f"{kind}://: a password on the command line can be read by all users of this machine; take it out, and put "
            f"it into the entry {_ENTRY} of credential.json, or into DATABASE_PASSWORD"
        )
    address = address.set(drivername=_DRIVERS[kind])
    if kind == "sqlite":
        if not address.database or address.database == ":memory:":
            raise ConfigurationError(f"{url}: names no file; write sqlite:///FILE, or sqlite:////PATH")
        return address
    if not address.database:
        raise ConfigurationError(f"{url}: names no database; write {kind}://USER@HOST/DATABASE")
    return _with_login(address, environ, root)


def _with_login(address: URL, environ: Mapping[str, str], root: Path) -> URL:
    """Return the address with the user and the password of the entry; the user of the URL wins."""
    entries = load_credentials(root, environ, [_ENTRY]).entries
    entry = entries.get(address.host or "", {}) or entries.get(_ENTRY, {})
    return address.set(
        username=address.username or entry.get("username") or None, password=entry.get("password") or None
    )


def _without_login(url: str) -> str:
    """Return a URL as a message may show it."""
    head, mark, tail = url.rpartition("@")
    return f"…@{tail}" if mark and head else url


def _engine(address: URL) -> Engine:
    from sqlalchemy import create_engine

    if address.get_backend_name() == "sqlite":
        return create_engine(address, connect_args={"timeout": _BUSY_SECONDS})
    arguments = {"charset": "utf8mb4"} if "pymysql" in address.drivername else {}
    return create_engine(address, connect_args={"connect_timeout": 20, **arguments}, pool_pre_ping=True)


def _reason(error: Exception) -> str:
    """Return the database's own words: SQLAlchemy's message also holds the statement with its data."""
    words = str(getattr(error, "orig", None) or error).strip().splitlines()
    return words[0] if words else type(error).__name__
