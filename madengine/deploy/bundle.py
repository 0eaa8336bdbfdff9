"""madengine.pyz: what is installed here in one file that any python3 of the supported versions runs."""

from __future__ import annotations

import hashlib
import importlib.util
import io
import marshal
import os
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from madengine.errors import MadengineError
from madengine.files import write_whole

# The packages that madengine needs at run time, by import name, with the distribution that brings each; plumbum wants
# typing_extensions below Python 3.13 only, but a node's Python may be older than this one.
_PACKAGES = {
    "fastjsonschema": "fastjsonschema",
    "jinja2": "Jinja2",
    "markupsafe": "MarkupSafe",
    "plumbum": "plumbum",
    "tabulate": "tabulate",
    "typing_extensions": "typing_extensions",
    "yaml": "PyYAML",
}
_LICENCES = ("LICENSE", "LICENCE", "COPYING")
# Made for one machine, or of no use without a compiler; markupsafe and yaml do without their C parts.
_LEFT_OUT = frozenset({".so", ".pyd", ".pyc", ".pyi", ".c", ".h", ".pyx", ".pxd"})
_FOLDERS_LEFT_OUT = frozenset({"__pycache__", "tests"})
_MAIN = """\
import sys

from madengine.distributed_cli import main

if __name__ == "__main__":
    sys.exit(main())
"""


def write_bundle(path: Path) -> Path:
    """Write madengine.pyz, whole and executable; the same installation always gives the same bytes. Gives the path.

    Needs neither pip nor network. A madengine that runs from such a file copies it. What was packed once is kept
    in $XDG_CACHE_HOME/madengine.

    Raises MadengineError where a package that belongs into it isn't installed as files, or the path can't be written.
    """
    archive = Path(__file__).parents[2]
    _write(path, archive.read_bytes() if archive.is_file() else _packed())
    return path


def _packed() -> bytes:
    """The installed packages as a zipapp, out of the cache where they were packed before."""
    entries = dict(sorted(_entries()))
    kept = _cache() / f"madengine-{_digest(entries)}.pyz"
    with suppress(OSError, zipfile.BadZipFile):
        content = kept.read_bytes()
        if set(zipfile.ZipFile(io.BytesIO(content)).namelist()) >= set(entries):
            return content
    content = _zipapp({**entries, **_compiled(entries)})
    with suppress(MadengineError):  # a home that can't be written costs the next one half a second
        _write(kept, content)
    return content


def _entries() -> Iterator[tuple[str, bytes]]:
    """The names and contents that go into the file."""
    yield "__main__.py", _MAIN.encode()
    package = Path(__file__).parents[1]
    templates = next(path for path in (package / "templates", package.parent / "templates") if path.is_dir())
    yield from _files(package, "madengine")
    yield from _files(templates, "madengine/templates")
    yield from _own_licence(package.parent)
    for name, distribution in _PACKAGES.items():
        place = _place(name)
        yield from _files(place, name) if place.is_dir() else [(place.name, place.read_bytes())]
        yield from _licences(name, distribution)


def _place(name: str) -> Path:
    """The folder of an installed package, or the file of one that is a single module."""
    found = find_spec(name)
    if found is None or not found.origin:
        raise MadengineError(f"{name}: not installed here, and madengine.pyz needs it; `pip install {name}`")
    origin = Path(found.origin)
    place = origin.parent if found.submodule_search_locations else origin
    if not place.exists():
        raise MadengineError(f"{name}: lies in {place}, which is no file; install it with pip to put it in a bundle")
    return place


def _files(folder: Path, prefix: str) -> Iterator[tuple[str, bytes]]:
    for path in folder.iterdir():
        if path.is_dir() and path.name not in _FOLDERS_LEFT_OUT:
            yield from _files(path, f"{prefix}/{path.name}")
        elif path.is_file() and path.suffix not in _LEFT_OUT:
            yield f"{prefix}/{path.name}", path.read_bytes()


def _licences(name: str, distribution: str) -> Iterator[tuple[str, bytes]]:
    """What the licence of a dependency asks to be handed on; a system's own packages keep it elsewhere."""
    with suppress(metadata.PackageNotFoundError):
        for file in metadata.files(distribution) or ():
            if ".dist-info" in file.parts[0] and file.name.startswith(_LICENCES):
                yield f"licenses/{name}/{file.name}", Path(str(file.locate())).read_bytes()


def _own_licence(beside: Path) -> Iterator[tuple[str, bytes]]:
    """Our own licence: beside the package in a checkout, else as installed."""
    checked_out = beside / "LICENSE"
    if (beside / "pyproject.toml").is_file() and checked_out.is_file():
        yield "licenses/madengine/LICENSE", checked_out.read_bytes()
    else:
        yield from _licences("madengine", "madengine")


def _compiled(entries: dict[str, bytes]) -> dict[str, bytes]:
    """The modules compiled for this Python, which starts twice as fast with them; another one takes the sources.

    The format is that of a hash-based pyc that is not checked against its source (PEP 552): its source can't change.
    """
    compiled = {}
    for name, source in entries.items():
        if name.endswith(".py"):
            code = marshal.dumps(compile(source, name, "exec", dont_inherit=True))
            header = importlib.util.MAGIC_NUMBER + (1).to_bytes(4, "little") + importlib.util.source_hash(source)
            compiled[f"{name}c"] = header + code
    return compiled


def _zipapp(entries: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    file.write(b"#!/usr/bin/env python3\n")
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in entries.items():
            entry = zipfile.ZipInfo(name)  # its time is 1980, whenever this is
            entry.external_attr = 0o100644 << 16
            # What every start reads lies there as it is; the sources are for nodes with another Python.
            archive.writestr(entry, content, zipfile.ZIP_STORED if name.endswith(".pyc") else zipfile.ZIP_DEFLATED)
    return file.getvalue()


def _digest(entries: dict[str, bytes]) -> str:
    digest = hashlib.sha256(importlib.util.MAGIC_NUMBER)
    for name, content in entries.items():
        digest.update(f"{name}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()[:32]


def _cache() -> Path:
    named = os.environ.get("XDG_CACHE_HOME", "")
    # The standard says that a relative one is to be ignored.
    folder = Path(named) if named.startswith("/") else Path(os.path.expanduser("~/.cache"))  # noqa: PTH111
    return folder / "madengine"


def _write(path: Path, content: bytes) -> None:
    # write_whole takes text: each byte that is no UTF-8 becomes half a character, and that one becomes this byte again.
    write_whole(path, content.decode("utf-8", "surrogateescape"), 0o755)
