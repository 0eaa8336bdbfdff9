"""On how many nodes a model runs: by --nodes, the context's `distributed`, the model entry's, or multi_node_args."""

from __future__ import annotations

from collections.abc import Mapping

from madengine.config.context import Context
from madengine.config.launchers import arguments, launcher_named
from madengine.errors import ConfigurationError
from madengine.records import Model

_ELSEWHERE = "name that many hosts with --host, or use --target kubernetes or slurm"


def node_count(option: int, context: Context, model: Model, environ: Mapping[str, str]) -> int:
    """Return how many nodes run a model together; `option` is --nodes, 0 if unset.

    Raises ConfigurationError for invalid multi_node_args.
    """
    return option or context.launch_of(model, environ).nodes


def nodes_of_context(option: int, context: Context) -> int:
    """Return how many nodes run every model whose entry says nothing else; 0 if nothing says so."""
    distributed = context.values.get("distributed")
    settings = distributed if isinstance(distributed, Mapping) else {}
    launcher = launcher_named(str(settings.get("launcher") or ""))
    return option or (0 if launcher and launcher.on_host else int(settings.get("nnodes") or 0))


def refuse_other_nodes(option: int, context: Context, nodes: int = 0) -> None:
    """Raise ConfigurationError where --nodes or the context asks for more nodes than this run is on.

    `nodes` are those that a target has started; 0 where it has started this one alone.
    """
    count = nodes_of_context(option, context)
    if reason := count and other_nodes(count, nodes or nodes_by_hand(context)):
        raise ConfigurationError(f"{'--nodes' if option else 'context: distributed.nnodes'} {count}: {reason}")


def other_nodes(count: int, nodes: int) -> str:
    """Return why a model can't run on so many nodes together where a run has `nodes`; empty if it can."""
    if count in (1, nodes):
        return ""
    return f"this run is on {nodes}" if nodes > 1 else f"this run is on one node; {_ELSEWHERE}"


def nodes_by_hand(context: Context) -> int:
    """Return on how many nodes the user starts madengine by hand, each with its own rank."""
    return int(arguments(context.multi_node_args)["NNODES"])


def common_node_count(option: int, context: Context, models: Mapping[str, Model]) -> int:
    """Return how many nodes run each of these models together.

    Raises ConfigurationError where that isn't the same for all.
    """
    counts = {model.name: node_count(option, context, model, {}) for model in models.values()}
    if len(set(counts.values())) > 1:
        several = ", ".join(f"{name} on {count}" for name, count in list(counts.items())[:5])
        raise ConfigurationError(f"models that run on different numbers of nodes: {several}; select them with --tags")
    return next(iter(counts.values()), 1)
