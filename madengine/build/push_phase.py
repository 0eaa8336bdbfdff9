"""The push of what was built without a registry, or for another one."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from madengine import programs
from madengine.build.builder import DockerBuilder
from madengine.build.image_names import image_path
from madengine.config.context import Context
from madengine.config.credentials import registry_name
from madengine.config.manifest import Manifest, load_manifest, save_manifest
from madengine.errors import EXIT_BUILD_FAILED, EXIT_DONE, ConfigurationError, MadengineError
from madengine.records import Image
from madengine.session import Session

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PushPhase:
    """One push of a session."""

    session: Session

    def carry_out(self, manifest_file: Path, registry: str, dry_run: bool) -> int:
        """Push what a manifest names and its registry doesn't have yet; the manifest then pins it."""
        kept = load_manifest(manifest_file)
        wanted = registry_name(registry or kept.registry) if registry or kept.registry else ""
        if not wanted:
            raise ConfigurationError(f"{manifest_file}: names no registry; say which with --registry")
        credentials = self.session.credentials()
        failed = 0
        with self.session.engine(credentials, [wanted], dry_run) as engine:
            builder = DockerBuilder(engine, self.session.root, Context(), credentials, wanted)
            images = list(kept.images)
            try:
                for index, image in enumerate(images):
                    name = builder.registry_names(image.docker_image)
                    names = [name, *_second_names(kept, image, wanted, name)]
                    if image.registry_digest and image.registry_image == name:
                        logger.info(f"{image.key}: already pushed as {name}@{image.registry_digest}")
                        continue
                    try:
                        images[index] = self._pushed(builder, image, names, dry_run)
                    except MadengineError as error:
                        failed += 1
                        logger.info(f"{image.key}: {error}")
            finally:
                # What is pushed is pushed, also where Ctrl-C comes before the rest.
                if images != list(kept.images):
                    save_manifest(replace(kept, images=tuple(images), registry=wanted), manifest_file)
        for image in images:
            if image.registry_digest and not dry_run:
                self.session.show(f"{image.key}  {image.reference}")
        return EXIT_BUILD_FAILED if failed else EXIT_DONE

    def _pushed(self, builder: DockerBuilder, image: Image, names: Sequence[str], dry_run: bool) -> Image:
        engine = builder.engine
        source = image.image_id or image.docker_image
        commands = [engine.tag(source, name) for name in names]
        if dry_run:
            for command in [*commands, *(engine.push(name) for name in reversed(names))]:
                self.session.show(programs.shell_line(command))
            return image
        for command in commands:
            programs.ask(command)
        with open(os.devnull, "w") as log:
            return builder.push(image, names, log)


def _second_names(kept: Manifest, image: Image, registry: str, name: str) -> list[str]:
    """`<registry>/madengine/<model>:latest`, for the one image of a model; as `build` names it."""
    if image.key not in kept.models or name != f"{registry}/{image.docker_image}":
        return []
    mine = image_path(kept.models[image.key].name)
    same = [
        other for other in kept.images if other.key in kept.models and image_path(kept.models[other.key].name) == mine
    ]
    return [f"{registry}/madengine/{mine}:latest"] if len(same) == 1 else []
