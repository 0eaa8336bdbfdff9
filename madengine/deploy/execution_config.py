"""execution_config.json, which `export-config` writes for targets that run on other machines."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from madengine.config.values import check_value
from madengine.errors import ConfigurationError
from madengine.files import read_json

DEFAULT_EXECUTION_CONFIG = Path("execution_config.json")


def execution_context(path: Path) -> Mapping[str, Any]:
    """Return the context of an execution configuration, without the values that the nodes detect themselves.

    Raises ConfigurationError for a file that is missing or isn't an execution configuration.
    """
    if not os.path.lexists(path):
        raise ConfigurationError(f"{path}: no such execution configuration; `madengine export-config` writes one")
    config = read_json(path)
    context = config.get("context", {}) if isinstance(config, dict) else None
    if not isinstance(context, dict):
        raise ConfigurationError(f"{path}: not an execution configuration; `madengine export-config` writes one")
    check_value(context, f"{path}: context")
    return {key: value for key, value in context.items() if value or key == "model_args"}
