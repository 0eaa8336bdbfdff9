"""Results as HTML, for a browser and for e-mail."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from madengine.config.package import template


def short(text: str, length: int = 150) -> str:
    """Return a text for a cell: not too long, and not nothing."""
    if not text.strip():
        return "none"
    return text if len(text) <= length else f"{text[: length - 1]}…"


def render(name: str, values: Mapping[str, Any]) -> str:
    """Render `report/NAME` of the templates; every value is escaped, a missing one is an error."""
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    environment = Environment(
        loader=FunctionLoader(lambda file: template(f"report/{file}")),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["short"] = short
    text = environment.get_template(name).render(values)
    # Names may hold halves of surrogate pairs, which no file can have.
    return text.encode("utf-8", "backslashreplace").decode()
