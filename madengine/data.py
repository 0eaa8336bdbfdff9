"""What data.json says becomes the mounts and the environment of a model that needs data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from madengine.errors import ConfigurationError, RunError
from madengine.files import read_json
from madengine.records import Model

PROVIDERS = ("custom", "local", "minio", "nas", "aws")
DEFAULT_HOME = "/data_dlm"


@dataclass(frozen=True)
class Provided:
    """A model's data: mounts as (host path, container path, read-only), and the variables that name them.

    `dataname` and `data_provider_type` have one part per data set, joined by commas; empty without data.
    """

    mounts: tuple[tuple[str, str, bool], ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    dataname: str = ""
    data_provider_type: str = ""


@dataclass(frozen=True)
class Data:
    """The known data sets: {name: {provider: configuration}}; `path` is the file they come from."""

    sources: Mapping[str, Mapping[str, Mapping[str, Any]]] = field(default_factory=dict)
    path: Path = Path("data.json")

    @classmethod
    def load(cls, path: Path, extra: Mapping[str, Any]) -> Data:
        """Read a data.json (a missing one is empty); `extra`, the context's `data`, replaces entries of the same name.

        Raises ConfigurationError, naming the position or the key, for what is broken.
        """
        sources = {**_object(path), **extra}
        for name, providers in sources.items():
            _check(providers, f"{path if name not in extra else 'context data'}: {name}")
        return cls(sources, path)

    def mounts(self, model: Model, force_mirror_local: str) -> Provided:
        """Find a model's data on this host; `force_mirror_local` is the folder that fetched data would go to.

        Raises RunError where a name is unknown, or where none of its providers can be used.
        """
        names = tuple(dict.fromkeys(name.strip() for name in model.data.split(",") if name.strip()))
        if not names:
            return Provided()
        configs = [self._local(name, model, force_mirror_local) for name in names]
        homes = [_home(config, index, len(names)) for index, config in enumerate(configs)]
        return Provided(
            tuple(
                (str(self._host(config)), home, not _is_writable(config))
                for config, home in zip(configs, homes, strict=True)
            ),
            {"MAD_DATAHOME": ",".join(homes), "MAD_DATANAME": ",".join(names)},
            ",".join(names),
            ",".join("local" for _ in names),
        )

    def _local(self, name: str, model: Model, mirror: str) -> Mapping[str, Any]:
        """The configuration of a data set's local provider, whose folder is there."""
        providers = self._providers(name, model)
        if "local" in providers and not _absence(self._host(providers["local"])):
            return providers["local"]
        tried = "; ".join(self._failures(providers, mirror and f"{mirror}/{name}")) or "it has none"
        raise RunError(f"model {model.name}: no provider of data {name!r} can be used: {tried}")

    def _providers(self, name: str, model: Model) -> Mapping[str, Mapping[str, Any]]:
        if name in self.sources:
            return self.sources[name]
        if not self.sources and not self.path.exists():
            raise RunError(f"model {model.name}: needs data {name!r}, and there is no {self.path}; write one")
        known = ", ".join(sorted(self.sources)) or "none"
        raise RunError(f"model {model.name}: no data {name!r} in {self.path}; known: {known}")

    def _failures(self, providers: Mapping[str, Mapping[str, Any]], mirror: str) -> Iterator[str]:
        for provider in (*PROVIDERS, *sorted(providers.keys() - set(PROVIDERS))):
            if provider == "local" and provider in providers:
                yield f"local: {_absence(self._host(providers[provider]))}"
            elif provider in providers and provider in PROVIDERS:
                into = f" into {mirror}" if mirror else ""
                yield f"{provider}: fetching{into} is not supported by this version; put the data under a local path"
            elif provider in providers:
                yield f"{provider}: no such provider, use one of {', '.join(PROVIDERS)}"

    def _host(self, config: Mapping[str, Any]) -> Path:
        """A local provider's folder on this host; a relative path starts where the data file lies."""
        return (self.path.parent / str(config["path"])).absolute()


def _absence(folder: Path) -> str:
    """Why a folder can't be used; empty if it can."""
    try:
        if folder.is_dir():
            return ""
        return f"{folder} is no directory" if folder.exists() else f"{folder} does not exist"
    except OSError as error:
        return f"{folder}: {(error.strerror or str(error)).lower()}"


def _home(config: Mapping[str, Any], index: int, count: int) -> str:
    """Where a data set appears in the container: numbered, unless it is the only one and says where."""
    home = str(config.get("home", DEFAULT_HOME)).rstrip("/")
    return home if "home" in config and count == 1 else f"{home}_{index}"


def _is_writable(config: Mapping[str, Any]) -> bool:
    return str(config.get("readwrite", "")).lower() == "true"


def _check(providers: Any, where: str) -> None:
    if not isinstance(providers, Mapping):
        raise ConfigurationError(f'{where}: expected an object such as {{"local": {{"path": "/data"}}}}')
    for provider, config in providers.items():
        if not isinstance(config, Mapping):
            raise ConfigurationError(f'{where}.{provider}: expected an object such as {{"path": "/data"}}')
    if "local" in providers:
        _check_local(providers["local"], f"{where}.local")


def _check_local(config: Mapping[str, Any], where: str) -> None:
    path, home, readwrite = config.get("path"), config.get("home", DEFAULT_HOME), config.get("readwrite", "false")
    if not isinstance(path, str) or not path or "\0" in path:
        raise ConfigurationError(f"{where}.path: {path!r}, expected a folder on the host")
    if not isinstance(home, str) or not home.startswith("/") or not home.strip("/") or set(home) & set(",:\0"):
        raise ConfigurationError(f"{where}.home: {home!r}, expected an absolute path in the container without , or :")
    if str(readwrite).lower() not in ("true", "false"):
        raise ConfigurationError(f'{where}.readwrite: {readwrite!r}, expected "true" or "false"')
    if config.get("mirrorlocal"):
        raise ConfigurationError(f"{where}.mirrorlocal: a local folder has no mirror; take it out")


def _object(path: Path) -> dict[str, Any]:
    value = read_json(path, missing={})
    if not isinstance(value, dict):
        raise ConfigurationError(f"{path}: expected an object of data sets by name")
    return value
