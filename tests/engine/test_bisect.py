"""`madengine bisect` on a repository of eight commits, one of which makes the model slower."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.bed.components import Outcome, outcome

# Six results of one run stand for six runs: they take no time.
_SCRIPT = """\
set -e
read -r speed < speed
echo model,performance,metric > results.csv
for noise in 1 4 2 6 3 5; do echo ",$speed.$noise,steps_per_second" >> results.csv; done
cat results.csv
"""
_POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:" + "0" * 64 + "\nsize 12\n"
_COMMITS, _BROKEN, _SLOW = 8, 3, 5


def _package(root: Path, base_image: str) -> list[str]:
    """A model whose code is in a repository; its third commit can't be built, and its fifth is 10 % slower."""
    code = root / "code"

    def git(*words: str) -> str:
        identity = ("-c", "user.name=n", "-c", "user.email=e@example.com")
        return outcome(["git", "-C", str(code), *identity, *words], os.environ).stdout.strip()

    code.mkdir(parents=True)
    git("init", "--quiet", "--initial-branch=main")
    commits = []
    for number in range(_COMMITS):
        (code / "speed").write_text("90\n" if number >= _SLOW else "100\n")
        (code / "weights").write_text(_POINTER if number == _BROKEN else f"{number}\n")
        git("add", "--all")
        git("commit", "--quiet", "--message", f"change {number}")
        commits.append(git("rev-parse", "HEAD"))
    (root / "docker").mkdir()
    (root / "docker/any.ubuntu.cpu.Dockerfile").write_text(
        f"# CONTEXT {{'gpu_vendor': 'NONE', 'guest_os': 'UBUNTU'}}\nFROM {base_image}\n"
    )
    (root / "scripts/any").mkdir(parents=True)
    (root / "scripts/any/run.sh").write_text(_SCRIPT)
    card = {"name": "any", "dockerfile": "docker/any", "scripts": "scripts/any/run.sh", "n_gpus": "0"}
    card |= {"url": f"file://{code}", "multiple_results": "results.csv"}
    (root / "models.json").write_text(json.dumps([card]))
    return commits


# The same code asks both engines; what they answer differently is tested elsewhere.
@pytest.mark.parametrize("engine", ["docker"], indirect=True)
def test_the_first_bad_commit_is_named_with_its_evidence(
    madengine: Callable[..., Outcome], base_image: str, tmp_path: Path
) -> None:
    package = tmp_path / "package"
    commits = _package(package, base_image)
    words = ("bisect", "--good", commits[0][:10], "--bad", "main", "--pairs", "1", "--most-pairs", "1", "--json")
    done = madengine(*words, cwd=package)
    outcome_json = json.loads(done.stdout)
    assert (outcome_json["first_bad"], outcome_json["last_good"]) == (commits[_SLOW], commits[_SLOW - 1])
    assert [(step["title"], step["verdict"]) for step in outcome_json["steps"]] == [
        ("change 0", "good"),
        ("change 3", "skipped"),
        ("change 4", "good"),
        ("change 5", "bad"),
        ("change 7", "bad"),
    ]
    assert "weights" in outcome_json["steps"][1]["reason"]
    evidence = outcome_json["steps"][3]["evidence"]
    assert (evidence["verdict"], evidence["n"]) == ("worse", [6, 6])
    assert -11 < evidence["change_percent"] < -9
    differences = {one["column"]: (one["base"], one["new"]) for one in evidence["differences"]}
    assert differences["git_commit"] == ([commits[0]], [commits[_SLOW]])
