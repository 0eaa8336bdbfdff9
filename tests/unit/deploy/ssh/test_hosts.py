"""What is decided about many hosts before any is reached."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from madengine.deploy.ssh.hosts import parse_hosts, remote_folder, tunnel_ports
from madengine.errors import ConfigurationError
from madengine.run.selection import selected_images
from tests.unit.deploy.ssh.conftest import manifest_of


def test_hosts_come_from_the_command_line_and_a_file_each_once(tmp_path: Path) -> None:
    file = tmp_path / "hosts"
    file.write_text("# rack 1\nc  # the third\n\na, d\n", encoding="utf-8")
    assert [host.name for host in parse_hosts(["a,b", "a"], file)] == ["a", "b", "c", "d"]


@pytest.mark.parametrize("names", [[], [","], [""]])
def test_no_host_at_all_is_refused(names: list[str]) -> None:
    with pytest.raises(ConfigurationError, match="names no host"):
        parse_hosts(names, None)


def test_a_file_of_hosts_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"nodes: can't be read: No such file"):
        parse_hosts([], tmp_path / "nodes")


@pytest.mark.parametrize("text", ["", "a b", "$(id)", "-x", "~root/x", "a;b", "a\nb", "'"])
def test_a_remote_path_that_a_shell_would_change_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="--remote-path"):
        remote_folder(text)


@pytest.mark.parametrize("text", ["madengine", "~/madengine", "/data/of-%h", "a/b_c.d"])
def test_a_plain_remote_path_is_taken(text: str) -> None:
    assert remote_folder(text) == text


def test_a_registry_on_loopback_that_is_here_is_tunnelled() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert tunnel_ports(manifest_of(f"localhost:{port}/a", f"localhost:{port}/b"), "") == (port,)
        assert tunnel_ports(manifest_of("reg.example.com/a"), f"127.0.0.1:{port}") == (port,)


def test_a_registry_that_nodes_reach_needs_no_tunnel() -> None:
    assert tunnel_ports(manifest_of("reg.example.com/a", "", "10.0.0.1:5000/b"), "") == ()
    assert tunnel_ports(manifest_of("localhost:1/a"), "reg.example.com") == ()


@pytest.mark.parametrize("address", ["127.0.0.2:5000", "localhost", "[::1]:5000", "127.0.0.1"])
def test_a_registry_that_can_only_mean_the_node_is_refused(address: str) -> None:
    with pytest.raises(ConfigurationError, match="means the node itself"):
        tunnel_ports(manifest_of(f"{address}/a"), "")


def test_tags_choose_by_name_and_tag_before_anything_is_shipped() -> None:
    selection = selected_images(manifest_of("r/a", "r/b", "r/c"), ["m0", "t2"], Path("m.json"))
    assert [image.key for image in selection.images] == ["k0", "k2"]
    with pytest.raises(ConfigurationError, match=r"^m\.json: no model named or tagged 'm3'; it has m0, m1, m2$"):
        selected_images(manifest_of("r/a", "r/b", "r/c"), ["m0", "m3"], Path("m.json"))
