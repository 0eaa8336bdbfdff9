"""How a build is carried out: what the user chose."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

DEFAULT_MANIFEST = Path("build_manifest.json")


@dataclass(frozen=True)
class BuildOptions:
    """How images are built."""

    #: Names or tags of the models to build; none are all.
    tags: tuple[str, ...] = ()
    #: Where the images are pushed; empty is nowhere.
    registry: str = ""
    manifest_output: Path = DEFAULT_MANIFEST
    summary_output: Path = Path("build_summary.json")
    #: The summary becomes a part of a larger one, which alone is named to the user.
    is_part: bool = False
    no_cache: bool = False
    live_output: bool = False
    ignore_deprecated: bool = False
    #: Builds side by side; 0 is one for each processor, at least four.
    jobs: int = 0
    #: The tools.json in place of the package's.
    tools_file: Path | None = None
    #: GPU architectures that get images of their own.
    architectures: tuple[str, ...] = ()
    #: An existing image for all models; `auto` is the one that each model entry names.
    use_image: str = ""
    #: A batch manifest, which says for each model whether it is built.
    batch: Path | None = None
    dry_run: bool = False
    credentials_as_build_args: bool = False

    @property
    def log_directory(self) -> Path:
        """The folder of the build logs."""
        return self.manifest_output.parent / "build_logs"
