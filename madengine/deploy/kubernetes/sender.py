"""Sends the files that a pod's sidecar holds for `collect`: `python3 -m madengine.deploy.kubernetes.sender`, in a pod.

With the argument `fetched` it ends the sidecar's waiting.
"""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterator
from pathlib import Path, PurePath

from madengine.config.artifacts import FOLDER
from madengine.deploy.kubernetes.pod_files import FETCHED, READY
from madengine.deploy.ssh.archive import pack
from madengine.files import untrusted_tree

WORKSPACE = Path("/myworkspace")
#: the exit code where the files are not complete yet
NOT_READY = 3


def main(words: list[str], workspace: Path = WORKSPACE) -> int:
    """Send the files to stdout; return the exit code."""
    if words == ["fetched"]:
        (workspace / FETCHED).touch()
        return 0
    if not os.path.lexists(workspace / READY):
        return NOT_READY
    pack(files_of(workspace), sys.stdout.buffer)
    sys.stdout.buffer.flush()
    return 0


def files_of(workspace: Path) -> Iterator[tuple[str, Path]]:
    """Yield the names and paths of the regular files; no link is followed, so that nothing of the sidecar's goes."""
    for path, status in untrusted_tree(workspace, PurePath(FOLDER)):
        if stat.S_ISREG(status.st_mode):
            yield str(path), workspace / path


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
