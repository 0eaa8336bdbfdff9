"""Where a command line's models run, before anything is built."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from madengine.deploy.placement import LOCAL, placement, runs_on_host
from madengine.errors import MadengineError

if TYPE_CHECKING:
    from madengine.config.context import Context
    from madengine.records import Model
    from madengine.session import Session

logger = logging.getLogger(__name__)

# The objects of a model entry for one target.
_OF_CLUSTERS = {"slurm": "slurm", "k8s": "kubernetes", "kubernetes": "kubernetes"}
_SHOWN_MODELS = 3


def placed(values: Mapping[str, Any], manifest_file: Path | None, session: Session) -> str:
    """Return the name of the target that the models run on; say why where no option says it."""
    from madengine.config.context import Context
    from madengine.config.manifest import load_manifest

    exists = manifest_file is not None and os.path.lexists(manifest_file)
    manifest = load_manifest(manifest_file) if exists and manifest_file else None
    of_manifest = Context(manifest.context if manifest else {})
    models = tuple(manifest.models.values()) if manifest else _models_for_slurm(values, session)
    place = placement(values["target"], names_hosts(values), session.context({}, {}), of_manifest, models)
    if place == (LOCAL, "") and not values["target"]:
        _log_ignored_objects(models)
    if models and place.target == "slurm" and (job := _own_job(session, of_manifest, models)):
        logger.info(f"target: local: its scripts use the nodes of Slurm job {job}, which this is in")
        return LOCAL
    if place.reason:
        logger.info(f"target: {place.target}: {place.reason}; --target overrides it")
    return place.target


def _log_ignored_objects(models: Sequence[Model]) -> None:
    """Name the objects of model entries that only say how a cluster runs them."""
    for key, target in _OF_CLUSTERS.items():
        if names := [model.name for model in models if model.extra.get(key)]:
            more = f" and {len(names) - _SHOWN_MODELS} more" if len(names) > _SHOWN_MODELS else ""
            logger.info(
                f"{', '.join(names[:_SHOWN_MODELS])}{more}: `{key}` ignored on one machine; --target {target} uses it"
            )


def check_place(context: Context) -> None:
    """Raise ConfigurationError for a context that no run would accept, because of where it says that models run."""
    from madengine.config.context import Context

    target = placement("", False, context, Context()).target
    if target == "slurm":
        from madengine.deploy.slurm.settings import SlurmSettings

        SlurmSettings({}, context).of_model(None)
    elif target == "kubernetes":
        from madengine.deploy.kubernetes.section import with_section

        with_section({}, context)


def needs_registry(values: Mapping[str, Any], open_session: Callable[[], Session]) -> bool:
    """Return whether nodes could get what is built from a registry only, and none is named.

    Under Slurm images may come as archives of a folder, and scripts that start containers themselves need none.
    """
    if values["registry"] or values["target"] != "slurm":
        return not values["registry"]
    models = _models_for_slurm(values, open_session())
    from madengine.build.image_archives import FOLDER_VARIABLE

    return not os.environ.get(FOLDER_VARIABLE, "").strip() and not (models and all(map(runs_on_host, models)))


def names_hosts(values: Mapping[str, Any]) -> bool:
    """Return whether the command is for other machines."""
    return bool(values["host"] or values["hosts_file"])


def _models_for_slurm(values: Mapping[str, Any], session: Session) -> Sequence[Model]:
    """Return the models that are built first, where their entries could send them to a Slurm that is here."""
    from madengine import programs
    from madengine.programs.slurm import SUBMIT
    from madengine.tools.discover_models import DiscoverModels

    if not session.has_package or not programs.installed_path(SUBMIT):
        return ()
    # What is wrong with the package is the build's to say.
    with suppress(MadengineError):
        return DiscoverModels(session.root).select(values["tags"], values["ignore_deprecated"])
    return ()


def _own_job(session: Session, of_manifest: Context, models: Sequence[Model]) -> int:
    """Return the job of Slurm that this process is in, where the models' scripts use its nodes; else 0."""
    from madengine.programs.slurm import own_allocation

    allocation = own_allocation(session.environ)
    context = session.context({}, of_manifest.values)
    launchers = [context.launch_of(model, session.environ).launcher for model in models]
    is_used = bool(launchers) and all(launcher and launcher.on_host for launcher in launchers)
    return allocation.job if allocation and is_used else 0
