"""nerdctl, for containerd."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from madengine.programs.caller_settings import log_settings
from madengine.programs.engine import Docker
from madengine.programs.image_references import is_loopback, with_hub

if TYPE_CHECKING:
    from plumbum.commands.base import BaseCommand


class Nerdctl(Docker):
    """What nerdctl does differently from Docker."""

    name: ClassVar[str] = "nerdctl"
    access_fix: ClassVar[str] = "containerd-rootless-setuptool.sh install"
    without_label: ClassVar[tuple[str, ...]] = ()  # it sets none by itself
    _size_flags: ClassVar[tuple[str, ...]] = ()

    def version_command(self) -> BaseCommand:
        return self("info", "--format={{.ServerVersion}}")

    def full_name(self, name: str) -> str:
        return with_hub(name)

    def log_caller_settings(self, environ: Mapping[str, str]) -> None:
        log_settings("nerdctl", ["CONTAINERD_*", "NERDCTL_*", "BUILDKIT_HOST"], environ, "nerdctl follows them")

    def sees(self, folder: Path) -> bool:
        return True

    def remaps_users(self) -> bool:
        return False

    def has_gpu_runtime(self, vendor: str) -> bool:
        return True

    def _takes_amd_gpus(self) -> bool:
        return False

    def _build_environment(self, has_secrets: bool, has_contexts: bool) -> dict[str, str]:
        return {}

    def _no_health_check(self) -> list[str]:
        # nerdctl runs no health checks of images before version 2.1, which has the flag.
        return []

    def _global_flags(self, name: str) -> list[str]:
        return ["--insecure-registry"] if is_loopback(name) else []
