"""A container that wants out: whatever it leaves, madengine neither reads nor writes outside of its workspace."""

from __future__ import annotations

import os
import stat
import time
from pathlib import Path

import pytest

from tests.bed.components import Engine, Registry
from tests.engine.trial import METRIC, Trial
from tests.engine.trial import trial as make_trial

SECRET = "model,performance,metric\nsecret,1,x\n"
# The entry script runs as the first process, or as its only child under an init.
KILL_ENTRY = (
    "for p in /proc/[0-9]*; do grep -q /opt/[m]adengine/entry.sh $p/cmdline && kill -9 ${p#/proc/}; done; sleep 9"
)


@pytest.fixture
def trial(
    engine: Engine, base_image: str, registry: Registry, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> Trial:
    return make_trial(engine, base_image, registry, tmp_path, tmp_path_factory.getbasetemp())


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A folder of the host with a file; it has to stay as it is."""
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "victim.csv").write_text(SECRET)
    return folder


def snapshot(folder: Path) -> dict[str, tuple[int, str]]:
    return {path.name: (path.stat().st_mode, path.read_text()) for path in folder.iterdir()}


@pytest.mark.parametrize(
    "script",
    [
        "ln -s [outside] ../artifacts",
        "mkdir ../artifacts; ln -s [outside]/victim.csv ../artifacts/evil.txt",
        "mkdir ../artifacts; ln -s [outside] ../artifacts/out; mkdir out; cp evil.txt out/victim.csv",
        "ln -s [outside] out",
        "ln -s [outside]/victim.csv theft.txt",
        "cd ..; mv run_directory gone; ln -s [outside] run_directory; cp gone/evil.txt .",
    ],
)
def test_no_link_leads_artifacts_in_or_out(trial: Trial, outside: Path, script: str) -> None:
    before = snapshot(outside)
    attack = f"echo evil >evil.txt; {script.replace('[outside]', str(outside))}; {METRIC}"
    done = trial.run(attack, card={"artifacts": ["*.txt", "out/**", "out"]})
    assert snapshot(outside) == before
    assert (done.workspace / "artifacts/evil.txt").read_text() == "evil\n"
    copies = [path for path in (done.workspace / "artifacts").rglob("*") if path.is_file()]
    assert not any("secret" in path.read_text() for path in copies)
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("script", ["ln -s [outside] ../out", "ln -s [outside]/victim.csv ../r.csv; mkdir ../out"])
def test_no_link_leads_multiple_results_in_or_out(trial: Trial, outside: Path, script: str) -> None:
    before = snapshot(outside)
    table = "printf 'model,performance,metric\\na,1,x\\n'"
    attack = f"{script.replace('[outside]', str(outside))}; mkdir -p out; {table} >out/f.csv"
    done = trial.run(attack, card={"multiple_results": "out/f.csv"})
    assert snapshot(outside) == before
    stolen = trial.folder / "again"
    stolen.mkdir()
    again = Trial(trial.engine, stolen, trial.built).run(
        f"ln -s {outside}/victim.csv ../r.csv", card={"multiple_results": "r.csv"}
    )
    assert again.row["status"] == "FAILURE"
    assert "leads out of its folder" in again.reason
    assert all("secret" not in str(row) for row in [*done.rows, *again.rows])


@pytest.mark.parametrize("place", ["mkfifo", "ln -s /dev/zero", "mkdir", "ln -s entry.json"])
def test_something_else_in_place_of_entry_json_costs_its_row_and_no_time(trial: Trial, place: str) -> None:
    began = time.monotonic()
    done = trial.run(f"rm -rf ../entry.json; {place} ../entry.json; {KILL_ENTRY}")
    assert time.monotonic() - began < 40
    assert done.reason.startswith("entry.json: ")
    assert not trial.containers()


def test_rights_and_devices_do_not_stay_on_the_host(trial: Trial) -> None:
    script = """
        cd ..; cp /bin/busybox root; chmod 6755 root; mkdir open; chmod 777 open .; touch open/all; chmod 666 open/all
        mknod disk b 7 0 && mknod null c 1 3; true"""
    done = trial.run(f"{script}; {METRIC}")
    left = {path.name: path.lstat().st_mode for path in [done.workspace, *done.workspace.rglob("*")]}
    assert {"root", "open", "all"} <= set(left)
    for name, mode in left.items():
        assert not mode & (stat.S_ISUID | stat.S_IWOTH), name
        assert stat.S_ISDIR(mode) or not mode & stat.S_ISGID, name
        assert not stat.S_ISBLK(mode) and not stat.S_ISCHR(mode), name
    assert os.access(done.workspace / "root", os.X_OK)


def test_a_log_does_not_control_the_terminal(trial: Trial) -> None:
    done = trial.run(r"printf '\033]0;title\007\033[2J\033[31mred\033[0m\n'; exit 1", "--live-output")
    assert "\x1b[31mred\x1b[0m" in done.stderr
    assert "\x1b]" not in done.stderr
    assert "\x1b[2J" not in done.stderr
    assert b"\x1b[2J" in done.log
