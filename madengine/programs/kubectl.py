"""kubectl: what it knows of a namespace's objects, and the logs of its pods."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from madengine import programs
from madengine.errors import MadengineError

if TYPE_CHECKING:
    from plumbum.commands.base import BaseCommand

_LOG_SECONDS = 600.0
# Without --server-side kubectl copies an object into an annotation, which holds 256 KiB.
_APPLY_BYTES = 200_000


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

    def apply(self, path: Path) -> BaseCommand:
        """Return the command that creates or updates the objects of a file."""
        is_large = path.exists() and path.stat().st_size > _APPLY_BYTES
        return self("apply", *(["--server-side", "--force-conflicts"] if is_large else []), "--filename", str(path))

    def delete(self, path: Path, *options: str) -> BaseCommand:
        """Return the command that deletes the objects of a file, those that there are."""
        return self("delete", "--filename", str(path), "--ignore-not-found", *options)

    def get_namespace(self) -> BaseCommand:
        return self("get", "namespace", self.namespace)

    def create_namespace(self) -> BaseCommand:
        return self("create", "namespace", self.namespace)

    def has_namespace(self) -> bool:
        """Whether the namespace exists, also if the user may not look at namespaces."""
        answer = programs.attempt(self.get_namespace())
        return answer.code == 0 or "NotFound" not in answer.err

    def active_jobs(self, path: Path) -> list[str]:
        """Return the names of the Jobs of a file that have running pods."""
        columns = "custom-columns=NAME:.metadata.name,ACTIVE:.status.active"
        answer = programs.attempt(
            self("get", "--filename", str(path), "--ignore-not-found", "--no-headers", "--output", columns)
        )
        lines = [line.split() for line in answer.out.splitlines()]
        return [cells[0] for cells in lines if cells[1:] and cells[1] not in ("0", "<none>")]


def is_installed() -> bool:
    return bool(shutil.which("kubectl"))
