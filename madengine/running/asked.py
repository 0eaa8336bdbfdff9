"""What a context asks for around the scripts, looked at before anything starts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from madengine.context import Context
from madengine.records import Model
from madengine.running import artifacts, multi_node
from madengine.running import hooks as hook_values
from madengine.running.hooks import Hooks
from madengine.running.log_errors import log_errors


def checked(context: Context, models: Sequence[Model], defined: Mapping[str, Any]) -> Hooks:
    """The hooks of every model, of the tools that are `defined`.

    Raises ConfigurationError for what is wrong in them, or in what else is asked for.
    """
    hooks = hook_values.hooks(context, hook_values.catalogue(defined))
    multi_node.arguments(context.multi_node_args)
    for model in models:
        artifacts.asked(model, context, hooks.artifacts)
        log_errors(model.extra, context.values)
    return hooks
