"""A manifest on real hosts over real ssh: every host's rows, once, whatever breaks."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.bed.components import Registry, outcome
from tests.fleet.conftest import CHECKOUT, Controller, Hosts, counted, until


def test_a_manifest_runs_on_every_host_and_all_comes_back(
    controller: Controller, hosts: Hosts, registry: Registry
) -> None:
    hosts.forget_images(1, 2)
    ended = controller("run", "--host", "h1,h2", "h3", "--tags", "quick", "--junit=junit.xml")
    assert {"h1: pulling images", "h2: pulling images"} <= set(ended.stderr.splitlines())
    assert counted(controller.rows) == [(hosts.name(number), "quick", "SUCCESS") for number in (1, 2, 3)]
    run_id = controller.results.name
    assert {row["run_id"] for row in controller.rows} == {run_id}
    for name in ("h1", "h2", "h3"):
        paths = {str(path.relative_to(controller.results / name)) for path in (controller.results / name).rglob("*")}
        assert {"perf.csv", "run_summary.json", "node.log", "exit_code", f"runs/{run_id}/results.json"} <= paths
        assert f"runs/{run_id}/quick/artifacts/out/note.txt" in paths
        assert not any("pyz" in path for path in paths)
    summary = json.loads((controller.folder / "run_summary.json").read_text(encoding="utf-8"))
    assert sorted(run["host"] for run in summary["successful_runs"]) == ["h1", "h2", "h3"]
    suites = ElementTree.parse(controller.folder / "junit.xml").getroot()
    names = {(suite.get("name"), case.get("classname")) for suite in suites for case in suite.iter("testcase")}
    assert names == {(hosts.name(number), "quick") for number in (1, 2, 3)}
    assert not hosts.listens(1, _port(registry)), "the tunnel is closed once the images are there"


def test_two_manifests_run_in_turn_on_every_host_and_get_one_verdict(controller: Controller, hosts: Hosts) -> None:
    words = ["--tags=quick", "--against=build_manifest.json", "--repeat=2", "--seed=1"]
    ended = controller("run", "--host=h1,h2", *words, "--json")
    assert "quick: nothing differs: base and new are the same" in ended.stderr.splitlines()
    (series,) = json.loads(ended.stdout)["series"]
    assert (series["model"], series["n"], series["verdict"]) == ("quick", [4, 4], "not enough runs")
    for number in (1, 2):
        rows = [row for row in controller.rows if row["machine_name"] == hosts.name(number)]
        assert sorted((row["side"], row["repeat"]) for row in rows) == [
            ("base", "1"), ("base", "2"), ("new", "1"), ("new", "2"),
        ]  # fmt: skip
    refused = controller("run", "--host=h1", "--fail-on=never", check=False)
    assert refused.code == 4 and "--fail-on: only with --against" in refused.stderr


def test_tools_run_on_a_host_and_what_a_script_leaves_comes_back_from_it(controller: Controller) -> None:
    context = {"tools": ["test_tools_A"], "artifacts": ["*.sh"]}
    controller("run", "--host=h1", "--tags=quick", "--additional-context", json.dumps(context))
    run_id = controller.results.name
    model = controller.results / "h1/runs" / run_id / "quick"
    assert (model / "artifacts/run.sh").stat().st_size > 0
    assert (model / "quick_env.csv").read_text(encoding="utf-8").startswith("what,line\n")
    (log,) = model.glob("*.run.live.log")
    assert [line for line in log.read_text().splitlines() if line.endswith(" A") or line == "cmd_A"] == [
        *("pre_script A", "cmd_A", "post_script A")
    ]
    results = json.loads((model.parent / "results.json").read_text(encoding="utf-8"))
    brought = [entry["path"] for entry in results["results"][0]["artifacts"]]
    assert brought == ["artifacts/out/note.txt", "artifacts/run.sh"]


def test_a_workspace_lasts_on_its_host(controller: Controller, hosts: Hosts) -> None:
    context = json.dumps({"encapsulate_script": "ls /myworkspace; touch /myworkspace/weights;"})
    for number in ("1", "2"):
        controller("run", "--host=h1", "--tags=quick", "--workspace=shared", "-c", context, "--run-id", number)
        (log,) = (controller.folder / "results" / number).glob("h1/runs/*/quick/*.run.live.log")
        assert ("weights" in log.read_text().splitlines()) == (number == "2")
    assert hosts.sh(1, "ls /home/fleet/madengine/shared").splitlines() == ["run_directory", "weights"]


def test_a_second_run_adds_its_own_rows_and_the_node_keeps_both(controller: Controller, hosts: Hosts) -> None:
    for _ in range(2):
        controller("run", "--host=h1", "--tags=quick")
    assert len(controller.rows) == 2
    assert len({row["run_id"] for row in controller.rows}) == 2
    assert len(hosts.sh(1, "cat /home/fleet/madengine/perf.csv").splitlines()) == 3


def test_a_failing_model_costs_exit_3_and_not_the_others_rows(controller: Controller) -> None:
    ended = controller("run", "--host=h1", "--tags=quick,bad", check=False)
    assert ended.code == 3
    assert controller.outcomes("model", "status", "reason") == [
        ("bad", "FAILURE", "exit code 3"),
        ("quick", "SUCCESS", ""),
    ]


def test_quiet_leaves_the_tables_out_and_nothing_else(controller: Controller) -> None:
    ended = controller("run", "--host=h1", "--tags=quick", "--quiet")
    assert ended.stdout == ""
    assert "h1: quick: SUCCESS" in ended.stderr
    assert controller.outcomes("model", "status") == [("quick", "SUCCESS")]


def test_results_that_can_not_be_written_here_are_an_error_before_anything_runs(
    controller: Controller, hosts: Hosts
) -> None:
    (controller.folder / "results").write_text("mine", encoding="utf-8")
    ended = controller("run", "--host=h1", "--run-id=r1", "--tags=quick", check=False)
    assert ended.code == 4
    assert "madengine: error: results/r1/results.json: can't be written" in ended.stderr
    assert hosts.sh(1, "ls -d /home/fleet/madengine/runs/r1 2>&1", check=False).startswith("ls: ")


def test_a_disk_that_is_full_when_the_files_come_names_the_way_to_fetch_them(
    controller: Controller, hosts: Hosts
) -> None:
    results = controller.folder / "results"
    results.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8k,nr_inodes=99", "tmpfs", results], check=True)
    try:
        ended = controller("run", "--host=h1", "--run-id=full", "--tags=quick", check=False)
    finally:
        subprocess.run(["umount", "--lazy", results], check=True)
    assert ended.code == 3
    assert (
        "h1: lost: results: No space left on device; the run may still be going on there: `madengine fetch"
        in ended.stderr
    )
    controller("fetch", "--host=h1", "--run-id=full")
    assert controller.outcomes("model", "status") == [("quick", "SUCCESS")]


def test_hosts_that_cannot_run_cost_their_own_rows_with_the_reason(
    controller: Controller, hosts: Hosts, tmp_path: Path
) -> None:
    hosts.cut(2)
    known = (hosts.folder / "known_hosts").read_text(encoding="utf-8").splitlines()
    (tmp_path / "known_hosts").write_text(
        "\n".join(
            f"{line.split()[0]} {' '.join(known[(number + 1) % 3].split()[1:])}" for number, line in enumerate(known)
        ),
        encoding="utf-8",
    )
    lines = hosts.config.read_text(encoding="utf-8").replace(
        str(hosts.folder / "known_hosts"), str(tmp_path / "known_hosts")
    )
    (tmp_path / "config").write_text(
        f"Host h1\n  UserKnownHostsFile {hosts.folder / 'known_hosts'}\n{lines}", encoding="utf-8"
    )
    ended = controller("run", "--host=h1,h2,h3,nowhere", "--tags=quick", path=tmp_path / "config", check=False)
    assert ended.code == 3
    reasons = {row["machine_name"]: row["reason"] for row in controller.rows}
    assert len(controller.rows) == 4
    assert reasons[hosts.name(1)] == ""
    assert "No route to host" in reasons["h2"] or "timed out" in reasons["h2"]
    assert "Host key verification failed" in reasons["h3"]
    assert "Could not resolve hostname" in reasons["nowhere"]


def test_a_host_without_an_engine_says_so_in_its_rows(controller: Controller, hosts: Hosts) -> None:
    hosts.sh(2, "mv /run/docker.sock /run/off.sock")
    try:
        ended = controller("run", "--host=h1,h2", "--tags=quick", "--engine=docker", check=False)
    finally:
        hosts.sh(2, "mv /run/off.sock /run/docker.sock")
    assert ended.code == 3
    reasons = {row["machine_name"]: row["reason"] for row in controller.rows}
    assert len(controller.rows) == 2
    assert reasons[hosts.name(1)] == ""
    assert "docker" in reasons["h2"]


def test_a_host_without_python_or_with_an_old_one_says_so(controller: Controller, hosts: Hosts) -> None:
    old = json.dumps({"python": "3.8.10", "has": []})
    python = f"printf '#!/bin/sh\\necho %s\\n' {shlex.quote(shlex.quote(old))} >python && chmod +x python"
    hosts.sh(1, f"cd /home/fleet && {python}")
    ended = controller("run", "--host=h1,h2", "--remote-python=/home/fleet/python", "--tags=quick", check=False)
    assert ended.code == 3
    reasons = {row["machine_name"]: row["reason"] for row in controller.rows}
    assert "/home/fleet/python is 3.8.10; madengine needs 3.10 or newer" in reasons["h1"]
    assert "/home/fleet/python" in reasons["h2"]


def test_a_full_disk_is_noticed_before_anything_starts(controller: Controller, hosts: Hosts) -> None:
    hosts.sh(1, "mkdir -p /full && mount -t tmpfs -o size=1m tmpfs /full")
    try:
        ended = controller("run", "--host=h1", "--remote-path=/full/madengine", "--tags=quick", check=False)
    finally:
        hosts.sh(1, "umount /full")
    assert ended.code == 3
    (reason,) = [row["reason"] for row in controller.rows]
    assert reason.startswith("/full/madengine: ")
    assert reason.endswith(" MiB free there; make room, or --remote-path")


def test_a_cut_connection_is_taken_up_again_and_nothing_is_lost_or_doubled(
    controller: Controller, hosts: Hosts
) -> None:
    with controller.beside("run", "--host=h1,h2", "--tags=slow") as process:
        controller.wait_for("h2: running slow")
        hosts.cut(2)
        controller.wait_for("h2: connection lost")
        hosts.heal(2)
        assert process.wait(60) == 0, controller.output
    assert counted(controller.rows) == [(hosts.name(number), "slow", "SUCCESS") for number in (1, 2)]
    assert controller.output.count("h2: running slow") == 1
    assert controller.output.count("h2: slow: SUCCESS") == 1


def test_a_host_that_stays_away_is_lost_and_its_rows_are_fetched_later(controller: Controller, hosts: Hosts) -> None:
    with controller.beside("run", "--host=h1,h2", "--tags=slow", "--reconnect=1") as process:
        controller.wait_for("h2: running slow")
        hosts.cut(2)
        assert process.wait(60) == 3
    assert counted(controller.rows) == [(hosts.name(1), "slow", "SUCCESS")]
    assert f"`madengine fetch --host h2 --run-id {controller.results.name}`" in controller.output
    hosts.heal(2)
    for _ in range(2):
        controller("fetch", "--host=h1,h2", f"--run-id={controller.results.name}")
        assert counted(controller.rows) == [(hosts.name(number), "slow", "SUCCESS") for number in (1, 2)]


def test_the_nodes_finish_without_their_controller_and_fetch_collects_the_newest_run(
    controller: Controller, hosts: Hosts
) -> None:
    controller("run", "--host=h1", "--tags=quick")
    with controller.beside("run", "--host=h1,h2", "--tags=slow") as process:
        controller.wait_for("h1: running slow")
        controller.wait_for("h2: running slow")
        process.kill()
    controller("fetch", "--host=h1,h2")
    assert counted(controller.rows) == sorted(
        [(hosts.name(1), "quick", "SUCCESS"), *((hosts.name(number), "slow", "SUCCESS") for number in (1, 2))]
    )
    missing = controller("fetch", "--host=h1", "--run-id=nothing", check=False)
    assert missing.code == 3 and "no run nothing was started there over ssh" in missing.stderr


def test_ctrl_c_stops_the_nodes_and_says_which_did(controller: Controller, hosts: Hosts) -> None:
    with controller.beside("run", "--host=h1,h2", "--tags=slow") as process:
        controller.wait_for("h1: running slow")
        controller.wait_for("h2: running slow")
        until(lambda: all(hosts.run(n, "docker", "ps", "-q") for n in (1, 2)), 30, lambda: controller.output)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
    assert counted(controller.rows) == [(hosts.name(number), "slow", "FAILURE") for number in (1, 2)]
    assert {"h1: stopped", "h2: stopped"} <= set(controller.output.splitlines())
    assert [hosts.run(number, "docker", "ps", "--all", "-q") for number in (1, 2)] == ["", ""]


def test_ctrl_c_before_a_hosts_turn_starts_nothing_there(controller: Controller, hosts: Hosts) -> None:
    with controller.beside("run", "--host=h1,h2", "--tags=slow", "--forks=1") as process:
        controller.wait_for("h1: running slow")
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
    assert {row["machine_name"] for row in controller.rows} <= {hosts.name(1)}
    assert hosts.sh(2, "ls /home/fleet/madengine", check=False) == ""


def test_a_run_that_was_killed_on_its_node_costs_rows_that_say_so(controller: Controller, hosts: Hosts) -> None:
    with controller.beside("run", "--host=h1", "--tags=slow,quick") as process:
        controller.wait_for("h1: running slow")
        watcher = hosts.sh(
            1, "cat /proc/$(cat /home/fleet/madengine/runs/*/pid)/status | sed -n 's/^PPid:\\s*//p'"
        ).strip()
        hosts.sh(1, f"kill -9 {watcher} $(cat /home/fleet/madengine/runs/*/pid)")
        assert process.wait(60) == 3
    assert controller.outcomes("model", "status", "reason") == [
        ("quick", "SUCCESS", ""),
        ("slow", "FAILURE", "killed, or the machine went down"),
    ]


def test_a_slow_host_whose_login_greets_loses_nothing(controller: Controller, hosts: Hosts) -> None:
    hosts.sh(1, "printf 'sleep 1; echo Welcome to {this} host\\n' >/home/fleet/.bashrc")
    controller("run", "--host=h1", "--tags=quick")
    assert counted(controller.rows) == [(hosts.name(1), "quick", "SUCCESS")]


def login_shell(hosts: Hosts, shell: str) -> str:
    """Give host 1 another login shell; the line that undoes that."""
    hosts.sh(1, f"cp /etc/passwd /etc/passwd.before && sed -i 's|^\\(root:.*\\):.*|\\1:{shell}|' /etc/passwd")
    return "mv /etc/passwd.before /etc/passwd; rm -f /home/fleet/.[a-z]*rc"


@pytest.mark.parametrize("name", ["dash", "mksh", "tcsh", "fish"])
def test_any_login_shell_hands_commands_on(controller: Controller, hosts: Hosts, name: str) -> None:
    shell = shutil.which(name)
    if not shell:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(f"{name} is not installed")
    undo = login_shell(hosts, shell)
    try:
        hosts.sh(1, "printf 'echo Welcome\ncd /\n' | tee /home/fleet/.tcshrc >/home/fleet/.mkshrc")
        controller("run", "--host=h1", "--tags=quick")
    finally:
        hosts.sh(1, undo)
    assert counted(controller.rows) == [(hosts.name(1), "quick", "SUCCESS")]


@pytest.mark.parametrize(
    ("bashrc", "output"),
    [
        ("exit 0", "nothing was printed (exit code 0)"),
        ("echo quota exceeded >&2; exit 1", "quota exceeded"),
        ("read line", "ValueError: "),
    ],
)
def test_a_login_that_runs_no_command_is_refused_after_seconds(
    controller: Controller, hosts: Hosts, bashrc: str, output: str
) -> None:
    hosts.sh(1, f"echo {shlex.quote(bashrc)} >/home/fleet/.bashrc")
    began = time.monotonic()
    ended = controller("run", "--host=h1", "--tags=quick", check=False)
    (row,) = controller.rows
    assert (ended.code, row["status"]) == (3, "FAILURE")
    assert row["reason"].startswith("the login ran no ")
    assert output in row["reason"]
    assert "the host's .bashrc must neither exit nor read stdin" in row["reason"]
    assert time.monotonic() - began < 30


def test_a_host_is_named_as_ssh_names_it(controller: Controller, hosts: Hosts, tmp_path: Path) -> None:
    (tmp_path / "config").write_text(
        f"Host gpu-node\n  HostName {hosts.address}.2\n{hosts.config.read_text(encoding='utf-8')}", encoding="utf-8"
    )
    (tmp_path / "nodes").write_text(f"# the rack\nroot@{hosts.address}.1:22  # its first\ngpu-node\n", encoding="utf-8")
    controller("run", "--hosts-file=nodes", "--tags=quick", path=tmp_path / "config")
    assert counted(controller.rows) == [(hosts.name(number), "quick", "SUCCESS") for number in (1, 2)]
    folders = {path.name for path in controller.results.iterdir() if path.is_dir()}
    assert folders == {f"root@{hosts.address}.1_22", "gpu-node"}


def test_two_names_of_one_host_are_refused(controller: Controller, hosts: Hosts) -> None:
    ended = controller("run", f"--host=h1,{hosts.address}.1", check=False)
    assert ended.code == 4
    assert f"h1 and {hosts.address}.1 are the same host" in ended.stderr


def test_hosts_that_share_a_folder_are_told_apart(controller: Controller, hosts: Hosts) -> None:
    ended = controller("run", "--host=h1,h2", "--remote-path=/shared/madengine", "--tags=quick", check=False)
    assert ended.code == 3
    assert sorted(row["status"] for row in controller.rows) == ["FAILURE", "SUCCESS"]
    failed = next(row for row in controller.rows if row["status"] == "FAILURE")
    assert "the folder is shared with" in failed["reason"]
    controller("run", "--host=h1,h2", "--remote-path=/shared/of-%h", "--tags=quick")
    assert len(controller.rows) == 4


def test_a_port_that_the_node_uses_itself_is_a_clear_reason(
    controller: Controller, hosts: Hosts, registry: Registry
) -> None:
    port = _port(registry)
    hosts.forget_images(1)
    listener = f"python3 -c \"import socket,time; s=socket.create_server(('127.0.0.1', {port})); time.sleep(600)\""
    pid = hosts.sh(1, f"{listener} >/dev/null 2>&1 & echo $!").strip()
    try:
        until(lambda: hosts.listens(1, port), 10, lambda: "no listener")
        ended = controller("run", "--host=h1", "--tags=quick", check=False)
    finally:
        hosts.run(1, "kill", pid)
    assert ended.code == 3
    assert f"port {port}: address already in use" in controller.rows[0]["reason"]


def test_a_node_that_has_the_images_needs_no_registry(controller: Controller) -> None:
    controller("run", "--host=h1", "--tags=quick")
    again = controller("run", "--host=h1", "--tags=quick")
    assert "pulling" not in again.stderr
    assert [row["status"] for row in controller.rows] == ["SUCCESS", "SUCCESS"]


@pytest.mark.parametrize("registry_name", ["127.0.0.5:5000", "localhost", "[::1]:5000"])
def test_a_registry_that_can_only_mean_the_node_is_refused(controller: Controller, registry_name: str) -> None:
    ended = controller("run", "--host=h1", f"--registry={registry_name}", check=False)
    assert ended.code == 4
    assert "on a node this registry address means the node itself" in ended.stderr


def test_a_loopback_registry_that_is_not_here_is_refused(controller: Controller) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    ended = controller("run", "--host=h1", f"--registry=localhost:{port}", check=False)
    assert ended.code == 4
    assert f"nothing listens on port {port}" in ended.stderr


def test_ship_copies_what_a_run_by_hand_needs_and_no_secrets(controller: Controller, hosts: Hosts) -> None:
    (controller.folder / "credential.json").write_text("{}", encoding="utf-8")
    ended = controller("ship", "--host=h1,h2")
    assert "credential.json: not copied to the hosts; --ship-credentials does" in ended.stderr
    assert hosts.sh(1, "ls -A /home/fleet/madengine").split() == ["build_manifest.json", "madengine.pyz"]
    assert "madengine" in hosts.sh(2, "cd /home/fleet/madengine && python3 madengine.pyz --version")
    controller("ship", "--host=h1", "--ship-credentials")
    assert hosts.sh(1, "stat -c %a /home/fleet/madengine/credential.json").strip() == "600"


def test_doctor_looks_at_every_host(controller: Controller, hosts: Hosts) -> None:
    hosts.cut(2)
    ended = controller("doctor", "--host=h1,h2", "--engine=docker", check=False)
    assert ended.code == 1
    assert "h1:\ncheck" in ended.stdout
    assert "docker 20" in ended.stdout.partition("h2:")[0]
    assert "ssh: connect to host" in ended.stdout.partition("h2:")[2]
    again = controller("doctor", "--host=h1", "--engine=docker", check=False)
    assert again.stdout.startswith("h1:\ncheck"), again.stdout  # a host that has the bundle already, too


def test_what_runs_on_a_host_its_log_and_what_is_left(controller: Controller, hosts: Hosts) -> None:
    hosts.sh(1, "echo 'echo Welcome to h1' >/home/fleet/.bashrc")
    controller("run", "--host=h1", "--tags=quick", "--keep-alive")
    (record,) = json.loads(controller("status", "--host=h1", "--json").stdout)
    assert [(model["model"], model["state"]) for model in record["models"]] == [("quick", "kept alive")]
    assert controller("logs", "quick", "--host=h1").stdout == "performance: 12.5 tokens_per_second\n"
    cleaned = controller("cleanup", "--host=h1", "--all", "--engine=docker").stdout
    assert cleaned.startswith("h1:\nremoved container madengine-")
    assert hosts.run(1, "docker", "ps", "--all", "-q") == ""


def test_the_printed_lines_do_the_same_by_hand(controller: Controller, hosts: Hosts) -> None:
    printed = controller("run", "--host=h1", "--tags=quick", "--dry-run").stdout
    assert not (controller.folder / "results").exists()
    stand_in = controller.folder / "bin"
    stand_in.mkdir()
    command = stand_in / "madengine"
    command.write_text(
        f'#!/bin/sh\nPYTHONPATH={CHECKOUT} exec python3 -m madengine.distributed_cli "$@"\n', encoding="utf-8"
    )
    command.chmod(0o755)
    path = f"{stand_in}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    outcome(["sh", "-e"], {"PATH": path}, cwd=controller.folder, input=printed)
    assert counted(controller.rows) == [(hosts.name(1), "quick", "SUCCESS")]


def test_deploy_builds_pushes_ships_and_runs(
    controller: Controller, hosts: Hosts, built: Path, registry: Registry
) -> None:
    subprocess.run(["cp", "-r", *map(str, built.parent.iterdir()), str(controller.folder)], check=True)
    address = registry.address.replace("127.0.0.1", "localhost")
    controller("deploy", "--tags=quick", f"--registry={address}", "--host=h1")
    assert counted(controller.rows) == [(hosts.name(1), "quick", "SUCCESS")]


def _port(registry: Registry) -> int:
    return int(registry.address.rpartition(":")[2])
