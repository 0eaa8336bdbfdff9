"""What data.json says becomes the mounts and the environment of a model that needs data."""

from __future__ import annotations

import logging
import os
import re
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from madengine.config.credentials import Credentials
from madengine.data_sets import data_file, fetch, providers
from madengine.data_sets.data_file import DEFAULT_HOME, PROVIDERS
from madengine.data_sets.fetch import Client, Fetched, Source
from madengine.errors import MadengineError, RunError
from madengine.files import human_size
from madengine.records import Model

logger = logging.getLogger(__name__)

# More files than these of a local folder are not counted for the row.
_COUNTED = 100_000


@dataclass(frozen=True)
class Provided:
    """A model's data: mounts as (host path, container path, read-only), and the variables that name them.

    `dataname` and `data_provider_type` have one part per data set, joined by commas; empty without data, as are the
    size (of all together) and the seconds that it took now to fetch them.
    """

    mounts: tuple[tuple[str, str, bool], ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    dataname: str = ""
    data_provider_type: str = ""
    data_size: str = ""
    data_download_duration: str = ""


@dataclass(frozen=True)
class _Place:
    """One data set and one of its providers: its folder on this host; `source` is None where nothing is fetched."""

    name: str
    provider: str
    config: Mapping[str, Any]
    folder: Path
    source: Source | None
    is_mirror: bool = False


@dataclass(frozen=True)
class Data:
    """The known data sets: {name: {provider: configuration}}; `path` is the file they come from.

    `cache` is where fetched data are kept, unless data.json or the command line names a mirror; `ignored_keys` are the
    keys of other versions that this one ignores.
    """

    sources: Mapping[str, Mapping[str, Mapping[str, Any]]] = field(default_factory=dict)
    path: Path = Path("data.json")
    credentials: Credentials = field(default_factory=Credentials)
    cache: Path = Path("~/.cache/madengine/data")
    ignored_keys: tuple[str, ...] = ()

    @classmethod
    def load(cls, path: Path, extra: Mapping[str, Any], credentials: Credentials | None = None) -> Data:
        """Read a data.json (a missing one is empty); `extra`, the context's `data`, replaces entries of the same name.

        Raises ConfigurationError, naming the position or the key, for what is broken or known to nobody.
        """
        (here, strays), (given, more) = data_file.data_sets(path), data_file.checked(extra, "context data")
        home = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
        cache = home / "madengine/data"
        return cls({**here, **given}, path, credentials or Credentials(), cache, (*strays, *more))

    def credential_names(self) -> set[str]:
        """The entries of credential.json that data sets name."""
        return {
            str(config["cred"]) for known in self.sources.values() for config in known.values() if config.get("cred")
        }

    def mounts(self, model: Model, force_mirror_local: str, client: Client | None = None) -> Provided:
        """Have a model's data on this host, fetched where they are elsewhere; `force_mirror_local` is where they go.

        Raises RunError where a name is unknown, or where none of its providers gives the data: it says what each said.
        """
        client = client or Client()
        return self._provided(model, lambda name: self._obtained(name, model, force_mirror_local, client))

    def planned(self, model: Model, force_mirror_local: str) -> tuple[Provided, list[str]]:
        """What `mounts` would give, with the lines for a POSIX shell that fetch it.

        Raises RunError where a name is unknown, or none of its providers could be tried.
        """
        lines: list[str] = []

        def plan(name: str) -> tuple[_Place, Fetched]:
            place = self._first(name, model, force_mirror_local)
            if place.source and not fetch.is_complete(place.source, place.folder, place.config.get("sha256")):
                lines.append(shlex.join(["mkdir", "-p", str(place.folder)]))
                lines.extend(place.source.shell_lines(place.folder))
            return place, Fetched(-1, 0.0)

        return self._provided(model, plan), lines

    def _provided(self, model: Model, obtain: Callable[[str], tuple[_Place, Fetched]]) -> Provided:
        names = tuple(dict.fromkeys(name.strip() for name in model.data.split(",") if name.strip()))
        if not names:
            return Provided()
        for name in names:
            self._providers(name, model)
        found = [obtain(name) for name in names]
        places = [place for place, _ in found]
        homes = [_home(place.config, index, len(names)) for index, place in enumerate(places)]
        sizes = [came.size for _, came in found]
        return Provided(
            tuple(
                (str(place.folder), home, not _is_writable(place)) for place, home in zip(places, homes, strict=True)
            ),
            {"MAD_DATAHOME": ",".join(homes), "MAD_DATANAME": ",".join(names)},
            ",".join(names),
            ",".join(place.provider for place in places),
            human_size(sum(sizes)) if min(sizes) >= 0 else "",
            str(round(sum(came.seconds for _, came in found), 3)),
        )

    # --- one data set ---

    def _obtained(self, name: str, model: Model, mirror: str, client: Client) -> tuple[_Place, Fetched]:
        """The first provider that gives a data set; a folder of an earlier fetch spares asking the others' machines."""
        known = self._providers(name, model)
        ready = self._ready(name, model, mirror)
        tried = []
        for provider in _ordered(known):
            if ready and provider != ready and provider not in ("custom", "local"):
                continue
            try:
                place = self._place(name, provider, known[provider], mirror)
                return place, _here(place, client)
            except MadengineError as error:
                tried.append(f"{provider}: {providers.explain(provider, error)}")
                if provider != "local":
                    logger.info(f"data {name}: {tried[-1]}")
        raise _none_of(name, model, tried)

    def _first(self, name: str, model: Model, mirror: str) -> _Place:
        """The provider that would be tried first, of those that can be judged without asking anybody."""
        known = self._providers(name, model)
        ready, tried = self._ready(name, model, mirror), []
        for provider in [ready] if ready else _ordered(known):
            try:
                place = self._place(name, provider, known[provider], mirror)
                if place.source is None:
                    _check_folder(place)
                return place
            except MadengineError as error:
                tried.append(f"{provider}: {error}")
        raise _none_of(name, model, tried)

    def _ready(self, name: str, model: Model, mirror: str) -> str:
        """The first provider whose data an earlier fetch has brought; empty where there is none."""
        known = self._providers(name, model)
        for provider in _ordered(known):
            try:
                place = self._place(name, provider, known[provider], mirror)
            except MadengineError:
                continue
            if place.source and fetch.is_complete(place.source, place.folder, place.config.get("sha256")):
                return provider
        return ""

    def _place(self, name: str, provider: str, config: Mapping[str, Any], mirror: str) -> _Place:
        if provider == "local":
            # A relative path starts where the data file lies.
            return _Place(name, provider, config, (self.path.parent / str(config["path"])).absolute(), None)
        source = providers.source(provider, name, config, self.path.parent, self.credentials)
        mirror = mirror or str(config.get("mirrorlocal") or "")
        if mirror and not Path(mirror).is_dir():
            raise RunError(f"its mirror {mirror} does not exist; make the folder")
        slug = re.sub(r"[^A-Za-z0-9_.-]+", "_", name).lstrip(".") or "data"
        if mirror:
            return _Place(name, provider, config, Path(mirror).absolute() / slug, source, is_mirror=True)
        return _Place(name, provider, config, self.cache / f"{slug}-{fetch.described(source.identity)}", source)

    def _providers(self, name: str, model: Model) -> Mapping[str, Mapping[str, Any]]:
        if name in self.sources:
            return self.sources[name]
        if not self.sources and not self.path.exists():
            raise RunError(f"model {model.name}: needs data {name!r}, and there is no {self.path}; write one")
        known = ", ".join(sorted(self.sources)) or "none"
        raise RunError(f"model {model.name}: no data {name!r} in {self.path}; known: {known}")


def _ordered(known: Mapping[str, Any]) -> Iterator[str]:
    yield from (provider for provider in PROVIDERS if provider in known)


def _none_of(name: str, model: Model, tried: Sequence[str]) -> RunError:
    said = "; ".join(tried) or "it has none"
    return RunError(f"model {model.name}: no provider of data {name!r} can be used: {said}")


def _here(place: _Place, client: Client) -> Fetched:
    sha256 = place.config.get("sha256")
    if place.source:
        return fetch.fetched(place.name, place.source, place.folder, sha256, client)
    _check_folder(place)
    fetch.check(place.folder, sha256)
    return Fetched(fetch.size(place.folder, _COUNTED), 0.0)


def _check_folder(place: _Place) -> None:
    if problem := _absence(place.folder):
        raise RunError(problem)


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


def _is_writable(place: _Place) -> bool:
    """Whether the container may write there; a mirror always was writable."""
    return str(place.config.get("readwrite", place.is_mirror)).lower() == "true"
