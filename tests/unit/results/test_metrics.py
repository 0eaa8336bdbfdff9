"""What counts as a model's number, and what must never be taken for one."""

from __future__ import annotations

import csv
import os
import re
import tracemalloc
from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from madengine.errors import RunError
from madengine.records import Metric
from madengine.results.metrics import LINE_LIMIT, MetricScan, read_multiple_results
from madengine.results.numbers import is_number

# The pattern of madengine 2.1 (its base.py), held here as the reference for what older packages print.
V2 = re.compile(
    r"performance:\s+([+\-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+\-]?[0-9]+)?)(?:,?\s*/[a-zA-Z]+\s*,?|,)?\s+([^\s,]+)"
)
NO_LINE = 'no line "performance: <number> <metric>" in the log'


def scan(chunks: Iterable[bytes]) -> MetricScan:
    scanned = MetricScan()
    for chunk in chunks:
        scanned.feed(chunk)
    scanned.finish()
    return scanned


def metric_in(log: bytes | str) -> tuple[str, str] | None:
    metric = scan([log.encode() if isinstance(log, str) else log]).metric
    return (metric.performance, metric.metric) if metric else None


@pytest.mark.parametrize(
    ("line", "value", "metric"),
    [
        ("performance: 12 tokens_per_second", "12", "tokens_per_second"),
        ("performance: 12 tokens/s", "12", "tokens/s"),
        ("performance: 12 ab c", "12", "ab"),
        ("performance: 14164 samples_per_second\r", "14164", "samples_per_second"),
        ("performance: -3.5e+2 x", "-3.5e+2", "x"),
        ("performance: +5 x", "+5", "x"),
        ("performance: .5 x", ".5", "x"),
        ("performance: 5. x", "5.", "x"),
        ("performance: 1e5 x", "1e5", "x"),
        ("performance: 1E-05 x", "1E-05", "x"),
        ("performance: 007 x", "007", "x"),
        ("performance: 0 x", "0", "x"),
        ("performance:12 x", "12", "x"),
        ("performance:\t12\tx", "12", "x"),
        ("performance:    12      x   ", "12", "x"),
        ("performance: 12.5/s, tokens", "12.5", "tokens"),
        ("performance: 12.5 /s, tokens", "12.5", "tokens"),
        ("performance: 12.5, /s tokens", "12.5", "tokens"),
        ("performance: 12.5/s tokens", "12.5", "tokens"),
        ("performance: 12.5/s,tokens", "12.5", "tokens"),
        ("performance: 12.5/s", "12.5", "/s"),
        ("performance: 12.5 /s", "12.5", "/s"),
        ("performance: 12, tokens", "12", "tokens"),
        ("performance: 12,tokens", "12", "tokens"),
        ("performance: 12 ,tokens", "12", "tokens"),
        ("performance: 12 tokens, all of them", "12", "tokens"),
        ("performance: 12", "12", ""),
        ("performance: 12   ", "12", ""),
        ("performance: 12,", "12", ""),
        ("performance: 12ms", "12", "ms"),
        ("performance: 12s", "12", "s"),
        ("performance: 95% accuracy", "95", "%"),
        ("performance: 95 % accuracy", "95", "%"),
        ("performance: 12tokens/s", "12", "tokens/s"),
        ("performance: 12 99p_latency", "12", "99p_latency"),
        ("performance: 12 Bilder/s_größe", "12", "Bilder/s_größe"),
        ("[rank0] performance: 12 x", "12", "x"),
        ("[rank0]:performance: 12 x", "12", "x"),
        ("INFO:root:performance: 12 x", "12", "x"),
        ("...performance: 12 x", "12", "x"),
        ("- performance: 12 x", "12", "x"),
        ("│performance: 12 x", "12", "x"),
        ("\x1b[32m\x1b[1mperformance: 12 x", "12", "x"),
        ("kv_cache_performance: 3 hits performance: 12 x", "12", "x"),
        ("performance: 12.5 ± 0.3 tokens/s", "12.5", "tokens/s"),
        ("performance: 12.5±0.3 tokens/s", "12.5", "tokens/s"),
        ("performance: 12.5 +- 0.3 tokens/s", "12.5", "tokens/s"),
        ("performance: 12.5 +/- 0.3, tokens/s", "12.5", "tokens/s"),
        ("performance: 12.5 ± 2.4% tokens/s", "12.5", "tokens/s"),
        ("performance: 12.5 (± 0.3) tokens/s", "12.5", "tokens/s"),
        ("performance: 12.5 (+/-0.3)/s, tokens", "12.5", "tokens"),
        ("performance: 12.5 ± 3e-1tokens/s", "12.5", "tokens/s"),
        ("performance: 95 ± 2 % accuracy", "95", "%"),
        ("performance: 95 ± 2%", "95", "%"),
        ("performance: 12.5 ± 0.3", "12.5", ""),
        ("performance: 12.5 tokens/s ± 0.3", "12.5", "tokens/s"),
        ("performance: 12.5 E2E_latency", "12.5", "E2E_latency"),
        ("performance: 12.5 k_tokens", "12.5", "k_tokens"),
        ("performance: 12.5 µs", "12.5", "µs"),
        ("performance: 12.5 x speedup", "12.5", "x"),
        ("performance: 12 | tokens", "12", "|"),
        ("+ echo performance: 5 x", "5", "x"),
        ("+ echo 'performance: 5 x'", "5", "x"),
        ("+ echo 'performance: 5'", "5", ""),
        ("[INFO] 12:00:00 performance: 5 x", "5", "x"),
        ("performance: none yet, performance: 7 x", "7", "x"),
        ("\x1b[32mperformance: 12 x\x1b[0m", "12", "x"),
        ("performance: \x1b[1;36m12\x1b[0m \x1b[4mx\x1b[0m", "12", "x"),
        ("performance: \x1b[1m12\x1b(B\x1b[m", "12", ""),
        (" 50%|###  |\rperformance: 12 x", "12", "x"),
        ("performance: 10 x\rperformance: 12 y", "12", "y"),
        ("performance: 10 x\r\rperformance: 11 x\rperformance: 12 y\r", "12", "y"),
        ("step 1 performance: 10 x\rstep 2 performance: 12 y", "12", "y"),
        ("performance: 12 x\r\r\r", "12", "x"),
        ("performance: 12 x\r\x1b[0m", "12", "x"),
        ("performance: ? \rperformance: 12 x", "12", "x"),
    ],
)
def test_a_line_gives_its_value_as_printed_and_its_metric(line: str, value: str, metric: str) -> None:
    assert metric_in(f"before\n{line}\nafter 99 y\n") == (value, metric)
    assert metric_in(line) == (value, metric), "at the end of the log, without a newline"


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("performance: abc", "abc"),
        ("performance: abc 12 x", "abc"),
        ("performance:", ""),
        ("performance: nan loss", "nan"),
        ("performance: NaN", "NaN"),
        ("performance: inf x", "inf"),
        ("performance: -Infinity x", "-Infinity"),
        ("performance: 1e999 x", "1e999"),
        ("performance: 1,234 x", "1,234"),
        ("performance: 1,234,567.8 x", "1,234,567.8"),
        ("performance: 1,5 x", "1,5"),
        ("performance: 1,234tokens", "1,234tokens"),
        ("performance: 1 234 x", "1 234 x"),
        ("performance: 1 234tokens", "1 234tokens"),
        ("performance: 1\u202f234 x", "1 234 x"),
        ("performance: 1, 234 x", "1, 234 x"),
        ("performance: 1_234 x", "1_234"),
        ("performance: 1'234 x", "1'234"),
        ("performance: 12 5 x", "12 5 x"),
        ("performance: 12/100 correct", "12/100"),
        ("performance: 12 / 100 correct", "12 / 100 correct"),
        ("performance: 12 - 15 x", "12 - 15 x"),
        ("performance: 12-15 x", "12-15"),
        ("performance: 1.2.3 x", "1.2.3"),
        ("performance: 12:30 x", "12:30"),
        ("performance: 0x1F x", "0x1F"),
        ("performance: 0xFF x", "0xFF"),
        ("performance: 12k tokens", "12k"),
        ("performance: 1.5M", "1.5M"),
        ("performance: 12e x", "12e"),
        ("performance: 2nd best", "2nd"),
        ("performance: 5min30s", "5min30s"),
        ("performance: 1.5 * 10^3 tokens/s", "1.5 * 10^3 tokens/s"),
        ("performance: 1.5 ×10^3 tokens/s", "1.5 ×10^3 tokens/s"),
        ("performance: 1.5 x 10^3 tokens/s", "1.5 x 10^3 tokens/s"),
        ("performance: 1.5 x10**3 tokens/s", "1.5 x10**3 tokens/s"),
        ("performance: 1.5·10³ tokens/s", "1.5·10³"),
        ("performance: 1.5 10³ tokens/s", "1.5 10³ tokens/s"),
        ("performance: 1.5 ^3 tokens/s", "1.5 ^3 tokens/s"),
        ("performance: 1.5 e3 tokens/s", "1.5 e3 tokens/s"),
        ("performance: 1.5 E+03 tokens/s", "1.5 E+03 tokens/s"),
        ("performance: 1.5D+03 tokens/s", "1.5D+03"),
        ("performance: 1.5 D+03 tokens/s", "1.5 D+03 tokens/s"),
        ("performance: 1.5 k tokens/s", "1.5 k tokens/s"),
        ("performance: 1.5 million tokens/s", "1.5 million tokens/s"),
        ("performance: 1.5 Thousand", "1.5 Thousand"),
        ("performance: 12 of 100 correct", "12 of 100 correct"),
        ("performance: 12 to 15 x", "12 to 15 x"),
        ("performance: 12 – 15 x", "12 – 15 x"),
        ("performance: 12 [11, 13] x", "12 [11, 13] x"),
        ("performance: 12 ± x", "12 ± x"),
        ("performance: 12 ± 0.3 * 10^3 x", "12 ± 0.3 * 10^3 x"),
        ("performance: 12 ± 0,3 x", "12 ± 0,3 x"),
        ("performance: |12 x", "|12"),
        ("performance: $value x", "$value"),
        ("performance: 1\x002 x", "1 2 x"),
        ("performance: 1\x082 x", "1 2 x"),
        ("performance: ١٢ x", "١٢"),
        ("performance: " + "9" * 400 + " x", "9" * 39 + "…"),
    ],
)
def test_what_is_not_one_number_is_refused_and_shown(line: str, shown: str) -> None:
    scanned = scan([f"before\n{line}\nafter\n".encode()])
    assert scanned.metric is None
    assert scanned.problem == f"performance: '{shown}' is not a number"


@pytest.mark.parametrize(
    "line",
    [
        "kv_cache_performance: 3 hits",
        "kv-cache-performance: 3 hits",
        "cache.performance: 3 hits",
        "cache/performance: 3 hits",
        "überperformance: 3 hits",
        "cache_\x1b[1mperformance\x1b[0m: 3 hits",
        "cache_\x1b[1mperformance: 3 hits",
        "eval_train_samples_per_second: 3",
        "performance: 12 x\rdone",
        "performance: 12\r x",
        "performance: 12 x\r         \r",
        "performance: 12 x\r\x1b[K",
        "performance: 10 x\rcache_performance: 12 y",
    ],
)
def test_a_part_of_a_word_and_an_overwritten_line_are_no_result(line: str) -> None:
    for log in (line, f"before\n{line}\nafter\n"):
        assert metric_in(log) is None
    assert metric_in(f"{line}\nperformance: 12.5 tokens/s\n") == ("12.5", "tokens/s")


def test_a_line_of_any_length_that_is_rewritten_counts_at_its_end() -> None:
    states = (b"performance: %d x %s\r" % (number, b"." * 100) for number in range(10_000))
    scanned = scan([*states, b"performance: 7 y\r", b"\n"])
    assert scanned.metric == Metric("7", "y")


@pytest.mark.parametrize(
    "log", [b"", b"\n", b"performance 12 x\n", b"Performance: 12 x\n", b"performance", b"\xff\xfe\x00"]
)
def test_a_log_without_the_line_says_so(log: bytes) -> None:
    scanned = scan([log])
    assert scanned.metric is None
    assert scanned.problem == NO_LINE


def test_the_first_valid_line_wins() -> None:
    log = b"performance: nan x\nperformance: 1 a\nperformance: 2 b\n"
    assert metric_in(log) == ("1", "a")
    assert scan([log]).problem == ""


def test_the_last_refused_line_is_the_one_shown() -> None:
    assert scan([b"performance: $value x\nperformance: nan x\n"]).problem == "performance: 'nan' is not a number"


def test_a_value_is_never_read_from_the_next_line() -> None:
    assert metric_in("performance:\n12 x\n") is None
    assert metric_in("performance: 12\ntokens\n") == ("12", "")


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("{'train_runtime': 3.1, 'train_samples_per_second': 12.5, 'epoch': 1.0}", "12.5"),
        ("  train_samples_per_second = 12.5", "12.5"),
        ('"train_samples_per_second": 1.2e3}', "1.2e3"),
        ("train_samples_per_second=7", "7"),
    ],
)
def test_samples_per_second_counts_where_no_performance_line_is_valid(line: str, value: str) -> None:
    assert metric_in(f"{line}\n") == (value, "samples_per_second")
    assert metric_in(f"performance: nan x\n{line}\n") == (value, "samples_per_second")
    assert metric_in(f"{line}\nperformance: 3 x\n") == ("3", "x")


@pytest.mark.parametrize("value", ["nan", "1,234", "1.2.3", "12k", "1e999", ""])
def test_samples_per_second_that_is_no_number_is_no_result(value: str) -> None:
    assert metric_in(f"train_samples_per_second = {value}\n") is None


def test_the_first_valid_samples_per_second_wins() -> None:
    assert metric_in(
        "train_samples_per_second = nan\ntrain_samples_per_second = 1\ntrain_samples_per_second = 2\n"
    ) == (
        "1",
        "samples_per_second",
    )


@pytest.mark.parametrize("size", [1, 3, 7, 1000])
@pytest.mark.parametrize(
    ("log", "value"),
    [
        (b"performance: 9 x\n== begin\nperformance: 1 x\n", "1"),
        (b"no newline== begin\nperformance: 1 x\nperformance: 2 x\n", "1"),
        (b"== begin\nperformance: 1 x\n== begin\nperformance: 2 x\n", "1"),
        (b"performance: 9 x\n", None),
        (b"performance: 9 x\n== begin and more\nperformance: 9 x\n", None),
    ],
)
def test_what_comes_before_the_mark_is_not_looked_at(log: bytes, value: str | None, size: int) -> None:
    scan = MetricScan(b"== begin")
    for start in range(0, len(log), size):
        scan.feed(log[start : start + size])
    scan.finish()
    assert (scan.metric.performance if scan.metric else None) == value


def test_the_metric_is_known_while_the_log_still_grows() -> None:
    scanned = MetricScan()
    scanned.feed(b"train_samples_per_second = 1\nperformance: 1")
    assert scanned.metric is None, "more digits may come, and a performance line goes before the fallback"
    scanned.feed(b"2 x\n")
    assert scanned.metric == Metric("12", "x")
    scanned.feed(b"performance: 13 y\n")
    assert scanned.metric == Metric("12", "x")


INTERESTING = st.sampled_from(
    [
        b"performance:", b"performance: ", b"perf", b"performanceperformance: ", b"train_samples_per_second", b"': ",
        b" = ", b"12", b"-3.5e+2", b"1,234", b" ", b"tokens/s", b"\n", b"\r", b"\r\n", b"\x1b[0m", b"nan", b"\xff",
        "größe".encode(), b"\x00", "± 0.3".encode(), b"_", b"\r\x1b[0", b"m", b" e3",
        b"x" * LINE_LIMIT, b" " * (LINE_LIMIT - 5), b"9" * 30,
    ]
)  # fmt: skip
LOGS = st.lists(INTERESTING | st.binary(max_size=6), max_size=25).map(b"".join)


@given(LOGS, st.data())
def test_splitting_the_log_anywhere_gives_the_same_answer(log: bytes, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(log)), max_size=8)))
    chunks = [log[a:b] for a, b in zip([0, *cuts], [*cuts, len(log)], strict=True)]
    whole, split = scan([log]), scan(chunks)
    assert (whole.metric, whole.problem) == (split.metric, split.problem)


@pytest.mark.parametrize(
    "log",
    [
        b"a\nperformance: 12.5 tokens/s\nb\n",
        b"performance: nan x\nperformance: 12.5 tokens/s\n",
        b"x train_samples_per_second = 12.5, y",
        b"performance: 1 x\rperformance: 12.5 y\x1b[0m\r\x1b[0;1m\x1b(B\r\n",
        b"my_performance: 1 x, \xe2\x94\x82\x1b[1mperformance: 12.5 y\r",
    ],
)
def test_every_single_split_gives_the_same_answer(log: bytes) -> None:
    expected = scan([log]).metric
    assert expected
    assert all(scan([log[:cut], log[cut:]]).metric == expected for cut in range(len(log) + 1))
    assert scan(bytes([byte]) for byte in log).metric == expected


@given(LOGS)
def test_a_reported_value_is_always_a_finite_number(log: bytes) -> None:
    scanned = scan([log])
    assert scanned.metric is None or is_number(scanned.metric.performance)
    assert (scanned.problem == "") == (scanned.metric is not None)
    assert "\n" not in scanned.problem


NUMBERS = st.from_regex(r"\A[+-]?([0-9]{1,6}(\.[0-9]{0,4})?|\.[0-9]{1,4})([eE][+-]?[0-9]{1,2})?\Z")
WORDS = st.from_regex(r"\A[A-Za-z_][A-Za-z0-9_/%.-]{0,12}\Z")
UNITS = st.sampled_from(["", ",", "/s", "/s,", ",/s", ", /s ,", " /s", " /sec ,"])


@given(NUMBERS, UNITS, WORDS, st.sampled_from([" ", "\t", "   "]))
def test_every_one_line_form_that_madengine_2_1_reads_gives_the_same_here(
    number: str, unit: str, word: str, blank: str
) -> None:
    # More digits of the number, which is then rejected: 1.5 e3, 1.5 x10.
    assume(not re.fullmatch(r"[eEdD][0-9]+|[xX][0-9].*", word))
    line = f"performance:{blank}{number}{unit}{blank}{word}"
    reference = V2.search(line)
    assert reference
    assert metric_in(line) == reference.groups()


@pytest.mark.parametrize("end", ["", "\n", " more\n"])
def test_a_line_beyond_the_limit_never_gives_half_a_number(end: str) -> None:
    blanks = " " * (LINE_LIMIT - 3)
    assert metric_in(f"performance:{blanks}123456{end}") is None
    assert metric_in(f"performance: 12{blanks}tokens{end}") == ("12", "")
    assert metric_in(f"performance: 12 {'x' * LINE_LIMIT}{end}") == ("12", "")


def test_binary_and_invalid_utf8_around_a_line_do_not_matter() -> None:
    junk = bytes(range(256)) * 64
    assert metric_in(junk + b"\nperformance: 12 x\n" + junk) == ("12", "x")
    assert metric_in(junk + b"performance: 12 x\xff\n") == ("12", "x\ufffd")


@pytest.mark.parametrize(
    "piece", [b"no newline ", b"performance:", b"performance: nan\n", b"performance: 1\r", b"\x00\xff"]
)
def test_memory_stays_at_a_few_kilobytes_whatever_the_log_holds(piece: bytes) -> None:
    chunk = (piece * 8192)[:65536]
    scanned = MetricScan()
    scanned.feed(chunk)
    tracemalloc.start()
    try:
        for _ in range(8):
            scanned.feed(chunk)
        traced, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert traced < 16 * 1024


@pytest.mark.parametrize("text", ["12", "-3.5e+2", "+.5", "5.", "007", "1e5", "0"])
def test_finite_decimals_are_numbers(text: str) -> None:
    assert is_number(text)


@pytest.mark.parametrize(
    "text",
    ["", "nan", "inf", "1e999", "1,234", "1_000", "0x1F", "12 ", " 12", "12\n", "12 s", "٣", "-", ".", "e5", "True"],
)
def test_everything_else_is_no_number(text: str) -> None:
    assert not is_number(text)


def results(tmp_path: Path, content: bytes | str) -> Path:
    path = tmp_path / "results.csv"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_multiple_results_are_read_by_column_name_with_the_rest_as_extra(tmp_path: Path) -> None:
    path = results(tmp_path, "metric , model,temperature, performance\ntokens/s,a,0.7,007\n\n ms , b ,, 1e5 \n")
    assert read_multiple_results(path.parent, path.name) == (
        Metric("007", "tokens/s", "a", {"temperature": "0.7"}),
        Metric("1e5", "ms", "b", {"temperature": ""}),
    )


def test_a_long_cell_costs_nothing_and_a_file_that_would_fill_the_memory_is_refused(tmp_path: Path) -> None:
    csv.field_size_limit(131_072)  # as Python sets it
    config = "x" * 200_000
    path = results(tmp_path, f'model,performance,metric,config\na,12.5,tokens/s,"{config}"\nb,2,x,\n')
    assert read_multiple_results(path.parent, path.name) == (
        Metric("12.5", "tokens/s", "a", {"config": config}),
        Metric("2", "x", "b", {"config": ""}),
    )
    os.truncate(path, 10**9)
    with pytest.raises(RunError, match="can't be read: larger than 256MB"):
        read_multiple_results(path.parent, path.name)


@pytest.mark.parametrize("cell", ["", "nan", "inf", "abc", '"1,234"', "N/A", "12 s"])
def test_a_row_without_a_number_is_kept_without_a_performance(tmp_path: Path, cell: str) -> None:
    path = results(tmp_path, f"model,performance,metric\na,{cell},x\nb,2,x\n")
    assert read_multiple_results(path.parent, path.name) == (Metric("", "x", "a"), Metric("2", "x", "b"))


@pytest.mark.parametrize(
    "content",
    [
        "model,performance,metric\r\na,1,x\r\n",
        "\ufeffmodel,performance,metric\na,1,x\n",
        "model,performance,metric,\na,1,x,\n",
        '"model","performance","metric"\n"a","1","x"',
        ",model,performance,metric\n0,a,1,x\n",
    ],
)
def test_csv_dialects_are_read(tmp_path: Path, content: str) -> None:
    assert read_multiple_results(tmp_path, results(tmp_path, content).name) == (Metric("1", "x", "a"),)


def test_quoted_and_foreign_text_arrives_exactly(tmp_path: Path) -> None:
    path = results(tmp_path, 'model,performance,metric,note\n"a, ""b""",1,größe/s,"two\nlines"\n')
    assert read_multiple_results(path.parent, path.name) == (Metric("1", "größe/s", 'a, "b"', {"note": "two\nlines"}),)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty"),
        (b"\n", "empty"),
        (b"model,performance,metric\n", "no row below its header"),
        (b"model,performance,metric\n\n,,\n", "no row below its header"),
        (b"model,metric\na,x\n", "no column 'performance'; its columns are model, metric"),
        (b"performance,metric\n1,x\n", "no column 'model'"),
        (b"model,performance\na,1\n", "no column 'metric'"),
        (b"Model,performance,metric\na,1,x\n", "no column 'model'"),
        (b"model;performance;metric\na;1;x\n", "no column 'model'"),
        (b"model,performance,metric,performance\na,1,x,2\n", "more than one column 'performance'"),
        (b"model,performance,metric\na,1,234,x\n", "line 2: expected 3 cells, got 4"),
        (b"model,performance,metric\na,1,\xff\xfe\n", "not a CSV file in UTF-8"),
        (b'model,performance,metric\n"a,1,x\nb,2,x\n', "not a CSV file in UTF-8"),
    ],
)
def test_a_broken_file_is_one_line_with_its_name(tmp_path: Path, content: bytes, message: str) -> None:
    path = results(tmp_path, content)
    with pytest.raises(RunError) as error:
        read_multiple_results(path.parent, path.name)
    assert str(error.value).startswith(f"{path}: {message}")
    assert "\n" not in str(error.value)


def test_a_missing_file_and_what_is_none_are_named(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("/etc/passwd")
    for name, reason in {
        "none.csv": "no such file; the script must write it",
        ".": "can't be read: not a regular file",
        "pipe": "can't be read: not a regular file",
        "link": "can't be read: a symbolic link, expected a file",
    }.items():
        with pytest.raises(RunError, match=f"{re.escape(str(tmp_path / name))}: {reason}"):
            read_multiple_results(tmp_path, name)
