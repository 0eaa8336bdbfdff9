"""The page of `report` in a real browser: opened, sorted, filtered, zoomed, printed; nothing leaves the machine."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from madengine.distributed_cli import main
from madengine.files import write_json
from madengine.records import GpuCost, Metric, RunResult
from madengine.results.perf_csv import append_rows
from madengine.results.results_json import results_json
from madengine.results.rows import result_rows
from tests.browser.chromium import Tab, chromium
from tests.unit.results.formats.hostile import NAMES, hostile_rows, named
from tests.unit.results.samples import DONE, MODEL

HEADER = "time,gpu,memory_used_mib,utilization_percent,power_w,temperature_c,throttled"
MODELS = ("llama-3-8b", "bert-large", "resnet50", "whisper")
HOSTS = ("gpu-node-01", "gpu-node-02")


@pytest.fixture(scope="module")
def tab() -> Iterator[Tab]:
    with chromium() as browser:
        browser("Emulation.setDeviceMetricsOverride", width=1400, height=1000, deviceScaleFactor=1, mobile=False)
        yield browser


def result(model: str, host: str, day: int, factor: float) -> RunResult:
    run_id = f"202611{day:02d}T{HOSTS.index(host):06d}Z-{host}"
    value = 1000 * (1 + len(model)) * factor * (1 + 0.01 * math.sin(7 * day + len(model)))
    return replace(
        DONE,
        run_id=run_id,
        model=replace(MODEL, name=model, args=""),
        machine_name=host,
        started=f"2026-11-{day:02d}T0{HOSTS.index(host)}:00:00Z",
        metrics=(Metric(f"{value:.1f}", "images/s" if model == "resnet50" else "tokens/s"),),
        cost=GpuCost(peak_gpu_memory_mib=40_000.0, energy_j=5_000.0),
        directory=f"runs/{run_id}/{model}",
        log_file=f"runs/{run_id}/{model}/{model}.run.live.log",
    )


def gpu_series(gpus: int, seconds: int) -> str:
    lines = [
        f"{1_790_000_000 + second},{gpu},{20_000 + 500 * gpu},{90 - gpu},{500 + 30 * math.sin(second + gpu):.1f},60,"
        f"{int(30 <= second < 40)}"
        for second in range(seconds)
        for gpu in range(gpus)
    ]
    return "\n".join([HEADER, *lines, ""])


def write_results(days: range, factor: float, table: Path) -> None:
    """Write the runs of these days, and their rows; every fifth one failed."""
    rows: list[dict[str, str]] = []
    for day in days:
        for host in HOSTS:
            results = [result(model, host, day, factor) for model in MODELS]
            if day % 5 == 0:
                results[1] = replace(results[1], status="FAILURE", reason="exit code 1", exit_code=1, metrics=())
            for one in results:
                Path(one.directory).mkdir(parents=True)
                Path(one.directory, "gpu_series.csv").write_text(gpu_series(4, 120))
                Path(one.log_file).write_text("".join(f"step {number}\n" for number in range(100)))
            machine = {"machine_name": host, "os": "Ubuntu 22.04", "cpu": "EPYC"}
            write_json(
                Path("runs", results[0].run_id, "results.json"), results_json(results[0].run_id, results, machine)
            )
            rows += [row for one in results for row in result_rows(one, {})]
    append_rows(table, rows)


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Path]]:
    """The page as a folder and as a single file."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("results"))
        write_results(range(1, 11), 1.0, Path("old.csv"))
        write_results(range(11, 21), 0.9, Path("perf.csv"))
        words = ["report", "perf.csv", "--baseline", "old.csv"]
        assert main([*words, "--output", "folder"]) == main([*words, "--output", "single", "--single-file"]) == 0
        yield {name: Path(name, "index.html").resolve() for name in ("folder", "single")}


def cells(tab: Tab, column: int) -> list[str]:
    """The texts of a column of the table of all results."""
    texts: list[str] = tab.value(
        f"[...document.querySelectorAll('#rows tbody tr')].map((row) => row.cells[{column}].textContent)"
    )
    return texts


def head(tab: Tab, name: str) -> int:
    names: list[str] = tab.value("[...document.querySelectorAll('#rows th')].map((cell) => cell.textContent)")
    return names.index(name)


def choose(tab: Tab, name: str, value: str, event: str) -> None:
    """Set a control of the page as its user would."""
    tab.value(f"document.getElementById('{name}').value = {json.dumps(value)}")
    tab.value(f"document.getElementById('{name}').dispatchEvent(new Event('{event}'))")
    time.sleep(0.3)


def type_filter(tab: Tab, text: str) -> None:
    choose(tab, "filter", text, "input")


@pytest.mark.parametrize("kind", ["folder", "single"])
def test_the_page_opens_from_a_folder_and_asks_for_nothing_else(tab: Tab, pages: dict[str, Path], kind: str) -> None:
    tab.open(pages[kind])
    tab.until("document.querySelectorAll('.history .main-svg').length >= 2")
    assert tab.problems == []
    assert {url.partition(":")[0] for url in tab.requests} <= {"file", "data", "blob"}
    assert tab.value("document.querySelectorAll('#comparison .badge.worse').length") == len(MODELS)
    assert tab.value("document.querySelector('.card.bad b').textContent") == "✗ 4"


def test_tables_are_sorted_by_a_click_on_a_head(tab: Tab, pages: dict[str, Path]) -> None:
    tab.open(pages["folder"])
    column = head(tab, "performance")
    for order in (sorted, lambda values: sorted(values, reverse=True)):
        tab.value(f"document.querySelectorAll('#rows th')[{column}].click()")
        values = [float(text) for text in cells(tab, column) if text]
        assert len(values) > 50 and values == order(values)
    assert cells(tab, column)[-1] == "", "what has no value is last"
    metric = "document.querySelectorAll('.metric table')[1]"
    before = tab.value(f"[...{metric}.tBodies[0].rows].map((row) => row.cells[0].textContent)")
    tab.value(f"{metric}.tHead.rows[0].cells[1].click()")
    after = tab.value(f"[...{metric}.tBodies[0].rows].map((row) => row.cells[0].textContent)")
    assert sorted(before) == sorted(after) == before != after
    assert tab.problems == []


def test_the_filter_chooses_in_all_tables(tab: Tab, pages: dict[str, Path]) -> None:
    tab.open(pages["folder"])
    type_filter(tab, "RESNET node-02")
    assert set(cells(tab, head(tab, "model"))) == {"resnet50"}
    assert set(cells(tab, head(tab, "host"))) == {"gpu-node-02"}
    type_filter(tab, "resnet")
    shown = "[...document.querySelectorAll('.metric:not([hidden]) h2 .names')].map((one) => one.textContent)"
    assert tab.value(shown) == ["images/s"]
    type_filter(tab, "")
    choose(tab, "status", "FAILURE", "change")
    assert set(cells(tab, head(tab, "reason"))) == {"exit code 1"}
    assert tab.value("document.getElementById('shown').textContent") == "4 of 4 (80 in all)"
    assert tab.problems == []


def test_a_run_shows_its_gpus_which_can_be_zoomed(tab: Tab, pages: dict[str, Path]) -> None:
    tab.open(pages["single"])
    tab.value("document.querySelector('#rows tbody tr').click()")
    tab.until("document.querySelector('#details .chart .main-svg') !== null")
    chart = "document.querySelector('#details .chart')"
    assert tab.value(f"{chart}.data.length") == 4 * 4
    assert tab.value(f"{chart}.layout.shapes.map((one) => [one.x0, one.x1])") == [[30, 40]]
    box = f"{chart}.querySelector('.nsewdrag').getBoundingClientRect()"
    x, y, width, height = (tab.value(f"{box}.{name}") for name in ("x", "y", "width", "height"))
    tab.drag((x + width * 0.25, y + height / 2), (x + width * 0.5, y + height / 2 + 1))
    low, high = tab.until(
        f"{chart}.layout.xaxis.range && !{chart}.layout.xaxis.autorange && {chart}.layout.xaxis.range"
    )
    assert 25 < low < 35 and 55 < high < 65
    text = tab.value("document.getElementById('details').textContent")
    assert "step 99" in text and "Ubuntu 22.04" in text and "cpu" in text
    link = tab.value("document.querySelector('#details a').href")
    assert Path(link.removeprefix("file://")).is_file()
    tab.value("document.dispatchEvent(new KeyboardEvent('keydown', {key: 'Escape'}))")
    assert tab.value("document.getElementById('run').hidden")
    assert tab.problems == []


def test_dark_mode_and_paper_have_their_own_colours(tab: Tab, pages: dict[str, Path]) -> None:
    tab("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark"}])
    try:
        tab.open(pages["folder"])
        ground = "getComputedStyle(document.body).backgroundColor"
        assert tab.value(ground) == "rgb(20, 23, 27)"
        tab.value("document.getElementById('theme').click()")
        assert tab.value(ground) == "rgb(255, 255, 255)"
        tab.until("document.querySelector('.history .main-svg') !== null")
        assert tab.value("document.querySelector('.history').layout.font.color") == "#1b1f24"
        tab.value("document.getElementById('theme').click()")
        assert tab.value("document.querySelector('.history').layout.font.color") == "#e7eaee"
        assert len(tab.pdf()) > 20_000
        assert tab.value(ground) == "rgb(20, 23, 27)"
        assert tab.problems == []
    finally:
        tab("Emulation.setEmulatedMedia", features=[])


def test_hostile_names_are_text(tab: Tab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    twice = [replace(named(name), started=f"2026-12-0{day}T00:00:00Z") for name in NAMES for day in (1, 2)]
    rows = [*hostile_rows(), *(row for one in twice for row in result_rows(one, {}))]
    append_rows(Path("perf.csv"), rows)
    append_rows(Path("base.csv"), rows[: len(rows) // 2])
    main(["report", "perf.csv", "--baseline", "base.csv", "--single-file", "--title", NAMES[0]])
    tab.open(tmp_path / "report/index.html")
    for article in range(tab.value("document.querySelectorAll('.metric').length")):
        tab.value(f"document.querySelectorAll('.metric')[{article}].scrollIntoView()")
        time.sleep(0.2)
    tab.until("document.querySelectorAll('.history .main-svg').length > 2")
    for row in range(tab.value("document.querySelectorAll('#rows tbody tr').length")):
        tab.value(f"document.querySelectorAll('#rows tbody tr')[{row}].click()")
    assert tab.value("document.querySelectorAll('main script, main img, aside script, aside img').length") == 0
    assert "<script>alert('x')</script>" in tab.value("document.querySelector('#rows tbody').textContent")
    names = tab.value("[...document.querySelectorAll('.history text')].map((one) => one.textContent)")
    assert any("<script>alert('x')</script>" in name for name in names), names
    assert tab.problems == []


def test_10_000_rows_and_200_series_are_written_in_10_s_and_open_in_2_s(
    tab: Tab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    series, rows = gpu_series(8, 300), []
    for number in range(100):
        run_id = f"run-{number:03d}"
        started = f"2026-11-{1 + number // 24:02d}T{number % 24:02d}:00:00Z"
        results = [_small(model, number, run_id, started) for model in range(100)]
        for one in results[:2]:
            Path(one.directory).mkdir(parents=True)
            Path(one.directory, "gpu_series.csv").write_text(series)
        write_json(Path("runs", run_id, "results.json"), results_json(run_id, results, {"machine_name": "h"}))
        rows += [row for one in results for row in result_rows(one, {})]
    append_rows(Path("perf.csv"), rows)
    began = time.process_time()
    assert main(["report", "perf.csv", "--single-file"]) == 0
    written = time.process_time() - began
    page = tmp_path / "report/index.html"
    assert page.read_text(encoding="utf-8").count('id="run-') == 200
    opened = sorted(tab.open(page) for _ in range(3))[1]
    assert (written < 10, opened < 2) == (True, True), (written, opened)
    assert tab.value("document.getElementById('shown').textContent") == "100 of 10000"
    assert tab.problems == []


def _small(model: int, number: int, run_id: str, started: str) -> RunResult:
    return replace(
        DONE,
        run_id=run_id,
        started=started,
        model=replace(MODEL, name=str(model), args=""),
        machine_name=f"h{number % 7}",
        metrics=(Metric(str(1000 + model + number), f"metric {model % 5}"),),
        directory=f"runs/{run_id}/{model}",
    )
