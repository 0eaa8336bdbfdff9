"""ansible-playbook: found on PATH, else beside this Python, as pip installs it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from madengine import programs

if TYPE_CHECKING:
    from plumbum.commands.base import BaseCommand

NAME = "ansible-playbook"
# What ansible-playbook exits with where tasks of hosts failed, and after Ctrl-C.
HOSTS_FAILED, INTERRUPTED = 2, 99


def run_playbook(playbook: Path, words: Sequence[str]) -> BaseCommand:
    """Return the command that runs a playbook with these options."""
    return programs.program(programs.installed_path(NAME) or NAME, *words, "--", str(playbook))
