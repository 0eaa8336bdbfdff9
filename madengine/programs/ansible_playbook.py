"""ansible-playbook: found on PATH, else beside this Python, as pip installs it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from madengine import programs
from madengine.programs.caller_settings import log_settings

if TYPE_CHECKING:
    from plumbum.commands.base import BaseCommand

NAME = "ansible-playbook"
# What ansible-playbook exits with where tasks of hosts failed, and after Ctrl-C.
HOSTS_FAILED, INTERRUPTED = 2, 99


def run_playbook(playbook: Path, words: Sequence[str]) -> BaseCommand:
    """Return the command that runs a playbook with these options."""
    log_settings(NAME, ["ANSIBLE_*"], os.environ, "it follows them")
    # The whole playbook, whatever tags the user's own settings choose.
    tags = {"ANSIBLE_RUN_TAGS": "all", "ANSIBLE_SKIP_TAGS": ""}
    # What GitHub shows of its job is written once, by the caller, not by the playbook's own collect too.
    env = {**tags, "GITHUB_ACTIONS": ""}
    return programs.program(programs.installed_path(NAME) or NAME, *words, "--", str(playbook), env=env)
