"""The files in which engines keep the user's logins at registries."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any


def docker_home() -> Path:
    """Return the folder of Docker's configuration, which the other engines read too."""
    return Path(os.environ.get("DOCKER_CONFIG") or Path.home() / ".docker")


def read_logins(path: Path) -> dict[str, Any]:
    """Return a file's content, with at least empty `auths` and `credHelpers`; a missing or broken file is empty."""
    content: Any = None
    with suppress(OSError, ValueError):
        content = json.loads(path.read_text(encoding="utf-8"))
    logins: dict[str, Any] = content if isinstance(content, dict) else {}
    own = {key: logins.get(key) for key in ("auths", "credHelpers")}
    return {**logins, **{key: value if isinstance(value, dict) else {} for key, value in own.items()}}


def write_logins(path: Path, content: Mapping[str, Any]) -> None:
    """Write a file that only we can read."""
    path.touch(mode=0o600)
    path.write_text(json.dumps(content))
