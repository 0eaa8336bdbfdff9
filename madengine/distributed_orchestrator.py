"""The phases end to end: build, push, run, full, export-config."""

from __future__ import annotations

import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from madengine import batches, package, programs, results
from madengine import context as contexts
from madengine import credentials as credential_store
from madengine import manifest as manifests
from madengine.build_outcome import BuildOutcome, carried_out, where
from madengine.building import ready_images
from madengine.building.image_names import image_path
from madengine.building.model_code import ModelCode
from madengine.context import Context
from madengine.credentials import Credentials, registry_login, secret_values
from madengine.data_sets.fetch import Client
from madengine.docker_builder import DockerBuilder, Failure
from madengine.errors import (
    EXIT_BUILD_FAILED,
    EXIT_DONE,
    EXIT_FAILURE,
    ConfigurationError,
    MadengineError,
)
from madengine.files import check_writable, read_json, write_json
from madengine.manifest import Manifest
from madengine.programs import engine as engines
from madengine.programs.engine import Docker
from madengine.programs.engine_logins import logged_in
from madengine.records import Gpu, Image, Model
from madengine.running import artifacts, multi_node
from madengine.running import hooks as hook_values
from madengine.running.hooks import Hooks
from madengine.running.log_errors import log_errors
from madengine.tools.discover_models import DiscoverModels

if TYPE_CHECKING:
    from madengine.node_run import RunOptions

DEFAULT_MANIFEST = Path("build_manifest.json")


@dataclass(frozen=True)
class Place:
    """Where a command works: the model package, the user's context and the engine.

    `root` is where credential.json and data.json are looked for even where it `has_package` no models.
    """

    root: Path
    has_package: bool = True
    context_file: Path | None = None
    context_text: str | None = None
    engine: str = "auto"
    environ: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))


@dataclass(frozen=True)
class BuildOptions:
    """How images are built; an empty `registry` pushes nowhere.

    `tools_file` is a tools.json in place of the package's, `architectures` are those that each image is built for;
    `use_image` is an image for all models that is there already (`auto` is the card's own), `batch` a file that says
    for each model whether it is built. With `is_part` the summary goes into a larger one, which alone is named.
    """

    tags: tuple[str, ...] = ()
    registry: str = ""
    manifest_output: Path = DEFAULT_MANIFEST
    summary_output: Path = Path("build_summary.json")
    is_part: bool = False
    no_cache: bool = False
    live_output: bool = False
    ignore_deprecated: bool = False
    jobs: int = 0
    tools_file: Path | None = None
    architectures: tuple[str, ...] = ()
    use_image: str = ""
    batch: Path | None = None
    dry_run: bool = False
    credentials_as_build_args: bool = False


@dataclass(frozen=True)
class DistributedOrchestrator:
    """Carries out the phases; `say` takes lines for people, `show` what a program may read.

    Every phase gives the command's exit code, and raises MadengineError for what keeps it from starting.
    """

    place: Place
    say: Callable[[str], None]
    show: Callable[[str], None]

    # --- build ---

    def build_phase(self, options: BuildOptions, detected: Mapping[str, Any] | None = None) -> BuildOutcome:
        """Build and push the selected models, and write manifest and summary; `detected` narrows the choice."""
        began = time.monotonic()
        choice = batches.choice(
            DiscoverModels(self.place.root), options.tags, options.ignore_deprecated, options.batch, options.registry
        )
        models = choice.models
        context = self._context({**contexts.host_facts(self.place.environ), **(detected or {})}, {})
        defined = hook_values.definitions(options.tools_file, self.place.root)
        hooks = _checked(context, models, defined)
        if not options.dry_run:
            check_writable(options.manifest_output, options.summary_output)
        credentials = self._credentials({model.cred for model in models})
        registry = credential_store.registry_name(options.registry) if options.registry else ""
        with self._builder(options, context, credentials, hooks, registry, choice.registries) as builder:
            plan = choice.plan(builder, options.use_image or context.container_image, bool(context.container_image))
            if options.dry_run:
                return self._shown(builder, plan)
            self._say_failures(plan.failures)
            outcome = carried_out(plan, builder, options.jobs or _default_jobs())
        manifests.save(outcome.manifest(registry, context, defined, models), options.manifest_output)
        self._summarise(outcome, registry, options, time.monotonic() - began)
        self.say(f"manifest: {options.manifest_output}")
        return outcome

    @contextmanager
    def _builder(
        self,
        options: BuildOptions,
        context: Context,
        credentials: Credentials,
        hooks: Hooks,
        registry: str,
        others: Sequence[str],
    ) -> Iterator[DockerBuilder]:
        """What builds, logged in at its registry and the others; the code that models name is gone afterwards."""
        stopping = threading.Event()
        with (
            self._engine(credentials, [registry, *others], options.dry_run) as engine,
            tempfile.TemporaryDirectory(prefix="madengine-code-") as folder,
        ):
            yield DockerBuilder(
                engine=engine,
                root=self.place.root,
                context=context,
                credentials=credentials,
                registry=registry,
                log_directory=options.manifest_output.parent / "build_logs",
                no_cache=options.no_cache,
                live_output=options.live_output,
                architectures=self._architectures(options.architectures, context),
                beside=hook_values.files(hooks, self.place.root),
                say=self.say,
                stopping=stopping,
                code=ModelCode(Path(folder), self.place.root, credentials, Client(self.say, stopping)),
                credentials_as_build_args=options.credentials_as_build_args,
            )

    def _architectures(self, asked: Sequence[str], context: Context) -> tuple[str, ...]:
        given = context.docker_build_arg.get("MAD_SYSTEM_GPU_ARCHITECTURE")
        if asked and given:
            self.say(f"--target-archs: not heeded, docker_build_arg says MAD_SYSTEM_GPU_ARCHITECTURE is {given}")
            return ()
        return tuple(asked)

    def _shown(self, builder: DockerBuilder, plan: batches.Plan) -> BuildOutcome:
        self.show("set -e")
        if builder.registry and registry_login(builder.credentials, builder.registry):
            self.show(
                f"# log in first: {builder.engine.name} login --username NAME --password-stdin {builder.registry}"
            )
        for recipe in plan.recipes:
            for line in plan.shell_lines(builder, recipe):
                self.show(programs.redact(line))
        self._say_failures(plan.failures)
        return BuildOutcome((), tuple(plan.failures))

    def _say_failures(self, failures: Sequence[Failure]) -> None:
        for failed in failures:
            self.say(f"{failed.model_name}: {failed.error}")

    def _summarise(self, outcome: BuildOutcome, registry: str, options: BuildOptions, seconds: float) -> None:
        summary = outcome.summary(registry, seconds)
        write_json(options.summary_output, summary)
        for recipe, image, _ in outcome.images:
            self.show(f"{recipe.key}  {where(image)}")
        built, failed = len(summary["successful_builds"]), len(summary["failed_builds"])
        where_to = "" if options.is_part else f"; summary: {options.summary_output}"
        self.say(f"built {built} of {built + failed} images in {seconds:.1f} s{where_to}")

    def push_phase(self, manifest_file: Path, registry: str, dry_run: bool) -> int:
        """Push what a manifest names and its registry doesn't have yet; the manifest then pins it."""
        kept = manifests.load(manifest_file)
        wanted = credential_store.registry_name(registry or kept.registry) if registry or kept.registry else ""
        if not wanted:
            raise ConfigurationError(f"{manifest_file}: names no registry; say which with --registry")
        credentials = self._credentials()
        failed = 0
        with self._engine(credentials, [wanted], dry_run) as engine:
            builder = DockerBuilder(engine, self.place.root, Context(), credentials, wanted, say=self.say)
            images = list(kept.images)
            try:
                for index, image in enumerate(images):
                    name = builder.registry_names(image.docker_image)
                    names = [name, *_second_names(kept, image, wanted, name)]
                    if image.registry_digest and image.registry_image == name:
                        self.say(f"{image.key}: already pushed as {name}@{image.registry_digest}")
                        continue
                    try:
                        images[index] = self._pushed(builder, image, names, dry_run)
                    except MadengineError as error:
                        failed += 1
                        self.say(f"{image.key}: {error}")
            finally:
                # What is pushed is pushed, also where Ctrl-C comes before the rest.
                if images != list(kept.images):
                    manifests.save(replace(kept, images=tuple(images), registry=wanted), manifest_file)
        for image in images:
            if image.registry_digest and not dry_run:
                self.show(f"{image.key}  {where(image)}")
        return EXIT_BUILD_FAILED if failed else EXIT_DONE

    def _pushed(self, builder: DockerBuilder, image: Image, names: Sequence[str], dry_run: bool) -> Image:
        engine = builder.engine
        source = image.image_id or image.docker_image
        commands = [engine.tag(source, name) for name in names]
        if dry_run:
            for command in [*commands, *(engine.push(name) for name in reversed(names))]:
                self.show(programs.shell_line(command))
            return image
        for command in commands:
            programs.ask(command)
        with open(os.devnull, "w") as log:
            return builder.push(image, names, log)

    # --- run ---

    def run_phase(
        self,
        manifest_file: Path,
        options: RunOptions,
        not_built: Iterable[Failure] = (),
        gpus: tuple[Gpu, ...] | None = None,
    ) -> int:
        """Run a manifest's models on this machine, one after another; every one gets a row."""
        # What a build does without: a third of its start.
        from madengine import selection
        from madengine.node_run import NodeRun

        not_built = tuple(not_built)
        root = self.place.root if self.place.has_package else None
        kept, context, gpus = self._asked_for(manifest_file, options, root, gpus, may_be_empty=bool(not_built))
        models = [kept.models[image.key] for image in kept.images]
        defined = hook_values.definitions(options.tools_file, root) or kept.extra.get("tools") or {}
        hooks = _checked(context, models, defined)
        chosen, skipped = selection.fitting(kept, context, gpus)
        if options.resume:
            chosen = selection.unfinished(chosen, options.resume, self.say)
        results.check(options.output)
        credentials = self._credentials({*self._data_credentials(options, context), *(one.cred for one, _ in chosen)})
        run = NodeRun(
            options=options,
            context=context,
            gpus=gpus,
            chosen=chosen,
            skipped=skipped,
            root=root,
            data_folder=self.place.root,
            environ=self.place.environ,
            credentials=credentials,
            hooks=hooks,
            say=self.say,
            show=self.show,
        )
        with self._engine(credentials, selection.registries(chosen, kept.registry), options.dry_run) as engine:
            if context.container_image:
                run.chosen, run.skipped = self._all_in(context.container_image, models, engine), ()
            if options.dry_run:
                return run.show_lines(engine)
            return run.carry_out(engine, [(_named(failed), failed.error) for failed in not_built])

    def _data_credentials(self, options: RunOptions, context: Context) -> set[str]:
        """The credentials that data sets ask for; keys of data.json that nobody heeds are said."""
        from madengine.data import Data

        data = Data.load(options.data_file or self.place.root / "data.json", context.values.get("data", {}))
        for key in data.unheeded:
            self.say(f"{key}: not acted on by this version")
        return data.credential_names()

    def _asked_for(
        self,
        manifest_file: Path,
        options: RunOptions,
        root: Path | None,
        gpus: tuple[Gpu, ...] | None,
        may_be_empty: bool,
    ) -> tuple[Manifest, Context, tuple[Gpu, ...]]:
        """What is asked for of a manifest (a model for every image of it), and the context and the GPUs of its run."""
        from madengine import selection

        kept = manifests.load(manifest_file)
        if not kept.images and not may_be_empty:
            raise ConfigurationError(f"{manifest_file}: holds no images; `madengine build` again")
        kept = selection.with_models(kept, manifest_file, root)
        context, gpus = self._on_this_machine(kept, gpus)
        kept = selection.selected(selection.overridden(kept, options.registry), options.tags, manifest_file)
        self._say_what_is_unheeded(context, [kept.models[image.key] for image in kept.images])
        return kept, context, gpus

    def _on_this_machine(self, kept: Manifest, gpus: tuple[Gpu, ...] | None) -> tuple[Context, tuple[Gpu, ...]]:
        """The context of a run here, and the GPUs that it may use: `gpus`, or those that are found."""
        from madengine.machine import gpus as gpu_finder

        gpus = gpu_finder.found() if gpus is None else gpus
        detected = {**contexts.host_facts(self.place.environ), "gpu_vendor": gpu_finder.vendor(gpus)}
        context = self._context(detected, kept.context)
        if context.gpu_vendor != gpu_finder.vendor(gpus):
            # Images of the vendor that the context says can use that vendor's GPUs only.
            gpus = gpu_finder.found(context.gpu_vendor)
        return context, gpus

    def _say_what_is_unheeded(self, context: Context, models: Sequence[Model]) -> None:
        if context.unheeded:
            self.say(f"context: {', '.join(context.unheeded)}: not acted on by a run on this machine")
        for model in _distinct(models):
            if keys := [key for key in ("distributed", "slurm") if model.extra.get(key)]:
                self.say(f"{model.name}: {', '.join(keys)}: not acted on by a run on this machine")

    def _all_in(self, name: str, models: Sequence[Model], engine: Docker) -> list[tuple[Model, Image]]:
        """Every model with the context's image."""
        return [(model, self._in_place(name, model, engine)) for model in _distinct(models)]

    def _in_place(self, name: str, model: Model, engine: Docker) -> Image:
        """The context's image for a model, whatever was built; one that is not here the run itself pulls."""
        key, marks = f"local-{model.name}", {"local_image": True}
        if engine.images(name):
            return ready_images.image(engine, key, name, model, marks, self.say)
        return Image(key, docker_image=name, dockerfile=ready_images.NO_DOCKERFILE, registry_image=name, extra=marks)

    def full_phase(self, build: BuildOptions, options: RunOptions) -> int:
        """Build for this machine's GPUs, then run what was built."""
        from madengine.machine import gpus as gpu_finder

        gpus = gpu_finder.found()
        vendor = {"gpu_vendor": gpu_finder.vendor(gpus)}
        results.check(options.output)
        whole = options.summary_output
        build_part, run_part = (whole.with_name(f"{whole.stem}.{part}{whole.suffix}") for part in ("build", "run"))
        build = replace(build, summary_output=build_part, is_part=True)
        options = replace(options, summary_output=run_part, is_part=True, tags=())
        if not build.dry_run:
            check_writable(whole)
        outcome = self.build_phase(build, vendor)
        if build.dry_run:
            self.say("the run's lines need the manifest that these make: `madengine run --manifest-file … --dry-run`")
            return outcome.exit_code
        code = EXIT_FAILURE
        try:
            code = self.run_phase(build.manifest_output, options, outcome.failures, gpus)
            code = outcome.exit_code or code
        finally:
            # Of a run that was interrupted something is known too.
            self._join_summaries(whole, {"build_phase": build_part, "run_phase": run_part}, code)
        return code

    def _join_summaries(self, whole: Path, parts: Mapping[str, Path], code: int) -> None:
        # One that could not be written, on a full disk say, has been reported where that happened.
        joined = {name: read_json(path, missing={}) for name, path in parts.items()}
        write_json(whole, {**joined, "overall_success": code == EXIT_DONE})
        for path in parts.values():
            path.unlink(missing_ok=True)
        self.say(f"summary: {whole}")

    # --- export-config ---

    def export_config(self, tags: Sequence[str], output: Path, ignore_deprecated: bool) -> int:
        """Write what other tools need to plan: models, context and the names of the credentials; asks no GPU."""
        from madengine.cards import card

        models = DiscoverModels(self.place.root).select(tags, ignore_deprecated)
        context = self._context({}, {})
        write_json(
            output,
            {
                "models": [card(model) for model in models],
                "context": {
                    "docker_env_vars": context.docker_env_vars,
                    "docker_mounts": context.docker_mounts,
                    "gpu_vendor": context.gpu_vendor,
                    "docker_gpus": context.docker_gpus,
                },
                "credentials_required": sorted({model.cred for model in models if model.cred}),
            },
        )
        self.say(f"execution configuration of {len(models)} model{'s' * (len(models) != 1)}: {output}")
        return EXIT_DONE

    # --- shared ---

    def _context(self, detected: Mapping[str, Any], manifest: Mapping[str, Any]) -> Context:
        context = contexts.load(detected, manifest, self.place.context_file, self.place.context_text)
        for key, known in context.mistyped:
            self.say(f"context: {key}: nothing reads it; did you mean {known}?")
        return context

    def _credentials(self, names: Iterable[str] = ()) -> Credentials:
        found = credential_store.load(self.place.root, self.place.environ, filter(None, names))
        for warning in found.warnings:
            self.say(warning)
        programs.hide(secret_values(found))
        return found

    @contextmanager
    def _engine(self, credentials: Credentials, registries: Sequence[str], dry_run: bool) -> Iterator[Docker]:
        """The engine, logged in where credentials are known for a registry; the login is private and temporary."""
        found = (registry_login(credentials, registry) for registry in registries)
        logins = dict.fromkeys(login for login in found if login)
        engine = engines.find(self.place.engine)
        if self.place.engine == "auto":
            self.say(f"engine: {engine.name} {engine.version}")
        if dry_run or not logins:
            yield engine
            return
        with logged_in(engine, logins) as private:
            yield private


def package_place(environ: Mapping[str, str], cwd: Path, may_be_starter: bool, **more: Any) -> tuple[Place, str]:
    """The place of a command, and what to tell the user where the bundled starter package stands in.

    Raises ConfigurationError where MODEL_DIR lists no models.
    """
    if not may_be_starter and not environ.get("MODEL_DIR") and not package.lists_models(cwd):
        return Place(cwd, has_package=False, environ=environ, **more), ""
    root, message = package.root(environ, cwd)
    return Place(root, environ=environ, **more), message


def _checked(context: Context, models: Sequence[Model], defined: Mapping[str, Any]) -> Hooks:
    """The hooks of every model; what is wrong in them, or in what else is asked for, is said before anything starts."""
    hooks = hook_values.hooks(context, hook_values.catalogue(defined))
    multi_node.arguments(context.multi_node_args)
    for model in models:
        artifacts.asked(model, context, hooks.artifacts)
        log_errors(model.extra, context.values)
    return hooks


def _second_names(kept: Manifest, image: Image, registry: str, name: str) -> list[str]:
    """`<registry>/madengine/<model>:latest`, for the one image of a model; as `build` names it."""
    if image.key not in kept.models or name != f"{registry}/{image.docker_image}":
        return []
    mine = image_path(kept.models[image.key].name)
    same = [
        other for other in kept.images if other.key in kept.models and image_path(kept.models[other.key].name) == mine
    ]
    return [f"{registry}/madengine/{mine}:latest"] if len(same) == 1 else []


def _default_jobs() -> int:
    return max(4, os.cpu_count() or 1)


def _distinct(models: Iterable[Model]) -> list[Model]:
    distinct: list[Model] = []
    for model in models:
        if model not in distinct:
            distinct.append(model)
    return distinct


def _named(failed: Failure) -> Model:
    return Model(name=failed.model_name, dockerfile=failed.dockerfile, scripts="", n_gpus="")
