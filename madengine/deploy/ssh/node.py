"""The node's end of a run over ssh: a run that outlives the connection, its log as it grows, and its files."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import stat
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path, PurePath
from typing import Any, NoReturn

from madengine.deploy.ssh.archive import pack
from madengine.errors import EXIT_CONFIGURATION, EXIT_DONE, EXIT_FAILURE
from madengine.files import untrusted_tree, write_json, write_whole
from madengine.process import own_process_id, process_has_ended

RUNS = Path("runs")
BUNDLE, MANIFEST, CONTEXT = "madengine.pyz", "build_manifest.json", "context.json"
# The manifest of `--against`.
AGAINST = "against.json"
LOG, EXIT_CODE, RECORD = "node.log", "exit_code", "node.json"
# The process that waits for the run.
WATCHER = "watcher"
# What the node's folder has of the newest run.
SHARED = (BUNDLE, MANIFEST)
SECRETS = ("credential.json", "data.json")
# Files of a run's folder that come back above it, and those that stay on the node.
TOP_FILES = ("perf.csv", "run_summary.json", LOG, EXIT_CODE, RECORD, MANIFEST)
_PRIVATE = (BUNDLE, "lock", "pid", WATCHER, CONTEXT, AGAINST, *SECRETS)
# Before each line of the log, which tells it from what a login prints.
LOG_MARK = "|"
# The line before a command's output, for the same reason.
OUTPUT_MARK = "|madengine output|"
ARCHIVE_MARK = b"\0madengine archive\0"
_POLL_SECONDS = 0.1
_RECORD_SECONDS = 2.0
_CHUNK_BYTES = 1 << 20


def main(words: Sequence[str]) -> int:
    """Carry out one order of the controller in the current folder; return the exit code."""
    order, *rest = words
    orders: dict[str, Callable[..., int]] = {
        "accept": _accept,
        "command": _command,
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
        # The connection is closed; the run continues.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILURE
    except OSError as error:
        return _fail(f"{error.filename or order}: {error.strerror}")


def _accept(folder: str) -> int:
    """Move the files of an upload's folder into the node's folder, each file whole."""
    for path in Path(folder).iterdir():
        # A rename does nothing where both names are one file already.
        if Path(path.name).exists() and path.samefile(path.name):
            path.unlink()
        else:
            path.replace(path.name)
    Path(folder).rmdir()
    return EXIT_DONE


def _command(*words: str) -> int:
    """Run the madengine of the node's folder."""
    print(OUTPUT_MARK, flush=True)  # noqa: T201
    return os.spawnv(os.P_WAIT, sys.executable, [sys.executable, BUNDLE, *words])


def _pull(run_id: str, *words: str) -> int:
    """Pull the images of a run before it starts; the rows of this are removed, the run writes its own."""
    _publish(RUNS / run_id)
    command = [sys.executable, str(RUNS / run_id / BUNDLE), *words]
    code = os.spawnv(os.P_WAIT, sys.executable, command)
    import shutil

    shutil.rmtree(pull_folder(run_id), ignore_errors=True)
    return code


def pull_folder(run_id: str) -> Path:
    return RUNS / f"{run_id}-pull"


def _run(run_id: str, line: str, request: str) -> int:
    """Start a run, unless it has been started, and follow it from this line of its log.

    `request` is JSON: `words` of madengine, `environ` that is set for it, `tags` that it runs, and its `rank`.
    """
    job = json.loads(request)
    folder = RUNS / run_id
    handle = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o644)
    # Without locks: a run is claimed only once.
    is_new = _take(handle, fcntl.LOCK_EX) is not False and _claim(folder, run_id, job)
    if is_new:
        _publish(folder)
        if _is_detached(folder):
            _become_madengine(folder / BUNDLE, job["environ"], job["words"])
    os.close(handle)
    owner = _read_record(folder)["hostname"]
    if owner != os.uname().nodename:
        return _fail(
            f"{folder.resolve()}: the folder is shared with {owner}, which runs there already; "
            "give each host its own with --remote-path, such as madengine-%h",
        )
    return _follow_and_pack(run_id, line)


def _take(handle: int, kind: int) -> bool | None:
    """Take a run's lock; return whether that worked, None on a file system without locks."""
    try:
        fcntl.flock(handle, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _claim(folder: Path, run_id: str, job: Mapping[str, Any]) -> bool:
    """Whether the run is ours to start; its record appears whole, and once."""
    from datetime import datetime, timezone

    record = {
        "run_id": run_id,
        "hostname": os.uname().nodename,
        "started": datetime.now(timezone.utc).isoformat(),
        "tags": list(job["tags"]),
        "rank": int(job.get("rank", 0)),
    }
    draft = folder / f".{RECORD}.{os.getpid()}"
    write_json(draft, record)
    try:
        _publish_once(draft, folder / RECORD)
    except FileExistsError:
        return False
    finally:
        draft.unlink(missing_ok=True)
    return True


def _publish_once(draft: Path, path: Path) -> None:
    """Give a file its name, which only one process can; raise FileExistsError in the others."""
    try:
        os.link(draft, path)
    except FileExistsError:
        raise
    except OSError:  # a file system without links
        os.close(os.open(path.with_name(f".{path.name}.claim"), os.O_CREAT | os.O_EXCL, 0o644))
        draft.replace(path)


def _read_record(folder: Path) -> dict[str, Any]:
    """Return the run's record, which another process that has just taken the lock is about to write."""
    deadline = time.monotonic() + _RECORD_SECONDS
    while not (folder / RECORD).exists() and time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS)
    record: dict[str, Any] = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    return record


def _publish(folder: Path) -> None:
    """Put the newest of each shared file into the node's folder, for this run and for runs by hand."""
    for name in SECRETS:
        with suppress(FileNotFoundError):
            (folder / name).replace(name)
    import shutil

    for name in SHARED:
        draft = Path(f".{name}.{os.uname().nodename}.{os.getpid()}")
        shutil.copyfile(folder / name, draft)
        draft.replace(name)


def _is_detached(folder: Path) -> bool:
    """Fork off a process of no terminal and no parent, and one that watches it: whether this is the former.

    Both hold the run's lock. The new process uses what is loaded here: a second start of Python would take a tenth of
    a second.
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
    """Write the exit code of a run, in the process that has started it."""
    try:
        write_whole(folder / WATCHER, own_process_id())
        write_whole(folder / "pid", str(run))
        code = os.waitstatus_to_exitcode(os.waitpid(run, 0)[1])
        with suppress(Exception):  # a broken table of the node must not cost the exit code
            _add_rows(folder)
        write_whole(folder / EXIT_CODE, f"{code}\n")
    finally:
        os._exit(0)


def _become_madengine(bundle: Path, environ: Mapping[str, str], words: Sequence[str]) -> NoReturn:
    """Become `madengine.pyz WORDS` with these variables added, without loading again what is loaded."""
    import runpy

    os.environ.update(environ)
    sys.argv = [str(bundle), *words]
    runpy.run_path(str(bundle), run_name="__main__")
    sys.exit(EXIT_DONE)


def _add_rows(folder: Path) -> None:
    """Add the run's rows to the node's own perf.csv, and replace its summary."""
    import shutil

    from madengine.files import csv_rows
    from madengine.results.perf_csv import append_rows

    with (folder / "perf.csv").open(newline="", encoding="utf-8") as file:
        append_rows(Path("perf.csv"), list(csv_rows(file)))
    shutil.copyfile(folder / "run_summary.json", "run_summary.json")


def _follow_and_pack(run_id: str, line: str) -> int:
    """Print the run's log from this line on until the run has ended, and then its files, as `pack` does."""
    _follow(run_id, int(line))
    return _pack(run_id)


def _follow(run_id: str, skip: int) -> None:
    """Print the run's log but for its first `skip` lines, until the run has ended."""
    folder, rest = RUNS / run_id, b""
    with (folder / LOG).open("rb") as log:
        while True:
            ended = _has_ended(folder)  # before reading: then all of the log is there
            while chunk := log.read(_CHUNK_BYTES):
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines[skip:]:
                    sys.stdout.buffer.write(LOG_MARK.encode() + line + b"\n")
                skip = max(0, skip - len(lines))
            sys.stdout.flush()
            if ended:
                if rest and not skip:
                    sys.stdout.buffer.write(LOG_MARK.encode() + rest + b"\n")
                return
            time.sleep(_POLL_SECONDS)


def _has_ended(folder: Path) -> bool:
    """Whether neither the run nor its watcher is alive; the kernel releases their lock, however they die."""
    if (folder / EXIT_CODE).exists():
        return True
    with (folder / "lock").open() as lock:
        is_free = _take(lock.fileno(), fcntl.LOCK_SH)
    return _watcher_has_ended(folder) if is_free is None else is_free


def _watcher_has_ended(folder: Path) -> bool:
    """Whether a run's watcher is dead; one that is just starting is not."""
    try:
        watcher = (folder / WATCHER).read_text(encoding="utf-8")
    except FileNotFoundError:
        return time.time() - (folder / RECORD).stat().st_mtime > _RECORD_SECONDS
    was_restarted = watcher.partition(":")[0] != own_process_id().partition(":")[0]
    is_here = _read_record(folder)["hostname"] == os.uname().nodename
    return process_has_ended(watcher) or (is_here and was_restarted)


def _stop(run_id: str, seconds: str) -> int:
    """End the run as on Ctrl-C, and wait for it."""
    folder = RUNS / run_id
    deadline = time.monotonic() + float(seconds)
    signalled = False
    while not _has_ended(folder):
        if not signalled:
            with suppress(FileNotFoundError, ProcessLookupError):
                os.kill(int((folder / "pid").read_text()), signal.SIGTERM)
                signalled = True
        if time.monotonic() > deadline:
            return _fail(f"still running after {seconds} s")
        time.sleep(_POLL_SECONDS)
    return EXIT_DONE


def _pack(run_id: str) -> int:
    """Print the run's files as a compressed stream."""
    import gzip

    sys.stdout.buffer.write(ARCHIVE_MARK)
    # Logs shrink well at this level, and the node's processors are left to its runs.
    with gzip.GzipFile(fileobj=sys.stdout.buffer, mode="wb", compresslevel=1) as stream:
        pack(_files(run_id), stream)
    return EXIT_DONE


def _files(run_id: str) -> Iterator[tuple[str, Path]]:
    """Yield the name and the path of each file that comes back, our own first: models may leave any number."""
    folder = RUNS / run_id
    names: list[PurePath] = []
    with suppress(TimeoutError):
        names += (path for path, status in untrusted_tree(folder) if stat.S_ISREG(status.st_mode))
    for name in sorted(names, key=lambda name: (len(name.parts) > 1, name)):
        is_private = len(name.parts) == 1 and (name.name in _PRIVATE or name.name.startswith("."))
        if not is_private:
            yield str(name if str(name) in TOP_FILES else RUNS / run_id / name), folder / name


def _newest() -> int:
    """Print the id of the run that was started last."""
    records = [json.loads(path.read_text(encoding="utf-8")) for path in RUNS.glob(f"*/{RECORD}")]
    if not records:
        return _fail(f"{RUNS.resolve()}: no run was started here over ssh")
    print(max(records, key=lambda record: str(record["started"]))["run_id"])  # noqa: T201
    return EXIT_DONE


def _fail(problem: str) -> int:
    print(problem, file=sys.stderr)  # noqa: T201
    return EXIT_CONFIGURATION
