"""MongoDB: documents are added, or replace those with the same key, in batches."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from madengine import programs
from madengine.config.option import whole_number
from madengine.errors import ConfigurationError, MadengineError
from madengine.results.database.documents import (
    KEY,
    Document,
    are_rows,
    documents_in,
    indexed_fields,
    stored,
    unique_fields,
    with_keys,
)
from madengine.results.database.options import MongoOptions

if TYPE_CHECKING:
    from pymongo import MongoClient
    from pymongo.collection import Collection

logger = logging.getLogger(__name__)

_MILLISECONDS = whole_number("milliseconds", 1, 3_600_000)
_PORT = whole_number("port", 1, 65535)


def store(options: MongoOptions, environ: Mapping[str, str]) -> tuple[str, bool]:
    """Store the documents of a file; return what was done, in words, and whether anything went in.

    The server is MONGO_HOST, MONGO_PORT, MONGO_USER, MONGO_PASSWORD, MONGO_AUTH_SOURCE and MONGO_TIMEOUT_MS. Raises
    MadengineError for a file without documents, and a server that does not answer.
    """
    if options.file is None or not options.database or not options.collection:
        raise ConfigurationError("database: expected --file, --database and --collection")
    documents = documents_in(options.file)
    unique = () if options.no_upsert else options.unique_key
    if not unique and not options.no_upsert:
        if are_rows(documents):
            documents, unique = with_keys(documents), (KEY,)
        else:
            unique = unique_fields(documents)
    place = f"{options.database}.{options.collection}"
    how = f"replacing those with the same {', '.join(unique)}" if unique else "adding all of them"
    if options.dry_run:
        return f"would store {len(documents)} documents in {place}, {how}", True
    now = datetime.now(timezone.utc)
    pending = [stored(document, now) for document in documents]
    with _client(environ) as client:
        collection = _collection(client, options)
        written, failed = _write(collection, pending, unique, options.batch_size)
        if not options.no_index:
            _add_indexes(collection, pending, unique)
    return f"stored {written} documents in {place}, {how}" + (f"; {failed} failed" if failed else ""), written > 0


def _client(environ: Mapping[str, str]) -> MongoClient[Document]:
    try:
        from pymongo import MongoClient
    except ImportError:
        raise ConfigurationError(
            "database: needs pymongo, which is not installed here: pip install 'madengine[database]'"
        ) from None
    password = environ.get("MONGO_PASSWORD", "")
    programs.hide([password])
    login: dict[str, Any] = {}
    if user := environ.get("MONGO_USER", ""):
        login = {"username": user, "password": password, "authSource": environ.get("MONGO_AUTH_SOURCE") or "admin"}
    timeout = _number(environ, "MONGO_TIMEOUT_MS", 5000, _MILLISECONDS)
    return MongoClient(
        environ.get("MONGO_HOST") or "localhost",
        _number(environ, "MONGO_PORT", 27017, _PORT),
        serverSelectionTimeoutMS=timeout,
        connectTimeoutMS=timeout,
        tz_aware=True,
        **login,
    )


def _number(environ: Mapping[str, str], name: str, default: int, parse: Any) -> int:
    from argparse import ArgumentTypeError

    try:
        return int(parse(environ.get(name) or str(default)))
    except ArgumentTypeError as error:
        raise ConfigurationError(f"{name}: {error}") from None


def _collection(client: MongoClient[Document], options: MongoOptions) -> Collection[Document]:
    from pymongo.errors import PyMongoError

    try:
        client.admin.command("ping")
        return client[options.database][options.collection]
    except PyMongoError as error:
        raise MadengineError(f"MongoDB: {_reason(error)}; MONGO_HOST, MONGO_PORT, MONGO_USER … name it") from error


def _write(
    collection: Collection[Document], documents: Sequence[Document], unique: Sequence[str], size: int
) -> tuple[int, int]:
    """Write documents in batches; return how many were written and how many were not."""
    from pymongo import InsertOne, UpdateOne
    from pymongo.errors import BulkWriteError, PyMongoError

    written = failed = 0
    for start in range(0, len(documents), size):
        batch = documents[start : start + size]
        requests = [
            UpdateOne({name: one.get(name) for name in unique}, {"$set": _without(one, KEY)}, upsert=True)
            if unique
            else InsertOne(dict(one))
            for one in batch
        ]
        try:
            collection.bulk_write(requests, ordered=False)
            written += len(batch)
        except BulkWriteError as error:
            errors = (error.details or {}).get("writeErrors", [])
            failed, written = failed + len(errors), written + len(batch) - len(errors)
            logger.warning(f"MongoDB: {errors[0].get('errmsg') if errors else error}")
        except (PyMongoError, OverflowError, ValueError) as error:
            failed += len(batch)
            logger.warning(f"MongoDB: {_reason(error)}")
    return written, failed


def _without(document: Document, name: str) -> Document:
    return {key: value for key, value in document.items() if key != name}


def _add_indexes(collection: Collection[Document], documents: Sequence[Document], unique: Sequence[str]) -> None:
    from pymongo.errors import PyMongoError

    try:
        for name in indexed_fields(documents, unique):
            collection.create_index([(name, 1)])
        if len(unique) > 1:
            collection.create_index([(name, 1) for name in unique])
    except PyMongoError as error:
        logger.warning(f"MongoDB: no index: {_reason(error)}")


def _reason(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].partition(", Timeout:")[0][:500]
