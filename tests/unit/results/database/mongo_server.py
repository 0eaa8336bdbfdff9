"""A stand-in for a MongoDB server: it speaks the wire protocol (OP_MSG) and stores documents, in memory."""

from __future__ import annotations

import socketserver
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import bson

Document = dict[str, Any]


class MongoServer(socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Connection)
        self.collections: dict[str, list[Document]] = {}
        self.indexes: list[tuple[str, ...]] = []
        self.batches: list[int] = []
        #: documents with this model are refused
        self.refused = ""

    def answer(self, command: Document) -> Document:
        name = next(iter(command))
        if name in ("insert", "update"):
            documents = self.collections.setdefault(f"{command['$db']}.{command[name]}", [])
            self.batches.append(len(command.get("documents") or command["updates"]))
            return self._insert(documents, command) if name == "insert" else self._update(documents, command)
        if name == "createIndexes":
            self.indexes += [tuple(index["key"]) for index in command["indexes"]]
        hello = {"isWritablePrimary": True, "maxWireVersion": 25, "minWireVersion": 0, "maxBsonObjectSize": 1 << 24}
        return {**hello, "maxMessageSizeBytes": 48_000_000, "maxWriteBatchSize": 100_000, "ok": 1}

    def _insert(self, documents: list[Document], command: Document) -> Document:
        documents += command["documents"]
        return {"ok": 1, "n": len(command["documents"])}

    def _update(self, documents: list[Document], command: Document) -> Document:
        errors, upserted = [], []
        for index, one in enumerate(command["updates"]):
            changes = one["u"]["$set"]
            if self.refused and changes.get("model") == self.refused:
                errors.append({"index": index, "code": 1, "errmsg": "refused"})
                continue
            match = next((each for each in documents if all(each.get(k) == v for k, v in one["q"].items())), None)
            if match is None:
                match = {**one["q"]}
                documents.append(match)
                upserted.append({"index": index, "_id": match.get("_id", index)})
            match.update(changes)
        reply = {"ok": 1, "n": len(command["updates"]) - len(errors), "nModified": 0}
        return {**reply, **({"upserted": upserted} if upserted else {}), **({"writeErrors": errors} if errors else {})}


class _Connection(socketserver.BaseRequestHandler):
    server: MongoServer

    def handle(self) -> None:
        with suppress(OSError, struct.error):
            while True:
                length, request, _, opcode = struct.unpack("<iiii", self._read(16))
                body = self._read(length - 16)
                reply = self.server.answer(_command(body) if opcode == 2013 else {"hello": 1})
                content = bson.encode(reply)
                if opcode == 2013:
                    message = struct.pack("<iB", 0, 0) + content
                else:  # the first message of older drivers
                    message = struct.pack("<iqii", 8, 0, 0, 1) + content
                head = struct.pack("<iiii", 16 + len(message), 0, request, 2013 if opcode == 2013 else 1)
                self.request.sendall(head + message)

    def _read(self, length: int) -> bytes:
        content = b""
        while len(content) < length:
            chunk = self.request.recv(length - len(content))
            if not chunk:
                raise OSError("closed")
            content += chunk
        return content


def _command(body: bytes) -> Document:
    """The command of an OP_MSG, with the documents of its sequences."""
    command: Document = {}
    position = 4
    while position < len(body):
        kind, size = body[position], struct.unpack_from("<i", body, position + 1)[0]
        section = body[position + 1 : position + 1 + size]
        if kind == 0:
            command = {**bson.decode(section), **command}
        else:
            name, _, rest = section[4:].partition(b"\0")
            command[name.decode()] = bson.decode_all(rest)
        position += 1 + size
    return dict(sorted(command.items(), key=lambda item: item[0] in ("documents", "updates")))


@contextmanager
def mongo_server() -> Iterator[MongoServer]:
    with MongoServer() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
