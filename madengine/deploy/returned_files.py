"""The files of a run as a node sent them, checked before anything else reads them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from madengine.errors import MadengineError
from madengine.files import parse_json, read_untrusted
from madengine.results.perf_csv import Table
from madengine.results.results_json import runs_in
from madengine.results.table import printable

# No run of any size writes more.
_MOST_BYTES = 256 << 20
_SUMMARY_KEYS = ("successful_runs", "failed_runs", "skipped_runs")


def set_aside_broken_files(folder: Path, run_id: str) -> list[str]:
    """Rename the files of a host's folder that can't be used to NAME.broken; return a line for each.

    Looks at those that madengine reads on this machine; what a model has left may be anything.
    """
    results = f"runs/{run_id}/results.json"
    checks: Mapping[str, Callable[[Path, str], None]] = {
        "perf.csv": _check_table,
        "run_summary.json": _check_summary,
        "node.json": _check_record,
        results: _check_results,
    }
    problems = []
    for name, check in checks.items():
        path = folder / name
        try:
            check(folder, name)
        except FileNotFoundError:
            continue
        except (MadengineError, OSError, ValueError) as error:
            _set_aside(path)
            if name == "perf.csv":  # else the results would be merged beside the rows that say they are missing
                _set_aside(folder / results)
            reason = error.strerror if isinstance(error, OSError) else error
            problems.append(printable(f"{name}: {str(reason).removeprefix(f'{path}: ')}")[:300])
    return problems


def _set_aside(path: Path) -> None:
    with suppress(FileNotFoundError):
        path.rename(path.with_name(f"{path.name}.broken"))


def main(folder: str, run_id: str) -> None:
    """Print the problems of a host's folder, for the playbook."""
    print("; ".join(set_aside_broken_files(Path(folder), run_id)))  # noqa: T201


def _check_table(folder: Path, name: str) -> None:
    content = read_untrusted(folder, name, _MOST_BYTES)
    try:
        content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"byte {error.start} is not UTF-8") from None
    if b"\0" in content:
        raise ValueError("a NUL byte is in it")
    with Table(folder / name) as table:
        for _ in table:
            pass


def _check_summary(folder: Path, name: str) -> None:
    summary = _object(folder, name)
    for key in _SUMMARY_KEYS:
        _check_list(key, summary.get(key, []), dict)


def _check_record(folder: Path, name: str) -> None:
    _check_list("tags", _object(folder, name).get("tags", []), str)


def _check_results(folder: Path, name: str) -> None:
    _check_list("results", _object(folder, name).get("results"), dict)
    if not runs_in(folder / name):
        raise ValueError("not the results of a run")


def _object(folder: Path, name: str) -> Mapping[str, Any]:
    try:
        value = parse_json(read_untrusted(folder, name, _MOST_BYTES).decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise ValueError(f"byte {error.start} is not UTF-8") from None
    if not isinstance(value, dict):
        raise ValueError(f"expected an object, got {str(value)[:60]!r}")
    return value


def _check_list(key: str, value: Any, kind: type) -> None:
    if not isinstance(value, list) or not all(isinstance(item, kind) for item in value):
        raise ValueError(f"{key}: expected a list of {kind.__name__}, got {str(value)[:60]!r}")
