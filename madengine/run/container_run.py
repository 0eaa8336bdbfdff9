"""One container from its start to its removal, its log followed as it grows."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from functools import cached_property
from io import FileIO
from pathlib import Path
from typing import NamedTuple

from madengine import programs
from madengine.errors import CommandError, RunError
from madengine.programs import secret_files
from madengine.programs.engine import Container, Docker
from madengine.programs.engine_answers import State
from madengine.programs.engine_errors import explain_engine_error, is_init_missing, is_limit_refused
from madengine.programs.engine_files import is_hidden
from madengine.results.metrics import MetricScan
from madengine.run.background import Background
from madengine.run.masked_log import MaskedLog
from madengine.run.owner_pipe import owner_pipe

logger = logging.getLogger(__name__)

# How long an engine that is being restarted may take to answer again.
ENGINE_GRACE_SECONDS = 30.0
START_SECONDS = 300.0
# Before waiting again for a container that the engine has lost sight of.
WAIT_AGAIN_SECONDS = 1.0
# entry.sh's exit code where it can't start the script.
ENTRY_FAILED = 125
# The engines whose init is not installed; one line says so, and entry.sh does without.
_without_init: set[str] = set()
# Those whose containers have users of their own, which may not write to a run's folder.
_with_host_users: set[str] = set()


class ContainerExit(NamedTuple):
    """How a container ended."""

    #: Why it had to be stopped; empty if it ended by itself.
    reason: str
    #: Its last state; None if it was removed meanwhile.
    state: State | None
    #: What it printed outside of the model's own log.
    engine_output: str
    interrupted: bool
    #: The container keeps running.
    stays: bool


@dataclass(frozen=True)
class ContainerRun:
    """The life of one container."""

    engine: Docker
    container: Container
    #: The file that the container writes to.
    log: FileIO
    scan: MetricScan
    #: Seconds until the container is stopped; 0 is without end.
    patience: float
    #: The container stays after its script.
    keep_alive: bool
    #: Gets the log as it grows.
    live: Callable[[bytes], None] | None
    #: Breaks the run off when it is set.
    stopping: threading.Event
    #: What must not be shown, nor stay in the log.
    secrets: Sequence[str] = ()
    #: Gets the id of the container when it has started.
    begin: Callable[[str], None] = lambda _: None
    #: Says why the container has to be stopped, empty while it may go on; None if only time and user do.
    stop_reason: Callable[[], str] | None = None

    def run(self) -> ContainerExit:
        """Start the container, follow it to its end and remove it, also at Ctrl-C.

        Raises RunError if it can't be started, or the engine stops answering; it is removed then too.
        The container stops by itself if this process is killed.
        """
        # A container that stays has no owner.
        with nullcontext() if self.keep_alive else owner_pipe(Path(str(self.log.name)).parent):
            return self._run()

    def _run(self) -> ContainerExit:
        reason, state, output, interrupted = "", None, "", False
        try:
            try:
                self._start(self.container)
                reason, state, output = self._follow_to_end()
                if _may_not_write(state, output) and self._needs_host_users():
                    self._remove()
                    self._start(self.container)
                    reason, state, output = self._follow_to_end()
            except KeyboardInterrupt:
                interrupted, reason = True, "interrupted"
            if reason:
                self._stop()
                state, output = self._state_and_output()
            self._masked_log.read_to_end()
            self._append_to_log(programs.redact(output))
        finally:
            stays = self.keep_alive and not reason and state is not None and state.running
            if not stays:
                self._remove()
            self._masked_log.read_to_end()
        self.scan.finish()
        return ContainerExit(reason, state, output, interrupted, stays)

    @cached_property
    def _masked_log(self) -> MaskedLog:
        return MaskedLog(self.log, self.secrets)

    @property
    def name(self) -> str:
        """The container's name."""
        return self.container.name

    def _start(self, container: Container) -> None:
        if self.engine.name in _without_init:
            container = replace(container, init=False)
        if self.engine.name in _with_host_users:
            container = replace(container, host_users=True)
        answer = self._attempt_start(container)
        if answer.code == 0:
            self.begin(answer.out)
            return
        if possible := self._without_missing(container, answer.err):
            self._remove()
            self._start(possible)
            return
        how = "no answer" if answer.code is None else f"exit code {answer.code}"
        raise RunError(f"{self.engine.name} could not start the container ({how}): {explain_engine_error(answer.err)}")

    def _needs_host_users(self) -> bool:
        """Whether another start may help a container that may not write to the workspace."""
        if self.engine.name in _with_host_users or not self.engine.remaps_users():
            return False
        logger.info(f"{self.engine.name} gives containers users of their own (userns-remap): started with the host's")
        _with_host_users.add(self.engine.name)
        return True

    def _without_missing(self, container: Container, problem: str) -> Container | None:
        """Return the container without what it could not be started with; None if that wasn't the problem."""
        if container.unlimited and is_limit_refused(problem):
            return replace(container, unlimited=False)
        if container.init and is_init_missing(problem):
            logger.info(
                f"{self.engine.name} has no init: containers start without one ({explain_engine_error(problem)})"
            )
            _without_init.add(self.engine.name)
            return replace(container, init=False)
        return None

    def _attempt_start(self, container: Container) -> programs.Answer:
        if not container.secrets:
            return programs.attempt(self.engine.run(container), seconds=START_SECONDS)
        with secret_files.private_file(secret_files.variables(container.secrets)) as file:
            answer = programs.attempt(self.engine.run(replace(container, env_file=file)), seconds=START_SECONDS)
            if not (answer.code and is_hidden(Path(file), answer.err)):
                return answer
        # An engine with a /tmp of its own takes them by name.
        return programs.attempt(self.engine.run(container), seconds=START_SECONDS)

    def _follow_to_end(self) -> tuple[str, State | None, str]:
        """Follow the container to its end; return the reason to stop it, or its state and what the engine logged."""
        deadline = time.monotonic() + self.patience if self.patience else None
        while True:
            if reason := self._follow(deadline):
                return reason, None, ""
            state, output = self._state_and_output()
            if state is None or not state.running or self._has_ended_alive():
                return "", state, output
            # The engine has lost sight of a running container: it was restarted, or the connection to it broke.
            time.sleep(WAIT_AGAIN_SECONDS)

    def _follow(self, deadline: float | None) -> str:
        """Hand the log on as it grows until the container ends; return the reason if it has to be stopped."""
        with programs.background(self.engine.wait(self.name)) as waiter:
            while True:
                ended = waiter.poll() is not None or self._has_ended_alive()
                if (part := self._masked_log.read()).raw:
                    self.scan.feed(part.raw)
                    self._show(part.text)
                elif ended:
                    self._show(self._masked_log.read_to_end())
                    return ""
                else:
                    programs.pause(waiter, 0.1)
                if self.stopping.is_set():
                    raise KeyboardInterrupt
                if self.stop_reason and (reason := self.stop_reason()):
                    return f"stopped: {reason}"
                if deadline and time.monotonic() > deadline:
                    return "timeout: the container did not end in time"

    def _show(self, text: bytes) -> None:
        if self.live and text:
            self.live(text)

    def _has_ended_alive(self) -> bool:
        """Return whether the script has ended in a container that stays."""
        return self.keep_alive and Path(str(self.log.name)).with_name("entry.json").exists()

    def _state_and_output(self) -> tuple[State | None, str]:
        """Return the container's state and what it printed outside of the model's own log (entry.sh's errors, say)."""
        with Background(self._engine_output) as engine_output:
            state, output = self._state(), engine_output.result()
        # An engine that was being restarted answers only now.
        return state, (self._engine_output() or "") if output is None else output

    def _state(self) -> State | None:
        """Return the container's state; an engine that is being restarted gets some time to answer."""
        deadline = time.monotonic() + ENGINE_GRACE_SECONDS
        while True:
            try:
                return self.engine.state(self.name)
            except CommandError as error:
                if time.monotonic() > deadline:
                    raise RunError(f"{self.engine.name} stopped answering: {error}") from error
            time.sleep(0.5)

    def _engine_output(self) -> str | None:
        answer = programs.attempt(self.engine.logs(self.name))
        return (answer.out + answer.err).strip() if answer.code == 0 else None

    def _append_to_log(self, output: str) -> None:
        if output:
            with suppress(OSError):
                self.log.seek(0, os.SEEK_END)
                self.log.write(f"{output}\n".encode(errors="replace"))

    def _stop(self) -> None:
        seconds = self.container.stop_seconds
        with suppress(CommandError):
            programs.attempt(self.engine.stop(self.name, seconds), seconds=seconds + 20)
            state = self.engine.state(self.name)
            if state and state.running:
                programs.attempt(self.engine.kill(self.name))

    def _remove(self) -> None:
        """Remove the container and check that it is gone: what it holds, GPUs included, is free then."""
        command = f"`{self.engine.name} rm --force {self.name}`"
        try:
            answer = programs.attempt(self.engine.remove(self.name))
            if answer.code != 0 and self.engine.state(self.name) is not None:
                logger.info(f"{self.name} could not be removed: {answer.last_line}; {command}")
        except CommandError as error:
            logger.info(f"{self.name} may still be there: {error}; {command}")


def _may_not_write(state: State | None, output: str) -> bool:
    """Whether entry.sh found that the container's root may not write to the workspace."""
    return state is not None and state.exit_code == ENTRY_FAILED and "can't be made" in output
