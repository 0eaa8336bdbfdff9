"""The keys of users' files that are ignored: each is named, with the known one that it looks like."""

from __future__ import annotations

import difflib
import logging
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from madengine.config.context import Context
from madengine.config.context_keys import KEYS
from madengine.config.entry_keys import ENTRY_KEYS, refusal, unknown_keys, unsupported_keys
from madengine.config.hooks import TOOL_KEYS
from madengine.config.manifest import IMAGE_KEYS, MANIFEST_KEYS, Manifest
from madengine.config.values import shown, shown_key
from madengine.records import Model

logger = logging.getLogger(__name__)

# Of what may be thousands.
_SHOWN_KEYS = 20
_SHOWN_MODELS = 3
_COMPARED_CHARACTERS = 100


def log_ignored_keys(context: Context, models: Sequence[Model], honoured: Collection[str] = ()) -> None:
    """Log the keys of the context and of model entries that are refused by a run, unsupported or unknown."""
    for line in ignored_keys(context, models, honoured):
        logger.info(line)


def ignored_keys(context: Context, models: Sequence[Model], honoured: Collection[str] = ()) -> Iterator[str]:
    """Yield a line for each such key, but those that a target honours."""
    refusals = context.here.refusals
    for key, reason in refusals.items():
        if key not in honoured:
            yield f"context: {key}: {reason}"
    for key in (key for key in context.unsupported_keys if key not in refusals and key not in honoured):
        yield f"context: unsupported key {key} ignored; {KEYS[key].instead}"
    yield from unknown_context_keys(context)
    yield from ignored_entry_keys(models)


def unknown_context_keys(context: Context) -> Iterator[str]:
    """Yield a line for each key of the context that is in no table."""
    for key in context.unknown_keys[:_SHOWN_KEYS]:
        yield f"context: unknown key {shown(key)} ignored{_hint(key, KEYS) or ', except in CONTEXT headers'}"


def ignored_entry_keys(models: Sequence[Model]) -> Iterator[str]:
    """Yield a line for each key of the model entries that is refused by a run, unsupported or in no table."""
    for reason, names in _by_key(models, _refusals).items():
        yield f"{names}: {reason}"
    for key, names in _by_key(models, _ignored_keys).items():
        yield f"{names}: unsupported key {shown(key)} ignored; {ENTRY_KEYS[key].instead}"
    for key, names in _by_key(models, unknown_keys).items():
        yield f"{names}: unknown key {shown(key)} ignored{_hint(key, ENTRY_KEYS)}"


def _refusals(model: Model) -> tuple[str, ...]:
    reason = refusal(model)
    return (reason,) if reason else ()


def _ignored_keys(model: Model) -> tuple[str, ...]:
    refused = refusal(model).partition(":")[0]
    return tuple(key for key in unsupported_keys(model) if key != refused)


def unknown_tool_keys(tools: Mapping[str, Any]) -> Iterator[str]:
    """Yield a line for each key of a tools.json's tools that is in no table."""
    entries = {name: tool for name, tool in tools.items() if isinstance(tool, Mapping)}
    yield from _strays(entries, TOOL_KEYS, "tool ")


def unknown_manifest_keys(manifest: Manifest) -> Iterator[str]:
    """Yield a line for each key of a manifest, or of its images, that is in no table."""
    yield from _strays({"manifest": manifest.extra}, MANIFEST_KEYS, "")
    yield from _strays({image.key: image.extra for image in manifest.images}, IMAGE_KEYS, "built_images.")


def _strays(entries: Mapping[str, Mapping[str, Any]], known: Collection[str], where: str) -> Iterator[str]:
    strays = (
        f"{where}{shown_key(name)}: unknown key {shown(key)} ignored{_hint(key, known)}"
        for name, entry in entries.items()
        for key in entry
        if key not in known and not key.startswith("_")
    )
    return islice(strays, _SHOWN_KEYS)


def _by_key(models: Sequence[Model], keys_of: Callable[[Model], tuple[str, ...]]) -> dict[str, str]:
    """Return the first keys with the models that set them."""
    names: dict[str, dict[str, None]] = defaultdict(dict)
    for model in models:
        for key in keys_of(model):
            names[key][model.name] = None
    return {key: _some(tuple(names[key])) for key in list(names)[:_SHOWN_KEYS]}


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN_MODELS} more" if len(names) > _SHOWN_MODELS else ""
    return ", ".join(map(shown_key, names[:_SHOWN_MODELS])) + more


def _hint(key: str, known: Collection[str]) -> str:
    close = difflib.get_close_matches(key[:_COMPARED_CHARACTERS], known, n=1, cutoff=0.8)
    return f"; did you mean {close[0]!r}?" if close else ""
