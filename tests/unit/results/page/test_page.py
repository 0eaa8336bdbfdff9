"""The page's content: what it says, what it takes from the runs' folders, and that no name becomes markup."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import replace
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import default
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from madengine.distributed_cli import main
from madengine.errors import EXIT_CONFIGURATION, EXIT_DONE, EXIT_FAILURE
from madengine.files import write_json
from madengine.records import Artifact, Metric, RunResult
from madengine.results.page.content import comparison, history, metrics, overview
from madengine.results.page.gpu_charts import chart_data
from madengine.results.page.sources import read_sources
from madengine.results.page.write import write_page
from madengine.results.perf_csv import append_rows
from madengine.results.results_json import results_json
from madengine.results.rows import result_rows
from tests.unit.results.formats.hostile import HOSTILE, NAMES, NOT_STARTED, hostile_rows, named
from tests.unit.results.samples import DONE, FAILED, MODEL

HEADER = "time,gpu,memory_used_mib,utilization_percent,power_w,temperature_c,throttled"


class Parts(HTMLParser):
    """The tags, texts and scripts of a page."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: dict[str, str] = {}
        self.texts: list[str] = []
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        tag, attributes = self.tags[-1] if self.tags else ("", {})
        if tag == "script" and attributes.get("id"):
            self.scripts.setdefault(str(attributes["id"]), data)
        else:
            self.texts.append(data)

    @property
    def data(self) -> Any:
        return json.loads(self.scripts["data"])


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def rows_of(*results: RunResult) -> list[dict[str, str]]:
    return [row for result in results for row in result_rows(result, {})]


def at(day: int, value: str, host: str = "h1", **more: Any) -> RunResult:
    metric = (Metric(value, "tokens/s"),)
    return replace(DONE, started=f"2026-11-{day:02d}T00:00:00Z", machine_name=host, metrics=metric, **more)


# --- content ---


def test_the_overview_says_what_ran_where_and_what_failed() -> None:
    shown = overview(rows_of(DONE, FAILED, FAILED, NOT_STARTED))
    assert shown["counts"] == {"SUCCESS": 1, "FAILURE": 3, "SKIPPED": 0}
    assert (shown["models"], shown["runs"]) == (1, 1)
    assert [(one["cause"], one["n"], one["hosts"]) for one in shown["failures"]] == [
        ("model", 2, ["gpu-node-01"]), ("infrastructure", 1, ["n2"]),
    ]  # fmt: skip
    assert [(host["name"], host["SUCCESS"], host["FAILURE"]) for host in shown["hosts"]] == [
        ("gpu-node-01", 1, 2), ("n2", 0, 1),
    ]  # fmt: skip


def test_a_metric_has_its_series_by_hosts_with_spread() -> None:
    rows = rows_of(at(1, "10"), at(2, "12", image_digest="sha256:other"), at(1, "22", "h2", gpu_architecture="H100"))
    [metric] = metrics(rows)
    assert (metric["name"], metric["better"], metric["hosts"], metric["is_matrix"]) == (
        "tokens/s", "higher", ["h1", "h2"], True,
    )  # fmt: skip
    [line] = metric["lines"]
    assert line["name"] == "dummy"
    first, second = line["cells"]
    assert (first["median"], first["n"], first["images"], round(first["spread"], 1)) == (11.0, 2, 2, 18.2)
    assert (first["share"], second["share"], second["spread"]) == (0.5, 1.0, None)
    many = metrics(rows_of(*(at(1, "1", f"h{number}") for number in range(20))))
    assert not many[0]["is_matrix"] and len(many[0]["lines"]) == 20


def test_history_has_what_was_measured_more_than_once() -> None:
    rows = rows_of(at(1, "10"), at(2, "12"), at(1, "1", "h2"), replace(at(3, "9"), model=replace(MODEL, name="other")))
    assert history(rows) == {"tokens/s": [{"name": "dummy · h1", "r": [0, 1]}]}


def test_a_long_history_has_its_change_points() -> None:
    values = [100, 101, 99, 100, 101, 100, 99, 110, 111, 109, 110, 111, 110, 109]
    rows = rows_of(*(at(day + 1, str(value)) for day, value in enumerate(values)))
    [line] = history(rows)["tokens/s"]
    assert line["changes"] == [{"row": 7, "text": "+10.0 %"}]


def test_what_changed_against_a_baseline_has_compares_verdict() -> None:
    append_rows(Path("old.csv"), rows_of(*(at(day, f"{100 + day % 3}") for day in range(1, 11))))
    append_rows(Path("new.csv"), rows_of(*(at(day, f"{80 + day % 3}") for day in range(11, 21))))
    source, problems = read_sources([Path("new.csv")], "old.csv")
    shown = comparison(source.comparison)
    assert shown is not None and problems == []
    [one] = shown["series"]
    assert (one["name"], one["verdict"], one["median"]) == ("dummy", "worse", [101.0, 81.0])


# --- what runs left ---


def test_gpu_samples_become_a_series_for_each_gpu_and_throttled_spans() -> None:
    lines = [
        f"{100 + second},{gpu},{1000 + second},50,300.5,60,{int(3 <= second < 5)}"
        for second in range(8)
        for gpu in (0, 1)
    ]
    chart = chart_data(
        "\n".join([HEADER, *lines, "broken", "x,0,1,1,1,1,1", "1e999,0,1,1,1,1,1", "200,0,nan,,inf,1e999,"])
    )
    assert chart is not None
    assert [gpu["gpu"] for gpu in chart["gpus"]] == ["0", "1"]
    assert chart["gpus"][1]["t"] == [0, 1, 2, 3, 4, 5, 6, 7]
    assert chart["gpus"][1]["power_w"] == [300.5] * 8
    assert (chart["gpus"][0]["memory_used_mib"][-1], chart["gpus"][0]["power_w"][-1]) == (None, None)
    assert chart["throttled"] == [[3, 5]]


def test_a_long_series_is_thinned_and_no_series_is_none() -> None:
    lines = [f"{second},{gpu},1,1,1,1," for second in range(5000) for gpu in range(4)]
    chart = chart_data("\n".join([HEADER, *lines]))
    assert chart is not None
    assert chart["every"] == 10 and [len(gpu["t"]) for gpu in chart["gpus"]] == [500] * 4
    for text in ("", HEADER, "a,b\n1,2", f"{HEADER}\n\x00\n,,,,\n"):
        assert chart_data(text) is None


def write_run(base: Path, result: RunResult) -> Path:
    """Write a run's folder as `run` leaves it; returns the model's folder in it."""
    folder = base / result.directory
    folder.mkdir(parents=True)
    (folder / "dummy.run.live.log").write_text("".join(f"line {number} </script>\n" for number in range(100)))
    (folder / "gpu_series.csv").write_text(f"{HEADER}\n1,0,5,6,7,8,0\n2,0,5,6,7,8,1\n")
    (folder / "artifacts").mkdir()
    (folder / "artifacts/javascript:x.txt").write_text("x")
    write_json(
        folder.parent / "results.json", results_json(result.run_id, [result], {"machine_name": "h1", "os": "Debian"})
    )
    return folder


RUN = replace(
    at(1, "10"), directory="runs/r1/dummy", log_file="runs/r1/dummy/dummy.run.live.log",
    artifacts=(Artifact("artifacts/javascript:x.txt", 1), Artifact("../../secret", 1), Artifact("artifacts/gone", 1)),
)  # fmt: skip


@pytest.mark.parametrize("host", ["", "results/r1/h1"])
def test_a_run_has_its_log_samples_and_files(host: str, tmp_path: Path) -> None:
    folder = write_run(tmp_path / host, RUN)
    (tmp_path / host / "runs/secret").write_text("secret")
    append_rows(Path("perf.csv"), rows_of(RUN))
    assert main(["report", "perf.csv", "--output", "out/page"]) == EXIT_DONE
    parts = Parts(Path("out/page/index.html"))
    run = json.loads(parts.scripts["run-0"])
    assert run["log"].splitlines()[-1] == "line 99 </script>" and len(run["log"].splitlines()) == 40
    assert run["charts"]["throttled"] == [[1, 1]]
    links = {name: (Path("out/page") / link.replace("%3A", ":")).resolve() for name, link in run["links"].items()}
    assert links == {
        "dummy.run.live.log": folder / "dummy.run.live.log",
        "gpu_series.csv": folder / "gpu_series.csv",
        "artifacts/javascript:x.txt": folder / "artifacts/javascript:x.txt",
    }
    assert parts.data["environments"] == [{"machine_name": "h1", "os": "Debian"}]
    assert (parts.data["run"], parts.data["environment"]) == ([0], [0])


def test_links_of_a_node_are_not_followed(tmp_path: Path) -> None:
    folder = write_run(tmp_path, RUN)
    (tmp_path / "secret").write_text("secret")
    for name in ("dummy.run.live.log", "gpu_series.csv"):
        (folder / name).unlink()
        (folder / name).symlink_to(tmp_path / "secret")
    append_rows(Path("perf.csv"), rows_of(RUN))
    assert main(["report", "perf.csv"]) == EXIT_DONE
    run = json.loads(Parts(Path("report/index.html")).scripts["run-0"])
    assert (run["log"], run["charts"], [*run["links"]]) == ("", None, ["artifacts/javascript:x.txt"])


# --- the page ---


def test_the_page_has_its_library_beside_it_or_in_it() -> None:
    append_rows(Path("perf.csv"), rows_of(DONE))
    assert main(["report", "perf.csv", "--output", "a"]) == EXIT_DONE
    assert sorted(path.name for path in Path("a").iterdir()) == ["index.html", "plotly.min.js"]
    assert main(["report", "perf.csv", "--output", "b", "--single-file", "--junit", "j.xml"]) == EXIT_DONE
    assert [path.name for path in Path("b").iterdir()] == ["index.html"]
    library = Parts(Path("b/index.html")).scripts["library"]
    assert len(library) == len((Path("a") / "plotly.min.js").read_text()) + library.count("<\\/script")
    for page in (Path("a/index.html"), Path("b/index.html")):
        head = page.read_text(encoding="utf-8").partition("</head>")[0]
        assert not re.search(r"""(src|href)=["']?https?:""", head)


def test_a_message_has_the_verdicts_and_the_page_as_a_single_file() -> None:
    append_rows(Path("old.csv"), rows_of(*(at(day, f"{100 + day % 3}") for day in range(1, 11))))
    append_rows(Path("new.csv"), rows_of(*(at(day, f"{80 + day % 3}") for day in range(11, 21))))
    assert main(["report", "new.csv", "--baseline", "old.csv", "--email-file", "mail.eml"]) == EXIT_DONE
    message = message_from_bytes(Path("mail.eml").read_bytes(), policy=default)
    assert isinstance(message, EmailMessage)
    body = message.get_body(("plain",))
    assert body is not None and "worse" in body.get_content().partition("## Comparison")[2]
    [page] = message.iter_attachments()
    assert page.get_filename() == "index.html"
    assert page.get_payload(decode=True) == Path("report/index.html").read_bytes()
    assert not Path("report/plotly.min.js").exists()


def test_other_formats_alone_need_no_library_and_write_no_page(monkeypatch: pytest.MonkeyPatch) -> None:
    append_rows(Path("perf.csv"), rows_of(DONE))
    monkeypatch.setitem(sys.modules, "plotly", None)
    assert main(["report", "perf.csv", "--junit", "j.xml"]) == EXIT_DONE
    assert not Path("report").exists()


def test_without_the_library_one_line_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    append_rows(Path("perf.csv"), rows_of(DONE))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(["report", "perf.csv"]) == EXIT_CONFIGURATION
    assert "`pip install 'madengine[report]'`" in capsys.readouterr().err
    assert not Path("report").exists()


def test_no_name_becomes_markup() -> None:
    rows = [*hostile_rows(), *rows_of(*(replace(named(name), started="2026-12-01T00:00:00Z") for name in NAMES))]
    append_rows(Path(f"base{HOSTILE[:9]}.csv"), rows)
    append_rows(Path("perf.csv"), rows)
    assert main(["report", "perf.csv", "--baseline", f"base{HOSTILE[:9]}.csv", "--title", HOSTILE]) == EXIT_FAILURE
    parts = Parts(Path("report/index.html"))
    assert [attributes for tag, attributes in parts.tags if tag == "script"] == [
        {"type": "application/json", "id": "data"},
        {},
    ]
    assert not {name for _, attributes in parts.tags for name in attributes if name.startswith("on")}
    assert "<script>alert('x')" in "".join(parts.texts)
    assert any(text.startswith("<script>alert('x')") for text in parts.data["texts"])
    assert max(map(len, parts.data["texts"])) == 10_000


def test_a_page_of_nothing_is_a_page() -> None:
    Path("perf.csv").write_text("model,performance,metric,status\n")
    source, _ = read_sources([Path("perf.csv")])
    page = write_page(source, Path("out"), "title", is_single=False)
    assert Parts(page).data["count"] == 0
