"""Data sets as the mounts and the environment of a model that needs data."""

from __future__ import annotations

import logging
import re
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from madengine.config.credentials import Credentials
from madengine.data_sets.data_file import DEFAULT_HOME, PROVIDERS, checked, data_sets
from madengine.data_sets.fetch import Client, FetchResult, Source, check, fetch, identity_hash, is_complete, size
from madengine.data_sets.providers import explain, source
from madengine.errors import ConfigurationError, MadengineError, RunError
from madengine.files import cache_home, human_size
from madengine.programs import git_lfs
from madengine.records import Model

logger = logging.getLogger(__name__)

# A local folder with more files has no size in the row.
_COUNTED_FILES = 100_000


@dataclass(frozen=True)
class Provided:
    """A model's data on this host; all is empty without data."""

    #: (host path, container path, read-only)
    mounts: tuple[tuple[str, str, bool], ...] = ()
    #: The variables that name the container paths.
    environment: Mapping[str, str] = field(default_factory=dict)
    #: The names of the data sets, joined by commas; so are the providers.
    dataname: str = ""
    data_provider_type: str = ""
    #: Of all data sets together.
    data_size: str = ""
    #: The seconds that the fetches took now.
    data_download_duration: str = ""

    @property
    def folders(self) -> tuple[Path, ...]:
        """The folders of this machine that hold the data."""
        return tuple(Path(folder) for folder, _, _ in self.mounts)


@dataclass(frozen=True)
class _Location:
    """One data set at one of its providers."""

    name: str
    provider: str
    config: Mapping[str, Any]
    #: The folder on this host.
    folder: Path
    #: None where nothing is fetched.
    source: Source | None
    is_mirror: bool = False


@dataclass(frozen=True)
class Data:
    """The known data sets."""

    #: The configurations by data set and provider.
    sources: Mapping[str, Mapping[str, Mapping[str, Any]]] = field(default_factory=dict)
    #: The file that they come from.
    path: Path = Path("data.json")
    credentials: Credentials = field(default_factory=Credentials)
    #: Where data are fetched to, unless data.json or the command line names a mirror.
    cache: Path = Path("~/.cache/madengine/data")
    #: Keys of other versions.
    ignored_keys: tuple[str, ...] = ()
    #: The names that the data file of the build has providers for.
    provided: frozenset[str] = frozenset()

    @classmethod
    def load(
        cls,
        path: Path,
        extra: Mapping[str, Any],
        credentials: Credentials | None = None,
        provided: Iterable[str] = (),
    ) -> Data:
        """Read a data.json (a missing one is empty); `extra`, the context's `data`, replaces entries of the same name.

        `provided` are the names that the data.json of the build has providers for.
        Raises ConfigurationError, naming the position or the key, for a broken file or an unknown key.
        """
        (of_file, ignored), (of_context, ignored_of_context) = data_sets(path), checked(extra, "context data")
        return cls(
            sources={**of_file, **of_context},
            path=path,
            credentials=credentials or Credentials(),
            cache=cache_home() / "data",
            ignored_keys=(*ignored, *ignored_of_context),
            provided=frozenset(provided),
        )

    def credential_names(self) -> set[str]:
        """Return the entries of credential.json that data sets name."""
        configs = (config for providers in self.sources.values() for config in providers.values())
        return {str(config["cred"]) for config in configs if config.get("cred")}

    def mounts(self, model: Model, force_mirror_local: str, client: Client | None = None) -> Provided:
        """Fetch a model's data where they are elsewhere, into `force_mirror_local` if that is given.

        Raises RunError for an unknown name, or where all of its providers fail, with the reason of each.
        """
        client = client or Client()
        return self._provided(model, lambda name: self._obtain(name, model, force_mirror_local, client))

    def planned(self, model: Model, force_mirror_local: str) -> tuple[Provided, list[str]]:
        """Return what `mounts` would, with the lines for a POSIX shell that fetch the data.

        Raises RunError for an unknown name, or where none of its providers could be tried.
        """
        lines: list[str] = []

        def plan(name: str) -> tuple[_Location, FetchResult]:
            location = self._first(name, model, force_mirror_local)
            if location.source and not _is_complete(location):
                lines.append(shlex.join(["mkdir", "-p", str(location.folder)]))
                lines.extend(location.source.shell_lines(location.folder))
            return location, FetchResult(-1, 0.0)

        return self._provided(model, plan), lines

    def _provided(self, model: Model, obtain: Callable[[str], tuple[_Location, FetchResult]]) -> Provided:
        names = data_names(model)
        fetched = [name for name in names if not self.is_scripts_own(name, model)]
        if not fetched:
            return Provided(environment={"MAD_DATANAME": ",".join(names)} if names else {}, dataname=",".join(names))
        locations, results = zip(*(obtain(name) for name in fetched), strict=True)
        homes = [_home(location.config, index, len(fetched)) for index, location in enumerate(locations)]
        sizes = [result.size for result in results]
        return Provided(
            mounts=tuple(
                (str(location.folder), home, not _is_writable(location))
                for location, home in zip(locations, homes, strict=True)
            ),
            environment={"MAD_DATAHOME": ",".join(homes), "MAD_DATANAME": ",".join(names)},
            dataname=",".join(names),
            data_provider_type=",".join(location.provider for location in locations),
            data_size=human_size(sum(sizes)) if min(sizes) >= 0 else "",
            data_download_duration=str(round(sum(result.seconds for result in results), 3)),
        )

    # --- one data set ---

    def is_scripts_own(self, name: str, model: Model) -> bool:
        """Whether the model's script fetches a data set itself: it has no providers, or there is no data.json.

        Raises RunError for an unknown name.
        """
        providers = self._providers(name, model)
        if name not in self.sources:
            logger.info(f"data {name}: there is no {self.path}; the script of {model.name} has to fetch it")
        return not providers

    def _obtain(self, name: str, model: Model, mirror: str, client: Client) -> tuple[_Location, FetchResult]:
        """Obtain a data set from its first provider that works; after a complete fetch no other machine is asked."""
        providers = self._providers(name, model)
        complete = self._complete_provider(name, model, mirror)
        reasons = []
        for provider in _ordered(providers):
            if complete and provider != complete and provider not in ("custom", "local"):
                continue
            try:
                location = self._location(name, provider, providers[provider], mirror)
                return location, _fetch(location, client)
            except MadengineError as error:
                reasons.append(f"{provider}: {explain(provider, error)}")
                if provider != "local":
                    logger.info(f"data {name}: {reasons[-1]}")
        raise _no_provider(name, model, reasons)

    def _first(self, name: str, model: Model, mirror: str) -> _Location:
        """The provider that would be tried first, of those that can be judged without another machine."""
        providers = self._providers(name, model)
        complete, reasons = self._complete_provider(name, model, mirror), []
        for provider in [complete] if complete else _ordered(providers):
            try:
                location = self._location(name, provider, providers[provider], mirror)
                if location.source is None:
                    _check_folder(location)
                return location
            except MadengineError as error:
                reasons.append(f"{provider}: {error}")
        raise _no_provider(name, model, reasons)

    def _complete_provider(self, name: str, model: Model, mirror: str) -> str:
        """The first provider whose data an earlier fetch has completed; empty where there is none."""
        providers = self._providers(name, model)
        for provider in _ordered(providers):
            try:
                location = self._location(name, provider, providers[provider], mirror)
            except MadengineError:
                continue
            if _is_complete(location):
                return provider
        return ""

    def _location(self, name: str, provider: str, config: Mapping[str, Any], mirror: str) -> _Location:
        if provider == "local":
            # A relative path starts at the data file's folder.
            return _Location(name, provider, config, (self.path.parent / str(config["path"])).absolute(), None)
        origin = source(provider, name, config, self.path.parent, self.credentials)
        mirror = mirror or str(config.get("mirrorlocal") or "")
        if mirror and not Path(mirror).is_dir():
            raise RunError(f"its mirror {mirror} does not exist; make the folder")
        slug = re.sub(r"[^A-Za-z0-9_.-]+", "_", name).lstrip(".") or "data"
        if mirror:
            return _Location(name, provider, config, Path(mirror).absolute() / slug, origin, is_mirror=True)
        return _Location(name, provider, config, self.cache / f"{slug}-{identity_hash(origin.identity)}", origin)

    def _providers(self, name: str, model: Model) -> Mapping[str, Mapping[str, Any]]:
        if name in self.sources:
            return self.sources[name]
        if not self.path.exists() and name not in self.provided:
            return {}
        if not self.path.exists():
            raise RunError(
                f"model {model.name}: needs data {name!r}, and there is no {self.path}; copy it from where it was built"
            )
        known = ", ".join(sorted(self.sources)) or "none"
        raise RunError(
            f"model {model.name}: no data {name!r} in {self.path}; known: {known}; add it, as {{}} if its script "
            "fetches it"
        )


def data_names(model: Model) -> tuple[str, ...]:
    """Return the names of a model's data sets."""
    return tuple(dict.fromkeys(name.strip() for name in model.data.split(",") if name.strip()))


def provided_names(path: Path, models: Sequence[Model]) -> list[str]:
    """Return the models' data sets that a data.json has providers for; none if it can't be read."""
    names = {name for model in models for name in data_names(model)}
    with suppress(ConfigurationError):
        return sorted(name for name, providers in data_sets(path)[0].items() if name in names and providers)
    return []


def _ordered(providers: Mapping[str, Any]) -> Iterator[str]:
    yield from (provider for provider in PROVIDERS if provider in providers)


def _no_provider(name: str, model: Model, reasons: Sequence[str]) -> RunError:
    return RunError(
        f"model {model.name}: no provider of data {name!r} can be used: {'; '.join(reasons) or 'it has none'}"
    )


def _is_complete(location: _Location) -> bool:
    """Whether an earlier fetch has completed the data."""
    return location.source is not None and is_complete(location.source, location.folder, location.config.get("sha256"))


def _fetch(location: _Location, client: Client) -> FetchResult:
    sha256 = location.config.get("sha256")
    if location.source:
        result = fetch(location.name, location.source, location.folder, sha256, client)
    else:
        _check_folder(location)
        check(location.folder, sha256)
        result = FetchResult(size(location.folder, _COUNTED_FILES), 0.0)
    if problem := git_lfs.problem(location.folder):
        raise RunError(problem)
    return result


def _check_folder(location: _Location) -> None:
    if problem := _problem(location.folder):
        raise RunError(problem)


def _problem(folder: Path) -> str:
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


def _is_writable(location: _Location) -> bool:
    """Whether the container may write there; a mirror always was writable."""
    return str(location.config.get("readwrite", location.is_mirror)).lower() == "true"
