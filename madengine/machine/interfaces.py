"""This machine's network interfaces."""

from __future__ import annotations

import fcntl
import socket
import struct
from contextlib import suppress
from pathlib import Path

# Asks for an interface's IPv4 address, in <linux/sockios.h>.
_SIOCGIFADDR = 0x8915
_IPV6 = Path("/proc/net/if_inet6")


def interface_of(address: str) -> str:
    """Return the interface that has an address, or the address of a name; empty if none has, or it is the loopback."""
    with suppress(OSError):
        numbers = {str(entry[4][0]) for entry in socket.getaddrinfo(address, None)}
        names = (name for _, name in socket.if_nameindex() if name != "lo")
        return next((name for name in names if numbers & _addresses(name)), "")
    return ""


def _addresses(name: str) -> set[str]:
    addresses = set(_ipv6_addresses(name))
    with suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        answer = fcntl.ioctl(probe, _SIOCGIFADDR, struct.pack("256s", name.encode()[:15]))
        addresses.add(socket.inet_ntoa(answer[20:24]))
    return addresses


def _ipv6_addresses(name: str) -> list[str]:
    with suppress(OSError):
        lines = [line.split() for line in _IPV6.read_text(encoding="ascii").splitlines()]
        return [socket.inet_ntop(socket.AF_INET6, bytes.fromhex(line[0])) for line in lines if line[-1] == name]
    return []
