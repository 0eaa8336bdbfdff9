"""Where a manifest runs: the steps that every target has, and the course that all of them take."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from madengine.errors import EXIT_INTERRUPTED, MadengineError

if TYPE_CHECKING:
    from madengine.session import Session

logger = logging.getLogger(__name__)

#: What a row says of the job that started the run, which a node can't know.
CALLER_VARIABLES = ("pipeline", "BUILD_NUMBER", "MAD_DEPLOYMENT_TYPE", "MAD_LAUNCHER")


@dataclass(frozen=True)
class Prepared:
    """What running on a target by hand takes."""

    #: the files that were written
    files: tuple[Path, ...] = ()
    #: what the user should know, a line each
    warnings: tuple[str, ...] = ()
    #: shell lines that do the same as `start`, `follow` and `collect`
    lines: tuple[str, ...] = ()


class Target(Protocol):
    """A place where a manifest runs: hosts over ssh, an Ansible inventory, a Kubernetes namespace, a Slurm cluster.

    Every step raises MadengineError where it fails. A target is used for one run.
    """

    def check(self) -> None:
        """Raise ConfigurationError for an option that is wrong or that this target can't deliver.

        Writes and starts nothing, and needs no manifest: it may be called before the manifest is built.
        """

    def prepare(self) -> Prepared:
        """Read the manifest and write the target's files; all that `generate` and `--dry-run` do.

        Raises ConfigurationError for a manifest that can't run on this target.
        """

    def start(self) -> None:
        """Start the runs."""

    def follow(self) -> None:
        """Wait until the runs have ended, reporting their progress."""

    def collect(self) -> int:
        """Add the rows of the runs to perf.csv, show them, and return the exit code.

        Called once, also after `stop` and after a `start` that failed.
        """

    def stop(self) -> None:
        """End the runs on Ctrl-C, whether `start` had ended or not."""


def run_on(target: Target) -> int:
    """Run a manifest on a target, from the checks to the rows; return the exit code.

    Raises MadengineError for what keeps it from running; what was measured before is collected all the same.
    """
    target.check()
    for warning in target.prepare().warnings:
        logger.warning(warning)
    interrupted = False
    try:
        try:
            target.start()
            target.follow()
        except KeyboardInterrupt:
            interrupted = True
            target.stop()
    except BaseException:
        with suppress(MadengineError):
            target.collect()
        raise
    code = target.collect()
    return EXIT_INTERRUPTED if interrupted else code


class TargetClass(Protocol):
    """What makes a target out of a command line."""

    #: The dataclasses of its options; they may share options with other targets.
    OPTIONS: tuple[type, ...]

    def from_values(self, values: Mapping[str, Any], manifest_file: Path, session: Session) -> Target:
        """Return the target for a manifest, out of the parsed options by field name.

        Raises ConfigurationError for an option that this target can't use.
        """


def target_class(name: str) -> TargetClass:
    """Return the class of a target, imported when it is needed."""
    module, class_name = TARGETS[name]
    imported: TargetClass = getattr(import_module(module), class_name)
    return imported


#: Every target that a command line can name: its module and its class.
TARGETS: Mapping[str, tuple[str, str]] = {
    "ssh": ("madengine.deploy.ssh.target", "SshTarget"),
    "ansible": ("madengine.deploy.ansible.target", "AnsibleTarget"),
    "kubernetes": ("madengine.deploy.kubernetes.target", "KubernetesTarget"),
    "slurm": ("madengine.deploy.slurm.target", "SlurmTarget"),
}
