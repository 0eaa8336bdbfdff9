"""What is said of hosts before any is reached: their names, the folder there, the registries to tunnel."""

from __future__ import annotations

import re
import socket
from collections.abc import Sequence
from pathlib import Path

from madengine.config.manifest import Manifest
from madengine.errors import ConfigurationError
from madengine.programs import ssh
from madengine.programs.engine import is_loopback

_FOLDER = re.compile(r"[A-Za-z0-9_./~@%+=,-]+")


def parse_hosts(names: Sequence[str], file: Path | None) -> tuple[ssh.Host, ...]:
    """The hosts that were named, and those of a file with one a line (`#` begins a comment), each once.

    Raises ConfigurationError for a name that is none, a file that can't be read, and no host at all.
    """
    listed: list[str] = []
    if file:
        try:
            lines = file.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigurationError(f"{file}: can't be read: {getattr(error, 'strerror', None) or error}") from None
        listed = [line.partition("#")[0] for line in lines]
    words = [word.strip() for text in (*names, *listed) for word in text.split(",")]
    found = tuple(dict.fromkeys(ssh.host(word) for word in words if word))
    if not found:
        raise ConfigurationError(f"{file or '--host'}: names no host")
    return found


def remote_folder(text: str) -> str:
    """The folder on the nodes, as --remote-path gives it.

    Raises ConfigurationError for one that a shell would change.
    """
    if not _FOLDER.fullmatch(text) or text.startswith("-") or re.match(r"~[^/]", text):
        raise ConfigurationError(
            f"--remote-path {text!r}: letters, digits and ./_~@%+=,- only, such as ~/madengine or /data/madengine-%h"
        )
    return text


def tunnel_ports(kept: Manifest, registry: str) -> tuple[int, ...]:
    """The ports of registries on this machine's loopback, which nodes reach through a tunnel only.

    Raises ConfigurationError for an address that can only mean the node itself.
    """
    names = [registry.rstrip("/")] if registry else [image.registry_image.partition("/")[0] for image in kept.images]
    addresses = sorted({name.partition("/")[0] for name in names if is_loopback(name)})
    return tuple(_tunnelled(address) for address in addresses)


def _tunnelled(address: str) -> int:
    name, _, port = address.rpartition(":")
    means = f"{address}: on a node this registry address means the node itself, and "
    if name not in ("localhost", "127.0.0.1") or not port.isdigit():
        raise ConfigurationError(
            f"{means}only localhost:PORT can be tunnelled there from this machine; push to that, or to an address that "
            "the nodes reach"
        )
    with socket.socket() as probe:
        probe.settimeout(2)
        if probe.connect_ex(("127.0.0.1", int(port))):
            raise ConfigurationError(
                f"{means}nothing listens on port {port} of this machine that could be tunnelled there; start the "
                "registry here, or push to an address that the nodes reach"
            )
    return int(port)
