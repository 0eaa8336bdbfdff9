"""The page: one file with its data, and the chart library beside it or in it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from madengine import __version__
from madengine.config.package import template
from madengine.errors import ConfigurationError, MadengineError
from madengine.files import write_whole
from madengine.results.page import render
from madengine.results.page.content import (
    MOST_RUNS,
    PageResults,
    comparison,
    environments,
    history,
    metrics,
    overview,
    runs,
    table,
)

PAGE, LIBRARY = "index.html", "plotly.min.js"


def chart_library() -> Path:
    """Return the chart library that is part of plotly. Raises ConfigurationError if it isn't installed."""
    from importlib.util import find_spec

    spec = find_spec("plotly")
    for folder in (spec.submodule_search_locations if spec else None) or ():
        path = Path(folder) / "package_data" / LIBRARY
        if path.is_file():
            return path
    raise ConfigurationError("report: the page's charts need plotly; `pip install 'madengine[report]'`")


def write_page(source: PageResults, folder: Path, title: str, is_single: bool) -> Path:
    """Write the page into a folder, and return its path.

    Raises ConfigurationError where the chart library is missing, MadengineError where a file can't be written.
    """
    library = chart_library()
    try:
        script = library.read_text(encoding="utf-8")
    except OSError as error:
        raise MadengineError(f"{library}: can't be read: {error.strerror}") from None
    text = render("page.html", _values(source, folder, title, script if is_single else ""))
    if not is_single:
        write_whole(folder / LIBRARY, script)
    write_whole(folder / PAGE, text)
    return folder / PAGE


def _values(source: PageResults, folder: Path, title: str, script: str) -> Mapping[str, Any]:
    from markupsafe import Markup

    of_run, details = runs(source, folder)
    by_metric = metrics(source.rows)
    of_environment, machines = environments(source)
    lines = history(source.rows)
    data = {
        **table(source.rows),
        "run": of_run,
        "environment": of_environment,
        "environments": machines,
        # Not by name: HTML has fewer characters than names.
        "metrics": [metric["name"] for metric in by_metric],
        "history": [lines.get(metric["name"], []) for metric in by_metric],
    }
    return {
        "title": title,
        "created": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "version": __version__,
        "overview": overview(source.rows),
        "metrics": by_metric,
        "comparison": comparison(source.comparison),
        "most_runs": MOST_RUNS,
        "library": LIBRARY,
        # A script of the library that is part of the page must not end it.
        "script": Markup(script.replace("</script", r"<\/script").replace("<!--", r"<\!--")),
        "style": Markup(template("report/page.css")),
        "program": Markup(template("report/page.js")),
        "data": Markup(_json(data)),
        "runs": [Markup(_json(one)) for one in details],
    }


def _json(value: Any) -> str:
    """Return JSON that is text of a page: nothing in it is markup, and nothing is more than ASCII."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False, default=str)
    return text.replace("<", r"\u003c").replace(">", r"\u003e").replace("&", r"\u0026")
