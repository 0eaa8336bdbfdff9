"""JUnit XML as Jenkins and GitLab read it: a suite for each host, a case for each model and metric."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from madengine.records import SKIPPED
from madengine.results.formats import Results
from madengine.results.formats.causes import is_failure, is_infrastructure
from madengine.results.rows import Row

# XML 1.0 has no other control characters, and no halves of surrogate pairs.
_NOT_IN_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_IS_TIME = re.compile(r"2[0-9]{3}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])T([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]Z")
_NAME_CHARACTERS = 250
# What a case says of its run; Jenkins knows properties of suites only.
_FACTS = (
    "performance", "metric", "run_id", "image_digest", "docker_image", "gpu_architecture", "gpus", "n_gpus", "engine",
    "exit_code", "peak_gpu_memory_mib", "energy_j",
)  # fmt: skip


def text(report: Results) -> str:
    """Return the rows as JUnit XML: `failure` is the model's, `error` is what it ran on."""
    root = Element("testsuites", name="madengine")
    hosts: dict[str, list[Row]] = defaultdict(list)
    for row in report.rows:
        hosts[row.get("machine_name", "")].append(row)
    for host, rows in sorted(hosts.items()):
        _add_suite(root, host, rows)
    if report.error:
        suite = SubElement(root, "testsuite", _counts("madengine", tests=1, errors=1))
        case = SubElement(suite, "testcase", classname="madengine", name="command", time="0")
        _add_problem(case, "error", "infrastructure", report.error)
    for name in ("tests", "failures", "errors"):
        root.set(name, str(sum(int(suite.get(name, "0")) for suite in root)))
    indent(root)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{tostring(root, encoding="unicode")}\n'


def _add_suite(root: Element, host: str, rows: Sequence[Row]) -> None:
    errors = sum(map(is_infrastructure, rows))
    counts = {
        "tests": len(rows),
        "failures": sum(map(is_failure, rows)) - errors,
        "errors": errors,
        "skipped": sum(row.get("status") == SKIPPED for row in rows),
    }
    suite = SubElement(root, "testsuite", _counts(host or "unknown host", **counts))
    suite.set("hostname", _name(host))
    suite.set("time", f"{sum(_seconds(row) for row in _each_run(rows)):.3f}")
    if started := min(filter(_IS_TIME.fullmatch, (row.get("started", "") for row in rows)), default=""):
        suite.set("timestamp", started.removesuffix("Z"))
    properties = SubElement(suite, "properties")
    for name in ("gpu_architecture", "engine", "deployment_type", "run_id"):
        for value in sorted({row.get(name, "") for row in rows} - {""}):
            SubElement(properties, "property", name=name, value=_in_xml(value))
    seen: Counter[tuple[str, str]] = Counter()
    for row in rows:
        model, metric = _name(row.get("model", "")), _name(_case_name(row))
        seen[model, metric] += 1
        number = seen[model, metric]
        case = SubElement(suite, "testcase", classname=model or "unknown model", time=f"{_seconds(row):.3f}")
        case.set("name", metric if number == 1 else f"{metric} #{number}")
        _add_outcome(case, row)


def _case_name(row: Row) -> str:
    variant = row.get("variant", "")
    return (row.get("metric") or "run") + (f" [{variant}]" if variant else "")


def _add_outcome(case: Element, row: Row) -> None:
    reason = row.get("reason", "")
    if row.get("status") == SKIPPED:
        SubElement(case, "skipped", message=_in_xml(reason))
    elif is_infrastructure(row):
        _add_problem(case, "error", "infrastructure", reason)
    elif is_failure(row):
        _add_problem(case, "failure", "model", reason or "it failed; see its log")
    facts = (f"{name}: {row[name]}" for name in _FACTS if row.get(name))
    SubElement(case, "system-out").text = _in_xml("\n".join(facts))


def _add_problem(case: Element, tag: str, kind: str, reason: str) -> None:
    problem = SubElement(case, tag, type=kind, message=_name(" ".join(reason.split())))
    problem.text = _in_xml(reason)


def _each_run(rows: Iterable[Row]) -> Iterable[Row]:
    """Return a row for each run: several metrics of one took the time only once."""
    return {(row.get("run_id", ""), row.get("docker_image", ""), row.get("started", "")): row for row in rows}.values()


def _seconds(row: Row) -> float:
    digits = row.get("run_duration") or row.get("test_duration") or "0"
    return float(digits) if re.fullmatch(r"[0-9]{1,9}(\.[0-9]*)?", digits) else 0.0


def _counts(name: str, tests: int = 0, failures: int = 0, errors: int = 0, skipped: int = 0) -> dict[str, str]:
    counts = {"tests": tests, "failures": failures, "errors": errors, "skipped": skipped}
    return {"name": _name(name), **{key: str(count) for key, count in counts.items()}}


def _name(value: str) -> str:
    value = _in_xml(value)
    return value if len(value) <= _NAME_CHARACTERS else f"{value[: _NAME_CHARACTERS - 1]}…"


def _in_xml(value: str) -> str:
    return _NOT_IN_XML.sub("\ufffd", value)
