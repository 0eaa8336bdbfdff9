"""Whole bisections over the values of a build argument, with a stand-in for docker."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from madengine.distributed_cli import main
from madengine.machine import lock_files
from tests.conftest import StandIns

# The id of an image is that of the version it was built for; each run measures the version's next speed.
DOCKER = """
notes={folder}
for word; do slug=${{word##*-}}; done
file=
case $1 in
build)
    while [ $# -gt 0 ]; do
        case $1 in
            VERSION=*) echo "${{1#*=}}" > "$notes/version" ;;
            --iidfile) file=$2 ;;
        esac
        shift
    done
    read -r version < "$notes/version"
    echo "$version" >> "$notes/builds"
    if [ -e "$notes/broken-$version" ]; then echo "no such package" >&2; exit 1; fi
    [ -z "$file" ] || printf 'sha256:%064d' "$version" > "$file" ;;
run)
    while [ $# -gt 0 ]; do
        case $1 in
            --name) slug=${{2##*-}} ;;
            sha256:*) version=${{1##*0}} ;;
            type=bind,source=*,target=/myworkspace) to=${{1#*source=}} to=${{to%,target=*}} ;;
            MADENGINE_LOG=*) log=${{1##*/}} ;;
        esac
        shift
    done
    printf '%s\\n' "$version" >> "$notes/runs"
    count=$(grep -c "^$version$" "$notes/runs")
    words=$(cat "$notes/speed-$version")
    set -- $words
    shift $(((count - 1) % $#))
    printf '%s\\n%s\\n' "$1" "$to/$log" > "$notes/next-$slug" ;;
wait)
    {{ read -r speed; read -r log; }} < "$notes/next-$slug"
    code=0
    if [ "$speed" = fail ]; then code=7; else echo "performance: $speed tokens" >> "$log"; fi
    printf '{{"exit_code": %s, "started": 1.0, "ended": 2.5, "log_complete": true}}' $code > "${{log%/*}}/entry.json"
    echo $code ;;
image)
    shift 2
    comma='['
    for name; do
        case $name in sha256:*) ;; *) name=sha256:$(printf %064d 0) ;; esac
        printf '%s{{"Id": "%s"}}' "$comma" "$name"
        comma=,
    done
    echo ']' ;;
container) echo '{{"Status": "exited", "ExitCode": 0}}' ;;
version) echo 27.5.1 ;;
info) echo '{{}}' ;;
esac
"""
FAST = "100 101 100.5 101.5 100.2 100.9"
SLOW = "90 91 90.5 91.5 90.2 90.9"
NOISY = "100 60 140 90 110 75"


class Versions:
    """A package whose image takes its VERSION from a build argument, and the speeds of each."""

    def __init__(self, folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
        self.folder = folder
        self._capfd = capfd

    def are(self, speeds: Mapping[int, str]) -> None:
        for version, words in speeds.items():
            (self.folder / f"speed-{version}").write_text(f"{words}\n")

    def bisect(self, good: int, bad: int, *words: str) -> tuple[int, str, str]:
        command = ["bisect", "--good", str(good), "--bad", str(bad), "--build-arg", "VERSION", "--values"]
        command += [*"123456789", "--pairs", "6", "--most-pairs", "6", *words]
        try:
            code = main(command)
        except SystemExit as ended:
            code = int(ended.code or 0)
        captured = self._capfd.readouterr()
        return code, captured.out, captured.err

    def verdicts(self, good: int, bad: int, *words: str) -> tuple[int, dict[str, str], dict[str, Any]]:
        code, output, errors = self.bisect(good, bad, "--json", *words)
        assert output, errors
        document = json.loads(output)
        return code, {step["version"]: step["verdict"] for step in document["steps"]}, document

    def runs(self) -> list[str]:
        return (self.folder / "runs").read_text().split()


@pytest.fixture
def versions(
    tmp_path: Path, stand_ins: StandIns, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Versions:
    package = tmp_path / "package"
    (package / "docker").mkdir(parents=True)
    (package / "docker/m.ubuntu.cpu.Dockerfile").write_text("# CONTEXT {}\nARG VERSION\nFROM ubuntu:$VERSION\n")
    (package / "m.sh").write_text("true\n")
    card = {"name": "m", "dockerfile": "docker/m", "scripts": "m.sh", "n_gpus": "0"}
    (package / "models.json").write_text(json.dumps([card]))
    (tmp_path / "locks").mkdir(mode=0o1777)
    monkeypatch.setattr(lock_files, "FOLDERS", (tmp_path / "locks",))
    monkeypatch.chdir(package)
    monkeypatch.setenv("MADENGINE_ENGINE", "docker")
    stand_ins.add("docker", DOCKER.format(folder=tmp_path))
    stand_ins.add("nvidia-smi", "exit 1")
    return Versions(tmp_path, capfd)


def test_the_first_slow_version_is_named_and_a_broken_one_skipped(versions: Versions) -> None:
    versions.are({version: FAST if version < 5 else SLOW for version in range(1, 10)})
    (versions.folder / "broken-4").touch()
    code, verdicts, document = versions.verdicts(1, 8)
    assert (code, document["first_bad"]) == (1, None)
    assert document["suspects"] == ["4", "5"]
    assert verdicts == {"1": "good", "3": "good", "4": "skipped", "5": "bad", "8": "bad"}
    assert "no such package" in document["steps"][2]["reason"]
    assert document["series"]["metric"] == "tokens"
    assert 4 < document["threshold_percent"] < 6
    (versions.folder / "broken-4").unlink()
    state = Path("bisect/state.json")
    content = json.loads(state.read_text())
    del content["steps"]["3"]
    state.write_text(json.dumps(content))
    before = len(versions.runs())
    code, output, _ = versions.bisect(1, 8)
    assert code == 0
    assert "first bad version: 5\n  last good version: 4\n" in output
    # Only what was unknown ran again.
    assert sorted(set(versions.runs()[before:])) == ["1", "4"]
    assert versions.bisect(1, 8)[0] == 0
    assert len(versions.runs()) == before + 12


def test_a_version_that_fails_or_stays_unclear_is_skipped(versions: Versions) -> None:
    versions.are({1: FAST, 2: FAST, 3: NOISY, 4: f"{FAST} fail", 5: SLOW})
    versions.are({4: "fail"})
    code, verdicts, document = versions.verdicts(1, 5)
    assert (code, document["suspects"]) == (1, ["3", "4", "5"])
    assert verdicts == {"1": "good", "2": "good", "3": "skipped", "4": "skipped", "5": "bad"}
    reasons = {step["version"]: step["reason"] for step in document["steps"]}
    assert reasons["3"] == "unclear after 6 runs"
    assert reasons["4"] == "run: exit code 7"


def test_what_is_better_is_good_and_lower_can_be_better(versions: Versions) -> None:
    versions.are({1: SLOW, 2: "80 81 80.5 81.5 80.2 80.9", 3: FAST})
    code, verdicts, _ = versions.verdicts(1, 3, "--lower-is-better", "tokens")
    assert (code, verdicts) == (0, {"1": "good", "2": "good", "3": "bad"})


@pytest.mark.parametrize(
    ("speeds", "broken", "words", "code", "message"),
    [
        ({1: FAST, 2: FAST}, 0, (), 1, "2 is not worse than 1: same"),
        ({1: SLOW, 2: FAST}, 0, (), 1, "2 is not worse than 1: better (+1"),
        ({1: FAST, 2: SLOW}, 1, (), 2, "1: the good version fails: build: "),
        ({1: FAST, 2: SLOW}, 2, (), 2, "2: the bad version fails: build: "),
        ({1: "fail", 2: SLOW}, 0, (), 3, "1: the good version fails: exit code 7"),
        ({1: FAST, 2: "fail"}, 0, (), 3, "2: the bad version fails: run: exit code 7"),
        ({1: FAST, 2: SLOW}, 0, ("--metric", "other"), 3, "no metric other in both versions"),
    ],
)
def test_without_a_good_and_a_bad_version_there_is_nothing_to_bisect(
    versions: Versions, speeds: Mapping[int, str], broken: int, words: tuple[str, ...], code: int, message: str
) -> None:
    versions.are(speeds)
    (versions.folder / f"broken-{broken}").touch()
    ended, output, errors = versions.bisect(1, 2, *words)
    assert (ended, output) == (code, ""), errors
    last = errors.splitlines()[-1]
    assert last.startswith("madengine: error: ")
    assert message in last


def test_an_unclear_verdict_takes_more_runs(versions: Versions) -> None:
    versions.are({1: FAST, 2: "98 90 97 89 96 91"})
    code, _, document = versions.verdicts(1, 2, "--most-pairs", "40")
    assert code == 0
    (bad,) = (step for step in document["steps"] if step["verdict"] == "bad")
    assert bad["evidence"]["verdict"] == "worse"
    assert 6 <= bad["evidence"]["n"][1] <= 40


def test_another_bisection_in_the_same_folder_is_refused(versions: Versions) -> None:
    versions.are({1: FAST, 2: SLOW, 3: SLOW})
    assert versions.bisect(1, 2)[0] == 0
    code, output, errors = versions.bisect(1, 3)
    assert (code, output) == (4, "")
    assert "bisect/state.json: holds a bisection with other values of bad; name another --directory" in errors
    assert versions.bisect(1, 3, "--directory", "other")[0] == 0
