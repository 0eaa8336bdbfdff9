"""A git clone without what differs from one clone of a commit to the next, so that its image keeps its digest."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from madengine.programs import git

if TYPE_CHECKING:
    from madengine.data_sets.fetch import Client

# What depends on the time and the machine of the clone, and git-lfs's second copies of files.
_LOCAL_FILES = ("index", "logs", "FETCH_HEAD", "ORIG_HEAD", "hooks", "lfs")


def settle(clone: Path, client: Client) -> None:
    """Remove from a clone and its submodules what their commits don't determine; git works there as before.

    Raises CommandError where git fails, as on a full disk.
    """
    for folder in git.folders(clone):
        for name in _LOCAL_FILES:
            _remove(folder / name)
        if folder != clone / ".git":
            # A branch's end moves, while the commit that is recorded for a submodule stays.
            git.forget_branches(folder)
        if git.is_one_commit(folder):
            # How a server packs depends on what it has packed before; to repack a whole history takes too long.
            client.run(git.repack(folder))
        client.run(git.new_index(folder))


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
