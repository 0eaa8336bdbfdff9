"""Pushes images to their registry: those that were just built, and those of a manifest."""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

from madengine import programs
from madengine.build.build_log import BuildLog, open_log
from madengine.build.image_names import checked_digest, image_path, registry_names
from madengine.config.credentials import Credentials, registry_name
from madengine.config.manifest import Manifest, load_manifest, save_manifest
from madengine.errors import EXIT_BUILD_FAILED, EXIT_DONE, BuildError, ConfigurationError, MadengineError
from madengine.process import private_folder
from madengine.programs.engine import Docker
from madengine.programs.engine_errors import is_push_race, is_transport
from madengine.programs.engine_logins import refused_login
from madengine.programs.image_references import repo_digest
from madengine.records import Image, repository
from madengine.session import Session

logger = logging.getLogger(__name__)

# Attempts at a push, and the pause before the second; it doubles each time.
PUSH_ATTEMPTS = 4
PUSH_PAUSE_SECONDS = 1.0
# How often a name is taken back from another build.
_MOVES = 9
# What registries and engines say to a user who has not logged in, or may not.
_NO_LOGIN = re.compile(
    r"no basic auth credentials|authentication required|unauthorized|access .* denied", re.IGNORECASE
)
_PUSHED = re.compile(r"\bdigest: (sha256:[0-9a-f]{64})\b")


@dataclass(frozen=True)
class Pusher:
    """Pushes with one engine."""

    engine: Docker
    #: Set at Ctrl-C.
    stopping: threading.Event = field(default_factory=threading.Event)

    def push(self, image: Image, names: Sequence[str], log: BuildLog) -> Image:
        """Push an image under every name, in their order; the first one's digest is what nodes pull.

        The other names are for people: one that the registry refuses (ECR, where each repository is made by hand) is
        only logged. Raises BuildError where it refuses the first, or is still not reached after the last attempt.
        """
        if not names:
            return image
        first, *others = names
        with private_folder() as scratch, ThreadPoolExecutor(max_workers=1) as aside:
            digest_file = Path(scratch) / "digest"
            last_line = self._push(first, image.image_id, log, digest_file)
            lookup = aside.submit(self._digest, first, image.image_id, last_line, digest_file)
            for name in others:
                self._push_other(name, image.image_id, log)
            digest = lookup.result() or self._push_again(first, image.image_id, log, digest_file)
        logger.info(f"{image.key}: pushed {first}@{digest}")
        return replace(image, registry_image=first, registry_digest=digest)

    def _push_other(self, name: str, image_id: str, log: BuildLog) -> None:
        try:
            self._push(name, image_id, log)
        except BuildError as error:
            if self.stopping.is_set():
                raise
            logger.warning(f"{error}; ignored: the image has another name there")

    def _push_again(self, name: str, image_id: str, log: BuildLog, digest_file: Path) -> str:
        """Take a name back from another build and push it, until the push was of that image; return its digest."""
        for _ in range(_MOVES):
            logger.info(f"{name}: pushing again: another build took the name")
            programs.ask(self.engine.tag(image_id, name))
            last_line = self._push(name, image_id, log, digest_file)
            if digest := self._digest(name, image_id, last_line, digest_file):
                return digest
        raise BuildError(f"{name}: other builds took the name during each of {_MOVES + 1} pushes; push one at a time")

    def _digest(self, name: str, image_id: str, last_line: str, digest_file: Path) -> str:
        """Return the digest of what was just pushed: podman's file, what docker printed, or the image's record.

        It is empty where the name meant another image than `image_id`.
        """
        if digest_file.exists():
            return checked_digest(f"{name}: {self.engine.name} push", digest_file)
        printed = _PUSHED.search(last_line)
        pushed = f"{repository(name)}@{printed[1]}" if printed else name
        records = self.engine.images(image_id or pushed, pushed)
        if records and records[0]["Id"] != records[-1]["Id"]:
            return ""
        digest = printed[1] if printed else repo_digest((records or [{}])[-1].get("RepoDigests") or [], name)
        if not digest:
            raise BuildError(f"{name}: pushed, but {self.engine.name} doesn't know its digest")
        return digest

    def _push(self, name: str, image_id: str, log: BuildLog, digest_file: Path | None = None) -> str:
        """Push a name, again after errors that may pass, and return the last line that the engine printed."""
        command = self.engine.push(name, digest_file, image_id)
        pause = PUSH_PAUSE_SECONDS
        for attempt in range(1, PUSH_ATTEMPTS + 1):
            try:
                return log.run(command, f"{name}: the push failed")
            except BuildError as error:
                if _NO_LOGIN.search(str(error)):
                    advice = refused_login(name) or "; credential.json may hold a login for it"
                    raise BuildError(f"{error}{advice}") from error
                if attempt == PUSH_ATTEMPTS or not (is_transport(str(error)) or is_push_race(str(error))):
                    raise
                logger.info(f"{error}; again in {pause:g} s")
            self.stopping.wait(pause)
            pause *= 2
        raise AssertionError("unreachable: the last attempt returns or raises")


def push(session: Session, manifest_file: Path, registry: str, dry_run: bool) -> int:
    """Push what a manifest names and its registry doesn't have yet; the manifest then pins it.

    `registry` replaces the manifest's, unless it is empty. Return the exit code.
    """
    manifest = load_manifest(manifest_file)
    registry = registry_name(registry or manifest.registry) if registry or manifest.registry else ""
    if not registry:
        raise ConfigurationError(f"{manifest_file}: names no registry; say which with --registry")
    credentials = session.credentials()
    images, failures = list(manifest.images), 0
    with session.engine(credentials, [registry], dry_run) as engine:
        try:
            for index, image in enumerate(manifest.images):
                names = _names(manifest, image, registry, credentials)
                try:
                    images[index] = _pushed(session, engine, image, names, dry_run)
                except MadengineError as error:
                    failures += 1
                    logger.info(f"{image.key}: {error}")
        finally:
            # What is pushed is pushed, also where Ctrl-C comes before the rest.
            if tuple(images) != manifest.images:
                save_manifest(replace(manifest, images=tuple(images), registry=registry), manifest_file)
    for image in images:
        if image.registry_digest and not dry_run:
            session.show(f"{image.key}  {image.reference}")
    return EXIT_BUILD_FAILED if failures else EXIT_DONE


def _pushed(session: Session, engine: Docker, image: Image, names: Sequence[str], dry_run: bool) -> Image:
    if image.registry_digest and image.registry_image == names[0]:
        logger.info(f"{image.key}: already pushed as {names[0]}@{image.registry_digest}")
        return image
    tags = [engine.tag(image.image_id or image.docker_image, name) for name in names]
    if dry_run:
        for command in [*tags, *(engine.push(name, image_id=image.image_id) for name in names)]:
            session.show(programs.shell_line(command))
        return image
    for command in tags:
        programs.ask(command)
    with open_log() as log:
        return Pusher(engine).push(image, names, log)


def _names(manifest: Manifest, image: Image, registry: str, credentials: Credentials) -> tuple[str, ...]:
    """Name a manifest's image in a registry, as `build` does."""
    model = manifest.models.get(image.key)
    name = model.name if model else ""
    images_of_model = sum(image_path(other.name) == image_path(name) for other in manifest.models.values())
    return registry_names(registry, image.docker_image, name, images_of_model, credentials)
