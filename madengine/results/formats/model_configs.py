"""What a model's `--config PATH` names, read as madengine 2 puts it into perf_super.json."""

from __future__ import annotations

import logging
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from madengine.errors import MadengineError
from madengine.files import check_nesting, csv_rows, parse_json, read_text
from madengine.records import Metric, Model
from madengine.results.numbers import is_number

logger = logging.getLogger(__name__)

# Repositories whose scripts are below a folder of their own.
_BELOW_SCRIPTS = ("", "MAD", "MAD-private", "MAD-internal")


@dataclass(frozen=True)
class ModelConfigs:
    """The configurations of a package's models."""

    #: the model package
    root: Path

    def of(self, model: Model, is_local: bool) -> Any:
        """Return what the file that the model's arguments name holds; None without one, or one that can't be read.

        The files outside of the package are read for a model of this machine only: another one's may name any.
        """
        name = config_name(model.args)
        if not name:
            return None
        path = next((path for path in self._places(model, name) if path.is_file()), None)
        if path is None:
            logger.warning(f"{model.name}: configs: {name}: no such file in {self.root}")
            return None
        if not is_local and not path.resolve().is_relative_to(self.root.resolve()):
            logger.warning(f"{model.name}: configs: {name}: ignored: outside of {self.root}")
            return None
        try:
            return read_config(path)
        except (MadengineError, ValueError, TypeError, RecursionError) as error:
            logger.warning(f"{model.name}: configs: {error}")
            return None

    def _places(self, model: Model, name: str) -> Iterator[Path]:
        """Yield where the file may be, in madengine 2's order."""
        if Path(name).is_absolute():
            yield Path(name)
            return
        script = self.root / model.scripts
        folder = script if script.is_dir() else script.parent
        scripts = self.root / "scripts"
        yield folder / name
        yield scripts / name
        yield self.root / name
        yield from (scripts / part / name for part in _BELOW_SCRIPTS)
        yield from (parent / name for parent in folder.parents if parent.is_relative_to(self.root))


def config_name(args: str) -> str:
    """Return the word after the first `--config` of a model's arguments; empty without one."""
    try:
        words = shlex.split(args)
    except ValueError:
        words = args.split()
    for word, following in zip(words, [*words[1:], ""], strict=True):
        if word == "--config":
            return following
        if word.startswith("--config="):
            return word.partition("=")[2]
    return ""


def read_config(path: Path) -> Any:
    """Return the content of a CSV file as row objects, of JSON and YAML as it is; None for another kind of file.

    Raises MadengineError, ValueError or TypeError for one that can't be read as that.
    """
    kind = path.suffix.lower()
    if kind == ".csv":
        rows = ({name: _cell(cell) for name, cell in row.items() if name} for row in _csv_rows(path))
        return [row for row in rows if any(cell is not None for cell in row.values())]
    if kind == ".json":
        return parse_json(read_text(path, MadengineError))
    if kind in (".yaml", ".yml"):
        return _yaml(path)
    return None


def _csv_rows(path: Path) -> Iterator[Mapping[str, str]]:
    yield from csv_rows(read_text(path, MadengineError).splitlines(keepends=True))


def _cell(cell: str | None) -> str | int | float | None:
    cell = (cell or "").strip()
    if not cell:
        return None
    if re.fullmatch(r"-?(0|[1-9][0-9]{0,17})", cell):
        return int(cell)
    return float(cell) if is_number(cell) and not re.match(r"-?0[0-9]", cell) else cell


def _yaml(path: Path) -> Any:
    import json

    import yaml

    try:
        value = yaml.safe_load(read_text(path, MadengineError))
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: not YAML: {' '.join(str(error).split())[:200]}") from None
    check_nesting(value)
    # Dates become text; what JSON can't have raises.
    return json.loads(json.dumps(value, default=str))


def matching(configs: Any, metric: Metric) -> Any:
    """Return what of the configurations belongs to one of several results: the row of a CSV file that names it."""
    if not isinstance(configs, list) or not all(isinstance(row, dict) for row in configs) or not configs:
        return configs
    if len(configs) == 1:
        return configs[0]
    match = next((row for row in configs if _is_of(row, metric)), None)
    if match is None:
        logger.warning(f"configs: no row for {metric.model}, the first is used")
    return configs[0] if match is None else match


def _is_of(row: Mapping[str, Any], metric: Metric) -> bool:
    of_config, of_result = _plain(row.get("model")), _plain(metric.model)
    benchmarks = row.get("benchmark"), metric.extra.get("benchmark")
    is_benchmark = not all(benchmarks) or _plain(benchmarks[0]) == _plain(benchmarks[1])
    return bool(of_config and of_result) and (of_config in of_result or of_result in of_config) and is_benchmark


def _plain(value: Any) -> str:
    return re.sub(r"[/-]", "_", str("" if value is None else value).lower())
