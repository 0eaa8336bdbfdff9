"""Madengines of several nodes that start and end each model together, over real connections."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest

from madengine.errors import ConfigurationError, RunError
from madengine.programs.preflight import free_port
from madengine.records import SUCCESS, Metric, Model, RunResult
from madengine.results.rows import result_rows
from madengine.run.coordinator import Coordinator
from madengine.run.joint import joined
from madengine.run.peers import Conclusion, Peers
from madengine.run.seat import Seat, seat_in

KEY = "of-this-run"


def seat(rank: int, port: int, nodes: int = 2) -> Seat:
    return Seat(nodes, rank, "127.0.0.1", port, KEY)


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def both(port: int) -> Iterator[tuple[Peers, Peers]]:
    """Two ranks that have joined."""
    ranks = Peers(seat(0, port)), Peers(seat(1, port))
    for each in ranks:
        each.world()
    yield ranks
    for each in reversed(ranks):
        each.leave("")


def together(*calls: Callable[[], Any]) -> list[Any]:
    """The results, or errors, of calls that wait for each other."""
    with ThreadPoolExecutor(len(calls)) as pool:
        futures: list[Future[Any]] = [pool.submit(call) for call in calls]
        return [future.exception(10) or future.result() for future in futures]


def test_all_ranks_know_the_nodes_and_the_port(both: tuple[Peers, Peers]) -> None:
    first, second = (each.world() for each in both)
    assert (first.rank, second.rank, first.nodes) == (0, 1, 2)
    assert first.addresses == second.addresses == ("127.0.0.1", "127.0.0.1")
    assert first.port == second.port != both[0].seat.port
    assert first.interface == ""


def test_no_rank_starts_before_the_others_and_each_round_begins_afresh(both: tuple[Peers, Peers]) -> None:
    first, second = both
    for model in ("a", "b"):
        starting = threading.Thread(target=first.start, args=(model,))
        starting.start()
        starting.join(0.1)
        assert starting.is_alive()
        second.start(model)
        starting.join(5)
        assert not starting.is_alive()
        ends = together(lambda: first.end(model, {"a": 1}, ""), lambda: second.end(model, {"b": 2}, ""))  # noqa: B023
        assert ends == [Conclusion("", {0: {"a": 1}, 1: {"b": 2}})] * 2


def test_the_first_failure_stops_the_others_and_is_the_reason(both: tuple[Peers, Peers]) -> None:
    first, second = both
    together(lambda: first.start("a"), lambda: second.start("a"))

    def stopped() -> Conclusion:
        while not first.stop_reason:
            pass
        return first.end("a", {}, f"stopped: {first.stop_reason}")

    ends = together(stopped, lambda: second.end("a", {}, "exit code 7"))
    reason = f"rank 1 ({socket.gethostname()}): exit code 7"
    assert [(end.reason, end.culprit) for end in ends] == [(reason, 1)] * 2
    assert first.stop_reason == ""


def test_a_rank_that_can_not_start_keeps_the_others_from_it(both: tuple[Peers, Peers]) -> None:
    first, second = both

    def end_second() -> Conclusion:
        return second.end("a", {}, "no such image")

    def start_first() -> Conclusion:
        with pytest.raises(RunError, match=r"^not started: rank 1 \(.*\): no such image$"):
            first.start("a")
        return first.end("a", {}, "not started")

    assert [end.reason.rpartition(" (")[0] for end in together(start_first, end_second)] == ["rank 1", "rank 1"]


@pytest.mark.parametrize(("reason", "shown"), [("engine: none", "engine: none"), (None, "its madengine ended")])
def test_a_rank_that_leaves_ends_the_run_of_the_others(port: int, reason: str | None, shown: str) -> None:
    first, second = Peers(seat(0, port)), Peers(seat(1, port))
    together(first.world, second.world)
    if reason is None:
        with suppress(OSError):
            second._connection.shutdown(socket.SHUT_RDWR)  # type: ignore[union-attr]
    else:
        second.leave(reason)
    with pytest.raises(RunError, match=rf"^not started: rank 1 \(.*\): {shown}$"):
        first.start("a")
    assert first.end("a", {"a": 1}, "not started").results == {0: {"a": 1}}
    first.leave("")


def test_the_row_of_a_run_has_the_node_that_has_vanished_too(port: int) -> None:
    first, second = Peers(seat(0, port)), Peers(seat(1, port))
    together(first.world, second.world)
    with suppress(OSError):
        second._connection.shutdown(socket.SHUT_RDWR)  # type: ignore[union-attr]
    metrics = (Metric("5", "runs"),)
    model = Model("m", "docker/m", "scripts/m")
    own = RunResult("r", model, None, SUCCESS, metrics=metrics, machine_name="n0", n_gpus="2")
    result = joined(own, first).own
    assert [part.reason for part in result.parts] == ["", "no result: its madengine ended or can't be reached"]
    [row] = result_rows(result, {})
    assert (row["machine_name"], row["n_gpus"], row["nnodes"]) == (f"n0,{socket.gethostname()}", "4", "2")
    assert row["reason"] == f"rank 1 ({socket.gethostname()}): its madengine ended"
    first.leave("")


def test_models_that_differ_are_a_reason(both: tuple[Peers, Peers]) -> None:
    first, second = both

    def attempt(peers: Peers, model: str) -> Conclusion:
        with pytest.raises(RunError):
            peers.start(model)
        return peers.end(model, {}, "")

    ends = together(lambda: attempt(first, "a"), lambda: attempt(second, "b"))
    assert {end.reason.rpartition(": ")[2] for end in ends} <= {
        "runs b where others run a",
        "runs a where others run b",
    }


def test_a_rank_that_does_not_come_is_named(port: int) -> None:
    first = Peers(seat(0, port), join_seconds=0.2)
    with pytest.raises(RunError, match=r"^rank 1: did not start within 0.2 s$"):
        first.world()
    assert first.end("a", {}, "x").reason == "rank 1: did not start within 0.2 s"
    first.leave("")


def test_a_first_rank_that_is_not_there_is_named(port: int) -> None:
    second = Peers(seat(1, port), join_seconds=0.2)
    with pytest.raises(RunError, match=rf"^rank 0 can't be reached at 127.0.0.1 port {port}: Connection refused; the "):
        second.world()


def test_a_first_rank_that_can_not_run_says_so_to_those_that_come_later(port: int) -> None:
    first = Peers(seat(0, port))
    leaving = threading.Thread(target=first.leave, args=("no engine",))
    leaving.start()
    second = Peers(seat(1, port))
    with pytest.raises(RunError, match=r"rank 0 \(.*\): no engine$"):
        second.start("a")
    second.leave("")
    leaving.join(5)
    assert not leaving.is_alive()


def test_a_first_rank_that_leaves_before_a_model_says_why(both: tuple[Peers, Peers]) -> None:
    first, second = both
    first.leave("no engine")
    with pytest.raises(RunError, match=r"^not started: rank 0 \(.*\): no engine$"):
        second.start("a")


def test_a_port_that_is_taken_is_named(port: int) -> None:
    with socket.create_server(("", port)), pytest.raises(RunError, match=rf"^rank 0: port {port}: Address already in"):
        Coordinator(seat(0, port))


@pytest.mark.parametrize(
    "hello",
    [
        b"",
        b"x\n",
        b"[]\n",
        b"{}\n",
        json.dumps({"rank": 1, "machine": "m", "proof": "0" * 64}).encode() + b"\n",
        json.dumps({"rank": "1", "machine": "m", "proof": ""}).encode() + b"\n",
        b"[" * 100_000 + b"\n",
    ],
)
def test_who_does_not_know_the_key_is_not_of_the_run(port: int, hello: bytes) -> None:
    first = Peers(seat(0, port))
    with socket.create_connection(("127.0.0.1", port)) as stranger:
        stranger.recv(100)
        stranger.settimeout(5)
        with suppress(OSError):  # the other end may have hung up at once
            stranger.sendall(hello)
            stranger.shutdown(socket.SHUT_WR)
            assert stranger.recv(100) == b""
    second = Peers(seat(1, port))
    assert second.world().nodes == 2
    second.leave("")
    first.leave("")


def test_a_second_rank_of_the_same_number_is_not_let_in(both: tuple[Peers, Peers], port: int) -> None:
    third = Peers(seat(1, port), join_seconds=0.5)
    with pytest.raises(RunError, match="its madengine ended"):
        third.world()
    together(lambda: both[0].start("a"), lambda: both[1].start("a"))


@pytest.mark.parametrize(
    "message",
    [
        {"type": "world"},
        {"type": "world", "port": "x", "addresses": ["a", "b"]},
        {"type": "world", "port": 1, "addresses": []},
        {"type": "done", "results": {"x": 1}},
        {"type": "done", "results": 3},
    ],
)
def test_what_rank_0_can_not_have_sent_ends_the_run(port: int, message: Mapping[str, Any]) -> None:
    with socket.create_server(("", port)) as server:
        second = Peers(seat(1, port))
        connection, _ = server.accept()
        with connection:
            connection.sendall(b"challenge\n")
            connection.recv(1000)
            connection.sendall(json.dumps(message).encode() + b"\n")
            with pytest.raises(RunError, match=r"^rank 0 \(127.0.0.1\): an unusable message: "):
                second.world()


# --- the environment ---

ENVIRON = seat(1, 2345).environ


def test_a_seat_is_read_as_it_was_written() -> None:
    assert seat_in({**ENVIRON, "PATH": "/bin"}) == seat(1, 2345)
    assert seat_in(replace(seat(1, 2345), address="fe80::1").environ) == replace(seat(1, 2345), address="fe80::1")
    assert seat_in({"NNODES": "2"}) is None
    assert seat_in(seat(0, 1, nodes=1).environ) is None
    assert KEY not in repr(seat(1, 2345))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"MADENGINE_NODES": ""}, "MADENGINE_NODES=: expected a number from 1 to 100000"),
        ({"MADENGINE_NODE_RANK": "2"}, "MADENGINE_NODE_RANK=2: expected a number from 0 to 1"),
        ({"MADENGINE_RENDEZVOUS": "host"}, "MADENGINE_RENDEZVOUS=host: expected ADDRESS:PORT"),
        ({"MADENGINE_RENDEZVOUS": "host:70000"}, "MADENGINE_RENDEZVOUS=host:70000: expected ADDRESS:PORT"),
        ({"MADENGINE_RENDEZVOUS_KEY": ""}, "MADENGINE_RENDEZVOUS_KEY: expected a secret of this run, the same on all"),
    ],
)
def test_a_seat_that_is_wrong_is_named(changes: Mapping[str, str], message: str) -> None:
    with pytest.raises(ConfigurationError) as error:
        seat_in({**ENVIRON, **changes})
    assert str(error.value).startswith(message)
