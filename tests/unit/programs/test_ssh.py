"""The command lines for ssh, and what its failures mean."""

from __future__ import annotations

from pathlib import Path

import pytest

from madengine import programs
from madengine.errors import ConfigurationError
from madengine.programs import Answer, ssh
from tests.conftest import StandIns


@pytest.mark.parametrize(
    ("text", "target", "port"),
    [
        ("gpu-node-01", "gpu-node-01", ""),
        ("me@10.0.0.1", "me@10.0.0.1", ""),
        ("me@host.example.com:2222", "me@host.example.com", "2222"),
    ],
)
def test_a_host_is_read_as_user_host_and_port(text: str, target: str, port: str) -> None:
    assert ssh.host(text) == ssh.Host(text, target, port)


@pytest.mark.parametrize(
    "text", ["", "-oProxyCommand=id", "a b", "me@-x", "-l@host", "host:port", "host:", "a/b", "$(id)", "a;b"]
)
def test_what_is_no_host_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="invalid host"):
        ssh.host(text)


def test_a_hosts_folder_has_a_name_that_every_file_system_takes() -> None:
    assert ssh.host("me@host:22").folder == "me@host_22"


def test_words_for_the_host_are_quoted_once() -> None:
    connection = ssh.Connection(ssh.host("me@h"), ("-o", "BatchMode=yes"))
    assert connection("echo", "two words", "$HOME").formulate() == [
        "ssh", "-o", "BatchMode=yes", "-T", "--", "me@h", "echo 'two words' '$HOME'",
    ]  # fmt: skip


def test_a_tunnel_is_ordered_of_the_connection_that_is_open() -> None:
    connection = ssh.Connection(ssh.host("h"), ("-o", "ControlPath=/s", "-o", "ClearAllForwardings=yes"))
    assert programs.shell_line(connection.tunnel(5000)) == (
        "ssh -o ControlPath=/s -O forward -R 5000:127.0.0.1:5000 -- h"
    )


def test_ssh_is_never_interactive_and_the_users_settings_go_first(stand_ins: StandIns) -> None:
    stand_ins.add("ssh", "printf 'hostname h\\nport 22\\nconnecttimeout 3\\nserveraliveinterval 0\\n'")
    with ssh.connections([ssh.host("h:2222")], Path("config")) as by_host:
        (connection,) = by_host.values()
    assert stand_ins.calls() == ["ssh -F config -o Port=2222 -G -- h"]
    line = programs.shell_line(connection("true"))
    assert line.startswith("ssh -F config -o Port=2222 -o BatchMode=yes -o ServerAliveInterval=5 -o ControlMaster=auto")
    assert "ConnectTimeout" not in line
    assert "StrictHostKeyChecking" not in line


def test_a_config_that_ssh_refuses_is_a_wrong_configuration(stand_ins: StandIns) -> None:
    stand_ins.add("ssh", "echo 'config: line 1: Bad configuration option: x' >&2; exit 255")
    with (
        pytest.raises(ConfigurationError, match="h: ssh: config: line 1: Bad configuration option"),
        ssh.connections([ssh.host("h")], None),
    ):
        pass


def test_two_names_of_one_host_are_refused(stand_ins: StandIns) -> None:
    stand_ins.add("ssh", "printf 'hostname 10.0.0.1\\nport 22\\n'")
    with (
        pytest.raises(ConfigurationError, match=r"a and b are the same host, 10.0.0.1 port 22"),
        ssh.connections([ssh.host("a"), ssh.host("b")], None),
    ):
        pass


@pytest.mark.parametrize(
    ("code", "stderr", "is_broken"),
    [
        (255, "client_loop: send disconnect: Broken pipe", True),
        (None, "", True),
        (1, "pulling: connection reset by peer", False),
        (0, "Connection to h closed by remote host.", False),
        (1, "No space left on device", False),
        (127, "python3: command not found", False),
    ],
)
def test_a_broken_connection_is_not_a_failing_command(code: int | None, stderr: str, is_broken: bool) -> None:
    assert ssh.is_broken(Answer(code, "", stderr)) is is_broken


@pytest.mark.parametrize(
    ("stderr", "reason"),
    [
        (
            "ssh: connect to host 10.0.0.1 port 22: Connection timed out\r\n",
            "ssh: connect to host 10.0.0.1 port 22: Connection timed out",
        ),
        (
            "@@@@@@@@\n@ WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED! @\n@@@@\nHost key verification failed.\n",
            "ssh: Host key verification failed "
            "(connect once by hand; if the host was reinstalled, remove its old key from ~/.ssh/known_hosts)",
        ),
        (
            "me@h: Permission denied (publickey).\n",
            "ssh: me@h: Permission denied (publickey) (ssh must work without a password: use ssh-copy-id, or an agent)",
        ),
    ],
)
def test_a_failed_connection_is_explained_in_one_line(stderr: str, reason: str) -> None:
    assert ssh.explain(Answer(255, "", stderr)) == reason


def test_an_answer_is_what_a_command_prints(stand_ins: StandIns) -> None:
    stand_ins.add("ssh", "cat; echo wrong >&2; exit 7")
    command = ssh.Connection(ssh.host("h"), ())("true")
    assert ssh.ask(command, b"\xff in" * 100_000, 60) == Answer(7, "\N{REPLACEMENT CHARACTER} in" * 100_000, "wrong\n")


def test_an_answer_that_does_not_end_is_cut_off_by_size_or_time(stand_ins: StandIns) -> None:
    command = ssh.Connection(ssh.host("h"), ())("true")
    stand_ins.add("ssh", "exec yes")
    answer = ssh.ask(command, b"", None)
    assert (answer.code, answer.err) == (1, "the host printed more than 4 MiB")
    assert len(answer.out) < 5 << 20
    stand_ins.add("ssh", "echo one; exec sleep 60")
    assert ssh.ask(command, b"", 0.5) == Answer(None, "one\n", "")
