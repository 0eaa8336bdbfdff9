"""Model in, Image out: choose Dockerfiles, build, add the payload layer, push, learn the digest."""

from __future__ import annotations

import logging
import re
import shlex
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from madengine import __version__, programs
from madengine.build import dockerfiles, locks, payload, source_code
from madengine.build.image_names import free, hashed, image_name, image_path, log_name
from madengine.build.source_code import ModelCode
from madengine.config.context import Context, matches, mismatch
from madengine.config.credentials import Credentials, model_secrets, registry_image
from madengine.config.package import template
from madengine.errors import BuildError, MadengineError
from madengine.programs.engine import STORE_ATTEMPTS, Docker, is_store_race, is_transport, repo_digest
from madengine.records import Image, Model, repository

logger = logging.getLogger(__name__)

if TYPE_CHECKING:
    from plumbum.commands.base import BaseCommand

# Attempts at a push, and the pause before the second; it doubles each time.
PUSH_ATTEMPTS = 4
PUSH_PAUSE_SECONDS = 1.0
# What registries and engines say to somebody who has not logged in, or may not.
_NO_LOGIN = re.compile(
    r"no basic auth credentials|authentication required|unauthorized|access .* denied", re.IGNORECASE
)
_SHOWN_LOG_LINES = 20
_PUSHED = re.compile(r"\bdigest: (sha256:[0-9a-f]{64})\b")


@dataclass(frozen=True)
class Recipe:
    """One image to build: which model, by which Dockerfile (relative to the package), under which names.

    `key` is the image's name and its manifest key, `log_name` the stem of its log; no two recipes share
    either. `pushed` are the names it gets in the registry, the one that runs first. `architecture` is the GPU
    architecture that it is built for, where one was asked for.
    """

    key: str
    log_name: str
    model: Model
    dockerfile: Path
    gpu_vendor: str
    guest_os: str
    base_docker: str
    pushed: tuple[str, ...] = ()
    architecture: str = ""


@dataclass(frozen=True)
class Failure:
    """A model or image that could not be planned, built or pushed; `image` is set where only the push failed."""

    model_name: str
    dockerfile: str
    error: str
    log_file: str = ""
    image: Image | None = None


@dataclass(frozen=True)
class DockerBuilder:
    """Builds the images of a model package (`root`) with one engine.

    `registry` is where they are pushed, empty for nowhere; each of `architectures` gets images of its own; `beside`
    goes beside the scripts of every model; `code` clones what cards name as `url`; every build writes its log below
    `log_directory`; `say` gets one line for people at a time, from any thread; `stopping` is set at Ctrl-C.
    """

    engine: Docker
    root: Path
    context: Context
    credentials: Credentials
    registry: str = ""
    log_directory: Path = Path("build_logs")
    no_cache: bool = False
    live_output: bool = False
    architectures: tuple[str, ...] = ()
    beside: Mapping[str, Path] = field(default_factory=dict)
    stopping: threading.Event = field(default_factory=threading.Event)
    code: ModelCode | None = None
    credentials_as_build_args: bool = False

    def plan(self, models: Sequence[Model]) -> tuple[list[Recipe], list[Failure]]:
        """Choose the Dockerfiles of every model, and names that no two images share.

        A model whose Dockerfiles or scripts don't fit is a Failure that says what was looked for.
        """
        recipes: list[Recipe] = []
        failures = []
        for model in models:
            try:
                self._payload(model)
                source_code.check(model)
                model_secrets(self.credentials, model)
                for recipe in self._recipes(model):
                    recipes.append(_distinct(recipe, recipes))
            except (MadengineError, OSError) as error:
                failures.append(Failure(model.name, model.dockerfile, _problem(error, self.root)))
        return [self._named(recipe, recipes) for recipe in recipes], failures

    def build_all(self, recipes: Sequence[Recipe], jobs: int, done: Callable[[Recipe, Image | Failure], None]) -> None:
        """Build and push the recipes, `jobs` at a time; `done` hears of each as it ends, one at a time.

        Ctrl-C ends what runs and is passed on.
        """
        with ThreadPoolExecutor(max_workers=max(1, jobs)) as pool:
            futures = {pool.submit(self.make, recipe): recipe for recipe in recipes}
            try:
                from concurrent.futures import as_completed

                for future in as_completed(futures):
                    done(futures[future], future.result())
            except BaseException:
                self.stopping.set()
                for future in futures:
                    future.cancel()
                self.engine.end_build_steps()
                programs.halt()
                raise

    def make(self, recipe: Recipe) -> Image | Failure:
        """Build one image and push it; a failure is an answer, its log's last lines are shown."""
        log_file = self.log_directory / f"{recipe.log_name}.build.live.log"
        image = None
        try:
            # The payload's `FROM` is the image's name: another build of it must not change what that means.
            with locks.alone(recipe.key, self.stopping, announce=True), _open_log(log_file) as log:
                image = self._build(recipe, log, log_file)
                return self.push(image, recipe.pushed, log)
        except (MadengineError, OSError) as error:
            problem = _problem(error, log_file)
            if not self.stopping.is_set():
                logger.info(f"{recipe.key}: {problem}")
                self._show_end(log_file)
            return Failure(recipe.model.name, str(recipe.dockerfile), problem, str(log_file), image)

    def push(self, image: Image, names: Sequence[str], log: TextIO) -> Image:
        """Push an image under every name; the first one's digest is what nodes pull.

        Raises BuildError where the registry refuses, or is still not reached after the last attempt.
        """
        if not names:
            return image
        with tempfile.TemporaryDirectory(prefix="madengine-") as scratch:
            for name in reversed(names):
                digest = self._push(name, Path(scratch) / "digest", log)
        if not digest:
            raise BuildError(f"{names[0]}: pushed, but {self.engine.name} doesn't know its digest")
        logger.info(f"{image.key}: pushed {names[0]}@{digest}")
        return replace(image, registry_image=names[0], registry_digest=digest)

    def registry_names(self, key: str) -> str:
        """The name of an image in this builder's registry."""
        return registry_image(self.registry, key, self.credentials)

    def shell_lines(self, recipe: Recipe) -> Iterator[str]:
        """What `make` runs for a recipe, as lines for a POSIX shell."""
        scratch = f".madengine-{recipe.key}"
        yield f"# {recipe.key}: {_one_line(f'{recipe.model.name} from {recipe.dockerfile}')}"
        yield programs.shell_line(self._base_command(recipe))
        yield shlex.join(["rm", "-rf", scratch])
        yield from payload.shell_lines(self._payload(recipe.model), f"{scratch}/payload")
        yield from source_code.shell_lines(recipe.model, f"{scratch}/payload/code")
        yield from payload.file_lines(f"{scratch}/Dockerfile", template("image/Dockerfile"))
        yield programs.shell_line(self._payload_command(recipe, Path(scratch)))
        yield shlex.join(["rm", "-rf", scratch])
        yield from (programs.shell_line(self.engine.push(name)) for name in reversed(recipe.pushed))

    # --- planning ---

    def _recipes(self, model: Model) -> Iterator[Recipe]:
        candidates = dockerfiles.candidates(self.root, model)
        if not candidates:
            raise BuildError(
                f"no Dockerfile {model.dockerfile}.*.Dockerfile for the model {model.name!r} in {self.root}"
            )
        headers = {path: dockerfiles.header(self.root, path) for path in candidates}
        chosen = [path for path, header in headers.items() if matches(header, self.context)]
        if not chosen:
            said = "; ".join(f"{path}: {mismatch(header, self.context)}" for path, header in headers.items())
            raise BuildError(f"no Dockerfile of the model {model.name!r} fits the context ({said})")
        for path, architecture in product(chosen, self.architectures or ("",)):
            suffix = re.sub(r"[^a-z0-9]+", "_", f"_{architecture.lower()}") if architecture else ""
            yield Recipe(
                key=image_name(model, path) + suffix,
                log_name=log_name(model, path) + suffix,
                model=model,
                dockerfile=path,
                gpu_vendor=str(headers[path].get("gpu_vendor", "")).upper(),
                guest_os=str(headers[path].get("guest_os", "")).upper(),
                base_docker=dockerfiles.base_docker(dockerfiles.read(self.root / path), self.context.docker_build_arg),
                architecture=architecture,
            )

    def _payload(self, model: Model, code: Path | None = None) -> payload.Payload:
        return payload.payload(model, self.root, self.beside, code)

    def _build_args(self, recipe: Recipe) -> dict[str, str]:
        asked = {"MAD_SYSTEM_GPU_ARCHITECTURE": recipe.architecture} if recipe.architecture else {}
        return {**self.context.docker_build_arg, **asked}

    def _named(self, recipe: Recipe, recipes: Sequence[Recipe]) -> Recipe:
        if not self.registry:
            return recipe
        name = self.registry_names(recipe.key)
        latest = f"{self.registry}/madengine/{image_path(recipe.model.name)}:latest"
        owners = Counter(image_path(other.model.name) for other in recipes)
        # Docker Hub and registries with one repository for all have no place for a second name.
        alone = owners[image_path(recipe.model.name)] == 1 and name == f"{self.registry}/{recipe.key}"
        return replace(recipe, pushed=(name, latest) if alone and not _is_hub(self.registry) else (name,))

    # --- building ---

    def _build(self, recipe: Recipe, log: TextIO, log_file: Path) -> Image:
        started = time.monotonic()
        logger.info(f"{recipe.key}: building {recipe.dockerfile}")
        self._warn_of_build_args(recipe)
        code = self.code.checkout(recipe.model) if self.code else None
        # Of the same steps side by side each would make its own layers, and the next build take any of them.
        with nullcontext() if self.no_cache else locks.alone(self._fingerprint(recipe), self.stopping):
            problem = f"{recipe.dockerfile} (from {recipe.base_docker}): the build failed"
            self._step(self._base_command(recipe), log, problem)
        with locks.alone(f"payload-{hashed(recipe.model.name, recipe.model.args)}", self.stopping):
            self._add_payload(recipe, code.folder if code else None, log)
        duration = time.monotonic() - started
        built, sha = self._built(recipe)
        log.write(f"Build Duration: {duration:.3f} seconds\nMAD_CONTAINER_IMAGE is {recipe.key}\n")
        log.write(f"BASE DOCKER is {recipe.base_docker}\nBASE DOCKER SHA is {sha}\n")
        logger.info(f"{recipe.key}: built in {duration:.1f} s")
        return Image(
            key=recipe.key,
            docker_image=recipe.key,
            dockerfile=str(recipe.dockerfile),
            base_docker=recipe.base_docker,
            docker_sha=sha,
            build_duration=duration,
            gpu_vendor=recipe.gpu_vendor,
            guest_os=recipe.guest_os,
            image_id=_image_id(str(built["Id"])),
            self_contained=True,
            git_commit=code.commit if code else "",
            size_bytes=int(built.get("Size") or 0),
            log_file=str(log_file),
            extra={"gpu_architecture": recipe.architecture} if recipe.architecture else {},
        )

    def _add_payload(self, recipe: Recipe, code: Path | None, log: TextIO) -> None:
        with tempfile.TemporaryDirectory(prefix="madengine-") as scratch:
            directory = Path(scratch)
            (directory / "payload").mkdir(mode=0o755)
            payload.write(self._payload(recipe.model, code), directory / "payload")
            (directory / "Dockerfile").write_text(template("image/Dockerfile"))
            self._step(self._payload_command(recipe, directory), log, "the payload layer could not be added")

    def _step(self, command: BaseCommand, log: TextIO, problem: str) -> None:
        """One build; again where the engine's store changed under it, for others remove images at the same time."""
        for _ in range(STORE_ATTEMPTS - 1):
            try:
                self._logged(command, log, problem)
                return
            except BuildError as error:
                if not is_store_race(str(error)):
                    raise
        self._logged(command, log, problem)

    def _fingerprint(self, recipe: Recipe) -> str:
        """What the model's own build is made of: its instructions, its folder and its arguments."""
        lines = dockerfiles.read(self.root / recipe.dockerfile).splitlines()
        instructions = [line for line in lines if line.strip() and not line.lstrip().startswith("#")]
        directory = self.root.resolve() / dockerfiles.build_directory(self.root, recipe.model)
        return f"base-{hashed(str(directory), *instructions, *map(str, self._build_args(recipe).items()))}"

    def _base_command(self, recipe: Recipe) -> BaseCommand:
        return self.engine.build(
            [f"{recipe.key}:base"],
            self._path(recipe.dockerfile),
            self._path(Path(dockerfiles.build_directory(self.root, recipe.model))),
            build_args=self._build_args(recipe),
            secrets=self._build_secrets(recipe),
            secret_args=model_secrets(self.credentials, recipe.model) if self.credentials_as_build_args else {},
            # Also keeps a Dockerfile that is only a FROM from giving its base image a second digest in podman's store.
            labels={"madengine.version": __version__},
            no_cache=self.no_cache,
        )

    def _build_secrets(self, recipe: Recipe) -> dict[str, str]:
        """The model's credentials, where its Dockerfile mounts any secret."""
        if not recipe.model.cred or "type=secret" not in dockerfiles.read(self.root / recipe.dockerfile):
            return {}
        return model_secrets(self.credentials, recipe.model)

    def _warn_of_build_args(self, recipe: Recipe) -> None:
        """Say what a Dockerfile of older versions waits for in vain, or what the switch for it costs."""
        names = model_secrets(self.credentials, recipe.model)
        text = dockerfiles.read(self.root / recipe.dockerfile)
        wanted = [name for name in names if re.search(rf"^\s*ARG\s+{re.escape(name)}\b", text, re.MULTILINE)]
        if wanted and self.credentials_as_build_args:
            logger.info(f"{recipe.key}: warning: {', '.join(wanted)} can be read in the image's history by who has it")
        elif wanted:
            logger.info(
                f"{recipe.key}: warning: {recipe.dockerfile} takes {', '.join(wanted)} as ARG and gets nothing; mount "
                f"it (RUN --mount=type=secret,id={wanted[0]}), or build with --credentials-as-build-args"
            )

    def _payload_command(self, recipe: Recipe, scratch: Path) -> BaseCommand:
        return self.engine.build(
            [recipe.key, *recipe.pushed],
            scratch / "Dockerfile",
            scratch / "payload",
            build_args={"MODEL_IMAGE": f"{recipe.key}:base"},
            labels={"madengine.model": recipe.model.name},
        )

    def _path(self, path: Path) -> Path:
        return path if self.root.resolve() == Path.cwd() else self.root / path

    def _built(self, recipe: Recipe) -> tuple[dict[str, Any], str]:
        """The image's own record, and the digest of its base where the engine knows one."""
        found = self.engine.images(recipe.key, recipe.base_docker)
        if not found:
            raise BuildError(f"{recipe.key}: built, but {self.engine.name} doesn't list it")
        digests = found[1].get("RepoDigests") or [] if len(found) > 1 else []
        return dict(found[0]), repo_digest(digests, recipe.base_docker) if recipe.base_docker else ""

    # --- pushing ---

    def _push(self, name: str, digest_file: Path, log: TextIO) -> str:
        """Push one name and learn its digest: from what docker prints, podman's file, or the image's record."""
        pause = PUSH_PAUSE_SECONDS
        for attempt in range(1, PUSH_ATTEMPTS + 1):
            try:
                last = self._logged(self.engine.push(name, digest_file), log, f"{name}: the push failed")
                if digest_file.exists():
                    return digest_file.read_text().strip()
                said = _PUSHED.search(last)
                return said[1] if said else self._digest(name)
            except BuildError as error:
                if _NO_LOGIN.search(str(error)):
                    raise BuildError(f"{error}; credential.json may hold a login for it") from error
                if attempt == PUSH_ATTEMPTS or not is_transport(str(error)):
                    raise
                logger.info(f"{error}; again in {pause:g} s")
            self.stopping.wait(pause)
            pause *= 2
        raise AssertionError("unreachable: the last attempt returns or raises")

    def _digest(self, name: str) -> str:
        found = self.engine.images(name)
        return repo_digest(found[0].get("RepoDigests") or [], name) if found else ""

    # --- logs ---

    def _logged(self, command: BaseCommand, log: TextIO, problem: str) -> str:
        """Run a command into the log; gives its last line that isn't empty.

        Raises BuildError with its last line where it fails, or the log can't be written.
        """
        last = ""

        def line_seen(line: str) -> None:
            nonlocal last
            last = line.strip() or last
            log.write(line)
            if self.live_output:
                logger.info(line.rstrip("\n"))

        try:
            log.write(f"$ {programs.redact(programs.shell_line(command))}\n")
            code = programs.stream(command, line_seen)
            log.flush()
        except OSError as error:
            raise BuildError(f"{log.name}: can't be written: {error.strerror}") from error
        if code != 0:
            raise BuildError(f"{problem}: {last or f'exit code {code}'}")
        return last

    def _show_end(self, log_file: Path) -> None:
        with suppress(OSError):
            lines = log_file.read_text(errors="replace").splitlines()[-_SHOWN_LOG_LINES:]
            logger.info("\n".join([*(f"  | {line}" for line in lines), f"  the whole log: {log_file}"]))


def _distinct(recipe: Recipe, others: Sequence[Recipe]) -> Recipe:
    """The recipe with a short hash where its names are taken: another model, other arguments, another Dockerfile."""
    identity = hashed(
        recipe.model.name, recipe.model.args, str(recipe.dockerfile), *filter(None, [recipe.architecture])
    )
    return replace(
        recipe,
        key=free(recipe.key, {other.key for other in others}, identity),
        log_name=free(recipe.log_name, {other.log_name for other in others}, identity),
    )


def _problem(error: MadengineError | OSError, path: Path) -> str:
    """What went wrong in one line; the system names no file where a write fails."""
    if isinstance(error, MadengineError):
        return str(error)
    return f"{error.filename or path}: {(error.strerror or str(error)).lower()}"


def _image_id(found: str) -> str:
    return found if found.startswith("sha256:") else f"sha256:{found}"


def _is_hub(registry: str) -> bool:
    return repository(registry).partition("/")[0] in ("docker.io", "dockerhub")


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _open_log(path: Path) -> TextIO:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return open(path, "w", encoding="utf-8", errors="replace", buffering=1)
    except OSError as error:
        raise BuildError(f"{path}: can't be written: {error.strerror}") from error
