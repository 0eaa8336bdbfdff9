"""A clone without what differs from one clone of a commit to the next, so that its image keeps its digest."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from madengine.programs import git

if TYPE_CHECKING:
    from madengine.data_sets.fetch import Client

# What this machine noted at this hour, and its own hooks.
_NOTES = ("index", "logs", "FETCH_HEAD", "ORIG_HEAD", "hooks")


def settle(clone: Path, client: Client) -> None:
    """Leave in a clone and its submodules what their commits say; git answers there as before.

    Raises CommandError where git fails, on a full disk say.
    """
    for folder in git.folders(clone):
        for name in _NOTES:
            _remove(folder / name)
        if folder != clone / ".git":
            # The branch's end, which moves on while the commit that is recorded for a submodule stays.
            git.forget_branches(folder)
        if git.is_one_commit(folder):
            # How servers pack depends on what they have packed before; a whole history takes too long to pack anew.
            client.run(git.repack(folder))
        client.run(git.new_index(folder))


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
