"""`kubectl exec` for the stand-in API server: one command in a container, over a WebSocket, as kubectl speaks it."""

from __future__ import annotations

import base64
import hashlib
import json
import struct
import subprocess
import threading
from collections.abc import Sequence
from io import BufferedIOBase
from typing import IO

PROTOCOL = "v5.channel.k8s.io"
_STDOUT, _STDERR, _ERROR = 1, 2, 3
_GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


def accepted(key: str) -> str:
    """What a server answers to a client's key."""
    return base64.b64encode(hashlib.sha1(f"{key}{_GUID}".encode()).digest()).decode()


def frame(content: bytes, kind: int = 0x82) -> bytes:
    """A whole message of a server; 0x82 is a binary one, 0x88 the last."""
    size = len(content)
    header = bytes([kind, size]) if size < 126 else struct.pack(">BBH", kind, 126, size)
    return (header if size < 1 << 16 else struct.pack(">BBQ", kind, 127, size)) + content


def run(line: Sequence[str], target: BufferedIOBase) -> None:
    """Run a command and send what it prints, and how it ended."""
    lock = threading.Lock()

    def send(channel: int, content: bytes) -> None:
        with lock:
            target.write(frame(bytes([channel]) + content))

    process = subprocess.Popen(line, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout and process.stderr

    def pass_on(stream: IO[bytes], channel: int) -> None:
        for chunk in iter(lambda: stream.read1(1 << 15), b""):  # type: ignore[attr-defined] # a BufferedReader
            send(channel, chunk)

    threads = [
        threading.Thread(target=pass_on, args=pair) for pair in ((process.stdout, _STDOUT), (process.stderr, _STDERR))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with process:
        code = process.wait()
    status: dict[str, object] = {"metadata": {}, "status": "Success" if code == 0 else "Failure"}
    if code:
        causes = [{"reason": "ExitCode", "message": str(code)}]
        status |= {"reason": "NonZeroExitCode", "message": f"exit code {code}", "details": {"causes": causes}}
    send(_ERROR, json.dumps(status).encode())
    with lock:
        target.write(frame(struct.pack(">H", 1000), 0x88))
