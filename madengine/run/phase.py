"""The run phase: a manifest's images for this machine are run with their context, hooks and credentials."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from madengine.build.prebuilt_images import NO_DOCKERFILE, prebuilt_image
from madengine.config.context import Context, host_facts
from madengine.config.hooks import Hooks, hook_definitions
from madengine.config.ignored_keys import log_ignored_keys, unknown_manifest_keys
from madengine.config.manifest import Manifest, load_manifest
from madengine.config.nodes import refuse_other_nodes
from madengine.config.validation import refuse_unsupported, validated_hooks
from madengine.data_sets.mounts import Data
from madengine.errors import ConfigurationError
from madengine.files import check_writable
from madengine.machine.gpus import NONE, detected_context, detected_vendor, find_gpus
from madengine.machine.visible_gpus import visible_part
from madengine.programs.engine import Docker
from madengine.records import Gpu, Image, Model, Reading
from madengine.results.perf_csv import check_perf_csv
from madengine.run.background import Background
from madengine.run.inherited import launched_nodes
from madengine.run.names import new_run_id
from madengine.run.options import RunOptions
from madengine.run.seat import seat_in
from madengine.run.selection import (
    images_for_machine,
    pull_registries,
    selected_images,
    unfinished_models,
    with_gpu_count,
    with_models,
    with_registry,
)
from madengine.session import Session

logger = logging.getLogger(__name__)

if TYPE_CHECKING:
    from madengine.config.credentials import Credentials
    from madengine.results.summaries import FailedBuild
    from madengine.run.against import AgainstRun
    from madengine.run.node import LocalRun
    from madengine.run.peers import Peers


def run_manifest(
    session: Session,
    manifest_file: Path,
    options: RunOptions,
    not_built: Iterable[FailedBuild] = (),
    gpus: tuple[Gpu, ...] | None = None,
) -> int:
    """Run a manifest's models on this machine; every one gets a row. Return the exit code.

    `not_built` get a row too; `gpus` are those of this machine, None to detect them. As one of several nodes that a
    target has started, this machine runs them together with the others.
    """
    seat = seat_in(session.environ)
    if seat is None:
        return _run_with_peers(session, manifest_file, options, not_built, gpus, None)
    from madengine.run.peers import peers_of

    with peers_of(seat) as peers:
        return _run_with_peers(session, manifest_file, options, not_built, gpus, peers)


def _run_with_peers(
    session: Session,
    manifest_file: Path,
    options: RunOptions,
    not_built: Iterable[FailedBuild],
    gpus: tuple[Gpu, ...] | None,
    peers: Peers | None,
) -> int:
    """Do the same for a node of a run on several; without `peers` for a run on one."""
    failures = [(_failed_model(failure), failure.error) for failure in not_built]
    options = replace(options, run_id=options.run_id or new_run_id())
    requests = [_request(session, manifest_file, options, gpus, may_be_empty=bool(failures))]
    if options.against:
        requests.insert(0, _request(session, options.against, options, gpus, may_be_empty=False))
    check_perf_csv(options.output)
    if not options.dry_run:
        check_writable(options.summary_output)
    names = {name for request in requests for name in request.credential_names(session, options)}
    credentials = session.credentials(names)
    load = Background(_load_against_run if options.against else _load_local_run)  # while the engine says its version
    registries = [name for request in requests for name in pull_registries(request.chosen, request.manifest.registry)]
    with session.engine(credentials, [], options.dry_run, may_fail=registries) as engine:
        load.result()
        runs = [request.local_run(session, options, engine, credentials, peers) for request in requests]
        run = runs[0] if len(runs) == 1 else _in_turn(runs[0], runs[1], (str(options.against), str(manifest_file)))
        return run.show_lines() if options.dry_run else run.run(failures)


def _load_local_run() -> None:
    import madengine.run.node  # noqa: F401


def _load_against_run() -> None:
    import madengine.run.against  # noqa: F401


def _in_turn(base: LocalRun, new: LocalRun, names: tuple[str, str]) -> AgainstRun:
    from madengine.run.against import AgainstRun

    return AgainstRun(base, new, names)


@dataclass(frozen=True)
class _Request:
    """What is to run of one manifest: its images for this machine, with their context, hooks and GPUs."""

    manifest: Manifest
    context: Context
    reading: Reading[Gpu]
    hooks: Hooks
    chosen: list[tuple[Model, Image | None]]
    skipped: list[tuple[Image, Model, str]]

    def credential_names(self, session: Session, options: RunOptions) -> set[str]:
        """Return the names of the credentials of data sets and models, and log the ignored keys of data.json."""
        data = Data.load(options.data_file or session.root / "data.json", self.context.values.get("data", {}))
        for key in data.ignored_keys:
            logger.info(f"{key}: ignored by this version")
        return {*data.credential_names(), *(model.cred for model, _ in self.chosen)}

    def local_run(
        self, session: Session, options: RunOptions, engine: Docker, credentials: Credentials, peers: Peers | None
    ) -> LocalRun:
        """Return the run of these models."""
        from madengine.run.node import LocalRun

        chosen, skipped = self.chosen, self.skipped
        if self.context.container_image:
            models = [self.manifest.models[image.key] for image in self.manifest.images]
            chosen, skipped = _all_in(self.context.container_image, models, engine), []
        return LocalRun(
            options=options,
            engine=engine,
            context=self.context,
            gpus=self.reading.items,
            gpu_problem=self.reading.problem if self.reading.fails else "",
            chosen=chosen,
            skipped=skipped,
            root=_package(session),
            data_folder=session.root,
            environ=session.environ,
            credentials=credentials,
            show=session.show,
            hooks=self.hooks,
            provided_data=self.manifest.provided_data,
            peers=peers,
        )


def _request(
    session: Session, manifest_file: Path, options: RunOptions, gpus: tuple[Gpu, ...] | None, may_be_empty: bool
) -> _Request:
    manifest, context, reading = _requested(session, manifest_file, options, gpus, may_be_empty)
    models = [manifest.models[image.key] for image in manifest.images]
    hooks = _hooks(session, manifest, models, context, options)
    chosen, skipped = images_for_machine(manifest, context, reading.items)
    if options.resume:
        chosen = unfinished_models(chosen, options.resume)
    return _Request(manifest, context, reading, hooks, chosen, skipped)


def _package(session: Session) -> Path | None:
    return session.root if session.has_package else None


def _requested(
    session: Session, manifest_file: Path, options: RunOptions, gpus: tuple[Gpu, ...] | None, may_be_empty: bool
) -> tuple[Manifest, Context, Reading[Gpu]]:
    """Return the requested images (with a model for each), and the context and the GPUs of their run."""
    manifest = load_manifest(manifest_file)
    if not manifest.images and not may_be_empty:
        raise ConfigurationError(f"{manifest_file}: holds no images; `madengine build` again")
    manifest = with_models(manifest, manifest_file, _package(session))
    context, reading = _on_this_machine(session, manifest, gpus)
    refuse_unsupported(context)
    _refuse_nodes(session, context, options)
    manifest = with_gpu_count(manifest, context)
    manifest = selected_images(with_registry(manifest, options.registry), options.tags, manifest_file)
    if not options.is_part:
        log_ignored_keys(context, [manifest.models[image.key] for image in manifest.images])
        for line in unknown_manifest_keys(manifest):
            logger.info(line)
    return manifest, context, reading


def _refuse_nodes(session: Session, context: Context, options: RunOptions) -> None:
    """Raise ConfigurationError for nodes that this run doesn't have, and for what several can't do."""
    if options.skip_model_run:
        return
    seat = seat_in(session.environ)
    refuse_other_nodes(options.nodes, context, seat.nodes if seat else 0)
    flag = "--pack" if options.pack else "--against" if options.against else ""
    if seat and flag:
        raise ConfigurationError(f"{flag}: unsupported on several nodes, which run the models in one order")


def _on_this_machine(
    session: Session, manifest: Manifest, gpus: tuple[Gpu, ...] | None
) -> tuple[Context, Reading[Gpu]]:
    """Return the context of a run here, and the GPUs that it may use: `gpus`, or those that are detected."""
    session.choose_rocm()
    here = find_gpus() if gpus is None else Reading(gpus)
    launched = {} if seat_in(session.environ) else launched_nodes(session.environ)
    facts = {**host_facts(session.environ), **({"multi_node_args": launched} if launched else {})}
    context = session.context(facts, _context_here(manifest, here))
    vendor = context.gpu_vendor
    # Images of the vendor in the context can use only that vendor's GPUs.
    is_here = not vendor or bool(here.items and vendor == detected_vendor(here.items))
    reading = here if is_here else find_gpus(vendor)
    if reading.problem:
        logger.warning(reading.problem)
    reading, docker_gpus = visible_part(reading, context.docker_gpus, session.environ)
    detected = {"gpu_vendor": vendor or detected_vendor(reading.items), "docker_gpus": docker_gpus}
    return replace(context, values={**context.values, **detected}), reading


def _hooks(
    session: Session, manifest: Manifest, models: Sequence[Model], context: Context, options: RunOptions
) -> Hooks:
    definitions = hook_definitions(options.tools_file, _package(session)) or manifest.extra.get("tools") or {}
    return validated_hooks(context, models, definitions)


def _all_in(name: str, models: Sequence[Model], engine: Docker) -> list[tuple[Model, Image | None]]:
    """Return every model with the context's image."""
    return [(model, _context_image(name, model, engine)) for model in _distinct(models)]


def _context_image(name: str, model: Model, engine: Docker) -> Image:
    """Return the context's image for a model, whatever was built; the run pulls one that is not here."""
    key, marks = f"local-{model.name}", {"local_image": True}
    if engine.images(name):
        return prebuilt_image(engine, key, name, model, marks)
    return Image(key, docker_image=name, dockerfile=NO_DOCKERFILE, registry_image=name, extra=marks)


def _context_here(manifest: Manifest, reading: Reading[Gpu]) -> Mapping[str, Any]:
    """Return the manifest's context, with its gpu_vendor only if such GPUs may be here: others skip its images."""
    vendor = Context(manifest.context).gpu_vendor
    if vendor in ("", NONE, detected_context(reading).get("gpu_vendor")):
        return manifest.context
    reading_of_vendor = find_gpus(vendor)
    if reading_of_vendor.items or reading_of_vendor.fails:
        return manifest.context
    return {key: value for key, value in manifest.context.items() if key != "gpu_vendor"}


def _distinct(models: Iterable[Model]) -> list[Model]:
    distinct: list[Model] = []
    for model in models:
        if model not in distinct:
            distinct.append(model)
    return distinct


def _failed_model(failure: FailedBuild) -> Model:
    return Model(name=failure.model_name, dockerfile=failure.dockerfile, scripts="", n_gpus="")
