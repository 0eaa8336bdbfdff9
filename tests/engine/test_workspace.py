"""A workspace that lasts, and caches: what scripts leave there for the next run, and what stays each run's own."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.bed.components import Engine, Registry
from tests.engine.trial import METRIC, Done, Trial
from tests.engine.trial import trial as make_trial


@pytest.fixture
def trial(
    engine: Engine, base_image: str, registry: Registry, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> Trial:
    return make_trial(engine, base_image, registry, tmp_path, tmp_path_factory.getbasetemp())


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    """A folder that lasts."""
    return tmp_path / "shared"


on_docker = pytest.mark.parametrize("engine", ["docker"], indirect=True)

# Of this process: containers of tests that run side by side must not have one name.
TAG = os.urandom(3).hex()

FETCH = """
export HF_HUB_CACHE=/myworkspace
weights=$HF_HUB_CACHE/models--some--model/blobs/1
if [ -f $weights ]; then echo cached; else mkdir -p ${weights%/*}; echo w >$weights.part; mv $weights.part $weights; fi
"""
RESULTS = {"multiple_results": "figures.csv"}


def results(number: int | str, path: str) -> str:
    """A script that writes one result to a path."""
    return f"printf 'model,performance,metric\\nx,%s,tokens\\n' {number} >{path}\n"


def own_files(done: Done, run_id: str) -> set[str]:
    """The names in the folder of the only model of a run."""
    (workspace,) = (path for path in (done.folder / "runs" / run_id).iterdir() if path.is_dir())
    return {path.name for path in workspace.iterdir()}


def test_a_script_finds_again_what_it_has_put_into_myworkspace(trial: Trial, shared: Path) -> None:
    script = f"{FETCH}echo own >left.txt; {results(7, '../figures.csv')}"
    card = {**RESULTS, "artifacts": ["left.txt"]}
    for number in ("1", "2"):
        done = trial.run(script, "--workspace", str(shared), "--run-id", f"{TAG}-{number}", card=card)
        assert done.code == 0, done.stderr
        assert {"entry.json", "figures.csv", "artifacts"} <= own_files(done, f"{TAG}-{number}")
        assert (done.rows[-1]["performance"], done.rows[-1]["status"]) == ("7", "SUCCESS")
    first, second = (
        next(done.folder.glob(f"runs/{TAG}-{number}/*/*.run.live.log")).read_text() for number in ("1", "2")
    )
    assert ("cached" in first, "cached" in second) == (False, True)
    assert sorted(path.name for path in shared.iterdir()) == [".caches", "models--some--model", "run_directory"]
    assert not list((shared / "run_directory").iterdir())


@on_docker
def test_without_the_option_nothing_lasts_and_the_context_names_a_workspace_too(trial: Trial, shared: Path) -> None:
    script = f"{FETCH}{METRIC}"
    assert b"cached" not in trial.run(script, "--run-id", f"{TAG}-1").log
    for number in ("2", "3"):
        done = trial.run(script, "--run-id", f"{TAG}-{number}", context={"workspace": str(shared)})
        assert done.code == 0, done.stderr
    logs = {log.parts[-3]: log.read_text() for log in done.folder.glob("runs/*/*/*.run.live.log")}
    assert {number[-1]: "cached" in text for number, text in logs.items()} == {"1": False, "2": False, "3": True}


@on_docker
def test_the_models_directory_has_both_of_its_paths(trial: Trial, shared: Path) -> None:
    script = f"echo one >here; cat /myworkspace/run_directory/here; ls /myworkspace/run_directory/run.sh; {METRIC}"
    done = trial.run(script, "--workspace", str(shared), "--keep-model-dir")
    assert done.code == 0, done.stderr
    assert b"one\n/myworkspace/run_directory/run.sh\n" in done.log
    assert (done.workspace / "run_directory/here").read_text() == "one\n"


@on_docker
@pytest.mark.parametrize("place", ["../figures.csv", "figures.csv", "/myworkspace/run_directory/figures.csv"])
def test_two_runs_at_once_have_results_of_their_own(trial: Trial, shared: Path, place: str) -> None:
    script = (
        f"touch /myworkspace/$1; n=0; until [ -e /myworkspace/a ] && [ -e /myworkspace/b ] || [ $((n += 1)) = 99 ]; "
        f"do sleep 0.2; done; {results('$((0$NUMBER + 1))', place)} sleep 1"
    )
    processes = []
    for number, name in enumerate("ab"):
        words = trial.words(
            f"set -- {name}; {script}",
            *(
                "--workspace",
                str(shared),
                "--run-id",
                f"{TAG}-{name}",
                "--output",
                f"{name}.csv",
                "--summary-output",
                name,
            ),
            context={"docker_env_vars": {"NUMBER": str(number)}},
            card=RESULTS,
        )
        (trial.folder / "build_manifest.json").rename(trial.folder / f"{name}.json")
        words[words.index("--manifest-file") + 1] = f"{name}.json"
        processes.append(subprocess.Popen(words, env=trial.whole(), cwd=trial.folder))
    assert [process.wait(60) for process in processes] == [0, 0]
    assert [",1,tokens," in (trial.folder / "a.csv").read_text(), ",2,tokens," in (trial.folder / "b.csv").read_text()]
    for name, number in ("a", 1), ("b", 2):
        (file,) = trial.folder.glob(f"runs/{TAG}-{name}/*/figures.csv")
        assert file.read_text().endswith(f"x,{number},tokens\n")


@on_docker
def test_results_that_are_written_to_myworkspace_itself_come_home_unless_runs_may_have_mixed_them(
    trial: Trial, shared: Path
) -> None:
    script = f"{results(5, '/myworkspace/figures.csv')} echo '{{}}' >/myworkspace/report.json"
    card = {**RESULTS, "artifacts": ["*.json"]}
    done = trial.run(script, "--workspace", str(shared), "--run-id", f"{TAG}-1", card=card)
    assert (done.code, done.row["performance"]) == (0, "5"), done.stderr
    assert {"figures.csv", "report.json", "artifacts"} <= own_files(done, f"{TAG}-1")
    assert not (shared / "figures.csv").exists()
    assert (shared / "report.json").exists()
    assert list((trial.folder / f"runs/{TAG}-1").glob("*/artifacts/report.json"))
    # The next run leaves none: the one before is no result of it.
    done = trial.run("true", "--workspace", str(shared), "--run-id", f"{TAG}-2", card=RESULTS)
    assert (done.code, done.rows[-1]["status"]) == (3, "FAILURE")
    first = trial.start(
        f"echo started; sleep 2; {script}", "--workspace", str(shared), "--run-id", f"{TAG}-3", card=RESULTS
    )
    second = trial.run("true", "--workspace", str(shared), "--run-id", f"{TAG}-4", "--output", "4.csv", card=RESULTS)
    assert second.code == 3
    done = first.end()
    assert done.code == 3
    assert done.rows[-1]["reason"] == (
        f"figures.csv: written to /myworkspace itself while another run used {shared} too; write it to "
        "../figures.csv or to the script's directory"
    )


CACHED = "for d in /root/.cache/hub hub; do if [ -f $d/w ]; then echo again $d; else touch $d/w; fi; done"
CACHES = ["/root/.cache/hub", "run_directory/hub"]


@pytest.mark.parametrize("option", [True, False])
def test_caches_of_a_model_last_with_and_without_a_workspace(trial: Trial, shared: Path, option: bool) -> None:
    words = ["--workspace", str(shared)] if option else []
    for number in ("1", "2"):
        done = trial.run(
            f"{CACHED}; {METRIC}",
            *words,
            *("--run-id", f"{TAG}-{number}"),
            card={"caches": CACHES},
            env={"XDG_CACHE_HOME": str(shared / "home")},
        )
        assert done.code == 0, done.stderr
        (log,) = done.folder.glob(f"runs/{TAG}-{number}/*/*.run.live.log")
        again = [line for line in log.read_text().splitlines() if line.startswith("again")]
        assert again == (["again /root/.cache/hub", "again hub"] if number == "2" else [])
    corner = shared / (".caches" if option else "home/madengine/caches")
    folders = {path.name for path in corner.iterdir() if path.is_dir()}
    assert folders == {"root%2F.cache%2Fhub", "myworkspace%2Frun_directory%2Fhub"}


def test_what_a_script_puts_into_the_workspace_is_never_followed(trial: Trial, shared: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret.csv"
    secret.write_text("model,performance,metric\nx,1,stolen\n")
    script = f"""
ln -s {secret} /myworkspace/figures.csv; ln -s {secret} /myworkspace/trace.json; mkfifo /myworkspace/pipe.json
cp /bin/busybox /myworkspace/root; chmod 4755 /myworkspace/root
echo x >/myworkspace/.caches/planted; rm -rf /myworkspace/.caches /myworkspace/run_directory; mkdir -p /myworkspace/sub
ln -s {tmp_path} /myworkspace/.caches/x; mv /myworkspace/.caches /myworkspace/elsewhere || echo stays
"""
    card = {**RESULTS, "artifacts": ["*.json"], "caches": ["/root/x"]}
    done = trial.run(script, "--workspace", str(shared), card=card)
    assert done.code == 3
    assert "figures.csv: the script left no such file" in done.reason
    assert "stolen" not in "".join(path.read_text() for path in done.workspace.rglob("*") if path.is_file())
    assert {path.name for path in (shared / ".caches").iterdir()} == {"root%2Fx", "figures.csv.lock"}
    assert (shared / "root").stat().st_mode & 0o7777 == 0o755
    assert secret.read_text() == "model,performance,metric\nx,1,stolen\n"


@on_docker
@pytest.mark.parametrize("name", [".caches", "run_directory"])
def test_a_link_in_the_place_of_a_folder_is_refused(trial: Trial, shared: Path, tmp_path: Path, name: str) -> None:
    shared.mkdir()
    (tmp_path / "target").mkdir()
    (shared / name).symlink_to(tmp_path / "target")
    done = trial.run(METRIC, "--workspace", str(shared), card={"caches": ["/root/x"]})
    assert done.code == 3
    assert done.reason.startswith(f"{shared / name}: no folder can be made there: a symbolic link")
    assert not list((tmp_path / "target").iterdir())


@on_docker
def test_a_workspace_that_holds_the_runs_is_refused(trial: Trial) -> None:
    done = trial.run(METRIC, "--workspace", ".")
    assert done.code == 4
    assert f"workspace {trial.folder}: holds the folders of the runs (runs/" in done.stderr
    assert not (trial.folder / "perf.csv").exists()


@on_docker
def test_the_lines_of_a_dry_run_do_the_same(trial: Trial, shared: Path) -> None:
    (trial.folder / "plain.sh").write_text(
        trial.run(f"{FETCH}{METRIC}", "--workspace", str(shared), "--dry-run").stdout
    )
    for _ in range(2):
        shell = subprocess.run(
            ["sh", "-e", "plain.sh"], cwd=trial.folder, env=trial.whole(), capture_output=True, text=True, check=True
        )
    assert "cached" in shell.stdout
    assert sorted(path.name for path in shared.iterdir()) == [".caches", "models--some--model", "run_directory"]
