"""A log that a container writes, read as it grows, with the secrets in it overwritten."""

from __future__ import annotations

import os
from collections.abc import Iterable, Set
from io import FileIO
from typing import NamedTuple

_CHUNK = 1 << 20
_MARK = b"[redacted]"
# The most frequent first.
_FREQUENT = b" etaoinsrlhdcumfpgwybvk0123.,-_=/:456789xjqz\n"
# Secrets with so much in common are searched as one.
_SHARED_BYTES = 12


class Part(NamedTuple):
    """The next part of a log."""

    #: as the container has written it
    raw: bytes
    #: without secrets; what may be the beginning of one follows with a later part
    text: bytes


class MaskedLog:
    """Reads a log, and overwrites each secret in the file, in place: its writer goes on behind it."""

    def __init__(self, log: FileIO, secrets: Iterable[str]) -> None:
        """Read `log`, a file that can be read and written, from where it is."""
        values = {secret.encode("utf-8", "surrogateescape") for secret in secrets}
        self._log = log
        self._secrets = sorted(values, key=len, reverse=True)
        self._signs = [(_rarest(sign), sign) for sign in _signs(values)]
        self._tail = b""

    def read(self) -> Part:
        """Return the next part; an empty one at the log's present end."""
        raw = self._log.read(_CHUNK)
        return Part(raw, self._masked(raw) if raw and self._secrets else raw)

    def read_to_end(self) -> bytes:
        """Return the text that is left, without secrets; call it when nothing writes to the log any more."""
        parts = []
        while (part := self.read()).raw:
            parts.append(part.text)
        tail, self._tail = self._tail, b""
        return b"".join([*parts, tail])

    def _masked(self, raw: bytes) -> bytes:
        text = self._tail + raw if self._tail else raw
        if any(byte in text and sign in text for byte, sign in self._signs):
            text = self._overwrite(text)
        end = self._open_end(text)
        self._tail = text[end:]
        return text[:end]

    def _overwrite(self, text: bytes) -> bytes:
        masked, start = bytearray(text), self._log.tell() - len(text)
        for value in self._secrets:
            mark = (_MARK if len(value) >= len(_MARK) else b"").ljust(len(value), b"*")
            at = masked.find(value)
            while at >= 0:
                masked[at : at + len(value)] = mark
                os.pwrite(self._log.fileno(), mark, start + at)
                at = masked.find(value, at + len(value))
        return bytes(masked)

    def _open_end(self, text: bytes) -> int:
        """Return where the longest end of the text begins that is the beginning of a secret."""
        end = len(text)
        for value in self._secrets:
            at = text.find(value[:1], max(0, len(text) - len(value) + 1), end)
            while at >= 0 and not value.startswith(text[at:]):
                at = text.find(value[:1], at + 1, end)
            end = at if at >= 0 else end
        return end


def _signs(values: Set[bytes]) -> list[bytes]:
    """Return a few texts of which at least one is in every text that has one of the values."""
    signs: list[bytes] = []
    for value in sorted(values):
        if signs and len(signs[-1]) >= _SHARED_BYTES and value[:_SHARED_BYTES] == signs[-1][:_SHARED_BYTES]:
            signs[-1] = value[:_SHARED_BYTES]
        else:
            signs.append(value)
    return [sign for sign in signs if not any(other != sign and other in sign for other in signs)]


def _rarest(value: bytes) -> bytes:
    """Return the byte of a value that a log is least likely to have: searching one byte is many times faster."""
    return bytes([max(value, key=lambda byte: _FREQUENT.find(byte) % 256)])
