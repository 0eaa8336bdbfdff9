"""The options of `upload` and `database`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from madengine.config.option import Group, comma_separated, option, whole_number


@dataclass(frozen=True)
class UploadOptions:
    """What is uploaded where."""

    files: tuple[Path, ...] = option(
        "files", default=(), group=Group.SELECTION, parse=Path, metavar="RESULTS", many=True,
        help="each a perf.csv, a results.json, or a folder that is searched for them",
    )  # fmt: skip
    to: str = option(
        "--to", default="", group=Group.OUTPUT, metavar="URL",
        help="postgresql://USER@HOST/DATABASE, mysql://USER@HOST/DATABASE, mariadb://… or sqlite:///FILE; the password "
        "comes from the entry DATABASE of credential.json, or from DATABASE_PASSWORD",
    )  # fmt: skip


@dataclass(frozen=True)
class MongoOptions:
    """What is stored in which collection of MongoDB, and how."""

    file: Path | None = option(
        "--file", "-f", "--csv-file", default=None, group=Group.SELECTION, parse=Path, metavar="FILE", exists="file",
        help="a table (CSV), or a JSON object or list of objects",
    )  # fmt: skip
    database: str = option(
        "--database", "--db", "--database-name", default="", group=Group.OUTPUT, metavar="NAME", help="its database"
    )
    collection: str = option(
        "--collection", "-c", "--collection-name", default="", group=Group.OUTPUT, metavar="NAME", help="its collection"
    )
    unique_key: tuple[str, ...] = option(
        "--unique-key", "-k", default=(), group=Group.SELECTION, many=True, collect=comma_separated, metavar="FIELD",
        help="fields that tell documents apart (default: those of a row: run, node, model, metric, start)",
    )  # fmt: skip
    batch_size: int = option(
        "--batch-size", default=1000, group=Group.OUTPUT, parse=whole_number("documents", 1, 100_000), metavar="N",
        help="documents that are sent at once (default: 1000)",
    )  # fmt: skip
    no_upsert: bool = option(
        "--no-upsert", default=False, group=Group.OUTPUT, help="add every document, also those that are there already"
    )
    no_index: bool = option("--no-index", default=False, group=Group.OUTPUT, help="make no indexes")
    dry_run: bool = option(
        "--dry-run", default=False, group=Group.OUTPUT, help="read the file and say what would be sent"
    )
