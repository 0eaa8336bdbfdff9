"""The names of a run on this machine: its id, and the folder and the log of each model."""

from __future__ import annotations

import os
import re
from datetime import datetime, timezone
from pathlib import Path

from madengine.errors import RunError
from madengine.records import Image, Model

LOG_SUFFIX = ".run.live.log"


def log_name(model: Model, image: Image) -> str:
    """Return `<model>_<Dockerfile without its suffix>.run.live.log`, the name that older versions use."""
    dockerfile = "" if image.dockerfile.startswith("N/A") else image.dockerfile
    stem = re.sub(r"\.dockerfile$", "", Path(dockerfile).name, flags=re.IGNORECASE)
    return re.sub(r"[^\w.-]+", "_", f"{model.name}_{stem or image.key}")[:200] + LOG_SUFFIX


def new_run_id() -> str:
    """Return a new run id: the time (UTC), and a random part for runs of the same second."""
    return f"{datetime.now(timezone.utc).strftime('%Y%m%dT%H%M%SZ')}-{os.urandom(3).hex()}"


def run_directory(run_id: str) -> Path:
    """Return the folder of a run, relative to the current one."""
    return Path("runs") / run_id


def slug(name: str) -> str:
    """Return a name as part of a path; two names may have the same."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", name).strip("._-")[:100] or "model"


def new_folder(parent: Path, name: str) -> Path:
    """Make a folder that no other model has. Raises RunError if none can be made."""
    stem = slug(name)
    for number in range(1, 10_000):
        folder = parent / (stem if number == 1 else f"{stem}_{number}")
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        except OSError as error:
            raise RunError(f"{folder}: can't be made: {error.strerror}") from error
        return folder
    raise RunError(f"{parent / stem}: 10,000 folders of this name exist already; remove some")
