"""An image of a few hundred bytes, to start a container where no other image is: its only program exits with 0."""

from __future__ import annotations

import hashlib
import io
import json
import platform
import struct
import tarfile
from pathlib import Path

PROGRAM = "/true"
# By machine: the image's architecture, ELF's number of it, and exit(0) in its code.
_MACHINES = {
    "x86_64": ("amd64", 0x3E, bytes.fromhex("31ff b83c000000 0f05")),
    "aarch64": ("arm64", 0xB7, bytes.fromhex("000080d2 a80b80d2 010000d4")),
}
_BASE = 0x400000  # where the program is loaded
_HEADERS = 64 + 56  # bytes of ELF's header, and of the header of its only segment


def write_tiny_image(path: Path, name: str) -> bool:
    """Write the archive that `load` takes; return whether there is a program for this machine."""
    if platform.machine() not in _MACHINES:
        return False
    architecture, number, code = _MACHINES[platform.machine()]
    layer = _archive({PROGRAM.lstrip("/"): _executable(number, code)})
    layers = {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]}
    config = {"architecture": architecture, "os": "linux", "config": {"Entrypoint": [PROGRAM]}, "rootfs": layers}
    manifest = [{"Config": "config.json", "RepoTags": [name], "Layers": ["layer.tar"]}]
    documents = {"config.json": config, "manifest.json": manifest}
    files = {file: json.dumps(content).encode() for file, content in documents.items()}
    path.write_bytes(_archive({**files, "layer.tar": layer}))
    return True


def _executable(number: int, code: bytes) -> bytes:
    size = _HEADERS + len(code)
    identity = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    header = struct.pack("<16sHHIQQQIHHHHHH", identity, 2, number, 1, _BASE + _HEADERS, 64, 0, 0, 64, 56, 1, 64, 0, 0)
    segment = struct.pack("<IIQQQQQQ", 1, 5, 0, _BASE, _BASE, size, size, 0x10000)
    return header + segment + code


def _archive(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), 0o755
            archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()
