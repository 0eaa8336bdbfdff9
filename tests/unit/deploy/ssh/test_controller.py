"""What is decided about many hosts before any is asked, and what a host's folder says."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest

from madengine.config.manifest import Manifest, save_manifest
from madengine.deploy.ssh import node
from madengine.deploy.ssh.host_result import failure_reason, rows_of_the_missing
from madengine.deploy.ssh.hosts import parse_hosts, remote_folder, tunnel_ports
from madengine.distributed_cli import main
from madengine.errors import ConfigurationError
from madengine.records import Image, Model
from madengine.run.selection import selected_images


def kept(*registry_images: str) -> Manifest:
    """A manifest with one model an image, named m0, m1 …"""
    images = tuple(Image(f"k{n}", f"i{n}", registry_image=name) for n, name in enumerate(registry_images))
    models = {image.key: Model(f"m{n}", "docker/m", "scripts/m", tags=(f"t{n}",)) for n, image in enumerate(images)}
    return Manifest(images, models)


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
        assert tunnel_ports(kept(f"localhost:{port}/a", f"localhost:{port}/b"), "") == (port,)
        assert tunnel_ports(kept("reg.example.com/a"), f"127.0.0.1:{port}") == (port,)


def test_a_registry_that_nodes_reach_needs_no_tunnel() -> None:
    assert tunnel_ports(kept("reg.example.com/a", "", "10.0.0.1:5000/b"), "") == ()
    assert tunnel_ports(kept("localhost:1/a"), "reg.example.com") == ()


@pytest.mark.parametrize("address", ["127.0.0.2:5000", "localhost", "[::1]:5000", "127.0.0.1"])
def test_a_registry_that_can_only_mean_the_node_is_refused(address: str) -> None:
    with pytest.raises(ConfigurationError, match="means the node itself"):
        tunnel_ports(kept(f"{address}/a"), "")


def test_what_was_said_here_is_said_to_the_nodes_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    save_manifest(kept("reg.example.com/a"), tmp_path / "m.json")
    words = ["--tags=m0", "--timeout=60", "--live-output", "--run-id=r1", "--output=local.csv", "--forks=2"]
    assert main(["run", "--host=me@h:22", "--manifest-file=m.json", "--dry-run", *words]) == 0
    assert capfd.readouterr().out.splitlines() == [
        "madengine bundle --output madengine.pyz",
        "ssh -o BatchMode=yes -o Port=22 me@h mkdir -p madengine",
        "scp -o BatchMode=yes -o Port=22 madengine.pyz me@h:madengine/madengine.pyz",
        "scp -o BatchMode=yes -o Port=22 m.json me@h:madengine/build_manifest.json",
        "ssh -o BatchMode=yes -o Port=22 me@h 'cd madengine && python3 madengine.pyz run "
        "--manifest-file=build_manifest.json --run-id=r1 --output=runs/r1/perf.csv "
        "--summary-output=runs/r1/run_summary.json --timeout=60 --tags=m0 --live-output'",
        "mkdir -p results/r1/me@h_22",
        "scp -o BatchMode=yes -o Port=22 -r me@h:madengine/runs/r1 results/r1/me@h_22/",
        "madengine collect --output local.csv results/r1",
    ]


def test_tags_choose_by_name_and_tag_before_anything_is_shipped() -> None:
    found = selected_images(kept("r/a", "r/b", "r/c"), ["m0", "t2"], Path("m.json"))
    assert [image.key for image in found.images] == ["k0", "k2"]
    with pytest.raises(ConfigurationError, match=r"^m\.json: no model named or tagged 'm3'; it has m0, m1, m2$"):
        selected_images(kept("r/a", "r/b", "r/c"), ["m0", "m3"], Path("m.json"))


def test_a_host_that_was_killed_owes_a_row_of_each_chosen_model_that_has_none(tmp_path: Path) -> None:
    save_manifest(kept("r/a", "r/b", "r/c", "r/d"), tmp_path / node.MANIFEST)
    (tmp_path / node.CARD).write_text(json.dumps({"words": ["run", "--tags=m0", "--tags=m1", "--tags=m2"]}))
    (tmp_path / "perf.csv").write_text("model,status\nm0,SUCCESS\nm1_train,SUCCESS\n")
    rows = rows_of_the_missing(tmp_path, "r1", "h1", "killed")
    assert [(row["model"], row["status"], row["reason"], row["machine_name"]) for row in rows] == [
        ("m2", "FAILURE", "killed", "h1")
    ]


def test_the_reason_of_a_run_that_did_not_start_is_its_own_last_word(tmp_path: Path) -> None:
    (tmp_path / node.LOG).write_text("engine: x\nmadengine: error: no engine answers\nbye\n")
    assert failure_reason(tmp_path, 1) == "no engine answers"
    assert failure_reason(tmp_path / "nothing", None) == "killed, or the machine went down"
    assert failure_reason(tmp_path / "nothing", 137) == "exit code 137"
