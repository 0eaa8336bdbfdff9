"""The commands that send results to databases."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from madengine.cli.terminal import show
from madengine.cli.verbs import Values
from madengine.config.option import from_options
from madengine.errors import EXIT_DONE, EXIT_FAILURE, ConfigurationError

logger = logging.getLogger(__name__)


def upload(values: Values) -> int:
    """Send what files and folders hold to an SQL database."""
    from madengine.results.database.connection import connected
    from madengine.results.scan import ScanResult

    if not values["files"] or not values["to"]:
        raise ConfigurationError("upload: expected files or folders with results, and --to URL")
    with connected(values["to"], os.environ, Path(os.environ.get("MODEL_DIR") or ".")) as engine:
        from madengine.results.database.upload import upload

        scan = ScanResult()
        for path in values["files"]:
            (scan.look_in if path.is_dir() else scan.take_file)(path)
        for problem in scan.problems:
            logger.warning(problem)
        sent = upload(scan, engine)
    show(f"{sent.runs} runs, {sent.rows} rows ({sent.new_rows} new), {sent.samples} GPU samples")
    return EXIT_FAILURE if scan.problems else EXIT_DONE


def database(values: Values) -> int:
    """Store a table or JSON documents in MongoDB."""
    from madengine.results.database.mongo import store
    from madengine.results.database.options import MongoOptions

    line, is_complete = store(from_options(MongoOptions, values), os.environ)
    show(line)
    return EXIT_DONE if is_complete else EXIT_FAILURE
