"""What a node says of itself before anything runs there: any python3 takes this file from stdin and prints JSON."""

# Nothing here may need a newer Python than the oldest that a node may have: it has to say that it is too old.
import hashlib
import json
import os
import sys
from pathlib import Path


def machine() -> str:
    """This machine, and not one that only has the same name: its boot and its network."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip() + " " + os.readlink("/proc/self/ns/net")  # noqa: PTH115


def digest(path: Path) -> str:
    """The SHA-256 of a file; empty where there is none."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
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
    import shutil
    import subprocess

    chosen = os.environ.get("MADENGINE_ENGINE", "auto") if engines == "auto" else engines
    names = ("docker", "podman", "nerdctl") if chosen == "auto" else (chosen,)
    found = next(filter(None, map(shutil.which, names)), None)
    if not found or not images:
        return False
    nowhere = subprocess.DEVNULL
    try:
        words = [found, "image", "inspect"] + images  # noqa: RUF005
        return subprocess.call(words, stdin=nowhere, stdout=nowhere, stderr=nowhere, timeout=30) == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def examine(folder: Path, incoming: Path, wanted: str, ports: str, engine: str, images: "list[str]") -> None:
    """Make the folders, take the bundle over where the folder has the wanted one, and say what was found."""
    found = {"python": ".".join(map(str, sys.version_info[:3])), "has_bundle": False}
    try:
        found["machine"] = machine()
        if sys.version_info >= (3, 10):  # noqa: UP036
            incoming.mkdir(parents=True, exist_ok=True)
            bundle, mine = folder / "madengine.pyz", incoming / "madengine.pyz"
            if digest(bundle) == wanted and not mine.exists():
                os.link(str(bundle), str(mine))
            found["has_bundle"] = digest(mine) == wanted
            disk = os.statvfs(str(incoming))
            found["free_bytes"] = disk.f_bavail * disk.f_frsize
            found["port_problem"] = "; ".join(filter(None, map(port_problem, map(int, filter(None, ports.split(","))))))
            found["has_images"] = are_here(engine, images)
    except OSError as error:
        found["problem"] = str(error.filename or folder) + ": " + (error.strerror or str(error))
    print(json.dumps(found))  # noqa: T201


if __name__ == "__main__":
    examine(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], sys.argv[4], sys.argv[5], sys.argv[6:])
