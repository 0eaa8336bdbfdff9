"""A model on several hosts together, over real ssh: one row, one start, one end."""

from __future__ import annotations

import json
import re
import shlex
import time

import pytest

from madengine.results.merge import merge
from tests.bed.components import Outcome
from tests.fleet.conftest import Controller, Hosts, until

# Rank 0 waits for rank 1 on the port that they were given; FAILS names a rank that fails meanwhile. Other models than
# `quick` print what their launcher has set.
SCRIPT = """\
if [ "$MAD_MODEL_NAME" != quick ]; then
  env
  cat /myworkspace/hostfile
  echo "performance: 1 runs"
  exit
fi
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


# What a launcher sets on the second of two nodes with 4 processes each; FIRST and SECOND stand for their addresses.
OF_LAUNCHER = {
    "deepspeed": "MAD_MULTI_NODE_RUNNER=deepspeed --hostfile=/myworkspace/hostfile --no_ssh --node_rank=1 "
    "--master_addr=FIRST --master_port=PORT;FIRST slots=4;SECOND slots=4",
    "megatron": "TENSOR_MODEL_PARALLEL_SIZE=4;PIPELINE_MODEL_PARALLEL_SIZE=2;CONTEXT_PARALLEL_SIZE=1",
    "torchtitan": "TORCHTITAN_TENSOR_PARALLEL_SIZE=4;TORCHTITAN_PIPELINE_PARALLEL_SIZE=2;TORCHTITAN_FSDP_ENABLED=1",
    "primus": "PRIMUS_CONFIG_PATH=exp_pretrain.yaml;NNODES=2;NODE_RANK=1;MASTER_ADDR=FIRST;MASTER_PORT=PORT",
    "vllm": "VLLM_TENSOR_PARALLEL_SIZE=4;VLLM_DISTRIBUTED_BACKEND=none;VLLM_HOST_IP=SECOND",
    "sglang": "SGLANG_TENSOR_PARALLEL_SIZE=4;NCCL_INIT_ADDR=FIRST:PORT;SGLANG_HOST_IP=SECOND",
    "sglang-disagg": "SGLANG_DISAGG_PREFILL_NODES=1;SGLANG_DISAGG_DECODE_NODES=1;SGLANG_DISAGG_TOTAL_NODES=2;"
    "SGLANG_TP_SIZE=4;SGLANG_NODE_IPS=FIRST,SECOND;SGLANG_NODE_RANK=1",
}
# What differs on the first node.
OF_FIRST = {"--node_rank=1": "--node_rank=0", "_RANK=1": "_RANK=0", "HOST_IP=SECOND": "HOST_IP=FIRST"}


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


def add_launchers(pair: Controller) -> None:
    """Add a model for each launcher, of the image of `quick`."""
    path = pair.folder / "build_manifest.json"
    manifest = json.loads(path.read_text(encoding="utf-8"))
    [key] = (key for key, model in manifest["built_models"].items() if model["name"] == "quick")
    for launcher in (*OF_LAUNCHER, "mpirun"):
        distributed = {"launcher": launcher, "nnodes": 2, "nproc_per_node": 4}
        manifest["built_images"][launcher] = manifest["built_images"][key]
        manifest["built_models"][launcher] = {
            **manifest["built_models"][key],
            "name": launcher,
            "distributed": distributed,
        }
    path.write_text(json.dumps(manifest), encoding="utf-8")


def cells(pair: Controller, *columns: str, model: str = "quick") -> list[str]:
    """Some cells of a model's only row."""
    [row] = (row for row in pair.rows if row["model"] == model)
    return [row[column] for column in columns]


def test_models_run_on_two_hosts_as_one_each_by_its_launcher(pair: Controller, hosts: Hosts) -> None:
    add_launchers(pair)
    ended = run(pair, "--host=h1,h2", f"--tags={','.join((*OF_LAUNCHER, 'mpirun'))}", NCCL_SOCKET_IFNAME="ib7")
    assert ended.code == 3, ended.stderr
    assert "h2: quick: the container has this machine's network, to reach the other nodes" in ended.stderr
    names = f"{hosts.name(1)},{hosts.name(2)}"
    columns = ("machine_name", "status", "reason", "performance", "metric", "aggregation", "nnodes", "launcher")
    assert cells(pair, *columns) == [names, "SUCCESS", "", "22", "tokens_per_second", "sum", "2", "torchrun"]
    for rank in (0, 1):
        text = "\n".join(log_of(pair, rank, "quick"))
        assert f"rank {rank} of 2 by eth0 and ib7\n" in text
        address = f"--master_addr {hosts.address}.1 --master_port "
        assert f"torchrun --nproc_per_node 4 --nnodes 2 --node_rank {rank} {address}" in text
    [run_of_first] = [
        run
        for run in json.loads((pair.results / "results.json").read_text(encoding="utf-8"))["runs"]
        if run["environment"]["machine_name"] == hosts.name(1)
    ]
    [parts] = [result["parts"] for result in run_of_first["results"] if result["model"]["name"] == "quick"]
    assert [part["metrics"][0]["performance"] for part in parts] == ["10.5", "11.5"]
    assert [part["machine_name"] for part in parts] == names.split(",")
    assert len(merge([pair.results], pair.folder / "again.csv").rows) == len(pair.rows) == len(OF_LAUNCHER) + 2
    check_launchers(pair, hosts)


def check_launchers(pair: Controller, hosts: Hosts) -> None:
    """Each has its variables on both nodes; mpirun has none there."""
    [reason] = cells(pair, "reason", model="mpirun")
    assert re.match(r"rank [01] \(.*\): launcher mpirun: it starts the processes of other nodes by ssh", reason)
    for launcher, lines in OF_LAUNCHER.items():
        name = "megatron-lm" if launcher == "megatron" else launcher
        assert cells(pair, "status", "launcher", "nnodes", model=launcher) == ["SUCCESS", name, "2"]
        for rank in (0, 1):
            printed = log_of(pair, rank, launcher)
            port = next(line.partition("=")[2] for line in printed if line.startswith("MASTER_PORT="))
            text = lines
            for old, new in () if rank else OF_FIRST.items():
                text = text.replace(old, new)
            for old, new in (("FIRST", f"{hosts.address}.1"), ("SECOND", f"{hosts.address}.2"), ("PORT", port)):
                text = re.sub(rf"\b{old}\b", new, text)
            assert {*text.split(";")} <= {*printed}, (launcher, rank)


def log_of(pair: Controller, rank: int, model: str) -> list[str]:
    """The lines of a model's log on one of the hosts."""
    [log] = pair.results.glob(f"h{rank + 1}/runs/*/{model}/*.run.live.log")
    return log.read_text(encoding="utf-8").splitlines()


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


def test_a_node_that_vanishes_ends_the_others_and_its_own_container(pair: Controller, hosts: Hosts) -> None:
    """Takes 20 s, nearly all of it waiting: so long does the kernel probe a connection."""
    context = {"encapsulate_script": f"sh -c {shlex.quote(SCRIPT)}; exit $?;", "env_vars": {"FAILS": "9"}}
    words = ("--tags=quick", "--host=h1,h2", "--reconnect=1", "--additional-context", json.dumps(context))

    def containers(*numbers: int) -> list[bool]:
        return [bool(hosts.run(number, "docker", "ps", "--quiet")) for number in numbers]

    with pair.beside("run", *words) as process:
        until(lambda: containers(1, 2) == [True, True], 30, lambda: pair.output)
        hosts.cut(2)
        began = time.monotonic()
        assert process.wait(60) == 3, pair.output
    assert time.monotonic() - began < 35
    names = f"{hosts.name(1)},{hosts.name(2)}"
    reason = f"rank 1 ({hosts.name(2)}): the connection to it broke: Connection timed out"
    assert cells(pair, "machine_name", "status", "reason", "nnodes") == [names, "FAILURE", reason, "2"]
    assert containers(1) == [False]
    # It has stopped its container by itself; its files are fetched, and there is still one row.
    hosts.heal(2)
    until(lambda: containers(2) == [False], 15, lambda: pair.output)
    fetched = pair("fetch", "--host=h2", f"--run-id={pair.results.name}", check=False)
    assert f"rank 0 ({hosts.address}.1): the connection broke: Connection timed out" in fetched.stderr
    assert cells(pair, "reason") == [reason]
