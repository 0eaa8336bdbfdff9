"""A host whose connection is lost is tried again; one that refuses, while it can be reached, is not."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from madengine.errors import CommandError, MadengineError, RunError
from madengine.programs import Answer, ssh

_LONGEST_PAUSE = 15.0
_LONGEST_ATTEMPT = 60.0
# So often the same failure, though ssh works, is a refusal; after a lost connection the host needs time to notice it.
_REFUSALS = 3
_RECOVERY_SECONDS = 120.0


class LostError(MadengineError):
    """A node that can't be reached any more; its run may still be going on."""


class StoppedError(MadengineError):
    """Ctrl-C was pressed meanwhile."""


@dataclass
class Reconnection:
    """One thing that is attempted on a host until the connection holds."""

    #: whether `ssh HOST true` succeeds
    is_reachable: Callable[[], bool]
    #: how long a host that isn't reached is tried, in seconds
    patience: float
    tell: Callable[[str], None]
    stopping: threading.Event
    _lost_at: float = 0.0
    _pause: float = 0.5
    _reason: str = ""
    _refusals: int = 0
    _was_connected: bool = False

    def attempt(self, attempt: Callable[[], Answer]) -> Answer:
        """Return the answer, however often the connection is lost meanwhile.

        Raises LostError where the host wasn't reached for `patience` seconds, RunError where it refuses.
        """
        while True:
            began = time.monotonic()
            answer = self._unless_stopped(attempt)
            if not ssh.is_broken(answer):
                return answer
            self._note(answer, began)
            if time.monotonic() - self._lost_at >= self.patience:
                raise LostError(self._reason)
            self.tell(f"connection lost: {self._reason}; retry in {self._pause:g} s")
            self.stopping.wait(self._pause)
            self._pause = min(self._pause * 2, _LONGEST_PAUSE)

    def _note(self, answer: Answer, began: float) -> None:
        """Note a failure. Raises RunError where it is a refusal."""
        now = time.monotonic()
        # No attempt to connect takes longer: there was a connection.
        was_connected = bool(answer.out) or now - began > _LONGEST_ATTEMPT
        if not self._lost_at or was_connected:
            self._lost_at, self._pause = now, 0.5
        reason, before = ssh.explain(answer), self._reason
        self._reason = reason
        self._was_connected |= was_connected
        if was_connected or reason != before:
            self._refusals = 1
        elif self.is_reachable():
            self._refusals += 1
        else:
            self._was_connected, self._refusals = True, 0
        if self._refusals >= _REFUSALS and (not self._was_connected or now - self._lost_at > _RECOVERY_SECONDS):
            raise RunError(f"{reason}, though the host can be reached{_hint(reason)}")

    def _unless_stopped(self, attempt: Callable[[], Answer]) -> Answer:
        try:
            answer = attempt()
        except CommandError:
            if not self.stopping.is_set():
                raise
            raise StoppedError("interrupted") from None
        if self.stopping.is_set():
            raise StoppedError("interrupted")
        return answer


def _hint(reason: str) -> str:
    if "forward" not in reason:
        return ""
    return (
        ": its sshd must allow a tunnel to this machine's registry (AllowTcpForwarding, PermitListen); or push to an "
        "address that the nodes reach"
    )
