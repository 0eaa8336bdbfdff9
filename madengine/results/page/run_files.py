"""What a run left, for its page: the end of its log, its GPU samples, links to its files."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePath
from typing import Any, NamedTuple
from urllib.parse import quote

from madengine.files import open_untrusted, read_untrusted
from madengine.results.origins import Origin
from madengine.results.page.gpu_charts import chart_data

_SERIES = "gpu_series.csv"
_SERIES_BYTES = 256 << 20
_LOG_BYTES = 1 << 50
_TAIL_BYTES = 8 << 10
_TAIL_LINES = 40
_MOST_ARTIFACTS = 100


class RunFolder(NamedTuple):
    """Where the files of a result are: a folder of ours, and the path below it, which its node named."""

    base: Path
    below: PurePath

    def tail(self, name: str) -> str:
        """Return the end of a log, empty if there is none."""
        with suppress(OSError), open_untrusted(self.base, self.below / name, _LOG_BYTES) as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - _TAIL_BYTES))
            lines = file.read(_TAIL_BYTES).decode("utf-8", "replace").splitlines()
            return "\n".join(lines[-_TAIL_LINES:])
        return ""

    def charts(self) -> dict[str, Any] | None:
        """Return the GPU samples, None if there are none."""
        with suppress(OSError):
            return chart_data(read_untrusted(self.base, self.below / _SERIES, _SERIES_BYTES).decode("utf-8", "replace"))
        return None

    def link(self, name: str, page_folder: Path) -> str:
        """Return the link from the page to a file; empty if that is none."""
        with suppress(OSError), open_untrusted(self.base, self.below / name, _LOG_BYTES):
            path = os.path.relpath(self.base.absolute() / self.below / name, page_folder.absolute())
            # A name may begin like the scheme of a URL.
            return quote(os.fsencode(path if path.startswith("../") else f"./{path}"))
        return ""


def run_folder(origin: Origin[Path]) -> RunFolder | None:
    """Return the folder of a result, None if it is not here (any more)."""
    return next((one for one in _candidates(origin) if _is_there(one)), None)


def details(origin: Origin[Path], folder: RunFolder, page_folder: Path) -> dict[str, Any]:
    """Return what the page shows of a run beside its rows."""
    log = PurePath(origin.result.log_file).name
    names = [*([log] if log else []), _SERIES, *_artifacts(origin)]
    links = {name: link for name in names if (link := folder.link(name, page_folder))}
    return {"log": folder.tail(log) if log else "", "links": links, "charts": folder.charts()}


def _artifacts(origin: Origin[Path]) -> Iterator[str]:
    entries = origin.entry.get("artifacts")
    for entry in (entries if isinstance(entries, list) else [])[:_MOST_ARTIFACTS]:
        path = entry.get("path") if isinstance(entry, dict) else None
        if isinstance(path, str) and path:
            yield path


def _candidates(origin: Origin[Path]) -> Iterator[RunFolder]:
    """Yield where the folder may be, seen from the results.json: beside it, or where the command was started."""
    parent, directory = origin.place.parent, PurePath(origin.result.directory)
    if not directory.name or directory.name == "..":
        return
    yield RunFolder(parent, PurePath(directory.name))
    if not directory.is_absolute() and ".." not in directory.parts:
        yield RunFolder(parent, directory)
        host = str(origin.run.get("host", ""))
        if host and "/" not in host and host not in (".", ".."):
            yield RunFolder(parent, PurePath("results", str(origin.run["run_id"]), host) / directory)


def _is_there(folder: RunFolder) -> bool:
    try:
        return (folder.base / folder.below).is_dir()
    except (OSError, ValueError):
        return False
