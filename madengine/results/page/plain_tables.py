"""CSV files as plain HTML tables, as madengine 2's `report to-html` and `report to-email` write them."""

from __future__ import annotations

import csv
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from madengine.errors import ConfigurationError, MadengineError
from madengine.files import csv_reader, read_text, write_whole
from madengine.results.page import render

logger = logging.getLogger(__name__)


class PlainTable(NamedTuple):
    """A CSV file."""

    #: empty if the page has only this one
    title: str
    columns: Sequence[str]
    lines: Sequence[Sequence[str]]


def read_table(path: Path, title: str = "") -> PlainTable:
    """Return the table of a CSV file. Raises MadengineError if it can't be read as one."""
    try:
        lines = [cells for cells in csv_reader(read_text(path, MadengineError).splitlines(keepends=True)) if cells]
    except csv.Error as error:
        raise MadengineError(f"{path}: not a CSV file: {error}") from None
    if not lines:
        raise MadengineError(f"{path}: has no header")
    return PlainTable(title, [cell.strip() for cell in lines[0]], lines[1:])


def to_html(path: Path) -> tuple[PlainTable, Path]:
    """Write the table beside its CSV file, `.html` in place of `.csv`; return it, and the page's path.

    Raises ConfigurationError for another kind of file, MadengineError for one that can't be read or written.
    """
    if path.suffix != ".csv":
        raise ConfigurationError(f"{path}: expected a file whose name ends in .csv")
    table, page = read_table(path), path.with_suffix(".html")
    _write(page, [table])
    return table, page


def to_email(folder: Path, name: str) -> tuple[list[PlainTable], Path] | None:
    """Write the tables of all CSV files of a folder, by name, into one page there; None if there is no CSV file.

    Return them, and the page's path. Raises MadengineError if the folder or the page can't be.
    """
    if not folder.is_dir():
        raise MadengineError(f"{folder}: no such folder; name one with CSV files with --directory")
    tables = []
    for path in sorted(folder.glob("*.csv")):
        try:
            tables.append(read_table(path, path.stem))
        except MadengineError as error:
            logger.warning(f"{error}; left out")
    if not tables:
        return None
    _write(folder / name, tables)
    return tables, folder / name


def _write(page: Path, tables: Sequence[PlainTable]) -> None:
    write_whole(page, render("tables.html", {"tables": tables}))
