"""Examines a node before anything runs there: its python3 reads this file from stdin, and prints JSON."""

# Nothing here may need a newer Python than the oldest that a node may have: it has to report that it is too old. And it
# does without modules that take longer to load than the examination.
import hashlib
import json
import os
import sys


def machine() -> str:
    """Identify this machine, and not another one of the same name: its boot and its network."""
    with open("/proc/sys/kernel/random/boot_id") as boot:
        return boot.read().strip() + " " + os.readlink("/proc/self/ns/net")


def digest(path: str) -> str:
    """Return the SHA-256 of a file; empty if there is none."""
    try:
        with open(path, "rb") as file:
            return hashlib.sha256(file.read()).hexdigest()
    except OSError:
        return ""


def port_problem(port: int) -> str:
    """Return why a port of 127.0.0.1 can't be listened on; empty if it can."""
    import socket

    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            return "port " + str(port) + ": " + (error.strerror or str(error)).lower()
    return ""


def free_port() -> int:
    """Return a port that nothing listens on, below those that the kernel hands out to connections."""
    import random
    import socket

    ports = random.SystemRandom().sample(range(20000, 32000), 100)
    for port in ports:
        with socket.socket() as probe:
            try:
                probe.bind(("", port))
            except OSError:
                continue
            return port
    raise OSError("no port from 20000 to 31999 is free")


def are_here(engines: "list[str]", images: "list[str]") -> bool:
    """Whether the engine that a run would use has these images, so that nothing has to be pulled.

    Of several engines it is the one that MADENGINE_ENGINE names, or the first that is installed.
    """
    import subprocess

    if not images:
        return False
    default = os.environ.get("MADENGINE_ENGINE", "auto")
    nowhere = subprocess.DEVNULL
    for name in engines if len(engines) == 1 or default == "auto" else [default]:
        words = [name, "image", "inspect"] + images  # noqa: RUF005
        try:
            return subprocess.call(words, stdin=nowhere, stdout=nowhere, stderr=nowhere, timeout=30) == 0
        except FileNotFoundError:
            continue
        except (OSError, subprocess.TimeoutExpired):
            return False
    return False


def has(name: str, sha256: str, folder: str, incoming: str) -> bool:
    """Whether a file is in the incoming folder; one that the node's folder has is linked there."""
    path = incoming + "/" + name
    if os.path.exists(path):
        return digest(path) == sha256
    try:
        os.link(folder + "/" + name, path)
    except OSError:  # none is there, or the file system has no links: the file is sent
        return False
    # Of the link: the folder's file may be another one by now.
    if digest(path) == sha256:
        return True
    os.unlink(path)
    return False


def examine(folder: str, incoming: str, files: str, ports: str, engines: str, images: "list[str]") -> None:
    """Make the folders, link those files (NAME=DIGEST,…) that the node's folder has, and print the result.

    Port 0 asks for a free one.
    """
    result = {"python": ".".join(map(str, sys.version_info[:3]))}  # type: dict[str, object]
    try:
        result["machine"] = machine()
        if sys.version_info >= (3, 10):  # noqa: UP036
            os.makedirs(incoming, exist_ok=True)
            pairs = [file.split("=") for file in files.split(",")]
            result["has"] = [name for name, sha256 in pairs if has(name, sha256, folder, incoming)]
            disk = os.statvfs(incoming)
            result["free_bytes"] = disk.f_bavail * disk.f_frsize
            problems = [port_problem(int(port)) for port in ports.split(",") if port]
            result["port_problem"] = "; ".join(filter(None, problems))
            if "0" in ports.split(","):
                result["free_port"] = free_port()
                # This machine's address of the connection that ssh came by: other nodes reach it too.
                result["address"] = (os.environ.get("SSH_CONNECTION", "").split() + [""] * 3)[2]
            result["has_images"] = are_here(engines.split(","), images)
    except OSError as error:
        result["problem"] = str(error.filename or folder) + ": " + (error.strerror or str(error))
    print(json.dumps(result))  # noqa: T201


if __name__ == "__main__":
    examine(sys.argv[1], sys.argv[2], sys.argv[3], sys.argv[4], sys.argv[5], sys.argv[6:])
