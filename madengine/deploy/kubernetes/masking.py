"""The secrets that a pod's model has, and texts without them: everyone who may read ConfigMaps reads its report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from madengine.config.credentials import Credentials, secret_values
from madengine.files import read_untrusted
from madengine.results.rows import COLUMNS

#: where the sidecar has the Secrets of --env-secret, a folder each with a file for each key
HIDDEN = Path("/hidden")
_MARK = "[redacted]"
# The cells that no model writes.
_OURS = frozenset(COLUMNS) - {"model", "metric", "reason"}
# Kubernetes' own limit of a Secret, in bytes.
_LIMIT = 2**20


def hidden_values(folder: Path) -> tuple[str, ...]:
    """Return what a report must not show, the longest first: the values below `folder`, in all their forms."""
    entries: dict[str, dict[str, str]] = {}
    for place in sorted(folder.glob("*/")):
        for file in place.iterdir():
            # A volume's own `..data` is a link to its folder, as the keys are links into it.
            with suppress(OSError):
                content = read_untrusted(place.resolve(), Path(file.resolve().relative_to(place.resolve())), _LIMIT)
                entries.setdefault(place.name, {})[file.name] = content.decode("utf-8", "surrogateescape")
    return secret_values(Credentials(entries))


def masked(text: str, secrets: Sequence[str]) -> str:
    """Return the text without the secrets."""
    for secret in secrets:
        text = text.replace(secret, _MARK)
    return text


def masked_row(row: Mapping[str, str], secrets: Sequence[str]) -> dict[str, str]:
    """Return the row without the secrets in what the model has written; other cells may look like a short one."""
    return {name: cell if name in _OURS else masked(cell, secrets) for name, cell in row.items()}


def masked_document(document: Mapping[str, Any], secrets: Sequence[str]) -> dict[str, Any]:
    """Return the result of a pod without the secrets in what the model has written."""
    results = [
        {
            **result,
            "reason": masked(str(result.get("reason", "")), secrets),
            "metrics": [_masked_metric(metric, secrets) for metric in result.get("metrics", ())],
        }
        for result in document.get("results", ())
    ]
    return {**document, "results": results} if results else dict(document)


def _masked_metric(metric: Mapping[str, Any], secrets: Sequence[str]) -> dict[str, Any]:
    extra = {name: masked(str(cell), secrets) for name, cell in (metric.get("extra") or {}).items()}
    texts = {name: masked(str(metric.get(name, "")), secrets) for name in ("metric", "model")}
    return {**metric, **texts, "extra": extra}
