"""What a context and model entries configure around the scripts, checked before anything starts."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from madengine.config import artifacts, launchers
from madengine.config.context import Context
from madengine.config.hooks import Hooks, resolve_hooks, tool_catalogue
from madengine.config.log_errors import log_errors
from madengine.config.models_json import unknown_keys, unsupported_keys
from madengine.config.values import shown, shown_key
from madengine.records import Model

logger = logging.getLogger(__name__)

_SHOWN_MODELS = 3


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
    """Log the keys of the context and of model entries that are unsupported or unknown, a line for each of a kind."""
    if context.unsupported_keys:
        logger.info(f"context: unsupported keys ignored: {', '.join(context.unsupported_keys)}")
    for key, close in context.unknown_keys.items():
        logger.info(f"context: unknown key {shown(key)} ignored{_hint(close) or ', except in CONTEXT headers'}")
    unsupported: dict[str, list[str]] = defaultdict(list)
    unknown: dict[tuple[str, str], list[str]] = defaultdict(list)
    for model in {model.name: model for model in models}.values():
        for key in unsupported_keys(model):
            unsupported[key].append(model.name)
        for item in unknown_keys(model).items():
            unknown[item].append(model.name)
    for key, names in unsupported.items():
        logger.info(f"{_some(names)}: unsupported key {shown(key)} ignored")
    for (key, close), names in unknown.items():
        logger.info(f"{_some(names)}: unknown key {shown(key)} ignored{_hint(close)}")


def _hint(close: str) -> str:
    return f"; did you mean {close!r}?" if close else ""


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN_MODELS} more" if len(names) > _SHOWN_MODELS else ""
    return ", ".join(map(shown_key, names[:_SHOWN_MODELS])) + more
