"""The nodes of an Ansible inventory as a target: the generated playbook, run by ansible-playbook."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from madengine import programs
from madengine.config.option import check_existing, from_options, options_of
from madengine.deploy.ansible.generate import generate_ansible
from madengine.deploy.ansible.options import AnsibleOptions
from madengine.deploy.execution_config import DEFAULT_EXECUTION_CONFIG, execution_context
from madengine.deploy.target import Prepared
from madengine.errors import EXIT_DONE, EXIT_FAILURE, EXIT_INTERRUPTED, EXIT_RUN_FAILED, ConfigurationError
from madengine.programs.ansible_playbook import HOSTS_FAILED, INTERRUPTED, NAME, run_playbook
from madengine.results.perf_csv import check_perf_csv
from madengine.session import Session

logger = logging.getLogger(__name__)

_EXIT_CODES = {0: EXIT_DONE, HOSTS_FAILED: EXIT_RUN_FAILED, INTERRUPTED: EXIT_INTERRUPTED}


@dataclass
class AnsibleTarget:
    """ansible-playbook on the caller's terminal; the playbook itself merges the rows and shows the table."""

    OPTIONS: ClassVar[tuple[type, ...]] = (AnsibleOptions,)

    options: AnsibleOptions
    #: exit code of ansible-playbook, None until it has ended
    _code: int | None = field(default=None, init=False)

    @classmethod
    def from_values(cls, values: Mapping[str, Any], manifest_file: Path, session: Session) -> AnsibleTarget:
        """Return the target for a manifest, out of the parsed options."""
        return cls(from_options(AnsibleOptions, {**values, "manifest_file": manifest_file}))

    def check(self) -> None:
        """Raise ConfigurationError for a missing inventory or file, and where ansible-playbook isn't installed."""
        options = self.options
        if not options.inventory:
            raise ConfigurationError(
                "no inventory of nodes: name one with --inventory of `madengine deploy`; `madengine generate ansible` "
                "writes gpu_inventory.example"
            )
        if "," not in options.inventory:
            _check_exists("--inventory", Path(options.inventory))
        check_existing(options_of((AnsibleOptions,)), vars(options))
        for text in options.extra_vars:
            if text.startswith("@"):
                _check_exists("--extra-vars", Path(text[1:]))
        if not programs.installed_path(NAME):
            raise ConfigurationError(f"{NAME} is not installed; `pip install ansible-core`")
        execution_context(options.execution_config or DEFAULT_EXECUTION_CONFIG)
        check_perf_csv(options.playbook.parent / "perf.csv")

    def prepare(self) -> Prepared:
        """Write the playbook, the bundle and the example inventory."""
        options = self.options
        files = generate_ansible(options)
        line = shlex.join([NAME, *(_words(options) or ["--inventory=gpu_inventory"]), str(options.playbook)])
        return Prepared(files.files, files.warnings, (line,))

    def start(self) -> None:
        """Do nothing: ansible-playbook starts the runs and follows them, both in `follow`."""

    def follow(self) -> None:
        """Run the playbook to its end."""
        self._code = programs.foreground(run_playbook(self.options.playbook, _words(self.options)))

    def collect(self) -> int:
        """Return the exit code; the playbook's last play has merged the rows."""
        return EXIT_FAILURE if self._code is None else _EXIT_CODES.get(self._code, EXIT_FAILURE)

    def stop(self) -> None:
        """Say what Ctrl-C, which has ended ansible-playbook, leaves on the nodes."""
        logger.info("interrupted: runs that nodes have started end there, at the latest at their time limits")


def _check_exists(option: str, path: Path) -> None:
    if not path.expanduser().exists():
        raise ConfigurationError(f"{option} {path}: no such file")


def _words(options: AnsibleOptions) -> list[str]:
    return list(_each_word(options))


def _each_word(options: AnsibleOptions) -> Iterator[str]:
    """Return the options as ansible-playbook takes them, those that are set."""
    values = {
        "inventory": options.inventory,
        "limit": options.limit,
        "forks": options.forks,
        "vault-password-file": options.vault_password_file,
        "become-user": options.become_user,
        "become-method": options.become_method,
        "become-password-file": options.become_password_file,
    }
    flags = {
        "ask-vault-pass": options.ask_vault_pass,
        "ask-pass": options.ask_pass,
        "ask-become-pass": options.ask_become_pass,
        "become": options.become,
        "check": options.check,
        "diff": options.diff,
    }
    yield from (f"--{name}={value}" for name, value in values.items() if value)
    yield from (f"--extra-vars={text}" for text in options.extra_vars)
    yield from (f"--{name}" for name, is_set in flags.items() if is_set)
