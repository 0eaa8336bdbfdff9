"""`run --against` on a real engine: models that a build argument makes 0, 3 and 10 % slower."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tests.bed.components import Engine, outcome

CHECKOUT = Path(__file__).parents[2]

# The noise is ±1 %, and the same each time: the numbers of its runs are in a file of the workspace that lasts.
SCRIPT = """
read -r number 2>/dev/null </myworkspace/number || number=0
echo $((number + 1)) >/myworkspace/number
echo performance: $((SPEED * (1000 + (number * 7919 + 13) % 21 - 10))) steps_per_second
"""
SLOW_DOWNS = (0, 3, 10)


def package(folder: Path, base_image: str) -> None:
    """A model for each slow-down; `VERSION=new` makes it so much slower."""
    entries = []
    for percent in SLOW_DOWNS:
        name = f"slower_by_{percent}"
        lines = (
            "# CONTEXT {}", f"FROM {base_image}", "ARG VERSION", f"ARG NEW={1000 - 10 * percent}",
            "RUN test $VERSION = new || touch /old", "ENV NEW=$NEW",
        )  # fmt: skip
        files = {
            f"docker/{name}.ubuntu.cpu.Dockerfile": "\n".join(lines) + "\n",
            f"scripts/{name}/run.sh": f"SPEED=$NEW\n[ ! -e /old ] || SPEED=1000\n{SCRIPT}",
        }
        for path, text in files.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(text)
        entries.append({"name": name, "dockerfile": f"docker/{name}", "scripts": f"scripts/{name}", "n_gpus": "0"})
    (folder / "models.json").write_text(json.dumps(entries))


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
    in_turn = ["run", "--against=old.json", "--manifest-file=new.json", "--workspace=lasting", "--seed=1"]
    code, shown, messages = madengine(engine, folder, *in_turn, "--repeat=7", "--json")
    assert code == 5, messages
    verdicts = {one["model"]: (one["verdict"], round(one["change_percent"])) for one in json.loads(shown)["series"]}
    assert verdicts == {"slower_by_0": ("same", 0), "slower_by_3": ("worse", -3), "slower_by_10": ("worse", -10)}
    named, _, _ = messages.partition("running ")
    assert "slower_by_10: image_digest: sha256:" in named
    assert "slower_by_10: context.docker_build_arg.VERSION: old -> new" in named or "VERSION" not in messages
    code, shown, messages = madengine(engine, folder, *in_turn, "--repeat=2", "--tags=slower_by_0")
    assert code == 0, messages
    assert "not enough runs: 4 more of each" in shown
