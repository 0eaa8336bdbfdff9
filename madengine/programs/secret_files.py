"""Private files that pass a secret to a program, or answer its prompt; they are removed when the block ends."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from madengine.errors import ConfigurationError
from madengine.process import private_folder
from madengine.programs import Secret

# Answers ssh's and git's prompts for a password or a user, and no others. git's prompts name the address: only the one
# that the secret is for gets it.
_ASKPASS = """#!/bin/sh
[ -n "${MADENGINE_ANSWER-}" ] || exit 1
[ -z "${MADENGINE_PROMPT_END-}" ] || case "$1" in
  *"/$MADENGINE_PROMPT_END"* | *"@$MADENGINE_PROMPT_END"*) ;;
  *) exit 1 ;;
esac
case "$1" in
  [Uu]sername*) printf '%s\\n' "$MADENGINE_ANSWER_USER" ;;
  *[Pp]assword* | *[Pp]assphrase*) printf '%s\\n' "$MADENGINE_ANSWER" ;;
  *) exit 1 ;;
esac
"""
# ssh as rsync and git start it. A new host is accepted; one whose key has changed is refused.
_SSH = """#!/bin/sh
set -- -o ConnectTimeout=10 -o ServerAliveInterval=15 -o NumberOfPasswordPrompts=1 "$@"
set -- -o StrictHostKeyChecking=accept-new "$@"
[ -z "${MADENGINE_SSH_PORT-}" ] || set -- -o "Port=$MADENGINE_SSH_PORT" "$@"
[ -z "${MADENGINE_SSH_USER-}" ] || set -- -o "User=$MADENGINE_SSH_USER" "$@"
[ -z "${MADENGINE_SSH_KEY-}" ] || set -- -i "$MADENGINE_SSH_KEY" -o IdentitiesOnly=yes "$@"
[ -n "${MADENGINE_ANSWER-}" ] || set -- -o BatchMode=yes "$@"
exec ssh "$@"
"""
# What every engine reads alike in a file of variables: they treat quotes, blanks and the like differently.
_PLAIN = re.compile(r"[!%&()*+,./:;<=>?@\[\]^_{|}~A-Za-z0-9-]+")


@dataclass(frozen=True)
class Answers:
    """A login, as ssh and git prompt for it."""

    username: str = ""
    password: str = field(default="", repr=False)
    #: The file of a private key.
    key: str = ""
    port: str = ""
    ssh_user: str = ""
    #: How git's prompt must end to be answered; empty for any.
    prompt_end: str = ""


@contextmanager
def unattended(answers: Answers) -> Iterator[dict[str, str]]:
    """Yield an environment in which ssh and git never prompt: they get the password of `answers`, or fail.

    `GIT_SSH` names the ssh to use, for `rsync --rsh` too. With a login for ssh it is also `GIT_SSH_COMMAND`: the user's
    own, and `core.sshCommand`, would come first.
    """
    with private_folder() as folder:
        askpass, ssh = _program(folder / "askpass", _ASKPASS), _program(folder / "ssh", _SSH)
        values = {
            "MADENGINE_ANSWER": Secret(answers.password),
            "MADENGINE_ANSWER_USER": answers.username,
            "MADENGINE_PROMPT_END": answers.prompt_end,
            "MADENGINE_SSH_KEY": answers.key,
            "MADENGINE_SSH_USER": answers.ssh_user,
            "MADENGINE_SSH_PORT": answers.port,
        }
        # A prompt's end is known for HTTP only.
        has_ssh_login = not answers.prompt_end and any((answers.key, answers.ssh_user, answers.port, answers.password))
        yield {
            **({"GIT_SSH_COMMAND": shlex.quote(ssh)} if has_ssh_login else {}),
            "SSH_ASKPASS": askpass,
            "SSH_ASKPASS_REQUIRE": "force",
            "GIT_ASKPASS": askpass,
            "GIT_SSH": ssh,
            "GIT_SSH_VARIANT": "ssh",
            "GIT_TERMINAL_PROMPT": "0",
            **values,
        }


@contextmanager
def private_file(text: str) -> Iterator[str]:
    """Yield the path of a file with this text that only we can read."""
    with private_folder() as folder:
        path = folder / "file"
        path.touch(mode=0o600)
        path.write_text(text, encoding="utf-8", errors="surrogateescape")
        yield str(path)


def is_plain(value: str) -> bool:
    """Whether every engine reads a value in a file of variables as it was written."""
    return bool(_PLAIN.fullmatch(value))


def variables(values: Mapping[str, str]) -> str:
    """Return the content of a file of variables, with the plain values only."""
    return "".join(f"{name}={value}\n" for name, value in values.items() if is_plain(value))


def _program(path: Path, text: str) -> str:
    path.touch(mode=0o700)
    path.write_text(text, encoding="utf-8")
    if not os.access(path, os.X_OK):
        raise ConfigurationError(
            f"{path.parents[1]}: no program can be started there (it is mounted noexec); set TMPDIR to another folder"
        )
    return str(path)
