"""What the context's `slurm` object and the options ask for: one checked value for each."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from madengine.config.context import Context
from madengine.config.option import Option, changed, from_options, options_of
from madengine.config.validation import refuse_unsupported
from madengine.config.values import expected, shown
from madengine.deploy.slurm.options import SlurmOptions
from madengine.errors import ConfigurationError

_WHERE = "context: slurm"
# Not an option of sbatch, but how madengine uses it.
_OWN = frozenset(("gpus_per_node", "modules", "output_dir", "one_job", "max_running", "remote_python"))
# Keys of madengine 2 that ask for nothing that this version leaves out, by the values that do so.
_NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "nodes": (1, "1"),
    "ntasks_per_node": (1, "1"),
    # A job is never bound to the nodes that are idle now.
    "enable_node_check": (True, False),
    "allow_submit_without_clean_nodes": (True, False),
    "verbose_node_check": (True, False),
    "auto_cleanup_nodes": (False,),
}
_REASONS = {
    "nodes": "a model runs on one node of Slurm in this version",
    "auto_cleanup_nodes": "processes of other users are never ended",
}


def slurm_options(values: Mapping[str, Any], context: Context) -> SlurmOptions:
    """Return the options of a command line over those of the context's `slurm` object.

    Raises ConfigurationError for a key or a value that this version can't honour, and for several nodes.
    """
    _refuse_several_nodes(context)
    options = _of_context(context.values.get("slurm") or {})
    return replace(options, **{name: values[name] for name in changed((SlurmOptions,), values)})


def sbatch_lines(options: SlurmOptions) -> list[str]:
    """Return the options that sbatch itself has, as words."""
    lines = []
    for name, (_, default) in options_of((SlurmOptions,)).items():
        value = getattr(options, name)
        if name not in _OWN and value != default:
            flag = f"--{name.replace('_', '-')}"
            lines.append(flag if value is True else f"{flag}={value}")
    return lines


def _of_context(section: Any) -> SlurmOptions:
    if not isinstance(section, Mapping):
        raise expected(_WHERE, "an object", section)
    declared = options_of((SlurmOptions,))
    values = {}
    for key, value in section.items():
        if key.startswith("_") or value is None:
            continue
        if key in declared:
            values[key] = _checked(key, value, *declared[key])
        elif value not in _NEUTRAL.get(key, ()):
            _refuse(key, value, declared)
    return from_options(SlurmOptions, values)


def _refuse(key: str, value: Any, known: Mapping[str, Any]) -> None:
    if key in _NEUTRAL:
        raise ConfigurationError(f"{_WHERE}.{key}: {shown(value)} is unsupported: {_REASONS.get(key, 'leave it out')}")
    raise ConfigurationError(f"{_WHERE}: unsupported key {shown(key)}; expected some of {', '.join(known)}")


def _checked(key: str, value: Any, how: Option, default: Any) -> Any:
    """Return a key's value as its option has it."""
    where = f"{_WHERE}.{key}"
    if isinstance(default, bool):
        if not isinstance(value, bool):
            raise expected(where, "true or false", value)
        return value
    if isinstance(value, bool | Mapping) or (isinstance(value, list) and not how.many):
        raise expected(where, "a string or a number", value)
    words: Sequence[Any] = value if isinstance(value, list) else [value]
    if how.many:
        return how.collect([str(word) for word in words])
    text = str(value).replace(" ", "") if key in ("nodelist", "exclude") else str(value)
    try:
        return how.parse(text) if text else default
    except (argparse.ArgumentTypeError, ValueError) as error:
        raise ConfigurationError(f"{where}: {error}") from None


def _refuse_several_nodes(context: Context) -> None:
    """Raise ConfigurationError where the context asks for more nodes than one."""
    refuse_unsupported(context.here)
    count = context.multi_node_args.get("NNODES")
    if str(count or 1).strip() != "1":
        raise ConfigurationError(f"context: multi_node_args.NNODES: {shown(count)} is unsupported: {_REASONS['nodes']}")
