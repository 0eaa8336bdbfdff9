"""What Slurm says of a run's tasks, time after time: each new state is a line, and one that it forgets is an end."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from madengine.errors import CommandError
from madengine.programs.slurm import LAST_SEEN, UNKNOWN, TaskState, task_states

logger = logging.getLogger(__name__)

# How often Slurm may say nothing of a task before it counts as forgotten.
_FORGOTTEN_POLLS = 3


@dataclass
class TaskWatch:
    """The states of the tasks so far."""

    _last: dict[int, TaskState] = field(default_factory=dict)
    #: how often Slurm has said nothing of a task
    _silences: Counter[int] = field(default_factory=Counter)
    #: why Slurm's controller doesn't answer; empty while it does
    _silence: str = ""

    def look(self, jobs: Mapping[int, int], names: Mapping[int, str]) -> Iterator[TaskState]:
        """Yield the states of tasks now, none of those that Slurm says nothing of yet, and log those that are new.

        `jobs` are their jobs by their numbers, and `names` what they are called.
        """
        states = self._answer(jobs)
        for number in jobs if states is not None else ():
            state = (states or {}).get(number) or self._forgotten(jobs[number], number)
            if state is None:
                continue
            if self._last.get(number) != state:
                self._last[number] = state
                what = state.node or (f"({state.reason})" if state.reason else "")
                logger.info(f"{names[number]} ({state.job}_{number}): {state.state.lower()} {what}".rstrip())
            yield state

    def _answer(self, jobs: Mapping[int, int]) -> Mapping[int, TaskState] | None:
        """Return what Slurm says of tasks, by their numbers; None if its controller doesn't answer."""
        tasks: dict[int, list[int]] = {}
        for number, job in jobs.items():
            tasks.setdefault(job, []).append(number)
        try:
            states = task_states(tasks)
        except CommandError as error:
            if str(error) != self._silence:
                logger.info(f"{error}; asking again until there is an answer")
            self._silence = str(error)
            return None
        if self._silence:
            logger.info("Slurm answers again")
            self._silence = ""
        return {state.number: state for state in states if jobs.get(state.number) == state.job}

    def _forgotten(self, job: int, number: int) -> TaskState | None:
        """Return the end of a task of which Slurm says nothing, once that is so several times."""
        self._silences[number] += 1
        if self._silences[number] < _FORGOTTEN_POLLS:
            return None
        last = self._last.get(number, TaskState(job, number, UNKNOWN))
        return (
            last if last.state == UNKNOWN else replace(last, state=UNKNOWN, reason=LAST_SEEN.format(last.state.lower()))
        )
