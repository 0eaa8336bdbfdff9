"""Recipe in, Image out: build the model's own image, add the payload layer, push, learn the digest."""

from __future__ import annotations

import logging
import os
import shlex
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed, wait
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from madengine import __version__, programs
from madengine.build import dockerfiles, locks, payload
from madengine.build.build_log import BuildLog, base_digest, open_log, show_end
from madengine.build.image_names import checked_digest, hashed, image_id, model_label
from madengine.build.instructions import parse, without_triggers
from madengine.build.named_contexts import IMAGE_PREFIX
from madengine.build.options import BuildOptions
from madengine.build.push import Pusher
from madengine.build.recipes import Recipe, explain
from madengine.config.credentials import Credentials, model_secrets
from madengine.config.package import template
from madengine.config.progress import WAITING, Progress, report
from madengine.errors import BuildError, CommandError, MadengineError
from madengine.programs.engine import STORE_ATTEMPTS, Docker
from madengine.programs.engine_errors import is_store_race
from madengine.programs.engine_files import in_visible_folder
from madengine.programs.engine_logins import refused_login
from madengine.programs.image_references import digests_in
from madengine.records import Image, Model
from madengine.results.summaries import FailedBuild

logger = logging.getLogger(__name__)

if TYPE_CHECKING:
    from plumbum.commands.base import BaseCommand

    from madengine.build.source_code import ModelCode

_BASE_ID, _IMAGE_ID = "base_id", "image_id"
# The model's, where it is changed.
_DOCKERFILE = "model.Dockerfile"


@dataclass(frozen=True)
class DockerBuilder:
    """Builds images of the model package at `root` with one engine.

    Other builds may take an image's names at any time. So the payload starts from the id of the model's own image, or
    from a name that no other build has, and the image with the payload goes by its id.
    """

    engine: Docker
    root: Path
    credentials: Credentials
    options: BuildOptions = field(default_factory=BuildOptions)
    #: Goes beside the scripts of every model, by its name there.
    beside: Mapping[str, Path] = field(default_factory=dict)
    #: Clones what model entries name as `url`.
    code: ModelCode | None = None
    #: Set at Ctrl-C.
    stopping: threading.Event = field(default_factory=threading.Event)
    # The names that payloads start from now.
    _base_names: set[str] = field(default_factory=set)
    # The engine refuses it.
    _without_host_network: threading.Event = field(default_factory=threading.Event)

    def build_all(
        self, recipes: Sequence[Recipe], jobs: int, done: Callable[[Recipe, Image | FailedBuild], None]
    ) -> None:
        """Build and push the recipes, `jobs` at a time; `done` gets the result of each as it ends, one at a time.

        Ctrl-C ends what runs and is passed on.
        """
        for recipe in recipes:
            report(Progress(recipe.key, WAITING))
        try:
            with ThreadPoolExecutor(max_workers=max(1, jobs)) as pool:
                self._collect({pool.submit(self.make, recipe): recipe for recipe in recipes}, done)
        finally:
            self._remove_base_names()

    def make(self, recipe: Recipe) -> Image | FailedBuild:
        """Build one image and push it; the last lines of a failure's log are shown."""
        log_file = self.options.log_directory / f"{recipe.log_name}.build.live.log"
        image = None
        try:
            with (
                open_log(log_file, self.options.live_output, recipe.key) as log,
                ThreadPoolExecutor(max_workers=2) as aside,
            ):
                base_name = self._base_name(recipe)
                try:
                    report(Progress(recipe.key, "building", str(recipe.dockerfile), str(log_file)))
                    built = self._build(recipe, base_name, log)
                    report(Progress(recipe.key, "pushing" if recipe.pushed else "built"))
                    push = aside.submit(Pusher(self.engine, self.stopping).push, built, recipe.pushed, log)
                finally:
                    aside.submit(self._remove_base_name, base_name)
                image = self._described(built)
                wait([push])
                log.file.write(_facts(image))
                pushed = push.result()
            report(Progress(recipe.key, "done", pushed.registry_image or recipe.key, ended=True))
            return replace(image, registry_image=pushed.registry_image, registry_digest=pushed.registry_digest)
        except (MadengineError, OSError) as error:
            problem = explain(error, log_file)
            report(Progress(recipe.key, "failed", problem, ended=True))
            if not self.stopping.is_set():
                logger.info(f"{recipe.key}: {problem}")
                show_end(log_file)
            return FailedBuild(recipe.model.name, str(recipe.dockerfile), problem, str(log_file), image)

    def shell_lines(self, recipe: Recipe) -> Iterator[str]:
        """Yield what `make` runs for a recipe, as lines for a POSIX shell."""
        scratch, base_name = Path(f".madengine-{recipe.key}"), self._base_name(recipe)
        yield f"# {recipe.key}: {_one_line(f'{recipe.model.name} from {recipe.dockerfile}')}"
        yield shlex.join(["rm", "-rf", str(scratch)])
        yield shlex.join(["mkdir", str(scratch)])
        if own := self._own_dockerfile(recipe):
            yield from payload.file_lines(f"{scratch}/{_DOCKERFILE}", f"{own.rstrip()}\n")
        yield programs.shell_line(self._base_command(recipe, base_name, scratch))
        yield from payload.shell_lines(self._payload(recipe), f"{scratch}/payload")
        yield from _code_lines(recipe.model, f"{scratch}/payload/code")
        yield from payload.mode_lines(f"{scratch}/payload")
        yield from payload.file_lines(f"{scratch}/Dockerfile", template("image/Dockerfile"))
        yield _with_id(self._payload_command(recipe, base_name or f"@{_BASE_ID}@", scratch), scratch / _BASE_ID)
        if base_name:
            yield programs.shell_line(self.engine.untag(base_name))
        for name in recipe.pushed:
            yield _with_id(self.engine.push(name, image_id=f"@{_IMAGE_ID}@"), scratch / _IMAGE_ID)
        yield shlex.join(["rm", "-rf", str(scratch)])

    def _collect(
        self, futures: Mapping[Future[Image | FailedBuild], Recipe], done: Callable[[Recipe, Image | FailedBuild], None]
    ) -> None:
        try:
            for future in as_completed(futures):
                done(futures[future], future.result())
        except BaseException:
            self.stopping.set()
            for future in futures:
                future.cancel()
            self.engine.end_build_steps()
            programs.halt()
            raise

    # --- the model's own image ---

    def _build(self, recipe: Recipe, base_name: str, log: BuildLog) -> Image:
        started = time.monotonic()
        logger.info(f"{recipe.key}: building {recipe.dockerfile}")
        self._warn_of_build_args(recipe)
        checkout = self.code.checkout(recipe.model) if self.code else None
        code = checkout.folder if checkout else None
        base = self._in_folder(lambda scratch: self._base(recipe, base_name, scratch, log))
        image_id = self._in_folder(lambda scratch: self._add_payload(recipe, base, code, scratch, log))
        duration = time.monotonic() - started
        logger.info(f"{recipe.key}: built in {duration:.1f} s")
        return Image(
            key=recipe.key,
            docker_image=recipe.key,
            dockerfile=str(recipe.dockerfile),
            base_docker=recipe.base_docker,
            build_duration=duration,
            gpu_vendor=recipe.gpu_vendor,
            guest_os=recipe.guest_os,
            image_id=image_id,
            self_contained=True,
            git_commit=checkout.commit if checkout else "",
            log_file=str(log.path),
            extra={"gpu_architecture": recipe.architecture} if recipe.architecture else {},
        )

    def _in_folder(self, step: Callable[[Path], str]) -> str:
        return in_visible_folder(self.engine.name, step, self.options.log_directory.resolve())

    def _base(self, recipe: Recipe, base_name: str, scratch: Path, log: BuildLog) -> str:
        """Build the model's own image, and return what the payload starts from: `base_name`, or its id without one."""
        problem = f"{recipe.dockerfile} (from {recipe.base_docker}): the build failed"
        # Of the same steps side by side each would make its own layers, and the next build take any of them.
        lock = locks.alone(self._fingerprint(recipe), recipe.key, self.stopping)
        with nullcontext() if self._ignores_cache(recipe) else lock:
            self._write_dockerfile(recipe, scratch)
            try:
                self._step(lambda: self._base_command(recipe, base_name, scratch), log, problem)
            except BuildError as error:
                if base_name and self.stopping.is_set():
                    self._base_names.add(base_name)  # the engine may have just set it
                raise BuildError(f"{error}{refused_login(recipe.base_docker)}") from error
        if not base_name:
            return checked_digest(f"{self.engine.name} build", scratch / _BASE_ID)
        self._base_names.add(base_name)
        return base_name

    def _fingerprint(self, recipe: Recipe) -> str:
        """What the model's own build is made of: its instructions, its folder and its arguments."""
        instructions = parse(dockerfiles.read(self.root / recipe.dockerfile)).instructions
        inputs = (*instructions, *recipe.build_args.items(), *recipe.contexts.items())
        return f"base-{hashed(str(recipe.directory), *map(str, inputs))}"

    def _base_name(self, recipe: Recipe) -> str:
        """Make up a name for the model's own image; empty where its id will do."""
        return "" if self.engine.builds_from_ids else f"{recipe.key}:base-{os.urandom(6).hex()}"

    def _base_command(self, recipe: Recipe, base_name: str, scratch: Path) -> BaseCommand:
        secrets = model_secrets(self.credentials, recipe.model)
        takes_secrets = dockerfiles.takes_secrets(dockerfiles.read(self.root / recipe.dockerfile))
        return self.engine.build(
            [f"{recipe.key}:base", *filter(None, [base_name])],
            scratch / _DOCKERFILE if self._own_dockerfile(recipe) else self._path(recipe.dockerfile),
            self._path(recipe.directory),
            build_args=recipe.build_args,
            secrets=secrets if takes_secrets else {},
            secret_args=secrets if self.options.credentials_as_build_args else {},
            # Also keeps a Dockerfile that is only a FROM from giving its base image a second digest in podman's store.
            labels={"madengine.version": __version__},
            id_file="" if base_name else scratch / _BASE_ID,
            no_cache=self._ignores_cache(recipe),
            contexts={name: self._context_path(place) for name, place in recipe.contexts.items()},
            host_network=not self._without_host_network.is_set(),
        )

    def _own_dockerfile(self, recipe: Recipe) -> str:
        """Return what is built in place of a Dockerfile whose ONBUILD would act on the payload; empty without any."""
        text = dockerfiles.read(self.root / recipe.dockerfile)
        own = without_triggers(text)
        return "" if own == text else own

    def _write_dockerfile(self, recipe: Recipe, scratch: Path) -> None:
        if own := self._own_dockerfile(recipe):
            (scratch / _DOCKERFILE).write_text(own, encoding="utf-8")
            ignored = Path(f"{self.root / recipe.dockerfile}.dockerignore")
            if ignored.is_file():
                shutil.copyfile(ignored, scratch / f"{_DOCKERFILE}.dockerignore")

    def _context_path(self, place: str) -> str:
        return place if place.startswith(IMAGE_PREFIX) else str(self._path(Path(place)))

    def _ignores_cache(self, recipe: Recipe) -> bool:
        if self.options.no_cache or self.engine.cache_sees_all_inputs:
            return self.options.no_cache
        return dockerfiles.has_hidden_inputs(dockerfiles.read(self.root / recipe.dockerfile), recipe.build_args)

    def _path(self, path: Path) -> Path:
        return path if self.root.resolve() == Path.cwd() else self.root / path

    def _warn_of_build_args(self, recipe: Recipe) -> None:
        """Warn of credentials that a Dockerfile of older versions takes as ARG: they are missing, or readable."""
        names = model_secrets(self.credentials, recipe.model)
        declared = dockerfiles.declared_args(dockerfiles.read(self.root / recipe.dockerfile)) if names else ()
        args = [name for name in names if name in declared]
        if args and self.options.credentials_as_build_args:
            logger.info(f"{recipe.key}: warning: {', '.join(args)} can be read in the image's history by who has it")
        elif args:
            logger.info(
                f"{recipe.key}: warning: {recipe.dockerfile} takes {', '.join(args)} as ARG and gets nothing; mount "
                f"it (RUN --mount=type=secret,id={args[0]}), or build with --credentials-as-build-args"
            )

    def _remove_base_name(self, base_name: str) -> None:
        if base_name not in self._base_names:
            return
        with suppress(CommandError):
            programs.attempt(self.engine.untag(base_name))
            self._base_names.discard(base_name)

    def _remove_base_names(self) -> None:
        """Remove what an interrupted build has left."""
        if self._base_names:
            programs.resume()
        for base_name in tuple(self._base_names):
            self._remove_base_name(base_name)

    # --- the payload ---

    def _add_payload(self, recipe: Recipe, base: str, code: Path | None, scratch: Path, log: BuildLog) -> str:
        """Build the image on `base`, and return its id."""
        (scratch / "payload").mkdir(mode=0o755)
        payload.write(self._payload(recipe, code), scratch / "payload")
        (scratch / "Dockerfile").write_text(template("image/Dockerfile"))
        with locks.alone(f"payload-{hashed(recipe.model.name, recipe.model.args)}", recipe.key, self.stopping):
            problem = "the payload layer could not be added"
            self._step(lambda: self._payload_command(recipe, base, scratch), log, problem)
        return checked_digest(f"{self.engine.name} build", scratch / _IMAGE_ID)

    def _payload(self, recipe: Recipe, code: Path | None = None) -> payload.Payload:
        return payload.payload(recipe.model, self.root, self.beside, code)

    def _payload_command(self, recipe: Recipe, base: str, scratch: Path) -> BaseCommand:
        return self.engine.build(
            [recipe.key, *recipe.pushed],
            scratch / "Dockerfile",
            scratch / "payload",
            build_args={"MODEL_IMAGE": base},
            labels={"madengine.model": model_label(recipe.model.name)},
            id_file=scratch / _IMAGE_ID,
            host_network=not self._without_host_network.is_set(),
        )

    def _described(self, image: Image) -> Image:
        """Add what the engine's record has of an image, and the digest of its base if it has one."""
        records = self.engine.images(image.image_id, *filter(None, [image.base_docker]))
        if not records:
            raise BuildError(f"{image.key}: built, but {self.engine.name} doesn't list it")
        return replace(
            image,
            docker_sha=_base_digest(image, *records),
            image_id=image_id(records[0]),
            size_bytes=int(records[0].get("Size") or 0),
        )

    def _step(self, command: Callable[[], BaseCommand], log: BuildLog, problem: str) -> None:
        """Run one build; again where the engine's store changed under it, for others remove images at the same time.

        And without the host's network where the engine may refuse it.
        """
        for _ in range(STORE_ATTEMPTS):
            try:
                log.run(command(), problem)
                return
            except BuildError as error:
                last = error
                if not is_store_race(str(error)) and not self._forgoes_host_network():
                    raise
        raise last

    def _forgoes_host_network(self) -> bool:
        """Whether another attempt may help a build whose network was the host's: not where its users are not."""
        if self._without_host_network.is_set() or self.stopping.is_set() or not self.engine.remaps_users():
            return False
        logger.info(f"{self.engine.name} gives containers users of their own (userns-remap): built in its own network")
        self._without_host_network.set()
        return True


def _with_id(command: BaseCommand, id_file: Path) -> str:
    """Return the command as a line for a POSIX shell, with an id out of the file that an earlier line writes."""
    return programs.shell_line(command).replace(f"@{id_file.name}@", f'"$(cat {shlex.quote(str(id_file))})"')


def _code_lines(model: Model, target: str) -> Iterator[str]:
    if model.url:
        from madengine.build.source_code import shell_lines

        yield from shell_lines(model, target)


def _base_digest(image: Image, record: Mapping[str, Any], base: Mapping[str, Any] | None = None) -> str:
    """Return the digest of the image that another was built on, `record` and `base` are what the engine has of them.

    It is the one that the base's name has, or that the build's log names; the name may mean another image by now.
    """
    digest = image.base_docker.partition("@")[2] or base_digest(Path(image.log_file), image.base_docker)
    if digest or not base:
        return digest
    layers = (base.get("RootFS") or {}).get("Layers") or []
    is_base = ((record.get("RootFS") or {}).get("Layers") or [])[: len(layers)] == layers
    return next(iter(digests_in(base, image.base_docker)), "") if is_base else ""


def _facts(image: Image) -> str:
    """The lines of a log that older tools look for."""
    return (
        f"Build Duration: {image.build_duration:.3f} seconds\nMAD_CONTAINER_IMAGE is {image.key}\n"
        f"BASE DOCKER is {image.base_docker}\nBASE DOCKER SHA is {image.docker_sha}\n"
    )


def _one_line(text: str) -> str:
    return " ".join(text.split())
