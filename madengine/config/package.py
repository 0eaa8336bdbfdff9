"""The model package: where it is, and the starter and templates that come with madengine."""

from __future__ import annotations

import atexit
import functools
import os
import pkgutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from madengine.errors import ConfigurationError
from madengine.files import write_whole
from madengine.process import private_folder

if TYPE_CHECKING:
    from importlib.abc import Traversable

_SOURCES = ("models.json", "scripts/*/models.json", "scripts/*/get_models_json.py")


def package_root(environ: Mapping[str, str], cwd: Path) -> tuple[Path, str]:
    """Return the model package's directory and a line about the choice, empty unless the user needs one.

    It is MODEL_DIR if set, else `cwd` if it lists models, else the bundled starter.
    Raise ConfigurationError if MODEL_DIR lists no models.
    """
    model_dir = environ.get("MODEL_DIR", "")
    if model_dir:
        directory = cwd / model_dir
        if not lists_models(directory):
            raise ConfigurationError(
                f"MODEL_DIR={model_dir}: no models.json there; name a model package's directory, or unset MODEL_DIR"
            )
        return directory, ""
    if lists_models(cwd):
        return cwd, ""
    message = f"no models.json in {cwd}: using the bundled starter package; `madengine init DIR` writes it for you"
    return starter_package(), message


@functools.cache
def starter_package() -> Path:
    """Return the bundled starter package as a directory; out of a zipapp it is copied to one that lasts until exit."""
    source = _templates() / "package"
    if isinstance(source, Path):
        return source
    opened = ExitStack()
    directory = opened.enter_context(private_folder())
    atexit.register(opened.close)
    for name, file in _files(source):
        _write(directory / name, file)
    return directory


def template(name: str) -> str:
    """Return the text of a file under templates/, such as `image/entry.sh`. Raise FileNotFoundError if missing."""
    directory = _directory()
    content = (directory / name).read_bytes() if directory else own_file(f"templates/{name}")
    return content.decode()


def template_names(folder: str) -> tuple[str, ...]:
    """Return the names of the files of a folder under templates/, in order."""
    return tuple(name for name, _ in _files(_templates().joinpath(*folder.split("/"))))


def init_package(directory: Path) -> tuple[Path, ...]:
    """Write the starter package into a directory (made if missing); return the files.

    Raise ConfigurationError, with nothing written, if one of its files already exists.
    """
    files = {directory / name: file for name, file in _files(_templates() / "package")}
    for path in files:
        if os.path.lexists(path):
            raise ConfigurationError(f"{path} already exists; name a directory that doesn't hold a model package yet")
    for path, file in files.items():
        _write(path, file)
    return tuple(files)


def lists_models(directory: Path) -> bool:
    """Return whether a directory is a model package."""
    return any(path.is_file() for source in _SOURCES for path in directory.glob(source))


def own_file(name: str) -> bytes:
    """Return a file inside this package, which may be in a zipapp. Raise OSError if missing."""
    content = pkgutil.get_data("madengine", name)
    assert content is not None  # None only from a loader that can't read files
    return content


def _directory() -> Path | None:
    """Return the templates' folder: in a wheel inside the package, in a checkout beside it; None in a zipapp."""
    package = Path(__file__).parents[1]
    return next((path for path in (package / "templates", package.parent / "templates") if path.is_dir()), None)


def _templates() -> Traversable:
    directory = _directory()
    if directory:
        return directory
    # To list what is in an archive takes five times as long as to read a file of it.
    from importlib.resources import files

    return files("madengine") / "templates"


def _files(directory: Traversable, prefix: str = "") -> Iterator[tuple[str, Traversable]]:
    for entry in sorted(directory.iterdir(), key=lambda entry: entry.name):
        if entry.is_dir() and entry.name != "__pycache__":  # which an installation makes
            yield from _files(entry, f"{prefix}{entry.name}/")
        elif entry.is_file():
            yield f"{prefix}{entry.name}", entry


def _write(path: Path, file: Traversable) -> None:
    text = file.read_text(encoding="utf-8")
    # A zip archive has lost the modes.
    write_whole(path, text, 0o755 if text.startswith("#!") else 0o644)
