"""The files that pods hold for `collect`, fetched from their sidecars and checked as those of a host."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from threading import Timer
from typing import TYPE_CHECKING

from madengine import programs
from madengine.deploy.kubernetes.names import one_line
from madengine.deploy.kubernetes.objects import JobStatus, PodStatus
from madengine.deploy.kubernetes.sender import NOT_READY
from madengine.deploy.ssh.archive import ArchiveError, UnsafeArchiveError, unpack
from madengine.errors import MadengineError
from madengine.process import private_folder
from madengine.programs.kubectl import Kubectl

if TYPE_CHECKING:
    from plumbum.commands.base import BaseCommand

logger = logging.getLogger(__name__)

_SENDER = ("python3", "-m", "madengine.deploy.kubernetes.sender")
# The longest that the files of one pod may take; a connection that hangs ends here.
_SECONDS = 3600.0


@dataclass
class Fetcher:
    """Fetches each pod's files once, into `runs/RUN ID/POD` below a folder."""

    kubectl: Kubectl
    folder: Path
    #: Pods whose files can't be had, each with one line that says why.
    problems: dict[str, str] = field(default_factory=dict)

    def fetch(self, jobs: Iterable[JobStatus], pods: Iterable[PodStatus]) -> None:
        """Fetch from the pods whose model has ended and whose sidecar still runs."""
        runs = {job.name: job.run_id for job in jobs}
        for pod in pods:
            if pod.job in runs and pod.holds_files and pod.name not in self.problems:
                target = self.folder / "runs" / runs[pod.job] / pod.name
                if not os.path.lexists(target) and not self._fetch_one(pod.name, target):
                    continue
                self._end_waiting(pod.name)

    def _fetch_one(self, pod: str, target: Path) -> bool:
        """Fetch the files of a pod; return whether it has sent all, which it also has if these are refused."""
        target.parent.mkdir(parents=True, exist_ok=True)
        with private_folder(self.folder / "runs") as scratch:
            part = Path(scratch) / "part"
            part.mkdir()
            try:
                code = self._receive(pod, part)
            except UnsafeArchiveError as error:
                self._note(pod, f"its files are refused: {one_line(str(error), 300)}")
                return True
            except ArchiveError as error:
                self._note(pod, f"its files are not whole: {one_line(str(error), 300)}")
                return False
            if code == 0:
                part.rename(target)
                count = sum(path.is_file() for path in target.rglob("*"))
                logger.info(f"{pod}: {count} files in {target}")
        return code == 0

    def _receive(self, pod: str, part: Path) -> int:
        """Unpack what the pod sends, and return the exit code."""
        with programs.background(self._sidecar(pod)) as process:
            timer = Timer(_SECONDS, process.kill)
            timer.daemon = True
            timer.start()
            try:
                assert process.stdout is not None
                if not process.stdout.peek(1):  # type: ignore[attr-defined] # a BufferedReader
                    return self._unsent(pod, process.wait())
                unpack(process.stdout, part)
                return process.wait()
            finally:
                timer.cancel()

    def _unsent(self, pod: str, code: int) -> int:
        if code != NOT_READY:
            self._note(pod, f"its files can't be fetched: `kubectl exec` ended with {code}; pods/exec may be forbidden")
        return code or 1

    def _end_waiting(self, pod: str) -> None:
        try:
            programs.ask(self._sidecar(pod, "fetched"))
        except MadengineError as error:
            # It may have ended meanwhile, at the end of its time.
            logger.debug(f"{pod}: {error}")

    def _sidecar(self, pod: str, *words: str) -> BaseCommand:
        return self.kubectl("exec", pod, "--container", "report", "--", *_SENDER, *words)

    def _note(self, pod: str, problem: str) -> None:
        self.problems[pod] = problem
        logger.info(f"{pod}: {problem}")
