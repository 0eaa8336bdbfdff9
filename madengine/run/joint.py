"""A model's result on this node -> that of the run on several nodes, which the first of them writes."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from madengine.errors import MadengineError
from madengine.records import FAILURE, SUCCESS, RunResult
from madengine.results.joint import joint_result
from madengine.results.results_json import result_json, result_of
from madengine.results.rows import result_rows

if TYPE_CHECKING:
    from madengine.run.peers import Peers

logger = logging.getLogger(__name__)


def round_of(result: RunResult) -> str:
    """Return what names a model's run to the other nodes, which have the same manifest."""
    return result.image.key if result.image else result.model.name


class Joint(NamedTuple):
    """A model's run on several nodes, once all have reported."""

    #: what this node writes: the joint result on the first node, its own on the others
    own: RunResult
    #: the joint result, with the GPUs of this node
    of_run: RunResult
    #: why it failed, with the rank that did so first; empty where no rank has
    reason: str
    #: whether Ctrl-C ended the wait for the others
    interrupted: bool


def joined(result: RunResult, peers: Peers, what: str = "") -> Joint:
    """Report a result, and wait until all nodes have reported theirs; `what` tells it from others of the model."""
    result = replace(result, rank=peers.rank, nnodes=peers.nodes)
    reason = "" if result.status == SUCCESS else result.reason or result.status
    conclusion = peers.end(what + round_of(result), result_json(result), reason)
    ranks = sorted({*range(len(peers.machines)), peers.rank, *conclusion.results})
    parts = [_part_of(rank, result, peers, conclusion.results) for rank in ranks]
    of_run = replace(joint_result(parts, conclusion.reason, peers.nodes, conclusion.culprit), rank=0)
    own = result if peers.rank else of_run
    return Joint(own, replace(of_run, gpus=result.gpus), conclusion.reason, conclusion.interrupted)


def _part_of(rank: int, own: RunResult, peers: Peers, results: Mapping[int, Any]) -> RunResult:
    """Return a node's result, a failure where it has vanished."""
    if rank == peers.rank:
        return own
    if rank in results:
        return _part(own, rank, results[rank])
    reason = "no result: its madengine ended or can't be reached"
    part = RunResult(own.run_id, own.model, own.image, FAILURE, reason, n_gpus=own.n_gpus, rank=rank)
    return replace(part, machine_name=peers.machines[rank])


def _part(own: RunResult, rank: int, entry: Mapping[str, Any]) -> RunResult:
    """Return another node's result, a failure where it sent nonsense."""
    try:
        part = replace(result_of(entry), rank=rank, model=own.model, parts=())
        result_rows(replace(part, rank=0), {})
        return part
    # It may send anything anywhere.
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, MadengineError) as error:
        logger.debug("unusable result", exc_info=True)
        return RunResult(own.run_id, own.model, own.image, FAILURE, f"unusable result: {error!r}", rank=rank)
