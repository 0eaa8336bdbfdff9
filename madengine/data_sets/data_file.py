"""The format of data.json: its data sets, their providers, and the keys of each."""

from __future__ import annotations

import difflib
import re
import shlex
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from madengine.config.values import check_value, shown, shown_key
from madengine.errors import ConfigurationError
from madengine.files import read_json

# They are tried in this order, not in the file's; those that only a pod mounts come last.
PROVIDERS = ("custom", "local", "minio", "nas", "aws", "http", "pvc", "nfs")
POD_PROVIDERS = ("pvc", "nfs")
DEFAULT_HOME = "/data_dlm"

_MOUNT = ("path", "home", "readwrite")
_FETCH = (*_MOUNT, "mirrorlocal", "sha256")
KEYS: Mapping[str, tuple[str, ...]] = {
    "custom": (*_FETCH, "args"),
    "local": (*_MOUNT, "sha256"),
    "minio": (*_FETCH, "endpoint", "region"),
    "nas": _FETCH,
    "aws": (*_FETCH, "endpoint", "region"),
    "http": (*_FETCH, "cred"),
    "pvc": (*_MOUNT, "claim"),
    "nfs": (*_MOUNT, "server"),
}
# Other versions document them, or take them for any provider.
OF_OTHER_VERSIONS = ("args", "timeout_multiplier")
BESIDE_DATA_SETS = ("data_sources", "mirrorlocal", "timeout_multiplier")

Sets = dict[str, Mapping[str, Mapping[str, Any]]]


def data_sets(path: Path) -> tuple[Sets, tuple[str, ...]]:
    """Return the data sets of a data.json (a missing one has none), and the keys that are ignored.

    Raises ConfigurationError, naming the position or the key, for a broken file or an unknown key.
    """
    value = read_json(path, missing={})
    if not isinstance(value, dict):
        raise ConfigurationError(f"{path}: expected an object of data sets by name")
    check_value(value, str(path))
    return checked(value, str(path))


def checked(values: Mapping[str, Any], where: str) -> tuple[Sets, tuple[str, ...]]:
    """Do the same for data sets that are read already; `where` is their source in errors and keys."""
    ignored = [f"{where}: {name}" for name in BESIDE_DATA_SETS if name in values]
    sets: Sets = {name: configs for name, configs in values.items() if name not in BESIDE_DATA_SETS}
    for name, configs in sets.items():
        ignored += _check(configs, f"{where}: {shown_key(name)}")
    return sets, tuple(ignored)


def _check(configs: Any, where: str) -> list[str]:
    if not isinstance(configs, Mapping):
        raise ConfigurationError(f'{where}: expected an object such as {{"local": {{"path": "/data"}}}}')
    ignored = []
    for provider, config in configs.items():
        if provider not in PROVIDERS:
            raise ConfigurationError(
                f"{where}: unknown provider {shown(provider)}; expected one of {_closest(provider, PROVIDERS)}"
            )
        if not isinstance(config, Mapping):
            raise ConfigurationError(f'{where}.{provider}: expected an object such as {{"path": "/data"}}')
        ignored += _ignored_keys(provider, config, f"{where}.{provider}")
        _check_provider(provider, config, f"{where}.{provider}")
    return ignored


def _ignored_keys(provider: str, config: Mapping[str, Any], where: str) -> list[str]:
    """Return the keys of other versions; one that no version has is refused."""
    keys = {*KEYS[provider], "mirrorlocal"}  # a local folder's is refused with a reason of its own
    ignored = [key for key in config if key not in keys]
    if unknown := [key for key in ignored if key not in OF_OTHER_VERSIONS]:
        closest = _closest(unknown[0], KEYS[provider])
        raise ConfigurationError(f"{where}: unknown key {shown(unknown[0])}; expected one of {closest}")
    return [f"{where}.{key}" for key in ignored]


def _closest(word: str, words: Collection[str]) -> str:
    return ", ".join(difflib.get_close_matches(word[:100], words, n=len(words), cutoff=0.0))


def _check_provider(provider: str, config: Mapping[str, Any], where: str) -> None:
    path, home, readwrite = config.get("path"), config.get("home", DEFAULT_HOME), config.get("readwrite", "false")
    # What a pod mounts is checked where pods are generated.
    if provider not in POD_PROVIDERS and (not isinstance(path, str) or not path or "\0" in path):
        expected = {"local": "a folder on the host", "http": "a URL"}.get(provider, "a path")
        # without the value of http: a password may be in it
        value = f", got {shown(path)}" if provider != "http" else ""
        raise ConfigurationError(f"{where}.path: expected {expected}{value}")
    if not isinstance(home, str) or not home.startswith("/") or not home.strip("/") or set(home) & set(",:\0"):
        raise ConfigurationError(
            f"{where}.home: expected an absolute path in the container without , or :, got {shown(home)}"
        )
    if str(readwrite).lower() not in ("true", "false"):
        raise ConfigurationError(f'{where}.readwrite: expected "true" or "false", got {shown(readwrite)}')
    if config.get("mirrorlocal") and provider == "local":
        raise ConfigurationError(f"{where}.mirrorlocal: a local folder has no mirror; remove it")
    _check_texts(config, where)
    _check_hashes(config.get("sha256"), f"{where}.sha256")


def _check_texts(config: Mapping[str, Any], where: str) -> None:
    for key in ("mirrorlocal", "args", "endpoint", "region", "cred"):
        if not isinstance(config.get(key), str | None):
            raise ConfigurationError(f"{where}.{key}: expected a string")
    try:
        shlex.split(config.get("args") or "")
    except ValueError as error:
        raise ConfigurationError(
            f"{where}.args: {str(error).lower()}; close the quote, or put a \\ before it"
        ) from error


def _check_hashes(sha256: Any, where: str) -> None:
    hashes = sha256.values() if isinstance(sha256, Mapping) else [] if sha256 is None else [sha256]
    for digits in hashes:
        if not isinstance(digits, str) or not re.fullmatch(r"[0-9A-Fa-f]{64}", digits):
            raise ConfigurationError(
                f"{where}: expected 64 hexadecimal digits, or {{file: digits}}, got {shown(digits)}"
            )
