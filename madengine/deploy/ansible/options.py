"""What the Ansible target is called with: the options of the command line."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from madengine.config.common_options import (
    ExecutionConfigOptions,
    ForksOptions,
    ManifestOptions,
    RepeatOptions,
    TemplateOptions,
)
from madengine.config.option import Group, inherited, option

_ANSIBLE = Group.ANSIBLE


@dataclass(frozen=True)
class PlaybookOptions(ManifestOptions, ExecutionConfigOptions, TemplateOptions, RepeatOptions):
    """What the playbook is generated from, and where it is written."""

    #: madengine.pyz and the example inventory are written beside it.
    playbook: Path = option(
        "--playbook", default=Path("madengine_distributed.yml"), group=_ANSIBLE, parse=Path, metavar="FILE",
        help="the playbook (default: madengine_distributed.yml)",
    )  # fmt: skip

    def __post_init__(self) -> None:
        """Raise ConfigurationError for options that contradict one another."""
        self.check_repeats()


@dataclass(frozen=True)
class GeneratePlaybookOptions(PlaybookOptions):
    """The playbook is the command's output."""

    playbook: Path = inherited(
        PlaybookOptions, "playbook", Path("madengine_distributed.yml"), flags=("--output", "-o"), group=Group.OUTPUT
    )


@dataclass(frozen=True)
class AnsibleOptions(PlaybookOptions, ForksOptions):
    """How ansible-playbook runs the playbook; the flags are its own."""

    inventory: str = option(
        "--inventory", "-i", default="", group=_ANSIBLE, metavar="FILE",
        help="a file, a folder, or hosts separated by commas, as ansible-playbook takes it",
    )  # fmt: skip
    limit: str = option(
        "--limit", default="", group=_ANSIBLE, metavar="PATTERN", help="nodes of the inventory (default: all)"
    )
    extra_vars: tuple[str, ...] = option(
        "--extra-vars", default=(), group=_ANSIBLE, many=True, metavar="NAME=VALUE",
        help="variables of the playbook, also as JSON or @FILE",
    )  # fmt: skip
    vault_password_file: Path | None = option(
        "--vault-password-file", default=None, group=_ANSIBLE, parse=Path, metavar="FILE", exists="file",
        help="the password of an Ansible vault",
    )  # fmt: skip
    ask_vault_pass: bool = option(
        "--ask-vault-pass", default=False, group=_ANSIBLE, help="ask for the vault's password"
    )
    ask_pass: bool = option(
        "--ask-pass", default=False, group=_ANSIBLE, help="ask for the password of the ssh connection"
    )
    ask_become_pass: bool = option(
        "--ask-become-pass", default=False, group=_ANSIBLE, help="ask for the password of --become"
    )
    become: bool = option("--become", default=False, group=_ANSIBLE, help="run as another user on the nodes")
    become_user: str = option(
        "--become-user", default="", group=_ANSIBLE, metavar="NAME", help="this user (default: root)"
    )
    become_method: str = option(
        "--become-method", default="", group=_ANSIBLE, metavar="NAME", help="how (default: sudo)"
    )
    become_password_file: Path | None = option(
        "--become-password-file", default=None, group=_ANSIBLE, parse=Path, metavar="FILE", exists="file",
        help="the password of --become",
    )  # fmt: skip
    check: bool = option("--check", default=False, group=_ANSIBLE, help="change nothing on the nodes, only check them")
    diff: bool = option("--diff", default=False, group=_ANSIBLE, help="show what changes in files")
