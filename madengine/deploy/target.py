"""Where a manifest runs: the steps that every target has, and the course that all of them take."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from madengine.errors import EXIT_INTERRUPTED, MadengineError

logger = logging.getLogger(__name__)


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
    """A place where a manifest runs: hosts over ssh, an Ansible inventory, a Kubernetes namespace.

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
        logger.info(warning)
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


def _imported(module: str, name: str) -> Callable[..., Target]:
    """A factory that imports the target's class on its first call."""

    def make(*arguments: Any, **options: Any) -> Target:
        target: Target = getattr(import_module(module), name)(*arguments, **options)
        return target

    return make


#: Every target by its name; the factory takes what the target's class takes.
TARGETS: Mapping[str, Callable[..., Target]] = {
    "ansible": _imported("madengine.deploy.ansible.target", "AnsibleTarget"),
    "kubernetes": _imported("madengine.deploy.kubernetes.target", "KubernetesTarget"),
    "ssh": _imported("madengine.deploy.ssh.target", "SshTarget"),
}
