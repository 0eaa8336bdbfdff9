"""podman."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from madengine import programs
from madengine.errors import RunError
from madengine.programs import login_files, podman_steps
from madengine.programs.caller_settings import PROXIES, log_settings
from madengine.programs.engine import Docker
from madengine.programs.image_references import digests_in, is_loopback, with_hub
from madengine.records import repository

if TYPE_CHECKING:
    from plumbum.commands.base import BaseCommand


# podman 5 warns of cgroups v1 at every command, also in what it shows of a container's log. The variable changes no
# result, so no printed line has it.
_QUIET = {"PODMAN_IGNORE_CGROUPSV1_WARNING": programs.Secret("1")}


class Podman(Docker):
    """What podman does differently from Docker."""

    name: ClassVar[str] = "podman"
    nvidia_gpu_mode: ClassVar[str] = "cdi"
    builds_from_ids: ClassVar[bool] = True
    cache_sees_all_inputs: ClassVar[bool] = False
    opens_devices_as_caller: ClassVar[bool] = True
    access_fix: ClassVar[str] = ""
    init_fix: ClassVar[str] = "apt-get install catatonit"
    _root_template: ClassVar[str] = "{{.Store.GraphRoot}}"

    def __call__(self, *words: str) -> BaseCommand:
        return programs.program(self.name, *words, env={**_QUIET, **self.environment})

    def version_command(self) -> BaseCommand:
        return self("version", "--format={{.Client.Version}}")

    def full_name(self, name: str) -> str:
        return with_hub(name)

    def digest_of(self, name: str, image: Mapping[str, Any]) -> str:
        """Return the digest that the registry of `name` knows an image (its record) by; empty if it has none.

        For an image that was pushed from here, podman lists only the digest of its own copy; a pull by name adds the
        registry's.
        """
        digests = digests_in(image, name)
        if digests and programs.attempt(self.pull(name), seconds=None).code == 0:
            latest = self.images(name)[0]
            digests = digests_in(latest, name) if latest["Id"] == image["Id"] else digests
        return next((digest for digest in digests if self._can_pull(f"{repository(name)}@{digest}")), "")

    def sees(self, folder: Path) -> bool:
        return True

    def remaps_users(self) -> bool:
        return False  # a container's root is who called podman

    def has_gpu_runtime(self, vendor: str) -> bool:
        return True

    def login_environment(self, folder: Path, registries: Sequence[str]) -> dict[str, str]:
        logins = _own_logins()
        helpers = {name: value for name, value in logins["credHelpers"].items() if name not in registries}
        login_files.write_logins(folder / "auth.json", {**logins, "credHelpers": helpers})
        return {"REGISTRY_AUTH_FILE": str(folder / "auth.json")}

    def log_caller_settings(self, environ: Mapping[str, str]) -> None:
        proxies = [*PROXIES, *map(str.lower, PROXIES)]
        log_settings("podman", proxies, environ, "builds and containers get them")
        log_settings("podman", ["BUILDAH_*", "CONTAINER_HOST"], environ, "podman follows them")

    def end_build_steps(self) -> None:
        """End what RUN steps of our builds have started, which would outlive the builds and keep their layers."""
        podman_steps.end()

    def check_gpus_option(self, vendor: str) -> None:
        raise RunError("--gpu-mode gpus: podman may ignore --gpus without an error; use --gpu-mode cdi or devices")

    def group_flags(self, groups: Iterable[int]) -> list[str]:
        return super().group_flags(groups) if os.geteuid() == 0 else ["--group-add=keep-groups"]

    def _can_pull(self, reference: str) -> bool:
        return programs.attempt(self.pull(reference), seconds=None).code == 0

    def _build_environment(self, has_secrets: bool, has_contexts: bool) -> dict[str, str]:
        return {}

    def untag(self, name: str) -> BaseCommand:
        """Take a name away from an image. `rmi` would remove the image too, and the next build would miss it."""
        return self("untag", name, name)

    def _push_source(self, image_id: str) -> Sequence[str]:
        return [image_id] if image_id else []

    def _digest_flags(self, digest_file: Path | str) -> list[str]:
        return ["--digestfile", str(digest_file)]

    def _hub_server(self) -> list[str]:
        return ["docker.io"]

    def _registry_flags(self, name: str) -> list[str]:
        return ["--tls-verify=false"] if is_loopback(name) else []

    def _limits(self) -> list[str]:
        return super()._limits() if os.geteuid() == 0 else ["--ulimit=host"]


def _own_logins() -> dict[str, Any]:
    """Merge the files that podman would search by itself; it reads one that REGISTRY_AUTH_FILE names alone."""
    named = os.environ.get("REGISTRY_AUTH_FILE")
    default = "/run/containers/0" if os.geteuid() == 0 else f"/run/user/{os.geteuid()}/containers"
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    settings = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    own = Path(runtime, "containers") if runtime else Path(default)
    paths = [own / "auth.json", settings / "containers/auth.json", login_files.docker_home() / "config.json"]
    files = [login_files.read_logins(path) for path in ([Path(named)] if named else paths)]
    return {
        key: {name: value for content in reversed(files) for name, value in content[key].items()}
        for key in ("auths", "credHelpers")
    }
