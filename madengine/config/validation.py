"""What a context and model entries configure around the scripts, checked before anything starts."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from madengine.config import artifacts, launchers
from madengine.config.context import Context
from madengine.config.hooks import Hooks, resolve_hooks, tool_catalogue
from madengine.config.ignored_keys import unknown_tool_keys
from madengine.config.log_errors import log_errors
from madengine.errors import ConfigurationError
from madengine.records import Model

logger = logging.getLogger(__name__)


def validated_hooks(context: Context, models: Sequence[Model], tools: Mapping[str, Any]) -> Hooks:
    """Return the hooks of every model; `tools` are the package's definitions.

    Raise ConfigurationError for what is wrong in them, or in what else a run reads of the context and the models.
    """
    hooks = resolve_hooks(context, tool_catalogue(tools))
    for line in unknown_tool_keys(tools):
        logger.info(line)
    launchers.arguments(context.multi_node_args)
    for model in models:
        artifacts.patterns_for(model, context, hooks.artifacts)
        log_errors(model.extra, context.values)
    return hooks


def refuse_unsupported(context: Context) -> None:
    """Raise ConfigurationError where a context asks for what a run can't do: what it would measure is something else.

    A build takes the key into its manifest.
    """
    for key, reason in context.refusals.items():
        raise ConfigurationError(f"context: {key}: {reason}")
