"""What the context's `slurm` object and the options ask for: one checked value for each."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from madengine.config.context import Context
from madengine.config.launchers import INTERFACES, World
from madengine.config.option import Option, changed, from_options, options_of
from madengine.config.validation import refuse_unsupported
from madengine.config.values import expected, shown
from madengine.deploy.slurm.options import SlurmOptions
from madengine.errors import ConfigurationError
from madengine.records import Model

_WHERE = "context: slurm"
# Not an option of sbatch, but how madengine uses it.
_OWN = frozenset(
    (
        "enable_node_check",
        "gpus_per_node",
        "modules",
        "output_dir",
        "node_folder",
        "one_job",
        "max_running",
        "remote_python",
    )
)
# Keys of madengine 2 that ask for nothing that this version leaves out, by the values that do so.
_NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "ntasks_per_node": (1, "1"),
    # A job is never bound to the nodes that are idle now.
    "allow_submit_without_clean_nodes": (True, False),
    "verbose_node_check": (True, False),
    "auto_cleanup_nodes": (False,),
}
# Keys that are no options.
_BESIDE = ("nodes", "network_interface")
# What a script reads that runs on the host itself.
_ON_HOST = frozenset(("results_dir", "ntasks_per_node"))
_OF_RUN = frozenset(("output_dir", "node_folder", "one_job", "max_running", "remote_python"))
# What also a small job has to say, to be let onto the nodes of another.
_OF_PLACE = ("partition", "account", "qos", "reservation")
# As NCCL has them: prefixes, `=` for exact names, `^` for all others.
_INTERFACES = re.compile(r"([\^=]*[A-Za-z0-9_.@:-]+(,[A-Za-z0-9_.@:-]+)*)?")
_REASONS = {
    "ntasks_per_node": "a node runs one container, and its launcher starts a process for each GPU",
    "auto_cleanup_nodes": "processes of other users are never ended",
    "shared_workspace": "jobs work in output_dir, which all nodes share; set that",
    "results_dir": "it is for scripts that run on the host (launcher slurm_multi)",
}


@dataclass(frozen=True)
class JobShape:
    """What the jobs of one kind of model ask Slurm for."""

    options: SlurmOptions
    nodes: int = 1
    #: empty is one
    ntasks_per_node: str = ""
    #: whether the models' scripts run on the host itself, and read the `slurm` object there
    is_on_host: bool = False
    section: Mapping[str, Any] = field(default_factory=dict)

    @property
    def variables(self) -> dict[str, str]:
        """The variables that its keys stand for."""
        interface = str(self.section.get("network_interface") or "")
        return dict.fromkeys(INTERFACES, interface) if interface else {}


@dataclass(frozen=True)
class SlurmSettings:
    """The options of a command line over those of the context's `slurm` object, and these over a model entry's."""

    values: Mapping[str, Any]
    context: Context

    @property
    def of_run(self) -> SlurmOptions:
        """What is the same for all jobs. Raises ConfigurationError for a key or a value that can't be honoured."""
        return self._options(_of_section(self._of_context, _WHERE, is_on_host=True))

    def of_model(self, model: Model | None) -> JobShape:
        """Return what a model's job asks for.

        Raises ConfigurationError for a key or a value that can't be honoured.
        """
        entry = (model.extra.get("slurm") if model else None) or {}
        if not isinstance(entry, Mapping):
            raise expected(f"{model.name if model else ''}: slurm", "an object", entry)
        is_on_host = bool(model and self._runs_on_host(model))
        where = f"{model.name}: slurm" if model and entry else _WHERE
        if strays := [key for key in entry if key in _OF_RUN]:
            raise ConfigurationError(f"{where}: {shown(strays[0])} is one for all jobs; set it in the context")
        section = {**entry, **self._of_context}
        nodes = self._nodes(section, model)
        if model and not is_on_host:
            self._check_launch(model, nodes)
        options = self._options(_of_section(section, where, is_on_host))
        return JobShape(options, nodes, str(section.get("ntasks_per_node") or ""), is_on_host, section)

    @property
    def _of_context(self) -> Mapping[str, Any]:
        section = self.context.values.get("slurm") or {}
        if not isinstance(section, Mapping):
            raise expected(_WHERE, "an object", section)
        return section

    def _options(self, options: SlurmOptions) -> SlurmOptions:
        names = changed((SlurmOptions,), self.values)
        return replace(options, **{name: self.values[name] for name in names})

    def _runs_on_host(self, model: Model) -> bool:
        launcher = self.context.launch_of(model, {}).launcher
        return bool(launcher and launcher.on_host)

    def _check_launch(self, model: Model, nodes: int) -> None:
        """Raise ConfigurationError for nodes that the model's launcher can't start it on."""
        launch = self.context.launch_of(model, {})
        try:
            launch.on(World(0, ("node",) * nodes, 1), "hostfile").variables(1)
        except ConfigurationError as error:
            raise ConfigurationError(f"{model.name}: {error}") from None

    def _nodes(self, section: Mapping[str, Any], model: Model | None) -> int:
        count = self.values.get("nodes") or section.get("nodes")
        if count is None and model:
            count = self.context.launch_of(model, {}).settings.get("nnodes")
        count = 1 if count is None else count
        if not re.fullmatch("[1-9][0-9]{0,4}", str(count).strip()):
            raise expected(f"{_WHERE}.nodes", "a number of nodes", count)
        return int(count)


def place_words(options: SlurmOptions) -> list[str]:
    """Return the options that say where jobs wait, and who is charged, as words."""
    return [word for word in sbatch_lines(options) if word.removeprefix("--").partition("=")[0] in _OF_PLACE]


def sbatch_lines(options: SlurmOptions) -> list[str]:
    """Return the options that sbatch itself has, as words."""
    lines = []
    for name, (_, default) in options_of((SlurmOptions,)).items():
        value = getattr(options, name)
        if name not in _OWN and value != default:
            flag = f"--{name.replace('_', '-')}"
            lines.append(flag if value is True else f"{flag}={value}")
    return lines


def _of_section(section: Mapping[str, Any], where: str, is_on_host: bool) -> SlurmOptions:
    declared = options_of((SlurmOptions,))
    values = {}
    interface = section.get("network_interface")
    if interface is not None and not (isinstance(interface, str) and _INTERFACES.fullmatch(interface)):
        raise expected(f"{where}.network_interface", "names of interfaces such as 'ib0,ib1'", interface)
    for key, value in section.items():
        if key.startswith("_") or value is None or key in _BESIDE or (is_on_host and key in _ON_HOST):
            continue
        if key in declared:
            values[key] = _checked(f"{where}.{key}", key, value, *declared[key])
        elif value not in _NEUTRAL.get(key, ()):
            _refuse(key, value, declared, where)
    return from_options(SlurmOptions, values)


def _refuse(key: str, value: Any, known: Mapping[str, Any], where: str) -> None:
    if key in _NEUTRAL or key in _REASONS:
        raise ConfigurationError(f"{where}.{key}: {shown(value)} is unsupported: {_REASONS.get(key, 'leave it out')}")
    raise ConfigurationError(f"{where}: unsupported key {shown(key)}; expected some of {', '.join((*known, *_BESIDE))}")


def _checked(where: str, key: str, value: Any, how: Option, default: Any) -> Any:
    """Return a key's value as its option has it."""
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


def refuse_launched_nodes(context: Context) -> None:
    """Raise ConfigurationError where the context has what a run here can't do, or several nodes started by hand."""
    refuse_unsupported(context.here)
    count = context.multi_node_args.get("NNODES")
    if str(count or 1).strip() != "1":
        raise ConfigurationError(
            f"context: multi_node_args.NNODES: {shown(count)} is unsupported: Slurm starts the nodes; use `slurm.nodes`"
        )
