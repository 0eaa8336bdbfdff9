"""What the madengines of several nodes have reported, and what follows from it for all of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Message = Mapping[str, Any]

_ENDED_EARLY = "its madengine ended"


@dataclass
class Meeting:
    """Rank 0's record of a run: who has joined, and how far each is with the model of this round.

    All ranks run the same models in the same order. A model starts once every rank is ready for it; the first failure
    stops it on all of them; its round ends once every rank that is left has ended it. Each method returns the message
    for all ranks, if there is something new for them.
    """

    nodes: int
    #: names of those that have joined
    machines: dict[int, str] = field(default_factory=dict)
    #: as the others reach them
    addresses: dict[int, str] = field(default_factory=dict)
    #: why each that has left did so; empty if it had nothing more to do
    _left: dict[int, str] = field(default_factory=dict)
    _model: str = ""
    _ready: set[int] = field(default_factory=set)
    _results: dict[int, Any] = field(default_factory=dict)
    _cause: str = ""
    #: the rank of that
    _culprit: int | None = None

    def join(self, rank: int, machine: str, address: str, port: int) -> Message | None:
        """Take a rank in. Raises ValueError for one that is there already, or that the run doesn't have."""
        if not 0 <= rank < self.nodes or rank in self.machines:
            raise ValueError(f"rank {rank}: expected another one of 0 to {self.nodes - 1}")
        self.machines[rank], self.addresses[rank] = machine, address
        if self._left:
            gone = min(self._left)
            return self.fail(gone, self._left[gone] or _ENDED_EARLY) or self._stop()
        if not self.is_complete:
            return None
        nodes = range(self.nodes)
        addresses, machines = [self.addresses[node] for node in nodes], [self.machines[node] for node in nodes]
        return {"type": "world", "port": port, "addresses": addresses, "machines": machines}

    @property
    def is_complete(self) -> bool:
        """Whether all have joined."""
        return len(self.machines) == self.nodes

    def ready(self, rank: int, model: str) -> Message | None:
        """Note that a rank is about to start a model."""
        self._enter(rank, model)
        self._ready.add(rank)
        if self._cause:
            return self._stop()
        return {"type": "go", "model": model} if len(self._ready) == self.nodes else None

    def fail(self, rank: int, reason: str) -> Message | None:
        """Note why a rank can't go on with this round's model, which it ends later."""
        if self._cause:
            return None
        self._blame(rank, reason)
        return self._stop()

    def end(self, rank: int, model: str, result: Any, reason: str) -> list[Message]:
        """Note a rank's result, with the reason of a failure."""
        self._enter(rank, model)
        self._results[rank] = result
        stop = self.fail(rank, reason) if reason else None
        return [message for message in (stop, self._conclude()) if message]

    def leave(self, rank: int, reason: str | None) -> list[Message]:
        """Note that a rank has left: with a reason, after its last model (empty), or without a word (None)."""
        if rank in self._left:
            return []
        self._left[rank] = _ENDED_EARLY if reason is None else reason
        if self.is_complete and (not self._model or rank in self._results):
            # Between two models the others learn it now: rank 0 may be gone before the next.
            stop = self.fail(rank, self._left[rank]) if reason and not self._model else None
            return [message for message in (stop, self._conclude()) if message]
        stop = self.fail(rank, self._left[rank] or _ENDED_EARLY)
        return [message for message in (stop, self._conclude()) if message]

    def missing(self, seconds: float) -> Message | None:
        """Note that the ranks which have not joined by now won't."""
        ranks = [rank for rank in range(self.nodes) if rank not in self.machines]
        for rank in ranks:
            self.machines[rank] = ""
            self._left[rank] = f"did not start within {seconds:g} s"
        return self.fail(ranks[0], self._left[ranks[0]]) if ranks else None

    def _enter(self, rank: int, model: str) -> None:
        """Begin a round, or note that a rank is in another one."""
        if not self._model:
            self._model = model
            gone = next(iter(sorted(self._left)), None)
            if gone is not None:
                self._blame(gone, self._left[gone] or _ENDED_EARLY)
        elif model != self._model and not self._cause:
            self._blame(rank, f"runs {model} where others run {self._model}")

    def _stop(self) -> Message:
        return {"type": "stop", "model": self._model, "reason": self._cause}

    def _conclude(self) -> Message | None:
        """End the round if every rank that is left has ended it."""
        if not self._model or set(range(self.nodes)) - self._left.keys() - self._results.keys():
            return None
        results = {str(rank): result for rank, result in self._results.items()}
        end = {"model": self._model, "reason": self._cause, "culprit": self._culprit, "results": results}
        self._model, self._cause, self._culprit, self._ready, self._results = "", "", None, set(), {}
        return {"type": "done", **end}

    def _blame(self, rank: int, reason: str) -> None:
        machine = self.machines.get(rank, "")
        self._cause = f"rank {rank}{f' ({machine})' if machine else ''}: {reason}"
        self._culprit = rank
