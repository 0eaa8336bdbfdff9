"""Documents for MongoDB, out of a table or JSON: typed values, a time of upload, and what tells them apart."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from io import StringIO
from pathlib import Path
from typing import Any

from madengine.errors import MadengineError
from madengine.files import csv_rows, parse_json, read_text
from madengine.results.perf_csv import identity

Document = dict[str, Any]

#: What tells the rows of perf.csv apart: a model alone would let each run replace the one before.
KEY = "_id"
#: Fields that are indexed, where documents have them.
INDEXED = ("model", "timestamp", "date", "status", "pipeline", "run_id", "started")
# Fields that tell the documents of other files apart, the first that differs.
_UNIQUE = ("model", "name", "id", "timestamp", "date", "pipeline")
_FIRST_DOCUMENTS = 100
_LARGEST_INTEGER = 2**63 - 1


def documents_in(path: Path) -> list[Document]:
    """Return the documents of a file: a JSON object or list of objects, or the rows of a table in CSV.

    The name's end says which, else the first character. Raises MadengineError if it is neither, or empty.
    """
    text = read_text(path, MadengineError)
    is_json = path.suffix == ".json" or (path.suffix != ".csv" and text.lstrip()[:1] in ("{", "["))
    documents = _of_json(path, text) if is_json else [_of_row(row) for row in csv_rows(StringIO(text, newline=""))]
    if not documents:
        raise MadengineError(f"{path}: no documents in it")
    return documents


def _of_json(path: Path, text: str) -> list[Document]:
    try:
        content = parse_json(text)
    except ValueError as error:
        raise MadengineError(f"{path}: not usable as JSON: {error}") from None
    documents = content if isinstance(content, list) else [content]
    if not all(isinstance(document, dict) for document in documents):
        raise MadengineError(f"{path}: expected a JSON object or a list of objects")
    return documents


def _of_row(row: Mapping[str, Any]) -> Document:
    return {name.strip(): _value(cell) for name, cell in row.items() if name and name.strip()}


def _value(cell: str | None) -> Any:
    """Return a cell as a number, as JSON, or as text; None if it is empty."""
    text = (cell or "").strip()
    if not text:
        return None
    if text[0] in "{[":
        with suppress(ValueError):
            return parse_json(text)
    with suppress(ValueError):
        integer = int(text) if text.isascii() and text.lstrip("+-").isdigit() else None
        if integer is not None:
            return integer if abs(integer) <= _LARGEST_INTEGER else text
        number = float(text)
        return number if math.isfinite(number) else text
    return cell


def stored(document: Document, now: datetime) -> Document:
    """Return a document as it is stored: with the time of its upload, and names that MongoDB takes."""
    created = {} if "created_date" in document else {"created_date": now.strftime("%Y-%m-%d %H:%M:%S")}
    return {**_storable(document), **created, "_meta_uploaded_at": now}


def _storable(value: Any) -> Any:
    if isinstance(value, dict):
        return {_field_name(name): _storable(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_storable(one) for one in value]
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) > _LARGEST_INTEGER:
        return str(value)
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value


def _field_name(name: str) -> str:
    name = name.replace("\0", "").encode("utf-8", "backslashreplace").decode()
    return f"_{name[1:]}" if name.startswith("$") else name


def with_keys(documents: Sequence[Document]) -> list[Document]:
    """Return the rows of runs with what makes them a measurement as their key, so that no run replaces another."""
    seen: dict[str, int] = {}
    keyed = []
    for document in documents:
        cells = {name: "" if value is None else str(value) for name, value in document.items()}
        key = hashlib.sha256(json.dumps(identity(cells)).encode()).hexdigest()
        seen[key] = seen.get(key, 0) + 1
        keyed.append({KEY: key if seen[key] == 1 else f"{key}-{seen[key]}", **document})
    return keyed


def are_rows(documents: Sequence[Document]) -> bool:
    """Return whether these are rows of runs."""
    return all(document.get("run_id") and "metric" in document for document in documents)


def unique_fields(documents: Sequence[Document]) -> tuple[str, ...]:
    """Return the fields that tell other documents apart: the first that differs, else the model with the time."""
    first = documents[:_FIRST_DOCUMENTS]
    for name in _UNIQUE:
        values = [json.dumps(document[name], sort_keys=True) for document in first if document.get(name) is not None]
        if len(values) == len(first) == len(set(values)):
            return (name,)
    return tuple(_present(first, ("model", "timestamp")))


def _present(documents: Sequence[Document], names: Sequence[str]) -> Iterator[str]:
    return (name for name in names if any(name in document for document in documents))


def indexed_fields(documents: Sequence[Document], unique: Sequence[str]) -> list[str]:
    """Return the fields that get an index."""
    return [name for name in dict.fromkeys((*unique, *_present(documents, INDEXED))) if name != KEY]
