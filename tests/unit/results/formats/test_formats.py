"""The report files, each read back by a reader of its own."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from xml.etree.ElementTree import Element, fromstring

import pytest
import xmlschema
from markdown_it import MarkdownIt
from prometheus_client import Metric as Family
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from madengine.cli.commands import VERBS
from madengine.errors import ConfigurationError
from madengine.records import GpuCost, Metric
from madengine.results.formats import Results, gitlab_metrics, junit, markdown, openmetrics
from madengine.results.formats.causes import is_infrastructure
from madengine.results.formats.github import add_summary, failure_lines
from madengine.results.formats.options import FORMATS, requested
from madengine.results.rows import result_rows
from tests.unit.results.formats.hostile import HOSTILE, NOT_STARTED, SKIPPED_RUN, hostile_rows, named
from tests.unit.results.samples import DONE, FAILED, SEVERAL, one

SCHEMA = Path(__file__).parents[3] / "data/schemas/junit.xsd"


@cache
def schema() -> xmlschema.XMLSchema:
    return xmlschema.XMLSchema(SCHEMA)


def report_of(*results: object, error: str = "") -> Results:
    return Results([row for result in results for row in result_rows(result, {})], error=error)  # type: ignore[arg-type]


def parsed(report: Results) -> Element:
    text = junit.text(report).encode("utf-8", "backslashreplace").decode()
    schema().validate(text)
    return fromstring(text)


# --- model or infrastructure ---


@pytest.mark.parametrize(
    ("exit_code", "reason", "expected"),
    [
        (3, "exit code 3", False),
        (137, "out of memory: the kernel killed it", False),
        (None, "timeout: the script ran longer than 5 s", False),
        (0, "performance is not a number", False),
        (None, "build: 2 of 5 steps failed", False),
        (None, "", False),
        (None, "r:5000/x@sha256:1: can't be pulled: connection refused", True),
        (None, "GPUs 0, 1 are used by another run", True),
        (137, "the container was removed by another process", True),
        (143, "stopped: Evicted", True),
        (130, "interrupted", True),
    ],
)
def test_a_failure_is_the_models_or_of_what_it_ran_on(exit_code: int | None, reason: str, expected: bool) -> None:
    assert is_infrastructure(one(replace(FAILED, exit_code=exit_code, reason=reason))) is expected


def test_a_success_is_no_failure_of_anything() -> None:
    assert not is_infrastructure(one(DONE))


# --- JUnit ---


def test_junit_has_a_suite_for_each_host_and_a_case_for_each_model_and_metric() -> None:
    root = parsed(report_of(DONE, DONE, SEVERAL, FAILED, NOT_STARTED, SKIPPED_RUN))
    assert root.attrib == {"name": "madengine", "tests": "7", "failures": "2", "errors": "1"}
    cases = {
        (suite.get("name"), case.get("classname"), case.get("name")): [child.tag for child in case][:-1]
        for suite in root
        for case in suite.iter("testcase")
    }
    assert cases == {
        ("gpu-node-01", "dummy", "tokens/s"): [],
        ("gpu-node-01", "dummy", "tokens/s #2"): [],
        ("gpu-node-01", "dummy_small", "ms [note=n]"): [],
        ("gpu-node-01", "dummy_large", "ms"): ["failure"],
        ("gpu-node-01", "dummy", "run"): ["failure"],
        ("gpu-node-01", "dummy", "run #2"): ["skipped"],
        ("n2", "dummy", "run"): ["error"],
    }
    error = root.find("testsuite[@name='n2']/testcase/error")
    assert error is not None and (error.get("message"), error.text) == (
        "pull: no such image at all", "pull: no such image at all",
    )  # fmt: skip
    output = root.findtext("testsuite/testcase/system-out") or ""
    assert "image_digest: sha256:abc" in output.splitlines()
    # Several rows of one run took its time once.
    assert root[0].get("time") == "45.200"


def test_junit_says_why_the_command_itself_failed() -> None:
    root = parsed(report_of(DONE, error="no container engine works"))
    assert (root.get("tests"), root.get("errors")) == ("2", "1")
    assert root.findtext("testsuite[@name='madengine']/testcase/error") == "no container engine works"


def test_junit_takes_any_name() -> None:
    root = parsed(Results(hostile_rows(), error=HOSTILE))
    names = {case.get("classname") or "" for case in root.iter("testcase")}
    assert any(name.startswith("<script>alert('x')</script>") for name in names)
    assert max(map(len, names)) == 250


def test_junit_of_nothing_is_valid() -> None:
    assert parsed(Results()).get("tests") == "0"


# --- OpenMetrics ---


def families(text: str) -> dict[str, Family]:
    return {family.name: family for family in text_string_to_metric_families(text)}  # type: ignore[no-untyped-call]


def test_openmetrics_has_the_newest_value_of_each_model_metric_and_host() -> None:
    cost = GpuCost(peak_gpu_memory_mib=1024.0, energy_j=5.5, mean_gpu_utilization=50.0)
    newer = replace(DONE, started="2024-01-16T10:30:00Z", metrics=(Metric("8.5", "tokens/s"),), cost=cost)
    by_name = families(openmetrics.text(report_of(newer, DONE, NOT_STARTED, SKIPPED_RUN)))
    (performance,) = by_name["madengine_performance"].samples
    assert performance.value == 8.5
    assert performance.labels == {
        "model": "dummy", "metric": "tokens/s", "host": "gpu-node-01", "gpu": "gfx942", "n_gpus": "4",
        "digest": "sha256:abc",
    }  # fmt: skip
    success = {sample.labels["host"]: sample.value for sample in by_name["madengine_run_success"].samples}
    assert success == {"gpu-node-01": 1.0, "n2": 0.0}
    values = {
        name: by_name[name].samples[0].value
        for name in ("madengine_peak_gpu_memory_bytes", "madengine_energy_joules", "madengine_gpu_utilization_ratio")
    }
    assert [*values.values()] == [2.0**30, 5.5, 0.5]
    assert by_name["madengine_energy_joules"].unit == "joules"


def test_openmetrics_takes_any_name_and_nothing() -> None:
    text = openmetrics.text(Results(hostile_rows()))
    models = {sample.labels.get("model", "") for sample in families(text)["madengine_performance"].samples}
    assert any(model.startswith("<script>alert('x')</script>\"`|\\$#{}%\n::error::x") for model in models)
    assert openmetrics.text(Results()) == "# EOF\n"


def gitlab_reads(text: str) -> Iterator[tuple[str, str]]:
    """Read a metrics report as GitLab does: comments cut off, then the words of a shell."""
    for line in text.splitlines():
        words = shlex.split(line.partition("#")[0])
        if len(words) > 1:
            yield words[0], words[1]


def test_gitlab_gets_the_same_names_in_every_pipeline() -> None:
    before, after = (
        dict(gitlab_reads(gitlab_metrics.text(report_of(replace(DONE, image_digest=digest, run_id=digest)))))
        for digest in ("sha256:1", "sha256:2")
    )
    assert before == after
    assert before["madengine_performance{model=dummy,host=gpu-node-01,gpu=gfx942,metric=tokens/s}"] == "7.0"
    hostile = gitlab_metrics.text(Results(hostile_rows()))
    assert families(hostile)["madengine_performance"].samples
    assert len(list(gitlab_reads(hostile))) == sum(line[0] != "#" for line in hostile.splitlines())


# --- Markdown and GitHub ---


def test_markdown_has_the_failures_and_a_table_for_each_metric() -> None:
    text = markdown.text(report_of(DONE, SEVERAL, FAILED, NOT_STARTED, error="boom | `x`"))
    assert "2 SUCCESS, 3 FAILURE on 2 hosts." in text
    assert "| infrastructure | `dummy`       | `n2`" in text
    assert "### `tokens/s` (higher is better)" in text
    assert "**The command failed:** `` boom \\| `x` ``" in text


def test_markdown_shows_hostile_names_as_code_and_stays_short() -> None:
    rows = hostile_rows()
    text = markdown.text(Results(rows))
    page = MarkdownIt("commonmark").enable("table").render(text)
    assert "&lt;script&gt;" in page
    assert "<script>" not in page
    many = [{**rows[0], "metric": f"metric {number}"} for number in range(5_000)]
    assert len(markdown.text(Results(many))) < 202_000
    assert "tables more don't fit here" in markdown.text(Results(many))


def test_github_gets_a_line_for_each_failure_up_to_its_limit(tmp_path: Path) -> None:
    assert failure_lines(report_of(NOT_STARTED)) == [
        "::error title=dummy on n2 (infrastructure)::pull: no such image at all"
    ]
    lines = failure_lines(report_of(*[replace(named(HOSTILE), status="FAILURE", reason=HOSTILE)] * 20, error="e"))
    assert len(lines) == 10
    assert all(line.startswith("::error title=") and len(line.splitlines()) == 1 for line in lines)
    assert lines[0] == "::error title=madengine::e"
    assert lines[-1].endswith("::12 more failures are in the job's summary")
    summary = tmp_path / "summary.md"
    summary.write_text("before\n")
    add_summary(report_of(DONE), {"GITHUB_STEP_SUMMARY": str(summary)})
    assert summary.read_text().startswith("before\n## Results\n\n1 SUCCESS on 1 host.")


# --- the table of formats ---


@pytest.mark.parametrize("verb", ["run", "full", "deploy", "fetch", "collect", "report"])
def test_every_command_with_results_has_every_format(verb: str) -> None:
    options = {option.flag: option for option in VERBS[verb].declared()}
    assert [one.flag for one in FORMATS if options[one.flag].help != one.help] == []


def test_every_format_is_documented_and_none_shares_a_file() -> None:
    page = (Path(__file__).parents[4] / "docs/results.md").read_text(encoding="utf-8")
    assert [one.flag for one in FORMATS if f"`{one.flag} FILE`" not in page] == []
    with pytest.raises(ConfigurationError, match=r"x: named by --junit and --markdown; expected one each"):
        requested({"junit": Path("x"), "markdown": Path("x")})
