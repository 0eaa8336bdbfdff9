"""Whole files, also where the file system lacks operations; JSON with a place in its errors."""

from __future__ import annotations

import errno
import json
import os
import stat
import subprocess
import sys
import threading
from pathlib import Path, PurePath
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from madengine import files
from madengine.errors import ConfigurationError, DiscoveryError, MadengineError
from madengine.files import (
    PATH_LIMIT,
    check_writable,
    create_untrusted,
    disarm,
    inner_path,
    move_untrusted,
    open_untrusted,
    parse_json,
    read_json,
    read_text,
    read_untrusted,
    untrusted_folder,
    untrusted_tree,
    write_json,
    write_whole,
)

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def refusal(path: Path) -> str:
    with pytest.raises(ConfigurationError) as caught:
        read_json(path)
    return str(caught.value)


# --- whole files ---


def test_a_file_is_written_with_its_folders_and_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "a/b/c.txt"
    write_whole(path, "text\n", 0o600)
    assert path.read_text() == "text\n"
    assert path.stat().st_mode & 0o777 == 0o600
    assert [entry.name for entry in path.parent.iterdir()] == ["c.txt"]


def test_a_reader_never_sees_half_a_file(tmp_path: Path) -> None:
    path = tmp_path / "m.json"
    texts = {letter * 200_000 for letter in "ab"}
    write_whole(path, "a" * 200_000)
    seen: set[str] = set()
    stop = threading.Event()

    def read() -> None:
        while not stop.is_set():
            seen.add(path.read_text())

    reader = threading.Thread(target=read)
    reader.start()
    for text in sorted(texts) * 10:
        write_whole(path, text)
    stop.set()
    reader.join()
    assert seen
    assert seen <= texts


def test_a_write_that_fails_says_why_and_leaves_the_old_file_alone(tmp_path: Path) -> None:
    path = tmp_path / "m.json"
    path.mkdir()
    with pytest.raises(MadengineError, match=r"m\.json: can't be written: Is a directory"):
        write_whole(path, "new")
    assert [entry.name for entry in tmp_path.iterdir()] == ["m.json"]


def test_a_folder_that_is_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(MadengineError, match=r"file/m\.json: can't be written: (Not a directory|File exists)"):
        write_whole(tmp_path / "file/m.json", "text")


def test_a_full_disk_is_one_line(tmp_path: Path) -> None:
    script = (
        "import resource, sys; from pathlib import Path; from madengine.files import write_whole\n"
        "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "try: write_whole(Path(sys.argv[1]), 'x' * 5000)\n"
        "except Exception as error: print(type(error).__name__, error)\n"
    )
    words = [sys.executable, "-c", script, str(tmp_path / "m.json")]
    out = subprocess.run(
        words, capture_output=True, text=True, check=True, env={"PYTHONPATH": os.pathsep.join(sys.path)}
    )
    assert out.stdout == f"MadengineError {tmp_path}/m.json: can't be written: File too large\n"
    assert list(tmp_path.iterdir()) == []


# --- JSON ---


@given(value=JSON)
def test_what_is_written_is_read_again(tmp_path_factory: pytest.TempPathFactory, value: Any) -> None:
    path = tmp_path_factory.getbasetemp() / "value.json"
    write_json(path, {"value": value})
    assert read_json(path) == {"value": value}


def test_a_name_that_is_not_unicode_survives(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.Dockerfile")
    write_json(tmp_path / "m.json", {"dockerfile": name})
    assert read_json(tmp_path / "m.json") == {"dockerfile": name}
    (tmp_path / "m.json").read_bytes().decode("utf-8")


def test_json_is_written_for_people(tmp_path: Path) -> None:
    write_json(tmp_path / "m.json", {"a": ["é"]})
    assert (tmp_path / "m.json").read_text(encoding="utf-8") == '{\n  "a": [\n    "é"\n  ]\n}\n'


def test_a_byte_order_mark_is_no_content(tmp_path: Path) -> None:
    (tmp_path / "m.json").write_text("[1]", encoding="utf-8-sig")
    assert read_json(tmp_path / "m.json") == [1]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", ":1:1: not JSON: expecting value"),
        (b'{"a": 1,\n "b": }', ":2:7: not JSON: expecting value"),
        (b'{"a": 1 "b": 2}', ":1:9: not JSON: expecting ',' delimiter"),
        (b'["a\nb"]', ":1:4: not JSON: invalid control character at"),
        (b"{'a': 1}", ":1:2: not JSON: expecting property name enclosed in double quotes"),
        (b'["\xff"]', ": byte 2 is not UTF-8; save the file as UTF-8"),
        (b"[" * 200_000, ": not usable as JSON: "),
        (b"1" * 5000, ": not usable as JSON: a number has more than 300 digits"),
        (b"[1e999]", ": not usable as JSON: a number is too large for a float"),
        (b"[-Infinity]", ": not usable as JSON: invalid number -Infinity"),
        (b"[" * 51 + b"]" * 51, ": not usable as JSON: nested more than 50 levels deep"),
    ],
)
def test_a_broken_file_is_named_with_the_position(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "m.json"
    path.write_bytes(content)
    assert refusal(path).startswith(f"{path}{message}")
    assert "\n" not in refusal(path)


def test_what_the_file_holds_is_not_in_the_error(tmp_path: Path) -> None:
    import traceback

    path = tmp_path / "credential.json"
    path.write_text('{"password": "hunter2",}')
    with pytest.raises(ConfigurationError) as caught:
        read_json(path)
    assert "hunter2" not in "".join(traceback.format_exception(caught.value))


def test_a_folder_and_a_missing_file_are_told_apart(tmp_path: Path) -> None:
    assert refusal(tmp_path) == f"{tmp_path}: can't be read: is a directory"
    assert refusal(tmp_path / "m.json") == f"{tmp_path}/m.json: no such file"


def test_what_no_reader_could_use_is_not_written(tmp_path: Path) -> None:
    write_json(tmp_path / "m.json", {"a": [float("nan"), (float("inf"), 1.5)], "b": -float("inf"), "c": "NaN"})
    assert read_json(tmp_path / "m.json") == {"a": [None, [None, 1.5]], "b": None, "c": "NaN"}


def test_the_deepest_nesting_and_the_longest_number_are_read(tmp_path: Path) -> None:
    text = "[" * 50 + "9" * 300 + "]" * 50
    (tmp_path / "m.json").write_text(text)
    assert json.dumps(read_json(tmp_path / "m.json")) == text


def test_a_text_is_read_without_its_byte_order_mark_also_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("é\r\n".encode("utf-8-sig"))
    (tmp_path / "link").symlink_to("a.txt")
    assert read_text(tmp_path / "link") == "é\r\n"
    assert read_text(Path("/proc/self/status")).startswith("Name:")


@pytest.mark.parametrize("name", ["a\0b", "a\ud800b"])
def test_a_path_that_is_none_is_one_line(tmp_path: Path, name: str) -> None:
    with pytest.raises(DiscoveryError, match="contains a null character or a lone surrogate"):
        read_text(tmp_path / name, DiscoveryError)


def test_a_file_that_is_replaced_by_a_fifo_meanwhile_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "file").touch()
    before = (tmp_path / "file").stat()
    monkeypatch.setattr(Path, "stat", lambda path, **options: before)
    assert refusal(tmp_path / "fifo") == f"{tmp_path}/fifo: can't be read: is a FIFO, expected a file"


def test_a_link_to_a_missing_file_stands_for_nothing(tmp_path: Path) -> None:
    (tmp_path / "m.json").symlink_to("nowhere")
    missings: list[Any] = [None, {}]
    for missing in missings:
        with pytest.raises(ConfigurationError, match="a link to a missing file"):
            read_json(tmp_path / "m.json", missing=missing)


def test_a_missing_file_may_stand_for_something(tmp_path: Path) -> None:
    assert read_json(tmp_path / "data.json", missing={}) == {}
    with pytest.raises(ConfigurationError, match="can't be read: is a directory"):
        read_json(tmp_path, missing={})


def test_the_caller_chooses_the_kind_of_error(tmp_path: Path) -> None:
    with pytest.raises(DiscoveryError, match="no such file"):
        read_json(tmp_path / "models.json", DiscoveryError)


def test_a_json_file_is_the_same_for_other_readers(tmp_path: Path) -> None:
    write_json(tmp_path / "m.json", {"a": "\udce9", "b": "é", "c": "\\u00e9"})
    assert json.loads((tmp_path / "m.json").read_text()) == {"a": "\udce9", "b": "é", "c": "\\u00e9"}


def test_a_file_system_without_fsync_and_modes_takes_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    monkeypatch.setattr(os, "fsync", refuse)
    monkeypatch.setattr(Path, "chmod", refuse)
    write_whole(tmp_path / "f", "text\n")
    assert (tmp_path / "f").read_text() == "text\n"


def test_a_folder_is_tried_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_writable(tmp_path / "new/summary.json")
    assert list(tmp_path.rglob("*")) == [tmp_path / "new"]
    with pytest.raises(ConfigurationError, match=r"new: can't be written: it is a directory"):
        check_writable(tmp_path / "new")

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    # Root may write everywhere, but for a server's files.
    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(ConfigurationError, match=r"summary\.json: can't be written: Read-only file system"):
        check_writable(tmp_path / "new/summary.json")


def test_a_disk_that_fails_at_fsync_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(MadengineError, match="can't be written: Input/output error"):
        write_whole(tmp_path / "f", "text\n")
    assert list(tmp_path.iterdir()) == []


# --- what someone else may have replaced ---


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """A folder with a regular file two folders down, and a secret beside the folder."""
    folder = tmp_path / "workspace"
    (folder / "a/b").mkdir(parents=True)
    (folder / "a/b/log").write_bytes(b"text\n")
    (tmp_path / "secret").write_bytes(b"secret\n")
    return folder


def test_a_regular_file_of_the_folder_is_read(workspace: Path) -> None:
    with open_untrusted(workspace, "a/b/log", 100) as file:
        assert file.read() == b"text\n"
    assert read_untrusted(workspace, Path("a/b/log"), 5) == b"text\n"


@pytest.mark.parametrize("path", ["../secret", "a/../../secret", "a/b/../b/log", "/etc/passwd", "", ".", "a", "a\0b"])
def test_a_path_that_is_no_file_below_the_folder_is_refused(workspace: Path, path: str) -> None:
    with pytest.raises(OSError):
        open_untrusted(workspace, path, 100)


@pytest.mark.parametrize("link", ["log", "folder"])
@pytest.mark.parametrize("target", ["../secret", "/dev/zero", "a/b/log"])
def test_no_link_in_any_component_is_followed(workspace: Path, link: str, target: str) -> None:
    (workspace / "log").symlink_to(target)
    (workspace / "folder").symlink_to("a/b" if target == "a/b/log" else "..")
    path = "log" if link == "log" else "folder/log" if target == "a/b/log" else "folder/secret"
    with pytest.raises(OSError, match="a symbolic link") as caught:
        read_untrusted(workspace, path, 100)
    assert path.startswith(caught.value.filename)


def test_a_pipe_is_refused_and_does_not_block(workspace: Path) -> None:
    os.mkfifo(workspace / "pipe")
    with pytest.raises(OSError, match="not a regular file"):
        open_untrusted(workspace, "pipe", 100)


def test_a_large_file_is_refused_unread(workspace: Path) -> None:
    with (workspace / "sparse").open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(OSError, match="larger than 100B"):
        read_untrusted(workspace, "sparse", 100)


@pytest.mark.parametrize("what", ["link", "dangling link", "file", "fifo"])
def test_what_is_in_a_folders_place_is_replaced_not_followed(workspace: Path, tmp_path: Path, what: str) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    place = workspace / "out"
    if "link" in what:
        place.symlink_to(outside if what == "link" else tmp_path / "nowhere")
    elif what == "fifo":
        os.mkfifo(place)
    else:
        place.touch()
    with create_untrusted(workspace, "out/deep/f") as file:
        file.write(b"new")
    assert (place / "deep/f").read_bytes() == b"new"
    assert not place.is_symlink()
    assert list(outside.iterdir()) == []
    assert not (tmp_path / "nowhere").exists()


def test_a_link_in_a_files_place_is_replaced_not_followed(workspace: Path, tmp_path: Path) -> None:
    (workspace / "a/link").symlink_to(tmp_path / "secret")
    with create_untrusted(workspace, "a/link") as file:
        file.write(b"new")
    (workspace / "b").symlink_to(tmp_path)
    move_untrusted(workspace, PurePath("a/link"), PurePath("b/secret"))
    assert (tmp_path / "secret").read_bytes() == b"secret\n"
    assert (workspace / "b/secret").read_bytes() == b"new"


@pytest.mark.parametrize("path", ["../x", "/x", "a/../../x", "a\0b"])
def test_nothing_is_made_outside_of_the_folder(workspace: Path, path: str) -> None:
    with pytest.raises(OSError):
        create_untrusted(workspace, path)


def test_a_link_leads_to_what_is_in_the_folder_only(workspace: Path, tmp_path: Path) -> None:
    for name, target in {"in": "a/b", "out": str(tmp_path), "up": "..", "loop": "loop"}.items():
        (workspace / name).symlink_to(target)
    assert inner_path(workspace, "in/log") == PurePath("a/b/log")
    for path in ("out", "out/secret", "up/secret", "in/../../../secret", "/etc/passwd"):
        with pytest.raises(OSError, match="leads out of its folder"):
            inner_path(workspace, path)
    for path in ("loop", "none", "a\0b", "x" * 5000):
        with pytest.raises(OSError):
            inner_path(workspace, path)


def test_a_tree_of_any_depth_is_listed_with_its_links_as_links(workspace: Path, tmp_path: Path) -> None:
    (workspace / "up").symlink_to(tmp_path)
    handle, depth = os.open(workspace, os.O_RDONLY), 1500
    for _ in range(depth):
        os.mkdir("d", dir_fd=handle)
        handle, parent = os.open("d", os.O_RDONLY, dir_fd=handle), handle
        os.close(parent)
    os.close(handle)
    before = descriptors()
    paths = [str(path) for path, _ in untrusted_tree(workspace)]
    assert {path for path in paths if not path.startswith("d")} == {"a", "a/b", "a/b/log", "up"}
    assert len(max(paths, key=len)) <= PATH_LIMIT + 2
    assert len(paths) < depth
    assert disarm(workspace) == 0  # what is deeper is closed to others
    deepest = workspace / max(paths, key=len)
    assert stat.S_IMODE(deepest.stat().st_mode) == 0o700
    assert descriptors() == before
    subprocess.run(["rm", "-rf", str(workspace / "d")], check=True)  # pytest could not


def test_a_tree_that_takes_too_long_is_closed_to_others(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "TREE_SECONDS", -1.0)
    with pytest.raises(TimeoutError):
        list(untrusted_tree(workspace))
    assert disarm(workspace) == 1
    assert stat.S_IMODE(workspace.stat().st_mode) == 0o700
    assert disarm(workspace, shared=True) == 1


def test_what_gives_others_rights_is_taken_away(workspace: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").chmod(0o4777)
    shared = workspace / "a"
    for path, mode in {workspace: 0o777, shared: 0o3777, shared / "b/log": 0o6755}.items():
        path.chmod(mode)
    (shared / "link").symlink_to(tmp_path / "secret")
    (shared / "unreadable").touch()
    (shared / "unreadable").chmod(0o4002)
    if os.geteuid() == 0:
        os.mknod(shared / "null", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
        os.mknod(shared / "disk", 0o666 | stat.S_IFBLK, os.makedev(7, 0))
    assert disarm(workspace) == 0
    modes = {str(path.relative_to(workspace)): oct(path.lstat().st_mode) for path in workspace.rglob("*")}
    assert modes == {
        "a": "0o43775",  # setgid of a folder hands on its group, sticky does no harm
        "a/b": "0o40755",
        "a/b/log": "0o100755",
        "a/link": "0o120777",
        "a/unreadable": "0o100000",
    }
    assert stat.S_IMODE(workspace.stat().st_mode) == 0o775
    assert stat.S_IMODE((tmp_path / "secret").stat().st_mode) == 0o4777


def descriptors() -> int:
    return len([*Path("/proc/self/fd").iterdir()])


def test_nothing_stays_open_after_a_refusal(workspace: Path) -> None:
    os.mkfifo(workspace / "pipe")
    (workspace / "link").symlink_to("a")
    before = descriptors()
    for path in ("pipe", "link/b/log", "a/b", "a/none", "a/b/log/x"):
        with pytest.raises(OSError):
            open_untrusted(workspace, path, 100)
    with untrusted_folder(workspace, "a/b") as handle:
        assert [entry.name for entry in os.scandir(handle)] == ["log"]
    assert descriptors() == before


@pytest.mark.parametrize(
    "text",
    [
        "NaN",
        '{"a": Infinity}',
        "[1e999]",
        "9" * 5000,
        "[" * 52 + "]" * 52,
        "[" * 100_000,
        '{"a":' * 60 + "1" + "}" * 60,
        "{",
        "",
    ],
)
def test_json_that_would_break_a_reader_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        parse_json(text)


def test_other_json_is_parsed() -> None:
    assert parse_json('{"a": [1, 2.5, null, "x"], "b": {"c": -0.0}}') == {"a": [1, 2.5, None, "x"], "b": {"c": 0.0}}
    assert parse_json("[" * 49 + "]" * 49)
