"""kubectl: the objects of a namespace, and the logs of its pods."""

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
    """kubectl for one namespace; an empty `context` is the user's current one."""

    namespace: str
    context: str = ""

    def __call__(self, *words: str) -> BaseCommand:
        context = ["--context", self.context] if self.context else []
        return programs.program("kubectl", *context, "--namespace", self.namespace, *words)

    def objects(self, kind: str, selector: str) -> list[Mapping[str, Any]]:
        """Return the objects of a kind with these labels.

        Raises CommandError if kubectl fails, MadengineError if its output is not a list of objects.
        """
        output = programs.ask(self("get", kind, "--request-timeout=30s", "--selector", selector, "--output", "json"))
        try:
            items: list[Mapping[str, Any]] = json.loads(output)["items"]
        except (ValueError, KeyError, TypeError):
            raise MadengineError(f"kubectl get {kind}: expected a list of objects, got {output[:100]!r}") from None
        return items

    def keep_log(self, pod: str, container: str, path: Path) -> bool:
        """Write a container's log to a file; return whether the log still exists."""
        answer = programs.attempt(self("logs", pod, "--container", container), seconds=_LOG_SECONDS)
        path.write_text(answer.out, encoding="utf-8", errors="surrogateescape")
        return answer.code == 0
