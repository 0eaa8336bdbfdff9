"""The node's end of a run over ssh: a run that outlives the connection, its log as it grows, and what it left."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

from madengine.errors import EXIT_CONFIGURATION, EXIT_DONE, EXIT_FAILURE
from madengine.files import write_json, write_whole

RUNS = Path("runs")
BUNDLE, MANIFEST, LOG, CODE, CARD = "madengine.pyz", "build_manifest.json", "node.log", "exit_code", "node.json"
# What the node's folder has of the newest run.
KEPT = (BUNDLE, MANIFEST)
# What comes back beside the run's own folder, and what stays on the node.
SECRETS = ("credential.json", "data.json")
CONTEXT = "context.json"
OWN_FILES = ("perf.csv", "run_summary.json", LOG, CODE, CARD, MANIFEST)
_LEFT = (BUNDLE, "lock", "pid", CONTEXT, *SECRETS)
# Before each line of the log, so that nothing that a login prints is taken for one.
MARK = "|"
ARCHIVE_MARK = b"\0madengine archive\0"
_LOOK_SECONDS = 0.1
_CARD_SECONDS = 2.0
_CHUNK_BYTES = 1 << 20


def main(words: Sequence[str]) -> int:
    """Carry out one order of the controller in the current folder; gives the exit code."""
    order, *rest = words
    orders: dict[str, Callable[..., int]] = {
        "accept": _accept,
        "pull": _pull,
        "run": _run,
        "follow": _follow_and_pack,
        "stop": _stop,
        "pack": _pack,
        "newest": _newest,
    }
    try:
        return orders[order](*rest)
    except BrokenPipeError:
        # Nobody listens any more; the run goes on.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILURE
    except OSError as error:
        return _complain(f"{error.filename or order}: {error.strerror}")


def _accept(folder: str) -> int:
    """Put what was copied into a folder of its own to where it belongs, each file whole."""
    for path in Path(folder).iterdir():
        # A rename does nothing where both names are one file already.
        if Path(path.name).exists() and path.samefile(path.name):
            path.unlink()
        else:
            path.replace(path.name)
    Path(folder).rmdir()
    return EXIT_DONE


def _pull(run_id: str, *words: str) -> int:
    """Have the images of a run pulled before it starts; what that leaves behind says nothing that the run won't."""
    _publish(RUNS / run_id)
    command = [sys.executable, str(RUNS / run_id / BUNDLE), *words]
    code = os.spawnv(os.P_WAIT, sys.executable, command)
    import shutil

    shutil.rmtree(pull_folder(run_id), ignore_errors=True)
    return code


def pull_folder(run_id: str) -> Path:
    return RUNS / f"{run_id}-pull"


def _run(run_id: str, seen: str, *rest: str) -> int:
    """Start a run, unless it has been started, and follow it; what is before `--` is set in its environment."""
    split = rest.index("--")
    settings = dict(word.partition("=")[::2] for word in rest[:split])
    folder = RUNS / run_id
    handle = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        is_new = _claim(folder, run_id, rest[split + 1 :])
    except BlockingIOError:
        is_new = False
    if is_new:
        _publish(folder)
        if _is_detached(folder):
            _be_madengine(folder / BUNDLE, settings, rest[split + 1 :])
    os.close(handle)
    owner = _card(folder)["hostname"]
    if owner != os.uname().nodename:
        return _complain(
            f"{folder.resolve()}: the folder is shared with {owner}, which runs there already; "
            "give each host its own with --remote-path, such as madengine-%h",
        )
    return _follow_and_pack(run_id, seen)


def _claim(folder: Path, run_id: str, words: Sequence[str]) -> bool:
    """Whether the run is ours to start; its card appears whole, and once."""
    from datetime import datetime, timezone

    card = {
        "run_id": run_id,
        "hostname": os.uname().nodename,
        "started": datetime.now(timezone.utc).isoformat(),
        "words": list(words),
    }
    draft = folder / f".{CARD}.{os.getpid()}"
    write_json(draft, card)
    try:
        os.link(draft, folder / CARD)
    except FileExistsError:
        return False
    finally:
        draft.unlink()
    return True


def _card(folder: Path) -> dict[str, Any]:
    """The run's card; whoever has just taken the lock is about to write it."""
    deadline = time.monotonic() + _CARD_SECONDS
    while not (folder / CARD).exists() and time.monotonic() < deadline:
        time.sleep(_LOOK_SECONDS)
    card: dict[str, Any] = json.loads((folder / CARD).read_text(encoding="utf-8"))
    return card


def _publish(folder: Path) -> None:
    """The node's folder keeps the newest of each file, for this run and for whoever runs something there by hand."""
    for name in SECRETS:
        with suppress(FileNotFoundError):
            (folder / name).replace(name)
    import shutil

    for name in KEPT:
        draft = Path(f".{name}.{os.uname().nodename}.{os.getpid()}")
        shutil.copyfile(folder / name, draft)
        draft.replace(name)


def _is_detached(folder: Path) -> bool:
    """Fork off a process of no terminal and no parent, and one that watches it: whether this is the former.

    Both hold the run's lock. The new process goes on with what is loaded here: a second start of Python would take a
    tenth of a second of the node.
    """
    log = os.open(folder / LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        os.close(log)
        return False
    os.setsid()
    if os.fork():
        os._exit(0)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(log, 1)
    os.dup2(log, 2)
    run = os.fork()
    if run:
        _watch(folder, run)
    return True


def _watch(folder: Path, run: int) -> NoReturn:
    """Write down how a run ended, in the process that has started it."""
    try:
        write_whole(folder / "pid", str(run))
        code = os.waitstatus_to_exitcode(os.waitpid(run, 0)[1])
        with suppress(Exception):  # that the node's own table can't take the rows is no reason to lose the exit code
            _keep_rows(folder)
        write_whole(folder / CODE, f"{code}\n")
    finally:
        os._exit(0)


def _be_madengine(bundle: Path, settings: dict[str, str], words: Sequence[str]) -> NoReturn:
    """Be `madengine.pyz WORDS` with these settings in the environment; what of it is loaded is not loaded again."""
    import runpy

    os.environ.update(settings)
    sys.argv = [str(bundle), *words]
    runpy.run_path(str(bundle), run_name="__main__")
    sys.exit(EXIT_DONE)


def _keep_rows(folder: Path) -> None:
    """The node's own perf.csv and summary get what this run left."""
    import csv
    import shutil

    from madengine.results.perf_csv import append_rows

    with (folder / "perf.csv").open(newline="", encoding="utf-8") as file:
        append_rows(Path("perf.csv"), list(csv.DictReader(file)))
    shutil.copyfile(folder / "run_summary.json", "run_summary.json")


def _follow_and_pack(run_id: str, seen: str) -> int:
    """Print the run's log from line `seen` on until the run has ended, and then its files, as `pack` does."""
    _follow(run_id, seen)
    return _pack(run_id)


def _follow(run_id: str, seen: str) -> None:
    """Print the run's log from line `seen` on, until the run has ended."""
    folder, rest = RUNS / run_id, b""
    skip = int(seen)
    with (folder / LOG).open("rb") as log:
        while True:
            ended = _has_ended(folder)  # asked before reading: all of the log is there then
            while chunk := log.read(_CHUNK_BYTES):
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines[skip:]:
                    sys.stdout.buffer.write(MARK.encode() + line + b"\n")
                skip = max(0, skip - len(lines))
            sys.stdout.flush()
            if ended:
                if rest and not skip:
                    sys.stdout.buffer.write(MARK.encode() + rest + b"\n")
                return
            time.sleep(_LOOK_SECONDS)


def _has_ended(folder: Path) -> bool:
    """Whether neither the run nor its watcher is alive; the kernel lets go of their lock, however they die."""
    if (folder / CODE).exists():
        return True
    with (folder / "lock").open() as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


def _stop(run_id: str, seconds: str) -> int:
    """Ask the run to end as on Ctrl-C, and wait for it."""
    folder = RUNS / run_id
    deadline = time.monotonic() + float(seconds)
    asked = False
    while not _has_ended(folder):
        if not asked:
            with suppress(FileNotFoundError, ProcessLookupError):
                os.kill(int((folder / "pid").read_text()), signal.SIGTERM)
                asked = True
        if time.monotonic() > deadline:
            return _complain(f"still running after {seconds} s")
        time.sleep(_LOOK_SECONDS)
    return EXIT_DONE


def _pack(run_id: str) -> int:
    """Print the run's files as a compressed tar archive."""
    import gzip
    import tarfile

    folder = RUNS / run_id
    sys.stdout.buffer.write(ARCHIVE_MARK)
    # Logs shrink well even so, and the node's processors are not ours to warm.
    packed = gzip.GzipFile(fileobj=sys.stdout.buffer, mode="wb", compresslevel=1)
    with packed, tarfile.open(fileobj=packed, mode="w|") as archive:
        for path in _files(folder):
            name = path.relative_to(folder)
            with suppress(PermissionError, FileNotFoundError):
                archive.add(path, str(name if str(name) in OWN_FILES else RUNS / run_id / name), recursive=False)
    return EXIT_DONE


def _files(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*")):
        is_left = path.parent == folder and (path.name in _LEFT or path.name.startswith("."))
        if not is_left and path.is_file() and not path.is_symlink():
            yield path


def _newest() -> int:
    """Print the name of the run that was started last."""
    cards = [json.loads(path.read_text(encoding="utf-8")) for path in RUNS.glob(f"*/{CARD}")]
    if not cards:
        return _complain(f"{RUNS.resolve()}: no run was started here over ssh")
    print(max(cards, key=lambda card: str(card["started"]))["run_id"])  # noqa: T201
    return EXIT_DONE


def _complain(problem: str) -> int:
    print(problem, file=sys.stderr)  # noqa: T201
    return EXIT_CONFIGURATION
