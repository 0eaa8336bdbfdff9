"""How often `run --against` is right, on this machine as it is: the bundled dummy against itself, and 10 % slower."""

from __future__ import annotations

import json
import subprocess
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

REPETITIONS = 20
#: Counted for one batch of the dummy; the slow one counts 10 % more for the same.
WORK = {"same": 1000, "slow": 1100}


def prepare(folder: Path) -> None:
    """Let the dummy count for 0.3 s of processor time, and for as much work as a build argument says.

    Of processor time, because others work on this machine too.
    """
    script = folder / "scripts/dummy/run.sh"
    text = script.read_text()
    for old, new in (
        ("-lt 1000", "-lt $WORK"),
        ("iterations + batch", "iterations + 1000"),
        ("start + seconds * 100", "start + seconds * 30000"),
        ("read -r uptime _ </proc/uptime", "read -r nanoseconds _ </proc/self/schedstat"),
        ("${uptime%.*} * 100 + 1${uptime#*.} - 100", "nanoseconds / 10000"),
        ("iterations * 100 / elapsed", "iterations * 100000 / elapsed"),
    ):
        assert old in text, old
        text = text.replace(old, new)
    script.write_text(text)
    dockerfile = folder / "docker/dummy.ubuntu.cpu.Dockerfile"
    dockerfile.write_text(f"{dockerfile.read_text()}\nARG WORK=1000\nENV WORK=$WORK\n")


def verdicts(
    folder: Path, program: list[str], base_image: str, environment: Mapping[str, str], run: Callable[..., str]
) -> dict[str, Counter[int]]:
    """Return the exit codes of REPETITIONS comparisons: of the same with itself, and with the slow one."""
    prepare(folder)
    for name, work in WORK.items():
        context = {"gpu_vendor": "NONE", "docker_build_arg": {"BASE_DOCKER": base_image, "WORK": str(work)}}
        words = ["build", "--engine=docker", f"--manifest-output={name}.json", "--additional-context"]
        run([*program, *words, json.dumps(context)], folder)
    codes: dict[str, Counter[int]] = {name: Counter() for name in WORK}
    for number in range(REPETITIONS):
        for name, counter in codes.items():
            words = ["run", "--against=same.json", f"--manifest-file={name}.json", f"--seed={number}", "--json"]
            ended = subprocess.run([*program, *words], cwd=folder, env=environment, capture_output=True, text=True)
            counter[ended.returncode] += 1
            (series,) = json.loads(ended.stdout)["series"]
            interval = " … ".join(f"{end:+.1f}" for end in series["interval_percent"])
            print(f"  {name}: {series['verdict']:8} {series['change_percent']:+.1f} % ({interval})", flush=True)
    return codes
