"""A machine with four GPUs, and a stand-in for docker whose models measure what a test says."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from madengine.config.context import Context
from madengine.config.credentials import Credentials
from madengine.programs.engine import Docker
from madengine.records import Gpu, Image, Model
from madengine.run.node import LocalRun
from madengine.run.options import RunOptions
from tests.conftest import StandIns, collect_messages

GPUS = tuple(Gpu("NVIDIA", index, name="H100", architecture="H100", uuid=f"GPU-{index}") for index in range(4))
# A container is where its run is noted, until it leaves what entry.sh would have left.
_DOCKER = """
notes={folder}
for word; do last=$word; done
slug=${{last##*-}}
leave() {{
    printf '{{"exit_code": %s, "started": 1.0, "ended": 2.5, "log_complete": true}}' "$1" > "$to/entry.json"
    echo "$1"
}}
case $1 in
run)
    while [ $# -gt 0 ]; do
        case $1 in
            --name) slug=${{2##*-}} model=${{slug%_[0-9]*}} ;;
            sha256:*) id=${{1#*:}} ;;
            --gpus) gpus=$2 ;;
            --env=NVIDIA_VISIBLE_DEVICES=void) gpus=none ;;
            type=bind,source=*,target=/myworkspace) to=${{1#*source=}} to=${{to%,target=*}} ;;
            MADENGINE_LOG=*) log=${{1##*/}} ;;
        esac
        shift
    done
    printf '%s\\n' "$to" > "$notes/place-$slug"
    printf '%s\\n' "$to/$log" > "$notes/log-$slug"
    {start} ;;
wait)
    to=$(cat "$notes/place-$slug") log=$(cat "$notes/log-$slug")
    {wait} ;;
stop | rm) {end} ;;
image) echo "[{{\\"Id\\": \\"$last\\"}}]" ;;
container) echo '{{"Status": "exited", "ExitCode": 0}}' ;;
version) echo 27.5.1 ;;
info) echo '{{}}' ;;
esac
"""
# Each run of a model takes the next word of its file: what it measures, `fail`, or `hang`.
_START = """
    words=$notes/words-$model-${id%"${id#?}"}
    read -r next < "$words"
    sed -i 1d "$words"
    printf '%s\\n' "$next" > "$notes/next-$slug"
    printf '%s %s %s\\n' "$model" "$next" "$gpus" >> "$notes/started"
"""
_WAIT = """
    read -r next < "$notes/next-$slug"
    code=0
    case $next in
        hang) exec sleep 30 ;;
        fail) code=7 ;;
        *) printf 'performance: %s tokens\\n' "$next" >> "$log" ;;
    esac
    leave $code
"""


def docker(folder: Path, start: str, wait: str, end: str = ":") -> str:
    """The script of a stand-in for docker, which keeps its notes in `folder`; shell text says what it does when."""
    return _DOCKER.format(folder=folder, start=start.strip(), wait=wait.strip(), end=end)


def local_run(
    chosen: Sequence[tuple[Model, Image | None]],
    folder: Path,
    gpus: Sequence[Gpu],
    show: Callable[[str], None],
    context: Mapping[str, Any] | None = None,
    **options: Any,
) -> LocalRun:
    """A run of these models on these GPUs."""
    return LocalRun(
        options=RunOptions(**options),
        engine=Docker(version="27.5.1"),
        context=Context({"gpu_vendor": "NVIDIA" if gpus else "NONE", **(context or {})}),
        gpus=tuple(gpus),
        chosen=chosen,
        skipped=[],
        root=None,
        data_folder=folder,
        environ={},
        credentials=Credentials(),
        show=show,
    )


class Machine:
    """A machine with four GPUs, and a stand-in for docker whose models measure what the test says."""

    def __init__(self, folder: Path, stand_ins: StandIns) -> None:
        self.folder = folder
        stand_ins.add("docker", docker(folder, _START, _WAIT))
        stand_ins.add("nvidia-smi")
        self.messages = collect_messages()
        self.tables: list[str] = []
        self.chosen: list[tuple[Model, Image | None]] = []

    def model(self, name: str, words: str, n_gpus: str = "1", image: int = 1, **more: Any) -> tuple[Model, Image]:
        """Add a model that measures these words, run by run; another `image` measures other ones."""
        (self.folder / f"words-{name}-{image}").write_text("\n".join(words.split()) + "\n")
        model = Model(name=name, dockerfile=f"docker/{name}", scripts=f"scripts/{name}", n_gpus=n_gpus, **more)
        identifier = f"sha256:{str(image) * 64}"
        entry = model, Image(f"ci-{name}", docker_image=f"ci-{name}", image_id=identifier, self_contained=True)
        self.chosen.append(entry)
        return entry

    def local_run(
        self,
        chosen: Sequence[tuple[Model, Image | None]],
        gpus: Sequence[Gpu] = GPUS,
        context: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> LocalRun:
        return local_run(chosen, self.folder, gpus, self.tables.append, context, **options)

    def run(self, gpus: Sequence[Gpu] = GPUS, **options: Any) -> LocalRun:
        run = self.local_run(self.chosen, gpus, **options)
        self.code = run.run()
        return run

    @property
    def started(self) -> list[list[str]]:
        """For each run the model, its word, and its GPUs."""
        return [line.split(" ", 2) for line in (self.folder / "started").read_text().splitlines()]

    @property
    def order(self) -> str:
        return "".join(model for model, _, _ in self.started)


def table() -> list[dict[str, str]]:
    with Path("perf.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def cells(*columns: str) -> list[tuple[str, ...]]:
    return [tuple(row[column] for column in columns) for row in table()]
