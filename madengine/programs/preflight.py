"""What a node says of itself before anything runs there: any python3 takes this file from stdin and prints JSON."""

# Nothing here may need a newer Python than the oldest that a node may have: it has to say that it is too old. And it
# does without modules that take longer to load than what it asks.
import hashlib
import json
import os
import sys


def machine() -> str:
    """This machine, and not one that only has the same name: its boot and its network."""
    with open("/proc/sys/kernel/random/boot_id") as boot:
        return boot.read().strip() + " " + os.readlink("/proc/self/ns/net")


def digest(path: str) -> str:
    """The SHA-256 of a file; empty where there is none."""
    try:
        with open(path, "rb") as file:
            return hashlib.sha256(file.read()).hexdigest()
    except OSError:
        return ""


def port_problem(port: int) -> str:
    """Why a port of 127.0.0.1 can't be listened on; empty where it can."""
    import socket

    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            return "port " + str(port) + ": " + (error.strerror or str(error)).lower()
    return ""


def are_here(engines: str, images: "list[str]") -> bool:
    """Whether the engine that a run would take first has these images, so that nothing has to be pulled."""
    import subprocess

    if not images:
        return False
    chosen = os.environ.get("MADENGINE_ENGINE", "auto") if engines == "auto" else engines
    names = ("docker", "podman", "nerdctl") if chosen == "auto" else (chosen,)
    nowhere = subprocess.DEVNULL
    for name in names:
        words = [name, "image", "inspect"] + images  # noqa: RUF005
        try:
            return subprocess.call(words, stdin=nowhere, stdout=nowhere, stderr=nowhere, timeout=30) == 0
        except FileNotFoundError:
            continue
        except (OSError, subprocess.TimeoutExpired):
            return False
    return False


def has(name: str, wanted: str, folder: str, incoming: str) -> bool:
    """Whether the wanted file is in the incoming folder; one that the node's folder has is taken over."""
    mine = incoming + "/" + name
    if os.path.exists(mine):
        return digest(mine) == wanted
    try:
        os.link(folder + "/" + name, mine)
    except FileNotFoundError:
        return False
    # Of the link: the folder's file may be another one by now.
    if digest(mine) == wanted:
        return True
    os.unlink(mine)
    return False


def examine(folder: str, incoming: str, files: str, ports: str, engine: str, images: "list[str]") -> None:
    """Make the folders, take over what the folder has of the wanted files (NAME=DIGEST,…), say what was found."""
    found = {"python": ".".join(map(str, sys.version_info[:3]))}  # type: dict[str, object]
    try:
        found["machine"] = machine()
        if sys.version_info >= (3, 10):  # noqa: UP036
            os.makedirs(incoming, exist_ok=True)
            wanted = [file.split("=") for file in files.split(",")]
            found["has"] = [name for name, sha256 in wanted if has(name, sha256, folder, incoming)]
            disk = os.statvfs(incoming)
            found["free_bytes"] = disk.f_bavail * disk.f_frsize
            found["port_problem"] = "; ".join(filter(None, map(port_problem, map(int, filter(None, ports.split(","))))))
            found["has_images"] = are_here(engine, images)
    except OSError as error:
        found["problem"] = str(error.filename or folder) + ": " + (error.strerror or str(error))
    print(json.dumps(found))  # noqa: T201


if __name__ == "__main__":
    examine(sys.argv[1], sys.argv[2], sys.argv[3], sys.argv[4], sys.argv[5], sys.argv[6:])
