"""What is sent over stdin, carried out by a stand-in for ssh that is a node: any login shell, whatever it sources."""

from __future__ import annotations

import json
import shutil
import threading
import time
from pathlib import Path

import pytest

from madengine.deploy.bundle import write_bundle
from madengine.deploy.ssh import node
from madengine.deploy.ssh.options import NodeSettings
from madengine.deploy.ssh.reconnect import LostError
from madengine.deploy.ssh.remote_node import RemoteNode
from madengine.errors import RunError
from madengine.programs import ssh
from tests.conftest import StandIns

SHELLS = [name for name in ("sh", "bash", "dash", "csh", "tcsh", "zsh", "fish") if shutil.which(name)]
# What a login does before it runs the command that ssh hands it as one word.
LOGINS = {
    "quiet": "",
    "one that prints": "echo Welcome to {this}; echo; echo [1]; printf 'no end of line'",
    "one that prints a banner": "echo '*** authorized use only ***' >&2",
    "one that changes directory": "cd /",
}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """The home of the node's user."""
    (tmp_path / "home of it").mkdir()
    return tmp_path / "home of it"


def log_in(stand_ins: StandIns, home: Path, login: str = "", shell: str = "sh") -> None:
    stand_ins.add("ssh", f"for last; do :; done; cd '{home}'; export HOME='{home}'\n{login}\nexec {shell} -c \"$last\"")


def node_with(patience: float = 60, lines: list[str] | None = None, python: str = "python3") -> RemoteNode:
    settings = NodeSettings(python=python, patience=patience)
    log: list[str] = [] if lines is None else lines
    return RemoteNode(ssh.Connection(ssh.host("h1"), ()), settings, log.append, threading.Event())


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("login", LOGINS)
def test_a_node_is_examined_and_gets_its_files_whatever_its_login_does(
    home: Path, stand_ins: StandIns, tmp_path: Path, shell: str, login: str
) -> None:
    log_in(stand_ins, home, LOGINS[login], shell)
    files = [write_bundle(tmp_path / "madengine.pyz"), tmp_path / "credential.json", tmp_path / "build_manifest.json"]
    files[1].write_text('{"secret": "!x\\n$y"}')
    files[2].write_text("{}")
    remote = node_with()
    examination = remote.examine("runs/r 1", {"madengine.pyz": "0"}, ())
    assert examination.has == ()
    for _ in range(2):  # a second time, as after a lost connection
        remote.copy(files, "runs/r 1")
    incoming = home / "madengine/runs/r 1"
    assert {path.name: path.read_bytes() for path in incoming.iterdir()} == {f.name: f.read_bytes() for f in files}
    assert [oct((incoming / name).stat().st_mode & 0o777) for name in ("credential.json", "madengine.pyz")] == [
        "0o600",
        "0o644",
    ]
    remote.accept("runs/r 1")
    assert (home / "madengine/madengine.pyz").read_bytes() == files[0].read_bytes()
    with pytest.raises(RunError, match="runs: no run was started here over ssh"):
        remote.newest()
    (home / "madengine/runs/r7").mkdir()
    (home / "madengine/runs/r7" / node.RECORD).write_text(json.dumps({"run_id": "r7", "started": "2026"}))
    assert remote.newest() == "r7"


def test_what_a_login_does_between_reading_and_running_reaches_the_log_of_the_run_only_in_its_own_lines(
    home: Path, stand_ins: StandIns, tmp_path: Path
) -> None:
    log_in(stand_ins, home, LOGINS["one that prints"])
    folder = home / "madengine/runs/r1"
    folder.mkdir(parents=True)
    write_bundle(folder / node.BUNDLE)
    (folder / node.LOG).write_text("one\ntwo\n")
    (folder / node.EXIT_CODE).write_text("0\n")
    lines: list[str] = []
    assert node_with(lines=lines).follow("r1", tmp_path / "h1")
    assert lines == ["one", "two"]
    assert {path.name for path in (tmp_path / "h1").iterdir()} == {"node.log", "exit_code"}


def test_a_python_that_is_not_there_is_named_with_the_option(home: Path, stand_ins: StandIns) -> None:
    log_in(stand_ins, home)
    with pytest.raises(RunError, match=r"^/no/python: .*not found; --remote-python names another$"):
        node_with(python="/no/python").examine("x", {}, ())


def test_a_full_disk_is_the_reason_and_not_a_traceback(home: Path, stand_ins: StandIns, tmp_path: Path) -> None:
    log_in(stand_ins, home)
    (home / "madengine").write_text("a file")
    (tmp_path / "m").write_text("")
    with pytest.raises(RunError, match=r"^copying: madengine.*: (Not a directory|File exists)$"):
        node_with().copy([tmp_path / "m"], "runs/r1")


def test_what_fails_in_the_same_way_though_ssh_works_is_a_refusal_within_seconds(
    stand_ins: StandIns, tmp_path: Path
) -> None:
    stand_ins.add("ssh", "case \"$*\" in *' true') ;; *) echo 'no more sessions' >&2; exit 255 ;; esac")
    (tmp_path / "m").write_text("")
    began = time.monotonic()
    with pytest.raises(RunError, match=r"^ssh: no more sessions, though the host can be reached$"):
        node_with(patience=600).copy([tmp_path / "m"], "runs/r1")
    assert time.monotonic() - began < 20


def test_a_host_that_is_not_reached_is_tried_for_as_long_as_the_user_says(stand_ins: StandIns, tmp_path: Path) -> None:
    stand_ins.add("ssh", "echo 'ssh: connect to host h1 port 22: No route to host' >&2; exit 255")
    (tmp_path / "m").write_text("")
    lines: list[str] = []
    with pytest.raises(LostError, match="No route to host"):
        node_with(patience=2, lines=lines).copy([tmp_path / "m"], "runs/r1")
    assert 2 <= len(lines) <= 4


def test_a_tunnel_that_is_forbidden_is_refused_with_what_to_allow(stand_ins: StandIns) -> None:
    forbidden = "mux_client_forward: forwarding request failed: Port forwarding failed"
    stand_ins.add("ssh", f"case \"$*\" in *'-O forward '*) echo '{forbidden}' >&2; exit 255 ;; esac")
    problem = r"Port forwarding failed, though .* \(AllowTcpForwarding, PermitListen\); or push"
    with pytest.raises(RunError, match=problem):
        node_with(patience=600).pull("r1", [5000], ["run"])
