"""apptainer."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from madengine import programs
from madengine.programs.engine import Container
from madengine.programs.image_references import is_loopback
from madengine.programs.process_engine import ProcessEngine
from madengine.programs.translated_options import Translated

if TYPE_CHECKING:
    from plumbum.commands.base import BaseCommand


class Apptainer(ProcessEngine):
    """What apptainer does differently from other engines without a daemon."""

    name: ClassVar[str] = "apptainer"
    suffix: ClassVar[str] = ".sif"
    gpu_flags: ClassVar[Mapping[str, Sequence[str]]] = {"AMD": ("--rocm",), "NVIDIA": ("--nv",)}

    def version_command(self) -> BaseCommand:
        return self.shell('version=$(apptainer --version) && echo "${version##* }"')

    def login(self, registry: str, username: str) -> BaseCommand:
        server = "docker.io" if registry in ("", "dockerhub") else registry
        return self("registry", "login", "--username", username, "--password-stdin", f"docker://{server}")

    def pull_words(self, reference: str) -> Sequence[str]:
        return ["apptainer", "pull", *(["--no-https"] if is_loopback(reference) else [])]

    def run_line(self, container: Container, options: Translated) -> tuple[Sequence[str], Mapping[str, str]]:
        environment = {**container.environment, **options.environment}
        variables = {f"APPTAINERENV_{name}": value for name, value in environment.items()}
        secrets = {f"APPTAINERENV_{name}": programs.Secret(value) for name, value in container.secrets.items()}
        line = (
            self.name,
            "exec",
            "--containall",
            "--writable-tmpfs",
            # Root without all of its capabilities, as in a container, can't hand them on.
            *(["--no-privs"] if os.geteuid() == 0 else []),
            *[word for mount in container.mounts for word in ("--mount", _mount(*mount))],
            *([f"--pwd={container.workdir}"] if container.workdir else []),
            *options.flags,
            *[f"--bind={volume}" for volume in options.volumes],
            str(self.image_file(container.image)),
            *([container.entrypoint] if container.entrypoint else []),
            *container.words,
        )
        return line, {**variables, **secrets}

    def login_environment(self, folder: Path, registries: Sequence[str]) -> dict[str, str]:
        own = Path(os.environ.get("APPTAINER_CONFIGDIR") or Path.home() / ".apptainer") / "docker-config.json"
        if own.is_file():
            shutil.copy(own, folder / own.name)
        return {"APPTAINER_CONFIGDIR": str(folder)}


def _mount(host: str, inside: str, read_only: bool) -> str:
    """Return a bind mount, as a line of CSV."""
    fields = ["type=bind", f"source={host}", f"destination={inside}", *(["ro"] if read_only else [])]
    return ",".join('"' + text.replace('"', '""') + '"' if re.search(r'[",]', text) else text for text in fields)
