"""Which images a model package makes: the Dockerfiles, names and build arguments of each, without an engine."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path

from madengine.build import dockerfiles, payload, script_files
from madengine.build.image_names import free, hashed, image_name, image_path, log_name, registry_names
from madengine.build.named_contexts import IMAGE_PREFIX, named_contexts
from madengine.build.package_files import check_inside, check_model_files
from madengine.config.context import Context, matches, mismatch
from madengine.config.credentials import Credentials, model_secrets
from madengine.errors import BuildError, MadengineError
from madengine.programs import git_lfs
from madengine.records import Model
from madengine.results.summaries import FailedBuild

_ARCHITECTURE = "MAD_SYSTEM_GPU_ARCHITECTURE"


@dataclass(frozen=True)
class Recipe:
    """One image to build."""

    #: The image's name and its key in the manifest, which no other recipe has.
    key: str
    #: The stem of its log's name, which no other recipe has either.
    log_name: str
    model: Model
    #: Relative to the package, like `directory`, the build's context.
    dockerfile: Path
    directory: Path = Path()
    gpu_vendor: str = ""
    guest_os: str = ""
    base_docker: str = ""
    #: The image's names in the registry; the first is the one that nodes pull.
    pushed: tuple[str, ...] = ()
    #: The GPU architecture that it is built for; empty is any.
    architecture: str = ""
    build_args: Mapping[str, str] = field(default_factory=dict)
    #: Folders of the package, or images, that the Dockerfile takes files from, by the names that it has for them.
    contexts: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Planner:
    """Plans the images of the model package at `root`."""

    root: Path
    context: Context
    credentials: Credentials
    #: Where the images are pushed; empty is nowhere.
    registry: str = ""
    #: Each of them gets images of its own.
    architectures: tuple[str, ...] = ()
    #: Whether an image may get files that are not in the package.
    outside_files: bool = False
    #: That of this machine's GPUs, where the images are for them: Dockerfiles that declare the argument get it.
    architecture_here: str = ""

    def is_on_host(self, model: Model) -> bool:
        """Whether a model's script runs on the host and starts containers itself."""
        launcher = self.context.launch_of(model, {}).launcher
        return bool(launcher and launcher.on_host)

    def recipes(self, models: Sequence[Model]) -> tuple[list[Recipe], list[FailedBuild]]:
        """Choose the Dockerfiles of every model, and names that no two images share.

        A model whose Dockerfiles or scripts don't fit is a FailedBuild that says what was looked for.
        """
        recipes: list[Recipe] = []
        failures = []
        for model in models:
            try:
                self._check_files(model)
                if not self.outside_files:
                    check_model_files(model, self.root)
                _check_url(model)
                model_secrets(self.credentials, model)
                for recipe in self._recipes(model):
                    self._check_contexts(recipe)
                    recipes.append(_distinct(recipe, recipes))
            except (MadengineError, OSError) as error:
                failures.append(FailedBuild(model.name, model.dockerfile, explain(error, self.root)))
        images_of = Counter(image_path(recipe.model.name) for recipe in recipes)
        return [self._named(recipe, images_of[image_path(recipe.model.name)]) for recipe in recipes], failures

    def _check_files(self, model: Model) -> None:
        """Check before any build what goes into a model's image; raise BuildError or OSError."""
        folders = [*payload.payload(model, self.root).copies.values()]
        for folder in folders:
            script_files.check(folder)
        for path in (*folders, self.root / dockerfiles.build_directory(self.root, model)):
            if problem := git_lfs.problem(path):
                raise BuildError(problem)

    def _check_contexts(self, recipe: Recipe) -> None:
        """Do the same with the folders that the Dockerfile takes files from by name."""
        folders = [self.root / place for place in recipe.contexts.values() if not place.startswith(IMAGE_PREFIX)]
        for folder in folders:
            if problem := git_lfs.problem(folder):
                raise BuildError(problem)
        if not self.outside_files:
            check_inside(folders, self.root)

    def _recipes(self, model: Model) -> Iterator[Recipe]:
        headers = {path: dockerfiles.header(self.root, path) for path in dockerfiles.candidates(self.root, model)}
        if not headers:
            raise BuildError(
                f"no Dockerfile {model.dockerfile}.*.Dockerfile for the model {model.name!r} in {self.root}"
            )
        paths = [path for path, header in headers.items() if matches(header, self.context)]
        if not paths:
            reasons = "; ".join(f"{path}: {mismatch(header, self.context)}" for path, header in headers.items())
            raise BuildError(f"no Dockerfile of the model {model.name!r} fits the context ({reasons})")
        directory = Path(dockerfiles.build_directory(self.root, model))
        texts = {path: dockerfiles.read(self.root / path) for path in paths}
        for path, architecture in product(paths, self.architectures or ("",)):
            suffix = re.sub(r"[^a-z0-9]+", "_", f"_{architecture.lower()}") if architecture else ""
            yield Recipe(
                key=image_name(model, path) + suffix,
                log_name=log_name(model, path) + suffix,
                model=model,
                dockerfile=path,
                directory=directory,
                gpu_vendor=str(headers[path].get("gpu_vendor", "")).upper(),
                guest_os=str(headers[path].get("guest_os", "")).upper(),
                base_docker=dockerfiles.base_docker(texts[path], self.context.docker_build_arg),
                architecture=architecture,
                build_args=self._build_args(architecture, texts[path]),
                contexts=named_contexts(model, self.root, texts[path]),
            )

    def _build_args(self, architecture: str, text: str) -> dict[str, str]:
        takes = self.architecture_here and _ARCHITECTURE in dockerfiles.declared_args(text)
        here = {_ARCHITECTURE: self.architecture_here} if takes else {}
        selected = {_ARCHITECTURE: architecture} if architecture else {}
        return {**here, **self.context.docker_build_arg, **selected}

    def _named(self, recipe: Recipe, images_of_model: int) -> Recipe:
        if not self.registry:
            return recipe
        names = registry_names(self.registry, recipe.key, recipe.model.name, images_of_model, self.credentials)
        return replace(recipe, pushed=names)


def _distinct(recipe: Recipe, others: Sequence[Recipe]) -> Recipe:
    """Add a short hash where the names are taken by another model, other arguments or another Dockerfile."""
    identity = hashed(
        recipe.model.name, recipe.model.args, str(recipe.dockerfile), *filter(None, [recipe.architecture])
    )
    return replace(
        recipe,
        key=free(recipe.key, {other.key for other in others}, identity),
        log_name=free(recipe.log_name, {other.log_name for other in others}, identity),
    )


def _check_url(model: Model) -> None:
    if model.url:
        from madengine.build.source_code import check

        check(model)


def explain(error: MadengineError | OSError, path: Path) -> str:
    """Return the error in one line; `path` is what the system may leave out where a write fails."""
    if isinstance(error, MadengineError):
        return str(error)
    return f"{error.filename or path}: {(error.strerror or str(error)).lower()}"
