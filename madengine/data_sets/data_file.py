"""What a data.json may say: its data sets, their providers, and the keys of each."""

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

# In this order they are tried, whatever their order in the file; those that only a pod mounts come last.
PROVIDERS = ("custom", "local", "minio", "nas", "aws", "http", "pvc", "nfs")
POD_PROVIDERS = ("pvc", "nfs")
DEFAULT_HOME = "/data_dlm"

_MOUNT = ("path", "home", "readwrite")
_FETCHED = (*_MOUNT, "mirrorlocal", "sha256")
_KEYS: Mapping[str, tuple[str, ...]] = {
    "custom": (*_FETCHED, "args"),
    "local": (*_MOUNT, "sha256"),
    "minio": (*_FETCHED, "endpoint", "region"),
    "nas": _FETCHED,
    "aws": (*_FETCHED, "endpoint", "region"),
    "http": (*_FETCHED, "cred"),
    "pvc": (*_MOUNT, "claim"),
    "nfs": (*_MOUNT, "server"),
}
# Other versions document them, or take them for any provider.
_OF_OTHERS = ("args", "timeout_multiplier")
_BESIDE_DATA_SETS = ("data_sources", "mirrorlocal", "timeout_multiplier")

Sets = dict[str, Mapping[str, Mapping[str, Any]]]


def data_sets(path: Path) -> tuple[Sets, tuple[str, ...]]:
    """The data sets of a data.json (a missing one has none), and the keys that nothing here acts on.

    Raises ConfigurationError, naming the position or the key, for what is broken or known to nobody.
    """
    value = read_json(path, missing={})
    if not isinstance(value, dict):
        raise ConfigurationError(f"{path}: expected an object of data sets by name")
    check_value(value, str(path))
    return checked(value, str(path))


def checked(values: Mapping[str, Any], where: str) -> tuple[Sets, tuple[str, ...]]:
    """The same for data sets that are read already; `where` says in errors and keys where they come from."""
    strays = [f"{where}: {name}" for name in _BESIDE_DATA_SETS if name in values]
    sets: Sets = {name: known for name, known in values.items() if name not in _BESIDE_DATA_SETS}
    for name, known in sets.items():
        strays += _check(known, f"{where}: {shown_key(name)}")
    return sets, tuple(strays)


def _check(known: Any, where: str) -> list[str]:
    if not isinstance(known, Mapping):
        raise ConfigurationError(f'{where}: expected an object such as {{"local": {{"path": "/data"}}}}')
    strays = []
    for provider, config in known.items():
        if provider not in PROVIDERS:
            there = _closest(provider, PROVIDERS)
            raise ConfigurationError(f"{where}: no provider {shown(provider)}; there are {there}")
        if not isinstance(config, Mapping):
            raise ConfigurationError(f'{where}.{provider}: expected an object such as {{"path": "/data"}}')
        strays += _unheeded(provider, config, f"{where}.{provider}")
        _check_provider(provider, config, f"{where}.{provider}")
    return strays


def _unheeded(provider: str, config: Mapping[str, Any], where: str) -> list[str]:
    """The keys that nothing acts on; one that no version knows is refused."""
    known = {*_KEYS[provider], "mirrorlocal"}  # a local folder's is refused with a reason of its own
    strays = [key for key in config if key not in known]
    if unknown := [key for key in strays if key not in _OF_OTHERS]:
        there = _closest(unknown[0], _KEYS[provider])
        raise ConfigurationError(f"{where}: no key {shown(unknown[0])}; there are {there}")
    return [f"{where}.{key}" for key in strays]


def _closest(word: str, known: Collection[str]) -> str:
    return ", ".join(difflib.get_close_matches(word[:100], known, n=len(known), cutoff=0.0))


def _check_provider(provider: str, config: Mapping[str, Any], where: str) -> None:
    path, home, readwrite = config.get("path"), config.get("home", DEFAULT_HOME), config.get("readwrite", "false")
    # What a pod mounts is judged where pods are written.
    if provider not in POD_PROVIDERS and (not isinstance(path, str) or not path or "\0" in path):
        expected = {"local": "a folder on the host", "http": "an address"}.get(provider, "a path")
        value = shown(path) if provider != "http" else "not an address"
        raise ConfigurationError(f"{where}.path: {value}, expected {expected}")
    if not isinstance(home, str) or not home.startswith("/") or not home.strip("/") or set(home) & set(",:\0"):
        value = shown(home)
        raise ConfigurationError(f"{where}.home: {value}, expected an absolute path in the container without , or :")
    if str(readwrite).lower() not in ("true", "false"):
        raise ConfigurationError(f'{where}.readwrite: {shown(readwrite)}, expected "true" or "false"')
    if config.get("mirrorlocal") and provider == "local":
        raise ConfigurationError(f"{where}.mirrorlocal: a local folder has no mirror; take it out")
    _check_texts(config, where)
    _check_hashes(config.get("sha256"), f"{where}.sha256")


def _check_texts(config: Mapping[str, Any], where: str) -> None:
    for key in ("mirrorlocal", "args", "endpoint", "region", "cred"):
        if not isinstance(config.get(key), str | None):
            raise ConfigurationError(f"{where}.{key}: expected text in quotes")
    try:
        shlex.split(config.get("args") or "")
    except ValueError as error:
        raise ConfigurationError(
            f"{where}.args: {str(error).lower()}; close the quote, or put a \\ before it"
        ) from error


def _check_hashes(sha256: Any, where: str) -> None:
    hashes = sha256.values() if isinstance(sha256, Mapping) else [] if sha256 is None else [sha256]
    for one in hashes:
        if not isinstance(one, str) or not re.fullmatch(r"[0-9A-Fa-f]{64}", one):
            raise ConfigurationError(f"{where}: {shown(one)}, expected 64 hexadecimal digits, or {{file: digits}}")
