"""ansible-playbook as a target, with a stand-in for it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from madengine.deploy.ansible.options import AnsibleOptions
from madengine.deploy.ansible.target import AnsibleTarget
from madengine.deploy.target import run_on
from madengine.errors import ConfigurationError
from tests.conftest import StandIns
from tests.unit.deploy.ansible.test_generate import here

__all__ = ["here"]

CHECKOUT = Path(__file__).parents[4]
ALONE = """
from madengine import programs
from madengine.cli.terminal import signals_interrupt
from madengine.deploy.ansible.options import AnsibleOptions
from madengine.deploy.ansible.target import AnsibleTarget
from madengine.deploy.target import run_on
programs.GRACE_SECONDS = 1
with signals_interrupt():
    code = run_on(AnsibleTarget(AnsibleOptions(inventory="a,")))
print("exit code", code, flush=True)
"""


def target(**options: object) -> AnsibleTarget:
    return AnsibleTarget(AnsibleOptions(**{"inventory": "nodes", **options}))  # type: ignore[arg-type]


def test_the_playbook_is_written_and_run_with_the_callers_options(here: Path, stand_ins: StandIns) -> None:
    program = stand_ins.add("ansible-playbook")
    (here / "nodes").write_text("[gpu_nodes]\n")
    (here / "vars.yml").write_text("")
    (here / "vault").write_text("")
    options = {
        "limit": "n1",
        "forks": 3,
        "extra_vars": ("a=1 b=2", "@vars.yml"),
        "vault_password_file": Path("vault"),
        "ask_become_pass": True,
        "become": True,
        "check": True,
        "diff": True,
    }
    assert run_on(target(**options)) == 0
    assert stand_ins.calls() == [
        "ansible-playbook --inventory=nodes --limit=n1 --forks=3 --vault-password-file=vault "
        "'--extra-vars=a=1 b=2' --extra-vars=@vars.yml --ask-become-pass --become --check --diff -- "
        "madengine_distributed.yml"
    ]
    assert program.exists() and (here / "madengine.pyz").exists()


@pytest.mark.parametrize(("code", "expected"), [(0, 0), (2, 3), (1, 1), (4, 1), (250, 1)])
def test_failed_hosts_are_a_failed_run(here: Path, stand_ins: StandIns, code: int, expected: int) -> None:
    stand_ins.add("ansible-playbook", f"exit {code}")
    assert run_on(target(inventory="n1,n2")) == expected


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"inventory": ""}, "no inventory of nodes: name one with --inventory"),
        ({"inventory": "nowhere"}, "--inventory nowhere: no such file"),
        ({"inventory": "a,", "vault_password_file": Path("v")}, "v: no such file; --vault-password-file"),
        ({"inventory": "a,", "extra_vars": ("@x.yml",)}, "--extra-vars x.yml: no such file"),
    ],
)
def test_what_is_missing_is_named_before_anything_is_written(
    here: Path, stand_ins: StandIns, options: dict[str, object], problem: str
) -> None:
    stand_ins.add("ansible-playbook")
    with pytest.raises(ConfigurationError, match=problem):
        run_on(target(**options))
    assert not (here / "madengine_distributed.yml").exists()
    assert stand_ins.calls() == []


def test_the_line_that_is_printed_runs_it_by_hand(here: Path) -> None:
    assert target(limit="n 1").prepare().lines == (
        "ansible-playbook --inventory=nodes '--limit=n 1' --forks=16 madengine_distributed.yml",
    )


@pytest.mark.parametrize(
    ("script", "seconds"),
    [("trap 'exit 99' INT; echo up; while :; do sleep 0.1; done", 4), ("echo up; exec sleep 60", 30)],
)
@pytest.mark.parametrize("reaches", ["terminal", "madengine"])
def test_ctrl_c_ends_it_with_us(here: Path, stand_ins: StandIns, script: str, seconds: int, reaches: str) -> None:
    if reaches == "madengine":  # TERM, as a CI job sends it
        script, seconds = script.replace(" INT", " TERM"), 30
    stand_ins.add("ansible-playbook", script)
    began = time.monotonic()
    with run_alone([sys.executable, "-c", ALONE]) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        if reaches == "terminal":
            os.killpg(process.pid, signal.SIGINT)
        else:
            process.terminate()
        assert process.stdout.read() == "exit code 130\n"
    assert time.monotonic() - began < seconds


def test_ctrl_c_while_it_starts_ends_it_too(here: Path, stand_ins: StandIns) -> None:
    stand_ins.add("ansible-playbook", "kill -TERM $PPID; echo up; exec sleep 60")
    with run_alone([sys.executable, "-c", ALONE]) as process:
        assert process.communicate(timeout=30)[0] == "up\nexit code 130\n"


def run_alone(line: Sequence[str]) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    return subprocess.Popen(line, env=environment, stdout=subprocess.PIPE, text=True, start_new_session=True)
