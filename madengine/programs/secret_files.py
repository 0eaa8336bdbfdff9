"""How a secret reaches a program that asks for it, or takes it from a file: private files, gone when the block ends."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from madengine.process import own_process_id, process_has_ended
from madengine.programs import Secret

_PREFIX = "madengine-private-"

# Answers ssh and git when they ask for a password or a user; anything else that they may ask gets no answer. git's
# questions name the address that asks: only the one that the secret is for gets it.
_ASKPASS = """#!/bin/sh
[ -n "${MADENGINE_ANSWER-}" ] || exit 1
[ -z "${MADENGINE_ASKED_BY-}" ] || case "$1" in
  *"/$MADENGINE_ASKED_BY"* | *"@$MADENGINE_ASKED_BY"*) ;;
  *) exit 1 ;;
esac
case "$1" in
  [Uu]sername*) printf '%s\\n' "$MADENGINE_ANSWER_USER" ;;
  *[Pp]assword* | *[Pp]assphrase*) printf '%s\\n' "$MADENGINE_ANSWER" ;;
  *) exit 1 ;;
esac
"""
# ssh as rsync and git start it. A host that was never met is remembered; one whose key has changed is refused.
_SSH = """#!/bin/sh
set -- -o ConnectTimeout=10 -o ServerAliveInterval=15 -o NumberOfPasswordPrompts=1 "$@"
set -- -o StrictHostKeyChecking=accept-new "$@"
[ -z "${MADENGINE_SSH_PORT-}" ] || set -- -o "Port=$MADENGINE_SSH_PORT" "$@"
[ -z "${MADENGINE_SSH_USER-}" ] || set -- -o "User=$MADENGINE_SSH_USER" "$@"
[ -z "${MADENGINE_SSH_KEY-}" ] || set -- -i "$MADENGINE_SSH_KEY" -o IdentitiesOnly=yes "$@"
[ -n "${MADENGINE_ANSWER-}" ] || set -- -o BatchMode=yes "$@"
exec ssh "$@"
"""
# What an engine's file of variables holds as it is: engines differ in what they make of quotes, blanks and the like.
_PLAIN = re.compile(r"[!%&()*+,./:;<=>?@\[\]^_{|}~A-Za-z0-9-]+")


@dataclass(frozen=True)
class Answers:
    """Who logs in where: `asked_by` is the end of git's question, empty for any; `key` a private key's file."""

    username: str = ""
    password: str = field(default="", repr=False)
    key: str = ""
    port: str = ""
    ssh_user: str = ""
    asked_by: str = ""


@contextmanager
def private_folder() -> Iterator[Path]:
    """A folder of the temporary directory that only we can enter.

    It is called after this process: who is killed leaves its own to the next madengine of the same user.
    """
    _sweep()
    with tempfile.TemporaryDirectory(prefix=f"{_PREFIX}{own_process_id().replace(':', '_')}.") as folder:
        yield Path(folder)


def _sweep() -> None:
    for left in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with suppress(OSError):  # another one may be removing it too
            owner = left.name[len(_PREFIX) :].partition(".")[0].replace("_", ":")
            if left.lstat().st_uid == os.geteuid() and process_has_ended(owner):
                shutil.rmtree(left)


@contextmanager
def unattended(answers: Answers) -> Iterator[dict[str, str]]:
    """The environment in which ssh and git ask nobody: a password comes from `answers`, or the program fails.

    `GIT_SSH` names the ssh to use, for `rsync --rsh` too.
    """
    with private_folder() as folder:
        askpass, ssh = _program(folder / "askpass", _ASKPASS), _program(folder / "ssh", _SSH)
        given = {
            "MADENGINE_ANSWER": Secret(answers.password),
            "MADENGINE_ANSWER_USER": answers.username,
            "MADENGINE_ASKED_BY": answers.asked_by,
            "MADENGINE_SSH_KEY": answers.key,
            "MADENGINE_SSH_USER": answers.ssh_user,
            "MADENGINE_SSH_PORT": answers.port,
        }
        yield {
            "SSH_ASKPASS": askpass,
            "SSH_ASKPASS_REQUIRE": "force",
            "GIT_ASKPASS": askpass,
            "GIT_SSH": ssh,
            "GIT_SSH_VARIANT": "ssh",
            "GIT_TERMINAL_PROMPT": "0",
            **given,
        }


@contextmanager
def private_file(text: str) -> Iterator[str]:
    """The path of a file with that text that only we can read."""
    with private_folder() as folder:
        path = folder / "file"
        path.touch(mode=0o600)
        path.write_text(text, encoding="utf-8", errors="surrogateescape")
        yield str(path)


def is_plain(value: str) -> bool:
    """Whether every engine reads a value out of a file of variables as it was written there."""
    return bool(_PLAIN.fullmatch(value))


def variables(values: Mapping[str, str]) -> str:
    """The text of a file of variables; what isn't plain has no place in it."""
    return "".join(f"{name}={value}\n" for name, value in values.items() if is_plain(value))


def _program(path: Path, text: str) -> str:
    path.touch(mode=0o700)
    path.write_text(text, encoding="utf-8")
    return str(path)
