"""Files as one stream: what comes out is what went in, and nothing lands elsewhere."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path

import pytest
from pytest import MonkeyPatch

from madengine.deploy.ssh import archive
from madengine.deploy.ssh.archive import ArchiveError, UnsafeArchiveError, pack, unpack


def stream_of(*entries: tuple[object, object, bytes], end: bytes = b"[]\n") -> io.BytesIO:
    """Return a stream of entries: the name, the size and the content."""
    parts = [json.dumps([name, size]).encode() + b"\n" + content for name, size, content in entries]
    return io.BytesIO(b"".join(parts) + end)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder in a folder that must stay as it is."""
    (tmp_path / "target").mkdir()
    return tmp_path / "target"


def test_files_come_as_they_went(tmp_path: Path, folder: Path) -> None:
    odd = os.fsdecode(b"caf\xe9 \xff\n")
    for name, content in {"a": b"1\n2", "empty": b"", odd: b"\0" * 1_000_000}.items():
        (tmp_path / name).write_bytes(content)
    stream = io.BytesIO()
    pack([("x/a", tmp_path / "a"), ("empty", tmp_path / "empty"), (odd, tmp_path / odd)], stream)
    stream.seek(0)
    unpack(stream, folder)
    assert (folder / "x/a").read_bytes() == b"1\n2"
    assert (folder / odd).stat().st_size == 1_000_000
    assert (folder / "empty").read_bytes() == b""


def test_links_pipes_and_what_can_not_be_read_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/etc/passwd")
    os.mkfifo(tmp_path / "pipe")
    stream = io.BytesIO()
    pack([(name, tmp_path / name) for name in ("link", "pipe", "gone")], stream)
    assert stream.getvalue() == b"[]\n"


def test_what_would_cost_all_other_files_is_left_out(tmp_path: Path, folder: Path, monkeypatch: MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "MOST_FILES", 2)
    for name in ("a", "b", "c", "large"):
        (tmp_path / name).write_text(name)
    os.truncate(tmp_path / "large", 10**12)
    stream = io.BytesIO()
    names = ["large", "x" * 256, "a/" * 600 + "a", "a", "b", "c"]
    pack([(name, tmp_path / name[-1:] if name != "large" else tmp_path / name) for name in names], stream, 1000)
    stream.seek(0)
    unpack(stream, folder, most_bytes=1000)
    assert sorted(path.name for path in folder.iterdir()) == ["a", "b"]


def test_a_file_is_never_executable_or_setuid_and_a_private_one_is_for_its_owner(folder: Path) -> None:
    unpack(stream_of(("a", 1, b"x"), ("b", 1, b"y")), folder, private=("b",))
    assert [oct((folder / name).stat().st_mode & 0o7777) for name in "ab"] == ["0o644", "0o600"]


@pytest.mark.parametrize(
    "name",
    [
        "../x", "a/../../x", "/etc/x", "..", ".", "", "a/", "a//b", "./a", "a\0b", "\ud800", "x" * 256,
        "a/" * 600 + "a",
    ],
)  # fmt: skip
def test_a_name_that_leads_elsewhere_is_refused(folder: Path, name: str) -> None:
    with pytest.raises(UnsafeArchiveError, match="invalid name"):
        unpack(stream_of((name, 1, b"x")), folder)
    assert list(folder.parent.rglob("*")) == [folder]


@pytest.mark.parametrize("second", ["a", "a/b"])
def test_a_name_comes_once(folder: Path, second: str) -> None:
    with pytest.raises(UnsafeArchiveError, match="comes twice"):
        unpack(stream_of(("a", 1, b"x"), (second, 1, b"y")), folder)
    assert (folder / "a").read_bytes() == b"x"


def test_a_file_may_be_sent_again_where_that_is_wanted(folder: Path) -> None:
    for content in (b"x", b"y"):
        unpack(stream_of(("a", 1, content)), folder, may_replace=True)
    assert (folder / "a").read_bytes() == b"y"


def test_a_file_that_ends_early_does_not_replace_the_one_before_it(folder: Path) -> None:
    unpack(stream_of(("a", 3, b"old")), folder, may_replace=True)
    with pytest.raises(ArchiveError, match="ends early"):
        unpack(io.BytesIO(b'["a", 9]\nnew'), folder, may_replace=True)
    assert [path.name for path in folder.iterdir()] == ["a"]
    assert (folder / "a").read_bytes() == b"old"


def test_too_much_is_refused_before_it_is_written(folder: Path) -> None:
    with pytest.raises(UnsafeArchiveError, match="more than 100000 files or 10 bytes"):
        unpack(stream_of(("a", 6, b"123456"), ("b", 6, b"123456")), folder, most_bytes=10)
    assert [path.name for path in folder.iterdir()] == ["a"]


def test_too_many_are_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("madengine.deploy.ssh.archive.MOST_FILES", 2)
    with pytest.raises(UnsafeArchiveError, match="more than 2 files"):
        unpack(stream_of(*((str(number), 0, b"") for number in range(3))), folder)


@pytest.mark.parametrize(
    "stream",
    [
        io.BytesIO(b""),
        io.BytesIO(b"[" * 100_000),
        io.BytesIO(b"[" * 16_000 + b"\n"),
        io.BytesIO(b'["a"]\n'),
        io.BytesIO(b'{"a": 1}\n'),
        stream_of(("a", -1, b"")),
        stream_of(("a", 1.5, b"x")),
        stream_of(("a", True, b"x")),
        stream_of((["a"], 1, b"x")),
        stream_of(("a", 10, b"x"), end=b""),
        stream_of(("a", 1, b"x"), end=b""),
    ],
)
def test_what_is_no_whole_stream_is_an_error(folder: Path, stream: io.BytesIO) -> None:
    with pytest.raises(ArchiveError):
        unpack(stream, folder)
