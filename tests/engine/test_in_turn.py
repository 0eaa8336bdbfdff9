"""`run --against` on a real engine: models that a build argument makes 0, 3 and 10 % slower."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tests.bed.components import Engine, outcome

CHECKOUT = Path(__file__).parents[2]

# The noise is ±1 %, and the same each time: the number of the run is in a file of the workspace that lasts.
SCRIPT = """
read -r number 2>/dev/null </myworkspace/number || number=0
echo $((number + 1)) >/myworkspace/number
noise=$(((number * 7919 + 13) % 21 - 10))
echo model,performance,metric >figures.csv
for percent in 0 3 10; do
  [ "$VERSION" = new ] || percent_now=0
  [ "$VERSION" = old ] || percent_now=$percent
  echo "slower_by_$percent,$(((1000 - 10 * percent_now) * (1000 + noise))),steps_per_second" >>figures.csv
done
"""


def package(folder: Path, base_image: str) -> None:
    """A model with three results; `VERSION=new` makes them slower by 0, 3 and 10 %."""
    files = {
        "docker/slow.ubuntu.cpu.Dockerfile": f"# CONTEXT {{}}\nFROM {base_image}\nARG VERSION\nENV VERSION=$VERSION\n",
        "scripts/slow/run.sh": SCRIPT,
    }
    for path, text in files.items():
        (folder / path).parent.mkdir(parents=True)
        (folder / path).write_text(text)
    entry = {"name": "slow", "dockerfile": "docker/slow", "scripts": "scripts/slow", "n_gpus": "0"}
    (folder / "models.json").write_text(json.dumps([{**entry, "multiple_results": "figures.csv"}]))


def madengine(engine: Engine, folder: Path, *words: str) -> tuple[int, str, str]:
    environment = {**engine.environment, "MADENGINE_ENGINE": engine.name, "PYTHONPATH": str(CHECKOUT)}
    program = [sys.executable, "-m", "madengine.distributed_cli"]
    return outcome([*program, *words], environment, cwd=folder, check=False)


@pytest.mark.parametrize("engine", ["docker"], indirect=True)
def test_a_slow_down_of_10_percent_exits_with_5_and_none_with_0(
    engine: Engine, base_image: str, tmp_path: Path
) -> None:
    folder = tmp_path / "models"
    folder.mkdir()
    package(folder, base_image)
    for version in ("old", "new"):
        context = json.dumps({"docker_build_arg": {"VERSION": version}})
        words = ["build", f"--manifest-output={version}.json", "--additional-context", context]
        code, _, messages = madengine(engine, folder, *words)
        assert code == 0, messages
    in_turn = ["run", "--against=old.json", "--workspace=lasting", "--seed=1"]
    code, shown, messages = madengine(engine, folder, *in_turn, "--manifest-file=new.json", "--repeat=7", "--json")
    assert code == 5, messages
    verdicts = {one["model"]: (one["verdict"], round(one["change_percent"])) for one in json.loads(shown)["series"]}
    assert verdicts == {
        "slow_slower_by_0": ("same", 0),
        "slow_slower_by_3": ("worse", -3),
        "slow_slower_by_10": ("worse", -10),
    }
    named, _, _ = messages.partition("running slow")
    assert "slow: image_digest: sha256:" in named
    assert "slow: context.docker_build_arg.VERSION: old -> new" in named
    code, shown, messages = madengine(engine, folder, *in_turn, "--manifest-file=old.json", "--repeat=2")
    assert code == 0, messages
    assert "slow: nothing differs: base and new are the same" in messages
    assert "not enough runs: 5 more of each" in shown
