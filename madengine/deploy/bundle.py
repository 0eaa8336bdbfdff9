"""madengine.pyz: what is installed here in one file that any python3 of the supported versions runs."""

from __future__ import annotations

import hashlib
import importlib.util
import io
import marshal
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from madengine.errors import MadengineError
from madengine.files import cache_home, write_whole

# The packages that madengine needs at run time, by import name, with the distribution of each; plumbum needs
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
_TEMPLATES = "madengine/templates"
_LICENCES = ("LICENSE", "LICENCE", "COPYING")
# For one machine only, or useless without a compiler; markupsafe and yaml work without their C parts.
_OTHER_SUFFIXES = frozenset({".so", ".pyd", ".pyc", ".pyi", ".c", ".h", ".pyx", ".pxd"})
_OTHER_FOLDERS = frozenset({"__pycache__", "tests"})
# In the syntax of every Python: an older one is told so, in place of a syntax error.
_MAIN = """\
import sys

if sys.version_info < (3, 10):
    sys.exit("madengine.pyz: Python %d.%d is too old; run it with python3 3.10 or newer" % sys.version_info[:2])

from madengine.distributed_cli import main

if __name__ == "__main__":
    sys.exit(main())
"""


def write_bundle(path: Path) -> Path:
    """Write madengine.pyz, whole and executable; return the path. One installation always has the same bytes.

    Needs neither pip nor network. A madengine that runs from such a file copies it. The bytes are cached in
    $XDG_CACHE_HOME/madengine.

    Raises MadengineError where a package that belongs into it isn't installed as files, or the path can't be written.
    """
    archive = Path(__file__).parents[2]
    _write(path, archive.read_bytes() if archive.is_file() else _packages())
    return path


def sources_bundle() -> bytes:
    """Return madengine.pyz without what is compiled for this Python, for ways that are narrow; it starts slower.

    Raises MadengineError as `write_bundle` does.
    """
    archive = Path(__file__).parents[2]
    if not archive.is_file():
        return _zipapp(dict(sorted(_entries())), zipfile.ZIP_STORED)
    with zipfile.ZipFile(archive) as own:
        names = [name for name in own.namelist() if not name.endswith(".pyc")]
        return _zipapp({name: own.read(name) for name in names}, zipfile.ZIP_STORED)


def _packages() -> bytes:
    """Return the installed packages as a zipapp, from the cache if they are there."""
    entries = dict(sorted(_entries()))
    cached = cache_home() / f"madengine-{_digest(entries)}.pyz"
    with suppress(OSError, zipfile.BadZipFile):
        content = cached.read_bytes()
        if set(zipfile.ZipFile(io.BytesIO(content)).namelist()) >= set(entries):
            return content
    content = _zipapp({**entries, **_compiled(entries)})
    with suppress(MadengineError):  # without a cache the next call takes half a second longer
        _write(cached, content)
    return content


def _entries() -> Iterator[tuple[str, bytes]]:
    """Yield the names and contents of the file."""
    yield "__main__.py", _MAIN.encode()
    package = Path(__file__).parents[1]
    templates = next(path for path in (package / "templates", package.parent / "templates") if path.is_dir())
    yield from _files(package, "madengine")
    yield from _files(templates, _TEMPLATES)
    yield from _own_licence(package.parent)
    for name, distribution in _PACKAGES.items():
        path = _installed_path(name)
        yield from _files(path, name) if path.is_dir() else [(path.name, path.read_bytes())]
        yield from _licences(name, distribution)


def _installed_path(name: str) -> Path:
    """Return the folder of an installed package, or the file of one that is a single module."""
    spec = find_spec(name)
    if spec is None or not spec.origin:
        raise MadengineError(f"{name}: not installed here, but needed for madengine.pyz; `pip install {name}`")
    origin = Path(spec.origin)
    path = origin.parent if spec.submodule_search_locations else origin
    if not path.exists():
        raise MadengineError(f"{name}: {path} is not a file; install it with pip to bundle it")
    return path


def _files(folder: Path, prefix: str) -> Iterator[tuple[str, bytes]]:
    for path in folder.iterdir():
        if path.is_dir() and path.name not in _OTHER_FOLDERS:
            yield from _files(path, f"{prefix}/{path.name}")
        elif path.is_file() and path.suffix not in _OTHER_SUFFIXES:
            yield f"{prefix}/{path.name}", path.read_bytes()


def _licences(name: str, distribution: str) -> Iterator[tuple[str, bytes]]:
    """Yield the licence files of a dependency; packages of a Linux distribution have theirs elsewhere."""
    with suppress(metadata.PackageNotFoundError):
        for file in metadata.files(distribution) or ():
            if ".dist-info" in file.parts[0] and file.name.startswith(_LICENCES):
                yield f"licenses/{name}/{file.name}", Path(str(file.locate())).read_bytes()


def _own_licence(beside: Path) -> Iterator[tuple[str, bytes]]:
    """Yield our own licence: beside the package in a checkout, else as installed."""
    checked_out = beside / "LICENSE"
    if (beside / "pyproject.toml").is_file() and checked_out.is_file():
        yield "licenses/madengine/LICENSE", checked_out.read_bytes()
    else:
        yield from _licences("madengine", "madengine")


def _compiled(entries: dict[str, bytes]) -> dict[str, bytes]:
    """Return the modules compiled for this Python, which starts twice as fast with them; others use the sources.

    They are hash-based pycs that are not checked against their source (PEP 552), which can't change.
    """
    compiled = {}
    for name, source in entries.items():
        # Templates are files for containers.
        if name.endswith(".py") and not name.startswith(f"{_TEMPLATES}/"):
            code = marshal.dumps(compile(source, name, "exec", dont_inherit=True))
            header = importlib.util.MAGIC_NUMBER + (1).to_bytes(4, "little") + importlib.util.source_hash(source)
            compiled[f"{name}c"] = header + code
    return compiled


def _zipapp(entries: dict[str, bytes], of_sources: int = zipfile.ZIP_DEFLATED) -> bytes:
    file = io.BytesIO()
    file.write(b"#!/usr/bin/env python3\n")
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in entries.items():
            entry = zipfile.ZipInfo(name)  # its time is 1980, whenever this is
            entry.external_attr = 0o100644 << 16
            # What every start reads is not compressed; the sources are for nodes with another Python.
            archive.writestr(entry, content, zipfile.ZIP_STORED if name.endswith(".pyc") else of_sources)
    return file.getvalue()


def _digest(entries: dict[str, bytes]) -> str:
    digest = hashlib.sha256(importlib.util.MAGIC_NUMBER)
    for name, content in entries.items():
        digest.update(f"{name}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()[:32]


def _write(path: Path, content: bytes) -> None:
    # write_whole takes text: a byte that isn't UTF-8 becomes half a character, and is written as that byte again.
    write_whole(path, content.decode("utf-8", "surrogateescape"), 0o755)
