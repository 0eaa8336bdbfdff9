"""A model on several hosts together, over real ssh: one row, one start, one end."""

from __future__ import annotations

import json
import shlex
import time

import pytest

from madengine.results.merge import merge
from tests.bed.components import Outcome
from tests.fleet.conftest import Controller, Hosts

# Rank 0 waits for rank 1 on the port that they were given; FAILS names a rank that fails meanwhile.
SCRIPT = """\
echo "rank $NODE_RANK of $NNODES by $GLOO_SOCKET_IFNAME and $NCCL_SOCKET_IFNAME"
echo "$MAD_MULTI_NODE_RUNNER"
if [ -n "$FAILS" ]; then
  [ "$NODE_RANK" != "$FAILS" ] || exit 7
  exec sleep 60
fi
if [ "$NODE_RANK" = 0 ]; then
  echo hello | nc -l -p "$MASTER_PORT"
else
  until nc "$MASTER_ADDR" "$MASTER_PORT" </dev/null | grep hello; do sleep 0.1; done
fi
echo "performance: 1${NODE_RANK}.5 tokens_per_second"
"""


@pytest.fixture
def pair(controller: Controller) -> Controller:
    """The controller, whose `quick` is a model for two nodes."""
    path = controller.folder / "build_manifest.json"
    manifest = json.loads(path.read_text(encoding="utf-8"))
    for model in manifest["built_models"].values():
        if model["name"] == "quick":
            model["distributed"] = {"launcher": "torchrun", "nnodes": 2, "nproc_per_node": 4}
    path.write_text(json.dumps(manifest), encoding="utf-8")
    return controller


def run(pair: Controller, *words: str, **variables: str) -> Outcome:
    """Run `quick` with the script above in place of its own."""
    context = {"encapsulate_script": f"sh -c {shlex.quote(SCRIPT)}; exit $?;", "env_vars": variables}
    return pair("run", "--tags=quick", "--additional-context", json.dumps(context), *words, check=False)


def cells(pair: Controller, *columns: str) -> list[str]:
    """Some cells of the only row."""
    [row] = pair.rows
    return [row[column] for column in columns]


def test_a_model_runs_on_two_hosts_as_one_and_has_one_row(pair: Controller, hosts: Hosts) -> None:
    ended = run(pair, "--host=h1,h2", NCCL_SOCKET_IFNAME="ib7")
    assert ended.code == 0, ended.stderr
    assert "h2: quick: the container has this machine's network, to reach the other nodes" in ended.stderr
    names = f"{hosts.name(1)},{hosts.name(2)}"
    columns = ("machine_name", "status", "reason", "performance", "metric", "aggregation", "nnodes", "launcher")
    assert cells(pair, *columns) == [names, "SUCCESS", "", "22", "tokens_per_second", "sum", "2", "torchrun"]
    for rank in (0, 1):
        [log] = pair.results.glob(f"h{rank + 1}/runs/*/quick/*.run.live.log")
        text = log.read_text(encoding="utf-8")
        assert f"rank {rank} of 2 by eth0 and ib7\n" in text
        address = f"--master_addr {hosts.address}.1 --master_port "
        assert f"torchrun --nproc_per_node 4 --nnodes 2 --node_rank {rank} {address}" in text
    [run_of_first] = [
        run
        for run in json.loads((pair.results / "results.json").read_text(encoding="utf-8"))["runs"]
        if run["environment"]["machine_name"] == hosts.name(1)
    ]
    parts = run_of_first["results"][0]["parts"]
    assert [part["metrics"][0]["performance"] for part in parts] == ["10.5", "11.5"]
    assert [part["machine_name"] for part in parts] == names.split(",")
    assert len(merge([pair.results], pair.folder / "again.csv").rows) == 1


def test_a_rank_that_fails_ends_the_others_and_is_the_reason(pair: Controller, hosts: Hosts) -> None:
    began = time.monotonic()
    ended = run(pair, "--host=h1,h2", FAILS="1")
    assert ended.code == 3, ended.stderr
    assert time.monotonic() - began < 30
    assert cells(pair, "status", "reason", "exit_code") == ["FAILURE", f"rank 1 ({hosts.name(2)}): exit code 7", "7"]
    assert not hosts.run(1, "docker", "ps", "--quiet")


def test_no_host_starts_where_one_can_not(pair: Controller, hosts: Hosts) -> None:
    hosts.cut(2)
    ended = run(pair, "--host=h1,h2")
    assert ended.code == 3
    [machines, reason, nodes] = cells(pair, "machine_name", "reason", "nnodes")
    assert (machines, nodes) == ("h1,h2", "2")
    assert reason.startswith("rank 1 (h2): ssh: ")
    assert "h1: starting" not in ended.stderr
    refused = run(pair, "--host=h1,h2,h3")
    assert refused.code == 4
    assert "quick: nnodes 2: expected 2 hosts, got 3; name as many with --host" in refused.stderr
