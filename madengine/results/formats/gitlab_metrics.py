"""GitLab's metrics report: OpenMetrics text whose names are the same in every pipeline, so that they are compared."""

from __future__ import annotations

import re

from madengine.results.formats import Results
from madengine.results.formats.openmetrics import render

# GitLab takes lines apart as a shell would, after it has cut comments off.
_MARKUP = re.compile(r"""[\s#"'\\$`]+""")
_LABELS = {"model": "model", "variant": "variant", "host": "machine_name", "gpu": "gpu_architecture"}
_COLUMNS = (*_LABELS.values(), "metric")


def text(report: Results) -> str:
    """Return the report; names have no blanks and none of a shell's characters."""
    rows = [{**row, **{name: _MARKUP.sub("_", row.get(name, "")) for name in _COLUMNS}} for row in report.rows]
    return render(rows, _LABELS)
