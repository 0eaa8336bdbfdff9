"""`report to-html` and `report to-email`, on command lines of madengine 2."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

import pytest

from madengine.distributed_cli import main
from madengine.errors import EXIT_CONFIGURATION, EXIT_DONE, EXIT_FAILURE
from madengine.results.perf_csv import append_rows
from tests.unit.results.formats.hostile import HOSTILE, hostile_rows


class Page(HTMLParser):
    """The tags and texts of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.texts: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_csv_file_becomes_a_table_beside_it(capsys: pytest.CaptureFixture[str]) -> None:
    append_rows(Path("perf.csv"), hostile_rows())
    assert main(["report", "to-html", "--csv-file-path", "perf.csv"]) == EXIT_DONE
    page = Page(Path("perf.html"))
    assert {*page.tags} == {"meta", "table", "thead", "tbody", "tr", "th", "td"}
    assert page.tags.count("tr") == 1 + len(hostile_rows())
    assert any(text.startswith(HOSTILE[:20]) for text in page.texts)
    assert "dummy" in capsys.readouterr().out
    assert main(["report", "to-html", "--csv-file", "perf.html"]) == EXIT_CONFIGURATION
    assert main(["report", "to-html"]) == EXIT_CONFIGURATION


def test_the_csv_files_of_a_folder_become_one_page(caplog: pytest.LogCaptureFixture) -> None:
    folder = Path("results")
    folder.mkdir()
    assert main(["report", "to-email", "--dir", "results"]) == EXIT_DONE
    assert not list(folder.iterdir())
    (folder / "b<i>.csv").write_text("a,b\n1,2\n")
    (folder / "a.csv").write_text("a\n<b>\n")
    (folder / "broken.csv").write_text('a\n"x')
    assert main(["report", "to-email", "--directory", "results", "-o", "mail.html"]) == EXIT_DONE
    page = Page(folder / "mail.html")
    assert [text for text in page.texts if text.strip()] == ["a", "a", "<b>", "b<i>", "a", "b", "1", "2"]
    assert page.tags.count("h2") == 2
    assert main(["report", "to-email", "--dir", "nowhere"]) == EXIT_FAILURE
