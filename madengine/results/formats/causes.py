"""Whether a failure is the model's, or of what it ran on."""

from __future__ import annotations

from madengine.records import FAILURE
from madengine.results.rows import Row

# How the reasons of rows begin that say that a script was ended from outside.
_ENDED_FROM_OUTSIDE = (
    "interrupted", "stopped", "the container was removed", "the container ended before its script did", "evicted",
    "preempted", "node lost",
)  # fmt: skip
# A failed build, or a script that ran too long and was killed with what ran it.
_OF_THE_MODEL = ("build:", "timeout:", "out of memory")


def is_failure(row: Row) -> bool:
    """Return whether a row is a failure of any kind."""
    return row.get("status") == FAILURE


def is_infrastructure(row: Row) -> bool:
    """Return whether a failure is not the model's own: its script never ran, or was ended from outside.

    Rows of an older madengine have neither an exit code nor a reason; theirs are the model's.
    """
    reason = row.get("reason", "")
    if not is_failure(row) or not reason or reason.startswith(_OF_THE_MODEL):
        return False
    return not row.get("exit_code") or reason.startswith(_ENDED_FROM_OUTSIDE)
