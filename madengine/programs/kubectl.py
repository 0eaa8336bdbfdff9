"""kubectl: the objects of a namespace, and the logs of its pods."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from madengine import programs
from madengine.errors import MadengineError
from madengine.files import parse_json
from madengine.programs.caller_settings import log_settings

if TYPE_CHECKING:
    from plumbum.commands.base import BaseCommand

NAME = "kubectl"
_LOG_SECONDS = 600.0
# Without --server-side kubectl copies an object into an annotation, which holds 256 KiB.
_APPLY_BYTES = 200_000
_INACTIVE = ("0", "<none>", "false")


def items_of(output: str, command: str) -> list[Mapping[str, Any]]:
    """Return the objects of a list as kubectl prints it. Raises MadengineError for other output."""
    try:
        items = parse_json(output)["items"]
    except (ValueError, KeyError, TypeError):
        items = None
    if not isinstance(items, list):
        raise MadengineError(f"{command}: expected a list of objects, got {output[:100]!r}")
    return items


@dataclass(frozen=True)
class Kubectl:
    """kubectl for one namespace; an empty `context` is the user's current one."""

    namespace: str
    context: str = ""

    def __call__(self, *words: str) -> BaseCommand:
        context = ["--context", self.context] if self.context else []
        name = programs.installed_path(NAME) or NAME
        return programs.program(name, *context, "--namespace", self.namespace, *words, env=_without_preferences())

    def log_caller_settings(self, environ: Mapping[str, str]) -> None:
        """Log where the user's own settings name the cluster."""
        if not self.context:
            log_settings(NAME, ["KUBECONFIG"], environ, "its current context is the cluster that is used")

    def objects(self, kind: str, selector: str) -> list[Mapping[str, Any]]:
        """Return the objects of a kind with these labels.

        Raises CommandError if kubectl fails, MadengineError if its output is not a list of objects.
        """
        output = programs.ask(self("get", kind, "--request-timeout=30s", "--selector", selector, "--output", "json"))
        return items_of(output, f"kubectl get {kind}")

    def keep_log(self, pod: str, container: str, path: Path) -> bool:
        """Write a container's log to a file; return whether the log still exists."""
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
        """Return the names of the Jobs and JobSets of a file that have running pods, or wait in a queue."""
        active, members = "ACTIVE:.status.active", "MEMBERS:.status.replicatedJobsStatus[*].active"
        columns = f"custom-columns=NAME:.metadata.name,{active},{members},SUSPENDED:.spec.suspend"
        answer = programs.attempt(
            self("get", "--filename", str(path), "--ignore-not-found", "--no-headers", "--output", columns)
        )
        lines = [line.split() for line in answer.out.splitlines()]
        return [cells[0] for cells in lines if any(cell not in _INACTIVE for cell in cells[1:])]


def _without_preferences() -> dict[str, str]:
    """Return the variables that keep out the user's own defaults of kubectl's options, where there are any."""
    has_preferences = "KUBERC" in os.environ or (Path.home() / ".kube/kuberc").is_file()
    return {"KUBECTL_KUBERC": "false", "KUBERC": "off"} if has_preferences else {}
