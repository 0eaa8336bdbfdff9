"""Waits until Jobs have ended, and says meanwhile why pods don't start."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from madengine import programs
from madengine.deploy.kubernetes import SELECTOR
from madengine.deploy.kubernetes.names import one_line
from madengine.deploy.kubernetes.objects import (
    Event,
    JobStatus,
    PodStatus,
    events_of,
    is_unfinished_jobset,
    jobs_of,
    pods_of,
)
from madengine.errors import CommandError, MadengineError
from madengine.programs.kubectl import Kubectl, items_of

logger = logging.getLogger(__name__)

POLL_SECONDS = 5.0
# An API server that is being upgraded is away for some minutes.
_PATIENCE_SECONDS = 900.0
# The events of a pod that doesn't start and has no condition that says why.
_OBSTACLES = frozenset(("FailedMount", "FailedAttachVolume", "FailedMapVolume", "FailedCreatePodSandBox"))


@dataclass
class Watch:
    """The Jobs of a namespace, of one run if `run_id` is not empty, and why their pods don't start."""

    kubectl: Kubectl
    run_id: str = ""
    #: The last reason by the Job's name.
    blockers: dict[str, str] = field(default_factory=dict)
    #: What to do with the Jobs and pods at each look.
    on_look: Callable[[Iterable[JobStatus], Iterable[PodStatus]], None] = lambda jobs, pods: None
    _logged: set[tuple[str, str]] = field(default_factory=set)

    def jobs(self) -> list[JobStatus]:
        """Return the Jobs. Raises MadengineError if kubectl fails."""
        jobs = jobs_of(self.kubectl.objects("jobs", SELECTOR))
        return [job for job in jobs if self.run_id in ("", job.run_id)]

    def wait(self) -> list[JobStatus]:
        """Return the Jobs once all have ended; each has a deadline of its own, and Ctrl-C ends the waiting."""
        waiting: list[str] | None = None
        reached = time.monotonic()
        while True:
            try:
                jobs = self.jobs()
                pods = pods_of(self.kubectl.objects("pods", SELECTOR)) if any(not job.condition for job in jobs) else []
                unfinished = [job.name for job in jobs if not (job.condition or is_lost(job, pods))]
                if not unfinished and (jobs or not self._jobsets()):
                    return jobs
                self.look(jobs, pods)
                reached = time.monotonic()
            except CommandError as error:
                if time.monotonic() - reached > _PATIENCE_SECONDS:
                    raise
                logger.info(f"{error}; retrying")
                time.sleep(POLL_SECONDS)
                continue
            if unfinished != waiting:
                logger.info(f"waiting for {len(unfinished)} of {len(jobs)} Jobs: {_some(unfinished)}")
            waiting = unfinished
            time.sleep(POLL_SECONDS)

    def _jobsets(self) -> bool:
        """Whether there are JobSets of the run, whose controller has yet to make their Jobs."""
        words = ("get", "jobsets.jobset.x-k8s.io", "--request-timeout=30s", "--selector", SELECTOR, "--output", "json")
        answer = programs.attempt(self.kubectl(*words))
        if answer.code != 0:  # the cluster has no JobSets
            return False
        return any(is_unfinished_jobset(item, self.run_id) for item in items_of(answer.out, "kubectl get jobsets"))

    def look(self, jobs: Iterable[JobStatus], pods: Iterable[PodStatus]) -> None:
        """Log why pods don't start, once each, and remember it."""
        jobs, pods = list(jobs), list(pods)
        self.on_look(jobs, pods)
        unfinished = {job.name: job for job in jobs if not job.condition}
        waiting = {pod.name: pod for pod in pods if pod.job in unfinished and not pod.ended}
        events = self._events("type=Warning") if unfinished else []
        for job in unfinished.values():
            if job.suspended:
                self._note(job.name, job.name, job.suspended)
        for event in events:
            if event.kind == "Job" and event.reason == "FailedCreate" and event.name in unfinished:
                self._note(event.name, event.name, event.text)
            elif event.kind == "Pod" and event.reason in _OBSTACLES and event.name in waiting:
                self._note(waiting[event.name].job, event.name, event.text)
        for pod in waiting.values():
            for blocker in pod.blockers:
                self._note(pod.job, pod.name, blocker)
            if pod.is_lost(time.time()):
                self._log(pod.name, f"{lost(pod)}; `kubectl delete node` if it never returns")

    def look_back(self, jobs: Iterable[JobStatus]) -> None:
        """Remember the last warning about the Jobs or their pods that are gone; the cluster keeps these for an hour."""
        names = sorted((job.name for job in jobs if job.name not in self.blockers), key=len, reverse=True)
        for event in self._events("type=Warning") if names else ():
            for name in names:
                if event.kind in ("Job", "Pod") and f"{event.name}-".startswith(f"{name}-"):
                    self.blockers[name] = event.text
                    break

    def _note(self, job: str, name: str, text: str) -> None:
        self.blockers[job] = text
        self._log(name, text)

    def _log(self, name: str, text: str) -> None:
        if (name, text) not in self._logged:
            self._logged.add((name, text))
            logger.info(f"{name}: {text}")

    def _events(self, selector: str) -> list[Event]:
        """Return the events; none if the user may not list them."""
        words = ("get", "events", "--request-timeout=30s", "--field-selector", selector, "--output", "json")
        try:
            return events_of(items_of(programs.ask(self.kubectl(*words)), "kubectl get events"))
        except MadengineError:
            return []


def lost(pod: PodStatus) -> str:
    """Return what is known of a pod whose node is gone."""
    return f"node {one_line(pod.node, 80)} does not end its pod: it is down or cut off"


def is_lost(job: JobStatus, pods: Iterable[PodStatus]) -> bool:
    """Whether a Job is over, and only pods on nodes that don't answer keep it from saying so."""
    mine = [pod for pod in pods if pod.job == job.name and not pod.ended]
    now = time.time()
    return bool(job.failing and mine) and all(pod.is_lost(now) for pod in mine)


def _some(names: list[str]) -> str:
    return f"{', '.join(names[:5])}{' …' if len(names) > 5 else ''}"
