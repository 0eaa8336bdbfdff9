"""The options of a build."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from madengine.config.common_options import BuildAndRunOptions, SelectionOptions
from madengine.config.option import Group, comma_separated, inherited, option, whole_number


def _architectures(words: Sequence[str]) -> tuple[str, ...]:
    from madengine.machine.gpus import architecture_name

    return tuple(dict.fromkeys(map(architecture_name, comma_separated(words))))


@dataclass(frozen=True)
class BuildOptions(BuildAndRunOptions, SelectionOptions):
    """How images are built; an empty `registry` pushes nowhere."""

    manifest_output: Path = option(
        "--manifest-output", default=Path("build_manifest.json"), group=Group.BUILD, parse=Path, metavar="FILE",
        help="where the manifest is written (default: build_manifest.json)",
    )  # fmt: skip
    summary_output: Path = inherited(
        BuildAndRunOptions, "summary_output", Path("build_summary.json"),
        help="what succeeded and what failed (default: build_summary.json)",
    )  # fmt: skip
    #: 0 is one a CPU, at least 4.
    jobs: int = option(
        "--jobs", "-j", default=0, group=Group.BUILD, parse=whole_number("jobs", 1), metavar="N",
        help="images built at once (default: one a CPU, at least 4)",
    )  # fmt: skip
    no_cache: bool = option(
        "--clean-docker-cache", default=False, group=Group.BUILD, help="build without the engine's cache"
    )
    architectures: tuple[str, ...] = option(
        "--target-archs", "-a", default=(), group=Group.BUILD, many=True, collect=_architectures, metavar="ARCH",
        help="an image for each of these GPU architectures, such as gfx942, separated by spaces or commas",
    )  # fmt: skip
    #: An existing image for all models; `auto` is the one that each model entry names.
    use_image: str = option(
        "--use-image", default="", group=Group.BUILD, metavar="IMAGE", bare="auto",
        help="use an existing image and build nothing; auto (the default of the bare flag): the model entry's "
        "env_vars.DOCKER_IMAGE_NAME",
    )  # fmt: skip
    credentials_as_build_args: bool = option(
        "--credentials-as-build-args", default=False, group=Group.BUILD,
        help="pass the models' credentials as build arguments too; they stay readable in the images",
    )  # fmt: skip
    outside_files: bool = option(
        "--allow-outside-files", default=False, group=Group.BUILD,
        help="pack what paths and links of the package lead to elsewhere on this machine; else that is an error",
    )  # fmt: skip
    build_on_compute: bool = option(
        "--build-on-compute", default=False, group=Group.BUILD,
        help="build on a node of Slurm, by srun, as the context's `slurm` asks for; needs --registry and this folder "
        "there",
    )  # fmt: skip
    batch: Path | None = option(
        "--batch-manifest", default=None, group=Group.SELECTION, parse=Path, metavar="FILE", exists="file",
        help="JSON in place of --tags: which models are built, and which are only listed",
    )  # fmt: skip
    #: The summary becomes part of a larger one, and only that one is named in messages.
    is_part: bool = False
    #: The commit of the models' `url`; empty is the last one of its default branch.
    commit: str = ""

    @property
    def log_directory(self) -> Path:
        """The folder of the build logs."""
        return self.manifest_output.parent / "build_logs"
