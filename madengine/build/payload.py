"""What an image carries besides the model's own Dockerfile: scripts, model entry, entry.sh."""

from __future__ import annotations

import hashlib
import json
import os
import posixpath
import re
import shlex
import shutil
import stat
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from string import ascii_uppercase

from madengine.build import script_files
from madengine.config.models_json import entry_of
from madengine.config.package import template
from madengine.errors import BuildError
from madengine.records import Model

# Where the payload is inside an image, and what starts it there.
DIRECTORY = "/opt/madengine"
ENTRY = f"{DIRECTORY}/entry.sh"
WORKSPACE = "/myworkspace"

# The times that the files of a payload may have, in ns: the twenty years from 2000-01-01. Zip files begin at 1980.
_FIRST_TIME, _TIMES = 946_684_800 * 10**9, 20 * 365 * 86_400 * 10**9
# A script's suffix says what reads it, as in older versions; a folder means its run.sh.
_INTERPRETERS = {".sh": "bash", ".slurm": "bash", ".py": "python3"}


@dataclass(frozen=True)
class Payload:
    """What goes to `DIRECTORY` in an image."""

    #: Contents by the file's name.
    texts: Mapping[str, str]
    #: Files and folders by their names there.
    copies: Mapping[str, Path] = field(default_factory=dict)
    #: The folder with what the model's url names.
    code: Path | None = None


def payload(model: Model, root: Path, beside: Mapping[str, Path] | None = None, code: Path | None = None) -> Payload:
    """Return the payload of a model of the package at `root`; `beside` goes beside the model's directory in its
    workspace, `code` is the folder with what its url names.

    Raises BuildError where the model's script is missing.
    """
    folder, script = scripts(model)
    source = root / folder
    if not (source / script).is_file():
        raise BuildError(f'{source / script}: no such file; model {model.name!r} names it under "scripts"')
    # A script beside models.json: its folder is the whole package, which is not what it needs.
    copies = {"scripts": source} if source.resolve() != root.resolve() else {f"scripts/{script}": source / script}
    copies.update({f"workspace/{name}": path for name, path in (beside or {}).items()})
    texts = {
        "entry.sh": template("image/entry.sh"),
        "environment.sh": template("image/environment.sh"),
        "model.json": json.dumps(entry_of(model), indent=2, ensure_ascii=False) + "\n",
        "model.sh": model_sh(model),
    }
    return Payload(texts, copies, code)


def scripts(model: Model) -> tuple[str, str]:
    """Return the folder that a model's `scripts` means, and the script in it that is started."""
    path = Path(model.scripts)
    if path.suffix in _INTERPRETERS:
        return str(path.parent), path.name
    return str(path), "run.sh"


def model_directory(model: Model) -> str:
    """Return the model's directory below the workspace: `run_directory`, or the last part of its url."""
    last = re.split("[/:]", model.url.rstrip("/"))[-1]
    return last if last not in ("", ".", "..") else "run_directory"


def model_sh(model: Model) -> str:
    """Return the model as assignments for entry.sh, which has no JSON parser; every value is one quoted word.

    Raises BuildError for a character that no shell can hold.
    """
    script = scripts(model)[1]
    values = {
        "_madengine_model_name": model.name,
        "_madengine_model_directory": model_directory(model),
        "_madengine_model_script": script,
        "_madengine_model_interpreter": _INTERPRETERS[Path(script).suffix],
        "_madengine_model_timeout": str(model.time_limit()),
        "_madengine_model_results": model.multiple_results,
    }
    lines = [f"{name}={shlex.quote(value)}" for name, value in values.items()]
    words = " ".join(map(shlex.quote, split(model.args, model)))
    lines.append(f'[ "$_madengine_arguments" = given ] || set -- {words}'.rstrip())
    text = "\n".join(lines) + "\n"
    if "\0" in text:
        raise BuildError(f"model {model.name!r} holds a null character; remove it")
    return text


def split(args: str, model: Model) -> list[str]:
    """Split a model's arguments into words by the shell's rules for quotes; nothing in them is expanded or run.

    Raises BuildError for an unclosed quote.
    """
    try:
        return shlex.split(args)
    except ValueError as error:
        problem = f"{error}"[:1].lower() + f"{error}"[1:]
        raise BuildError(
            f"args of {model.name!r}: {problem}: {args!r}; close the quote, or put a \\ before it"
        ) from error


def write(content: Payload, directory: Path) -> None:
    """Write the payload into an existing directory.

    Raises BuildError where the scripts can't be read or the directory can't be written.
    """
    try:
        for name, source in content.copies.items():
            target = directory / name
            target.parent.mkdir(parents=True, exist_ok=True)
            script_files.copy(source, target)
        if content.code:
            shutil.copytree(content.code, directory / "code", symlinks=True, copy_function=_linked)
        for name, text in content.texts.items():
            if "/" in name:
                (directory / name).parent.mkdir(parents=True, exist_ok=True)
            (directory / name).write_text(text, encoding="utf-8", errors="surrogateescape")
            (directory / name).chmod(0o755 if name.endswith(".sh") else 0o644)
        _settle(directory)
    except OSError as error:
        # copytree collects its errors: (source, target, message) each
        first = error.args[0][0][2] if isinstance(error, shutil.Error) else str(error)
        raise BuildError(f"the payload can't be written: {first}") from error


def _settle(directory: Path) -> None:
    """Give all files one time, and modes with which everyone may read them and run what someone may.

    So neither the build machine's clock nor its umask makes an image of its own. The time depends on what is in the
    files: BuildKit takes a file that it has of an earlier build for one of the same size and time.
    """
    for folder, _, names in os.walk(directory):
        Path(folder).chmod(0o755)
        for path in (Path(folder, name) for name in names):
            mode = path.lstat().st_mode
            if stat.S_ISREG(mode):
                path.chmod(0o755 if mode & 0o111 else 0o644)
    paths = [directory, *sorted(directory.rglob("*"))]
    time = _FIRST_TIME + int.from_bytes(_content_hash(directory, paths), "big") % _TIMES
    for path in paths:
        os.utime(path, ns=(time, time), follow_symlinks=False)


def _content_hash(directory: Path, paths: Iterable[Path]) -> bytes:
    content = hashlib.blake2b(digest_size=16)
    for path in paths:
        content.update(os.fsencode(f"{path.relative_to(directory)}\0"))
        mode = path.lstat().st_mode
        if stat.S_ISLNK(mode):
            content.update(os.fsencode(path.readlink()))
        elif stat.S_ISREG(mode):
            with path.open("rb") as file:
                while chunk := file.read(1 << 20):
                    content.update(chunk)
    return content.digest()


def _linked(source: str, target: str) -> None:
    """Link a file where both are on one disk, else copy it; a symbolic link stays one."""
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError:
        shutil.copy2(source, target, follow_symlinks=False)


def shell_lines(content: Payload, directory: str) -> Iterator[str]:
    """Yield the lines for a POSIX shell that write the payload into `directory`."""
    folders = sorted({posixpath.dirname(f"{directory}/{name}") for name in (*content.texts, *content.copies)})
    yield shlex.join(["mkdir", "-p", *folders])
    for name, source in content.copies.items():
        yield from script_files.shell_lines(source, f"{directory}/{name}")
    for name, text in content.texts.items():
        yield from file_lines(f"{directory}/{name}", text)


def mode_lines(directory: str) -> Iterator[str]:
    """Yield the line that ends the writing of a payload: everyone may read everything."""
    yield shlex.join(["chmod", "-R", "u=rwX,go=rX", directory])


def _hides(mark: str, line: str) -> bool:
    """Whether a here-document that ends at `mark` can't hold a line.

    dash loses a byte where a line starts like the mark and continues with a character beyond ASCII.
    """
    shared = len(posixpath.commonprefix([mark, line]))
    return line == mark or (shared > 0 and line[shared : shared + 1] > "\x7f")


def file_lines(path: str, text: str) -> Iterator[str]:
    """Yield lines for a POSIX shell that write a file; `text` ends in a newline."""
    lines = text.split("\n")
    end = next((mark for mark in ("END", *ascii_uppercase) if not any(_hides(mark, line) for line in lines)), "END")
    while end in lines:
        end += "_"
    quoted = shlex.quote(path)
    yield f"cat >{quoted} <<'{end}'\n{text}{end}"
    yield f"chmod {'755' if path.endswith('.sh') else '644'} {quoted}"
