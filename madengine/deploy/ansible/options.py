"""What the Ansible target is called with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class AnsibleOptions:
    """What the playbook is generated from, and how ansible-playbook runs it."""

    manifest_file: Path = Path("build_manifest.json")
    #: as `export-config` writes it
    execution_config: Path = Path("execution_config.json")
    #: the playbook; madengine.pyz and the example inventory are written beside it
    output: Path = Path("madengine_distributed.yml")
    #: folder in which ansible/playbook.yml and ansible/gpu_inventory.example are looked up first
    template_dir: Path | None = None
    #: a file, a folder, or hosts with commas between, as ansible-playbook takes it
    inventory: str = ""
    #: pattern of the inventory's nodes to run on; empty for all
    limit: str = ""
    #: nodes at once; None for Ansible's own setting
    forks: int | None = None
    #: variables of the playbook, each NAME=VALUE, JSON or @FILE
    extra_vars: tuple[str, ...] = ()
    vault_password_file: Path | None = None
    ask_vault_pass: bool = False
    #: ask for the password of the ssh connection
    ask_pass: bool = False
    ask_become_pass: bool = False
    become: bool = False
    become_user: str = ""
    become_method: str = ""
    become_password_file: Path | None = None
    #: change nothing on the nodes, only check them
    check: bool = False
    #: show what changes in files
    diff: bool = False
