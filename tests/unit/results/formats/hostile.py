"""Results whose names are hostile, for the tests of every format."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from madengine.records import SKIPPED, Metric, RunResult
from madengine.results.rows import result_rows
from tests.unit.results.samples import DONE, FAILED, MODEL, SEVERAL

#: Markup of every format, control characters, half of a surrogate pair, a line of a workflow command.
HOSTILE = "<script>alert('x')</script>\"`|\\$#{}%\n::error::x\x1b[1m\x00\u2028\ud800]]>&amp;"
NAMES = (HOSTILE, "x" * 10_000, "'; DROP TABLE runs; --", "# TYPE a gauge", "\\", '"', "", " ")

NOT_STARTED = replace(
    DONE, machine_name="n2", status="FAILURE", exit_code=None, metrics=(), reason="pull: no such image\nat all"
)
SKIPPED_RUN = replace(DONE, status=SKIPPED, metrics=(), exit_code=None, reason="skip_gpu_arch")


def named(name: str) -> RunResult:
    """A result that has this name wherever a name can be."""
    model = replace(MODEL, name=name, args=name)
    metrics = (Metric("5", name, extra={name: name, "b": name}),)
    more: dict[str, Any] = {
        "engine": name,
        "image_digest": name,
        "n_gpus": name,
        "gpu_vendor": name,
        "git_commit": name,
    }
    return replace(DONE, model=model, machine_name=name, gpu_architecture=name, metrics=metrics, **more)


def hostile_rows() -> list[dict[str, str]]:
    """Rows of every outcome, and of every hostile name, also as the reason of a failure."""
    results = [DONE, DONE, SEVERAL, FAILED, NOT_STARTED, SKIPPED_RUN]
    results += [one for name in NAMES for one in (named(name), replace(named(name), status="FAILURE", reason=name))]
    rows = [row for result in results for row in result_rows(result, {})]
    # In a file of others, every cell may be anything.
    return [
        *rows,
        *({**rows[0], **dict.fromkeys(rows[0], name), "status": "SUCCESS", "performance": "1e3"} for name in NAMES),
    ]
