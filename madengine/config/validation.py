"""What a context and model entries configure around the scripts, checked before anything starts."""

from __future__ import annotations

import difflib
import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from madengine.config import artifacts, launchers
from madengine.config.context import Context
from madengine.config.context_keys import KEYS
from madengine.config.hooks import Hooks, resolve_hooks, tool_catalogue
from madengine.config.log_errors import log_errors
from madengine.config.models_json import KNOWN_KEYS, unknown_keys, unsupported_keys
from madengine.config.values import shown, shown_key
from madengine.records import Model

logger = logging.getLogger(__name__)

# Of what may be thousands.
_SHOWN_KEYS = 20
_SHOWN_MODELS = 3
_COMPARED_CHARACTERS = 100


def validated_hooks(context: Context, models: Sequence[Model], tools: Mapping[str, Any]) -> Hooks:
    """Return the hooks of every model; `tools` are the package's definitions.

    Raise ConfigurationError for what is wrong in them, or in what else a run reads of the context and the models.
    """
    hooks = resolve_hooks(context, tool_catalogue(tools))
    launchers.arguments(context.multi_node_args)
    for model in models:
        artifacts.patterns_for(model, context, hooks.artifacts)
        log_errors(model.extra, context.values)
    return hooks


def log_ignored_keys(context: Context, models: Sequence[Model]) -> None:
    """Log the keys of the context and of model entries that are unsupported or unknown."""
    if context.unsupported_keys:
        logger.info(f"context: unsupported keys ignored: {', '.join(context.unsupported_keys)}")
    for key in context.unknown_keys[:_SHOWN_KEYS]:
        logger.info(f"context: unknown key {shown(key)} ignored{_hint(key, KEYS) or ', except in CONTEXT headers'}")
    for key, names in _by_key(models, unsupported_keys).items():
        logger.info(f"{names}: unsupported key {shown(key)} ignored")
    for key, names in _by_key(models, unknown_keys).items():
        logger.info(f"{names}: unknown key {shown(key)} ignored{_hint(key, KNOWN_KEYS)}")


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


def _hint(key: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(key[:_COMPARED_CHARACTERS], known, n=1, cutoff=0.8)
    return f"; did you mean {close[0]!r}?" if close else ""
