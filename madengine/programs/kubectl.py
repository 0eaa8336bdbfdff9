"""kubectl: what it knows of a namespace's objects, and the logs of its pods."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from madengine import programs
from madengine.errors import MadengineError

if TYPE_CHECKING:
    from plumbum.commands.base import BaseCommand

_LOG_SECONDS = 600.0


@dataclass(frozen=True)
class Kubectl:
    """kubectl for one namespace; an empty `context` is the current one of the user's configuration."""

    namespace: str
    context: str = ""

    def __call__(self, *words: str) -> BaseCommand:
        chosen = ["--context", self.context] if self.context else []
        return programs.program("kubectl", *chosen, "--namespace", self.namespace, *words)

    def objects(self, kind: str, selector: str) -> list[Mapping[str, Any]]:
        """The objects of a kind with these labels.

        Raises CommandError where kubectl fails, MadengineError where it answers something else.
        """
        said = programs.ask(self("get", kind, "--request-timeout=30s", "--selector", selector, "--output", "json"))
        try:
            items: list[Mapping[str, Any]] = json.loads(said)["items"]
        except (ValueError, KeyError, TypeError):
            raise MadengineError(f"kubectl get {kind}: no list of objects: {said[:100]!r}") from None
        return items

    def keep_log(self, pod: str, container: str, path: Path) -> bool:
        """Write what a container has printed into a file; whether there is still such a log."""
        answer = programs.attempt(self("logs", pod, "--container", container), seconds=_LOG_SECONDS)
        path.write_text(answer.out, encoding="utf-8", errors="surrogateescape")
        return answer.code == 0
