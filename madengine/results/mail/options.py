"""The options of e-mail."""

from __future__ import annotations

import argparse
import re
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from madengine.config.option import Group, comma_separated, option
from madengine.errors import ConfigurationError

_SERVER = re.compile(r"(?P<host>[A-Za-z0-9._-]+|\[[0-9A-Fa-f:]+\])(:(?P<port>[0-9]{1,5}))?")
_ADDRESS = re.compile(r"[^\s@<>,;:\"()\\\x00-\x1f\x7f]+@[A-Za-z0-9.-]+")


class Server(NamedTuple):
    """Who takes messages; port 0 is the usual one."""

    host: str
    port: int


def _server(text: str) -> Server:
    match = _SERVER.fullmatch(text)
    if not match or int(match["port"] or 0) > 65535:
        raise argparse.ArgumentTypeError(f"expected HOST or HOST:PORT, got {text[:60]!r}")
    return Server(match["host"].strip("[]"), int(match["port"] or 0))


def _address(text: str) -> str:
    if text and not _ADDRESS.fullmatch(text):
        raise argparse.ArgumentTypeError(f"expected an address such as me@example.com, got {text[:60]!r}")
    return text


def _addresses(words: tuple[str, ...]) -> tuple[str, ...]:
    try:
        return tuple(dict.fromkeys(map(_address, comma_separated(words))))
    except argparse.ArgumentTypeError as error:
        raise ConfigurationError(f"--email: {error}") from None


@dataclass(frozen=True)
class EmailOptions:
    """To whom results are sent, and how."""

    email: tuple[str, ...] = option(
        "--email", default=(), group=Group.OUTPUT, metavar="ADDRESS", many=True, collect=_addresses,
        help="send the results to these addresses, by the server of --smtp",
    )  # fmt: skip
    email_from: str = option(
        "--email-from", default="", group=Group.OUTPUT, parse=_address, metavar="ADDRESS",
        help="the sender (default: the user of the login, else madengine@ this machine)",
    )  # fmt: skip
    email_file: Path | None = option(
        "--email-file", default=None, group=Group.OUTPUT, parse=Path, metavar="FILE",
        help="write the message to this file (.eml), which mail programs open",
    )  # fmt: skip
    smtp: Server | None = option(
        "--smtp", default=None, group=Group.OUTPUT, parse=_server, metavar="HOST[:PORT]",
        help="the server that takes the message; its login is the entry SMTP of credential.json, or SMTP_USERNAME and "
        "SMTP_PASSWORD",
    )  # fmt: skip
    smtp_tls: str = option(
        "--smtp-tls", default="starttls", group=Group.OUTPUT, choices=("starttls", "tls", "none"),
        help="starttls: encrypt after the greeting (port 587); tls: from the start (465); none (25), without a login "
        "unless the server is this machine (default: starttls)",
    )  # fmt: skip

    def __post_init__(self) -> None:
        """Raise ConfigurationError for options that lack others."""
        if self.email and not (self.smtp or self.email_file):
            raise ConfigurationError(
                "--email: name the server with --smtp, or a file for the message with --email-file"
            )
        if self.smtp and not self.email:
            raise ConfigurationError("--smtp: name who gets the message with --email")

    @property
    def is_used(self) -> bool:
        return bool(self.email or self.email_file)
