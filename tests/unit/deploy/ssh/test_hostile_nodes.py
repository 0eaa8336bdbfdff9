"""One bad answer costs the host that gave it; the others' rows and the table come all the same."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from madengine.config.manifest import save_manifest
from madengine.deploy.ssh import fleet, verbs
from madengine.deploy.ssh.examination import Examination, parse_examination
from madengine.deploy.ssh.options import HostRun, SshOptions
from madengine.deploy.ssh.remote_node import RemoteNode
from madengine.deploy.ssh.target import SshTarget
from madengine.deploy.ssh.transfer import UnusableError
from madengine.deploy.target import run_on
from madengine.errors import RunError
from madengine.programs import ssh
from tests.conftest import StandIns
from tests.unit.deploy.ssh.conftest import manifest_of

HEADER = "model,performance,metric,status,machine_name,run_id,reason\n"
ANSWER: dict[str, Any] = {"python": "3.11.1", "machine": "x", "has": [], "free_bytes": 1 << 40}
Files = Mapping[str, bytes]


def files_of(host: str, **changes: bytes) -> dict[str, bytes]:
    """What a good host sends of the run r1, but for these files; `_` in a name stands for a dot."""
    files = {
        "perf.csv": f"{HEADER}m0,{host[-1]}5,speed,SUCCESS,{host},r1,\n".encode(),
        "exit_code": b"0\n",
        "node.log": b"",
        "run_summary.json": json.dumps({"successful_runs": [{"model_name": "m0"}]}).encode(),
    }
    return {**files, **changes}


class ScriptedNode(RemoteNode):
    """A host that answers and sends what a test says."""

    answers: Mapping[str, str] = {}
    files: Mapping[str, Files | Exception] = {}
    newest_ids: Mapping[str, str] = {}

    def examine(self, *_: Any) -> Examination:
        examination = parse_examination(self.answers.get(self.name, json.dumps(ANSWER)))
        if examination is None:
            raise RunError("no python3")
        examination.check("python3", "madengine")
        return examination

    def copy(self, *_: Any) -> None:
        pass

    def run(self, run_id: str, request: Mapping[str, Any], target: Path) -> bool:
        files = self.files[self.name]
        if isinstance(files, Exception):
            raise files
        for name, content in files.items():
            path = target / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        return True

    def follow(self, run_id: str, target: Path) -> bool:
        return self.run(run_id, {}, target)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stand_ins: StandIns) -> Callable[..., tuple[int, str]]:
    """Run m0 as r1 on h1, which is good, and on h2; returns the exit code and what is shown."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", "/tmp/madengine-unit-cache")
    monkeypatch.setattr(fleet, "RemoteNode", ScriptedNode)
    stand_ins.add("ssh", 'for last; do :; done; echo "hostname $last"')
    save_manifest(manifest_of("r/a"), tmp_path / "m.json")

    def on_hosts(files: Files | Exception, answer: Mapping[str, Any] | str = ANSWER) -> tuple[int, str]:
        monkeypatch.setattr(ScriptedNode, "files", {"h1": files_of("h1"), "h2": files})
        text = answer if isinstance(answer, str) else json.dumps(answer)
        monkeypatch.setattr(ScriptedNode, "answers", {"h2": text})
        shown: list[str] = []
        options = SshOptions((ssh.host("h1"), ssh.host("h2")))
        code = run_on(SshTarget(options, HostRun(Path("m.json"), run_id="r1"), shown.append, {}))
        return code, "\n".join(shown)

    return on_hosts


def rows() -> dict[str, tuple[str, str]]:
    """Status and reason by host."""
    with Path("perf.csv").open(newline="", encoding="utf-8") as file:
        return {row["machine_name"]: (row["status"], row["reason"]) for row in csv.DictReader(file)}


def test_two_good_hosts_are_a_success(run: Callable[..., tuple[int, str]]) -> None:
    code, shown = run(files_of("h2"))
    assert (code, rows()) == (0, {"h1": ("SUCCESS", ""), "h2": ("SUCCESS", "")})
    assert "h2" in shown


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ({**ANSWER, "free_bytes": "x"}, "the host's answer is unusable: free_bytes: expected int, got 'x'"),
        ({**ANSWER, "has": {"a": 1}}, "the host's answer is unusable: has: expected list, got \"{'a': 1}\""),
        ('{"python": NaN}', "no python3"),
        ("[" * 100_000, "no python3"),
        ({**ANSWER, "problem": "\x1b[2Jdisk\nfull"}, r"\x1b[2Jdisk full"),
    ],
)
def test_an_examination_that_is_nonsense_costs_its_host_a_row(
    run: Callable[..., tuple[int, str]], answer: Mapping[str, Any] | str, reason: str
) -> None:
    code, shown = run(files_of("h2"), answer)
    assert code == 3
    assert rows()["h1"] == ("SUCCESS", "")
    assert rows()["h2"] == ("FAILURE", reason)
    assert "\x1b" not in shown


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"perf.csv": b"model,performance\n\xff\n"}, "perf.csv: byte 18 is not UTF-8"),
        ({"perf.csv": b"model,performance,metric\nm0,1,x\n"}, "perf.csv: not a perf.csv: it has no column status"),
        ({"perf.csv": b"[]"}, "perf.csv: not a perf.csv: it has no column"),
        ({"node.json": b"[1]"}, "node.json: expected an object, got '[1]'"),
        ({"perf.csv": b"", "exit_code": b"x" * 5000}, "killed, or the machine went down"),
        (
            {"perf.csv": b"", "exit_code": b"1", "node.log": b"madengine: error: a\x1b[2Jb\xff" + b"c" * 9000},
            "a [2Jb�" + "c" * 493,
        ),
    ],
)
def test_files_that_are_nonsense_cost_their_host_a_row(
    run: Callable[..., tuple[int, str]], changes: dict[str, bytes], reason: str
) -> None:
    code, shown = run(files_of("h2", **changes))
    assert code == 3
    assert rows()["h1"] == ("SUCCESS", "")
    if "node.json" not in changes:  # then the row itself is good
        assert rows()["h2"][0] == "FAILURE"
        assert rows()["h2"][1].startswith(reason)
    assert reason[:40] in shown
    assert "h1" in shown


def test_a_summary_that_is_nonsense_is_left_out_of_the_one_of_all_hosts(run: Callable[..., tuple[int, str]]) -> None:
    code, shown = run(files_of("h2", **{"run_summary.json": b'{"successful_runs": "x"}'}))
    assert code == 3
    assert "run_summary.json: successful_runs: expected a list of dict, got 'x'" in shown
    summary = json.loads(Path("run_summary.json").read_text())
    assert [entry["host"] for entry in summary["successful_runs"]] == ["h1"]


@pytest.mark.parametrize("error", [UnusableError("its files are refused: '../x'"), KeyError("x"), RecursionError()])
def test_whatever_an_answer_breaks_the_other_hosts_rows_come(
    run: Callable[..., tuple[int, str]], error: Exception
) -> None:
    code, shown = run(error)
    assert code == 3
    reason = str(error) if isinstance(error, UnusableError) else f"unusable answer: {error!r}"
    assert rows() == {"h1": ("SUCCESS", ""), "h2": ("FAILURE", reason)}
    assert reason in shown


@pytest.mark.parametrize(
    "content",
    [
        json.dumps({"schema_version": 1, "run_id": "r1", "environment": {}, "results": [{"model": 7}, {}]}).encode(),
        json.dumps({"schema_version": 1, "run_id": "r1", "environment": {"machine_name": [1]}, "results": []}).encode(),
        b'{"schema_version": 1, "runs": [{"run_id": "a\\u0000b", "environment": {"machine_name": {}}, "results": []}]}',
        b'{"schema_version": 1, "run_id": "r1", "results": [], "environment": ' + b'{"a":' * 900 + b"1" + b"}" * 901,
        b'{"schema_version": 1, "run_id": "r1", "results": [], "environment": ' + b'{"a":' * 400 + b"1" + b"}" * 401,
    ],
)
@pytest.mark.parametrize("place", ["runs/r1/results.json", "results.json", "deep/er/results.json"])
def test_results_that_are_nonsense_do_not_keep_the_others_from_being_merged(
    run: Callable[..., tuple[int, str]], content: bytes, place: str
) -> None:
    _, shown = run(files_of("h2", **{place: content}))
    assert rows()["h1"] == ("SUCCESS", "")
    assert rows()["h2"] == ("SUCCESS", "")
    assert "h1" in shown


@pytest.mark.parametrize("run_id", ["../../x", "/etc", "", ".", "a\nb", "a" * 129, "-x"])
def test_a_run_that_a_node_names_becomes_no_path_elsewhere(
    run: Callable[..., tuple[int, str]], stand_ins: StandIns, monkeypatch: pytest.MonkeyPatch, run_id: str
) -> None:
    monkeypatch.setattr(ScriptedNode, "files", {"h1": files_of("h1")})
    script = f'printf %s {json.dumps(run_id)!r} | python3 -c "import json, sys; print(json.load(sys.stdin))"'
    stand_ins.add("ssh", f"case \"$*\" in *' -G '*) echo 'hostname h1' ;; *) {script} ;; esac")
    shown: list[str] = []
    code = verbs.fetch(SshOptions((ssh.host("h1"),)), "", Path("perf.csv"), Path("s.json"), shown.append)
    assert code == 3
    assert "invalid run id" in shown[-1] or "a\nb" in run_id
    assert not Path("results").exists() or not list(Path("results").rglob("perf.csv")) or run_id == "a\nb"
