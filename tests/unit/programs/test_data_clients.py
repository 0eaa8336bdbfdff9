"""The programs that fetch: what is made of their answers, and what they are told."""

from __future__ import annotations

from pathlib import Path

import pytest

from madengine import programs
from madengine.programs import aws, curl, git, rsync


@pytest.mark.parametrize(
    ("listed", "path", "kind"),
    [
        (["                           PRE set/"], "s3://b/set", "folder"),
        (["                           PRE set/"], "s3://b/set/", "folder"),
        (["                           PRE settings/"], "s3://b/set", ""),
        (["2026-01-01 00:00:00       1024 a file.bin"], "s3://b/dir/a file.bin", "file"),
        (["2026-01-01 00:00:00       1024 file.bin.old"], "s3://b/file.bin", ""),
        ([], "s3://b", "folder"),
    ],
)
def test_what_an_s3_path_is(listed: list[str], path: str, kind: str) -> None:
    assert aws.kind([f"{line}\n" for line in listed], path) == kind


def test_the_secret_key_is_in_no_line() -> None:
    account = aws.Account("id", "hunter22", "http://m:9000", session_token="session22")
    line = programs.shell_line(account.copy_file("s3://b/x", Path("here")))
    assert line.endswith("http://m:9000 --cli-connect-timeout=10 --cli-read-timeout=60")
    assert not {"hunter22", "session22"} & set(line.replace("=", " ").split())
    assert "hunter22" not in repr(account)


def test_curls_settings_hold_any_text() -> None:
    text = curl.settings('https://h/a"b', "ann", 'a\\b"c\nd', etag='"x"')
    assert text.splitlines() == [
        'url = "https://h/a\\"b"',
        'user = "ann:a\\\\b\\"c\\nd"',
        'header = "If-Range: \\"x\\""',
    ]
    assert curl.settings("https://h/", token="t").endswith('header = "Authorization: Bearer t"\n')


def test_a_url_or_host_is_never_an_option() -> None:
    assert git.clone("--upload-pack=x", Path("t"), {}).formulate()[-3:] == ["--", "--upload-pack=x", "t"]
    assert rsync.copy("-e", "x", Path("t"), {}).formulate()[-3:] == ["--", "-e:x", "t/"]
