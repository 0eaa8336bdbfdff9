"""One container from its start to its removal, its log followed as it grows."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from io import FileIO
from pathlib import Path
from typing import NamedTuple

from madengine import programs
from madengine.errors import CommandError, RunError
from madengine.programs import secret_files
from madengine.programs.engine import Container, Docker, State, explain_engine_error, is_limit_refused
from madengine.results.metrics import MetricScan

logger = logging.getLogger(__name__)

# An engine that is being restarted is asked again for so long.
ENGINE_GRACE_SECONDS = 30.0
START_SECONDS = 300.0
# Before a container that the engine has lost sight of is waited for again.
WAIT_AGAIN_SECONDS = 1.0
_CHUNK = 1 << 20


class ContainerExit(NamedTuple):
    """How a container ended.

    `reason` says why it had to be stopped, if it had to, `state` how it was then (None where somebody else has
    removed it), `said` what came outside the model's own log; one that `stays` runs on.
    """

    reason: str
    state: State | None
    said: str
    interrupted: bool
    stays: bool


@dataclass(frozen=True)
class ContainerRun:
    """The life of one container, whatever happens to it.

    `log` is the file that it writes to; `scan` and `live` get what it writes. After `patience` seconds (0 is without
    end) it is stopped; with `keep_alive` it stays after its script. `stopping` breaks it off.
    """

    engine: Docker
    container: Container
    log: FileIO
    scan: MetricScan
    patience: float
    keep_alive: bool
    live: Callable[[bytes], None] | None
    stopping: threading.Event

    def run(self) -> ContainerExit:
        """Start the container, follow it to its end and remove it, also at Ctrl-C.

        Raises RunError where it can't be started, or the engine doesn't answer any more; it is removed then too.
        """
        reason, state, interrupted = "", None, False
        try:
            try:
                self._start(self.container)
                reason, state = self._followed()
            except KeyboardInterrupt:
                interrupted, reason = True, "interrupted"
            if reason:
                self._stop()
                state = self._state()
            said = self._keep_engine_log()
        finally:
            stays = self.keep_alive and not reason and state is not None and state.running
            if not stays:
                self._remove()
        self.scan.finish()
        return ContainerExit(reason, state, said, interrupted, stays)

    @property
    def name(self) -> str:
        """The container's name."""
        return self.container.name

    def _start(self, container: Container) -> None:
        answer = self._attempted(container)
        if answer.code == 0:
            return
        if container.unlimited and is_limit_refused(answer.err):
            self._remove()
            self._start(replace(container, unlimited=False))
            return
        how = "no answer" if answer.code is None else f"exit code {answer.code}"
        raise RunError(f"{self.engine.name} could not start the container ({how}): {explain_engine_error(answer.err)}")

    def _attempted(self, container: Container) -> programs.Answer:
        if not container.secrets:
            return programs.attempt(self.engine.run(container), seconds=START_SECONDS)
        with secret_files.private_file(secret_files.variables(container.secrets)) as file:
            return programs.attempt(self.engine.run(replace(container, env_file=file)), seconds=START_SECONDS)

    def _followed(self) -> tuple[str, State | None]:
        """Follow a container to its end; gives the reason where it has to be stopped, and how it is then."""
        deadline = time.monotonic() + self.patience if self.patience else None
        while True:
            reason = self._follow(deadline)
            state = self._state()
            if reason or state is None or not state.running or self._is_kept():
                return reason, state
            # The engine has lost sight of a container that goes on: it was restarted, or the line to it broke.
            time.sleep(WAIT_AGAIN_SECONDS)

    def _follow(self, deadline: float | None) -> str:
        """Hand the log on as it grows until the container ends; gives the reason where it has to be stopped."""
        with programs.background(self.engine.wait(self.name)) as waiter:
            while True:
                ended = waiter.poll() is not None or self._is_kept()
                if chunk := self.log.read(_CHUNK):
                    self.scan.feed(chunk)
                    if self.live:
                        self.live(chunk)
                elif ended:
                    return ""
                else:
                    programs.pause(waiter, 0.1)
                if self.stopping.is_set():
                    raise KeyboardInterrupt
                if deadline and time.monotonic() > deadline:
                    return "timeout: the container did not end in time"

    def _is_kept(self) -> bool:
        """Whether the script has ended in a container that stays."""
        return self.keep_alive and Path(str(self.log.name)).with_name("entry.json").exists()

    def _state(self) -> State | None:
        """How the container is now; an engine that is being restarted gets some time to answer."""
        deadline = time.monotonic() + ENGINE_GRACE_SECONDS
        while True:
            try:
                return self.engine.state(self.name)
            except CommandError as error:
                if time.monotonic() > deadline:
                    raise RunError(f"{self.engine.name} doesn't answer any more: {error}") from error
            time.sleep(0.5)

    def _stop(self) -> None:
        seconds = self.container.stop_seconds
        with suppress(CommandError):
            programs.attempt(self.engine.stop(self.name, seconds), seconds=seconds + 20)
            state = self.engine.state(self.name)
            if state and state.running:
                programs.attempt(self.engine.kill(self.name))

    def _remove(self) -> None:
        """Remove the container and make sure that it is gone: what it holds, GPUs among it, is free then."""
        by_hand = f"`{self.engine.name} rm --force {self.name}`"
        try:
            answer = programs.attempt(self.engine.remove(self.name))
            if answer.code != 0 and self.engine.state(self.name) is not None:
                logger.info(
                    f"{self.name} could not be removed: {answer.last_line}; `{self.engine.name} rm --force {self.name}`"
                )
        except CommandError as error:
            logger.info(f"{self.name} may still be there: {error}; {by_hand}")

    def _keep_engine_log(self) -> str:
        """What was said outside the model's own log (entry.sh's errors, a missing shell) goes to its end."""
        answer = programs.attempt(self.engine.logs(self.name))
        said = (answer.out + answer.err).strip()
        if not said or answer.code != 0:
            return ""
        with suppress(OSError):
            self.log.seek(0, os.SEEK_END)
            self.log.write(f"{said}\n".encode(errors="replace"))
        return said
