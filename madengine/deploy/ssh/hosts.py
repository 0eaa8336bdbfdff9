"""What is known of hosts before any is reached: their names, the folder there, the registries to tunnel."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Sequence
from pathlib import Path

from madengine.config.manifest import Manifest
from madengine.deploy.ssh.options import CopyOptions, HostOptions, NodeSettings, SshOptions
from madengine.errors import ConfigurationError
from madengine.programs import ssh
from madengine.programs.image_references import is_loopback

_NAME_LENGTH = 200
_FOLDER = re.compile(r"[A-Za-z0-9_./~@%+=,-]+")


def ssh_options(options: HostOptions) -> SshOptions:
    """Return the hosts of a command line, and how they are reached.

    Raises ConfigurationError for a host or folder that is wrong, and for no host at all.
    """
    ships_credentials = isinstance(options, CopyOptions) and options.ship_credentials
    return SshOptions(
        hosts=parse_hosts(options.host, options.hosts_file),
        forks=options.forks,
        node=NodeSettings(remote_folder(options.remote_path), options.remote_python, options.reconnect),
        config=options.ssh_config,
        secrets_from=Path(os.environ.get("MODEL_DIR") or ".") if ships_credentials else None,
    )


def parse_hosts(names: Sequence[str], file: Path | None) -> tuple[ssh.Host, ...]:
    """Return the named hosts and those of a file with one a line (`#` begins a comment), each once.

    Raises ConfigurationError for an invalid name, a file that can't be read, and where there is no host at all.
    """
    entries: list[str] = []
    if file:
        try:
            lines = file.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigurationError(f"{file}: can't be read: {getattr(error, 'strerror', None) or error}") from None
        entries = [line.partition("#")[0] for line in lines]
    words = [word.strip() for text in (*names, *entries) for word in text.split(",")]
    hosts = tuple(dict.fromkeys(_parse_host(word) for word in words if word))
    if not hosts:
        raise ConfigurationError(f"{file or '--host'}: names no host")
    return hosts


def _parse_host(text: str) -> ssh.Host:
    host = ssh.host(text)
    # The name is that of a folder of results, too.
    if not host.folder.strip(".") or len(host.folder) > _NAME_LENGTH:
        raise ConfigurationError(f"invalid host {text[:100]!r}; write [user@]host[:port], or a name of your ssh config")
    return host


def remote_folder(text: str) -> str:
    """Return the folder on the nodes that --remote-path names.

    Raises ConfigurationError for one that a shell would change.
    """
    if not _FOLDER.fullmatch(text) or text.startswith("-") or re.match(r"~[^/]", text):
        raise ConfigurationError(
            f"--remote-path {text!r}: expected letters, digits and ./_~@%+=,- only, such as ~/madengine or "
            "/data/madengine-%h"
        )
    return text


def tunnel_ports(manifest: Manifest, registry: str) -> tuple[int, ...]:
    """Return the ports of registries on this machine's loopback, which nodes reach through a tunnel only.

    Raises ConfigurationError for an address that can only mean the node itself.
    """
    images = [image.registry_image.partition("/")[0] for image in manifest.images]
    names = [registry.rstrip("/")] if registry else images
    addresses = sorted({name.partition("/")[0] for name in names if is_loopback(name)})
    return tuple(_tunnel_port(address) for address in addresses)


def _tunnel_port(address: str) -> int:
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
