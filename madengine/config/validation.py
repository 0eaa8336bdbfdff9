"""What a context asks for around the scripts, looked at before anything starts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from madengine.config import artifacts, launchers
from madengine.config.context import Context
from madengine.config.hooks import Hooks, resolve_hooks, tool_catalogue
from madengine.config.log_errors import log_errors
from madengine.records import Model


def validated_hooks(context: Context, models: Sequence[Model], defined: Mapping[str, Any]) -> Hooks:
    """The hooks of every model, of the tools that are `defined`.

    Raises ConfigurationError for what is wrong in them, or in what else is asked for.
    """
    hooks = resolve_hooks(context, tool_catalogue(defined))
    launchers.arguments(context.multi_node_args)
    for model in models:
        artifacts.patterns_for(model, context, hooks.artifacts)
        log_errors(model.extra, context.values)
    return hooks
