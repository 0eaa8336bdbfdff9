"""A model's script that starts containers itself: run on this host, in its allocation of Slurm where it has one."""

from __future__ import annotations

import getpass
import logging
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from io import FileIO
from pathlib import Path
from typing import Any

from madengine import programs
from madengine.build import payload
from madengine.config.context import expanded
from madengine.config.entry_keys import env_vars
from madengine.errors import MadengineError, RunError
from madengine.programs.slurm import Allocation, step
from madengine.records import FAILURE, SUCCESS, Image, Metric, Model, RunResult
from madengine.results.metrics import MetricScan
from madengine.results.perf_csv import Table
from madengine.run.container_setup import STOP_SECONDS, Setup
from madengine.run.live_output import LiveOutput
from madengine.run.pull import Puller

logger = logging.getLogger(__name__)

# A network file system shows another node's perf.csv late.
_LATE_SECONDS = 20.0
_SHELLS = {".py": "python3"}


@dataclass(frozen=True)
class HostScript:
    """The script of one model, and what it finds on this host."""

    setup: Setup
    model: Model
    image: Image
    stopping: threading.Event
    #: the allocation that this process is in; None outside of Slurm
    allocation: Allocation | None

    def run(self, result: RunResult) -> RunResult:
        """Run the script to its end or its time limit; return the outcome, with the rows of its own perf.csv.

        Raises RunError where it can't be started. What it has started ends with it.
        """
        folder, script = self._script()
        nodes = self._node_count()
        name = self._present_image(nodes)
        known = {path: len(self._rows(path)) for path in self._tables(folder)}
        command = programs.program(_SHELLS.get(Path(script).suffix, "bash"), script, *self._arguments)
        command = command.with_env(**self._environment(name)).with_cwd(str(folder))
        started = time.monotonic()
        scan = MetricScan()
        with open(result.log_file, "xb", buffering=0) as log:
            code, is_late = self._streamed(command, log, scan)
        seconds = round(time.monotonic() - started, 3)
        metrics = self._metrics(folder, known, scan, code)
        reason = self._reason(code, is_late, metrics, scan)
        return replace(
            result,
            status=FAILURE if reason else SUCCESS,
            reason=reason,
            metrics=metrics,
            exit_code=code,
            test_duration=seconds,
            run_duration=seconds,
            nnodes=nodes,
            launcher="slurm_multi",
            n_gpus=os.environ.get("SLURM_GPUS_ON_NODE") or result.n_gpus,
        )

    # --- what it is started with ---

    def _script(self) -> tuple[Path, str]:
        if self.setup.root is None:
            raise RunError("its script runs on this host: run in the folder of its model package, or set MODEL_DIR")
        folder, script = payload.scripts(self.model)
        path = (self.setup.root / folder).resolve()
        if not (path / script).is_file():
            raise RunError(f"{path / script}: no such file; model {self.model.name!r} names it under `scripts`")
        return path, script

    @property
    def _arguments(self) -> list[str]:
        return payload.split(self.model.args, self.model)

    def _section(self, name: str) -> Mapping[str, Any]:
        """A section of the model entry, under the context's."""
        sections = (self.model.extra.get(name), self.setup.context.values.get(name))
        return {key: value for section in sections if isinstance(section, Mapping) for key, value in section.items()}

    def _node_count(self) -> int:
        """Return on how many nodes it runs. Raises RunError where the allocation has fewer than it asks for."""
        count = int(self._section("slurm").get("nodes") or self._section("distributed").get("nnodes") or 1)
        if self.allocation and self.allocation.nodes < count:
            raise RunError(f"needs {count} nodes, and Slurm job {self.allocation.job} has {self.allocation.nodes}")
        return count

    def _environment(self, image_name: str) -> dict[str, str]:
        split = self._section("distributed").get("sglang_disagg")
        counts = split if isinstance(split, Mapping) else {}
        of_user = {**env_vars(self.model), **self.setup.context.env_vars}
        return {
            "MAD_MODEL_NAME": self.model.name,
            "xP": str(counts.get("prefill_nodes") or 1),
            "yD": str(counts.get("decode_nodes") or 1),
            **{name: expanded(value, os.environ) for name, value in of_user.items()},
            "DOCKER_IMAGE_NAME": image_name,
            **{name: programs.Secret(value) for name, value in self.setup.secrets_of(self.model, self.image).items()},
        }

    def _present_image(self, nodes: int) -> str:
        """Return the image's name, pulled on all nodes of the allocation at once. Raises RunError where one can't."""
        of_entry = env_vars(self.model).get("DOCKER_IMAGE_NAME", "")
        name = self.image.pinned or of_entry or self.image.registry_image or self.image.docker_image
        engine = self.setup.engine
        if not any(mark in name for mark in "/."):
            return name
        if not (self.allocation and shutil.which("srun")):
            Puller(engine, self.stopping).pull_missing(name)
            return name
        logger.info(f"pulling {name} on {nodes} node{'s' * (nodes != 1)}")
        answer = programs.attempt(step(engine.pull(name), nodes), seconds=None)
        if answer.code != 0:
            raise RunError(f"pull {name}: {answer.last_line}")
        return name

    # --- what it leaves ---

    def _streamed(self, command: Any, log: FileIO, scan: MetricScan) -> tuple[int, bool]:
        """Return the exit code, and whether the script was ended at its time limit."""
        limit = self.setup.limit(self.model)
        late = threading.Event()
        timer = threading.Timer(limit, partial(_end, threading.get_ident(), late))
        timer.daemon = True
        if limit:
            timer.start()
        try:
            code = programs.stream(command, self._writer(log, scan))
        finally:
            timer.cancel()
        scan.finish()
        return code, late.is_set()

    def _writer(self, log: FileIO, scan: MetricScan) -> Callable[[str], None]:
        live = LiveOutput() if self.setup.options.live_output else None

        def write(line: str) -> None:
            chunk = line.encode(errors="surrogateescape")
            log.write(chunk)
            scan.feed(chunk)
            if live:
                live(chunk)
            if self.stopping.is_set():
                raise KeyboardInterrupt

        return write

    def _tables(self, folder: Path) -> Iterator[Path]:
        """Yield where scripts of its kind leave their perf.csv, as madengine 2 looks for it."""
        job = str(self.allocation.job) if self.allocation else ""
        patterns: list[tuple[Path, str]] = [(folder, "perf.csv")]
        if results := self._section("slurm").get("results_dir"):
            patterns.insert(0, (folder / Path(str(results)).expanduser(), "perf*.csv"))
        if job:
            shared = Path("/shared_inference", getpass.getuser())
            patterns += [(shared / job, "perf.csv"), (shared / "model_blog_logs" / job, "perf.csv")]
            patterns.append((folder / "slurm_output/perf_csv", f"*{job}*.csv"))
        for place, pattern in patterns:
            yield from sorted(place.glob(pattern))

    def _rows(self, path: Path) -> list[dict[str, str]]:
        try:
            with Table(path) as table:
                return [dict(zip(table.columns, cells, strict=False)) for cells in table]
        except MadengineError as error:
            logger.info(f"{error}; ignored")
            return []

    def _metrics(self, folder: Path, known: Mapping[Path, int], scan: MetricScan, code: int) -> tuple[Metric, ...]:
        """Return what the script has measured: the new rows of its perf.csv, else what it printed."""
        deadline = time.monotonic() + (_LATE_SECONDS if self.allocation and not code and not scan.metric else 0)
        while True:
            for path in self._tables(folder):
                if rows := self._rows(path)[known.get(path, 0) :]:
                    logger.info(f"{self.model.name}: {len(rows)} rows of {path}")
                    return tuple(map(self._metric, rows))
            if time.monotonic() >= deadline:
                return (scan.metric,) if scan.metric else ()
            time.sleep(1)

    def _metric(self, row: Mapping[str, str]) -> Metric:
        name = row.get("model", "")
        own = "" if name == self.model.name else name.removeprefix(f"{self.model.name}_")
        return Metric(row.get("performance", ""), row.get("metric", ""), own)

    def _reason(self, code: int, is_late: bool, metrics: tuple[Metric, ...], scan: MetricScan) -> str:
        if is_late:
            return f"timeout: the script ran longer than {self.setup.limit(self.model)} s"
        if code:
            return f"exit code {code}"
        return "" if metrics else f"the script left no row in a perf.csv, and {scan.problem}"


def _end(thread: int, late: threading.Event) -> None:
    late.set()
    programs.end_programs_of(thread, STOP_SECONDS)
