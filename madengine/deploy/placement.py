"""Which target a manifest runs on: by option, by the user's context, or by what the manifest was built for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from madengine.config.context import Context
from madengine.config.context_keys import LOCAL_NAMES, PLACES
from madengine.config.launchers import launcher_named
from madengine.config.values import expected
from madengine.deploy.target import TARGETS
from madengine.errors import ConfigurationError
from madengine.records import Model

LOCAL = "local"
# The names that madengine 2 has for targets, and those of the context's keys, by ours.
_NAMES = {**dict.fromkeys(LOCAL_NAMES, LOCAL), **{name: name for name in TARGETS}, "k8s": "kubernetes"}


class Placement(NamedTuple):
    """Where a manifest runs, and what says so."""

    #: `local`, or a target's name
    target: str
    #: empty where the command line says it
    reason: str = ""


def placement(
    option: str, has_hosts: bool, of_user: Context, of_manifest: Context, models: Sequence[Model] = ()
) -> Placement:
    """Return where a manifest runs: by --target, --host, the user's context, the manifest's, the models' own entries;
    else on this machine.

    Raises ConfigurationError for two of one source that contradict each other.
    """
    return (
        _by_option(option, has_hosts)
        or _by_context(of_user, "the context")
        or _by_context(of_manifest, "the manifest")
        or _by_entries(models)
        or Placement(LOCAL)
    )


def _by_option(option: str, has_hosts: bool) -> Placement | None:
    if has_hosts and option not in ("", "ssh"):
        raise ConfigurationError(f"--target {option} and --host contradict each other; leave one out")
    if option == "ssh" and not has_hosts:
        raise ConfigurationError("--target ssh: name hosts with --host or --hosts-file")
    if option:
        return Placement(option)
    return Placement("ssh") if has_hosts else None


def _by_entries(models: Sequence[Model]) -> Placement | None:
    """Return Slurm where every model is a script for its host, and says what its job asks Slurm for."""
    if models and all(model.extra.get("slurm") and runs_on_host(model) for model in models):
        return Placement("slurm", "all model entries have `slurm` and a launcher that runs on the host")
    return None


def runs_on_host(model: Model) -> bool:
    """Return whether a model entry is a script that starts its containers itself."""
    distributed = model.extra.get("distributed")
    launcher = launcher_named(str(distributed.get("launcher") or "")) if isinstance(distributed, Mapping) else None
    return launcher is not None and launcher.on_host


def _by_context(context: Context, where: str) -> Placement | None:
    """Return the target that the keys of a context name; all of them have to name the same."""
    settings = {key: context.values[key] for key in PLACES if context.values.get(key) not in (None, False, "")}
    names = {key: _target(key, value, where) for key, value in settings.items()}
    if len(set(names.values())) > 1:
        places = ", ".join(f"`{key}` means {name}" for key, name in names.items())
        raise ConfigurationError(f"{where}: {places}: they contradict each other; leave all but one out")
    keys = " and ".join(f"`{key}`" for key in names)
    return Placement(next(iter(names.values())), f"{where} has {keys}") if names else None


def _target(key: str, value: Any, where: str) -> str:
    """Return our name of the target that a key stands for, or that `deploy` names."""
    name = _NAMES.get(str(value).strip().lower() if key == "deploy" else key)
    if name is None:
        raise expected(f"{where}: {key}", f"one of {', '.join(_NAMES)}", value)
    return name
