"""curl: one file over HTTP(S), continued where a download broke off."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from madengine import programs

if TYPE_CHECKING:
    from plumbum.commands.base import BaseCommand

INSTALL = "curl is not installed here; apt-get install curl"
# Exit codes of network errors: cut short, timed out, no answer, sending or receiving failed, HTTP/2's own.
BROKEN = (18, 28, 52, 55, 56, 92)
# The server only sends the file from its start, or the file has changed.
NO_RESUME = 33
# Seconds after which a server that sends nothing is given up.
_SILENT_SECONDS = 60


def settings(url: str, username: str = "", password: str = "", token: str = "", etag: str = "") -> str:
    """Return the settings that curl reads from a file, which other users of the machine can't see.

    With the `etag` of a partial file, a server on which the file has changed sends it from its start.
    """
    lines = [_line("url", url)]
    if username:
        lines.append(_line("user", f"{username}:{password}"))
    if token:
        lines.append(_line("header", f"Authorization: Bearer {token}"))
    if etag:
        lines.append(_line("header", f"If-Range: {etag}"))
    return "".join(lines)


def users_file() -> Path | None:
    """Return the user's own file of settings, which is ignored; None without one."""
    folders = (os.environ.get("CURL_HOME"), os.environ.get("XDG_CONFIG_HOME"), str(Path.home()))
    names = [Path(folder, name) for folder in folders if folder for name in (".curlrc", "curlrc")]
    return next((path for path in names if path.is_file()), None)


def fetch(settings_file: str, target: Path, etag_file: Path) -> BaseCommand:
    """Fetch the file that the settings name, continuing after the bytes that `target` has."""
    return programs.program(
        "curl",
        # What the user's own file says (`include`, `range`) could give other bytes. It has to come first.
        "--disable",
        *("--fail", "--location", "--silent", "--show-error", "--netrc-optional"),
        *("--connect-timeout", "20", "--speed-limit", "1", "--speed-time", str(_SILENT_SECONDS)),
        *("--continue-at", "-", "--etag-save", str(etag_file), "--output", str(target), "--config", settings_file),
    )


def _line(name: str, value: str) -> str:
    for sign, written in (("\\", "\\\\"), ('"', '\\"'), ("\n", "\\n"), ("\r", "\\r"), ("\t", "\\t")):
        value = value.replace(sign, written)
    return f'{name} = "{value}"\n'
