"""credential.json and the environment become Credentials, whose secrets no output shows."""

from __future__ import annotations

import base64
import json
import re
import stat
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus

from madengine import programs
from madengine.config.values import check_key, expected, is_passable, kind_of, shown, shown_key
from madengine.errors import ConfigurationError
from madengine.files import parse_json, read_json, read_text
from madengine.records import Model

FILE = "credential.json"
#: The keys of entries that a variable of the same name replaces: it holds JSON, or with _FILE after it the name of such
#: a file. A list of NAS_NODES has them in every item.
ENDPOINT_KEYS = {
    "NAS_NODES": ("NAME", "HOST", "PORT", "USERNAME", "PASSWORD", "SSH_KEY_FILE"),
    "MAD_AWS_S3": ("USERNAME", "PASSWORD", "REGION", "SESSION_TOKEN", "AWS_ENDPOINT_URL_S3"),
    "MAD_MINIO": ("USERNAME", "PASSWORD", "MINIO_ENDPOINT", "AWS_ENDPOINT_URL_S3"),
}
# Keys of an entry that a variable `<entry>_<KEY>` may set.
KEYS = ("USERNAME", "PASSWORD", "TOKEN", "SSH_KEY_FILE")

_SHORTEST_SECRET = 4
# lines of a key file are secrets of their own, but a short one would blot out half a log
_SHORTEST_LINE = 8
_PUBLIC = re.compile(
    r"(^|_)(user|username|repository|registry|url|endpoint|host|hostname|port|name|email|region|file)(_s3)?$"
)
_PASSWORD_IN_URL = re.compile(r"://[^/@\s:]*:([^/@\s]+)@")
_DOCKER_HUB = ("", "dockerhub", "docker.io", "index.docker.io")
_HOST = r"(?:[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?(?:\.[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?)*|\[[0-9A-Fa-f:]+\])"
_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_REPOSITORY = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*")
_REGISTRY = re.compile(rf"{_HOST}(?::[0-9]+)?(?:/{_COMPONENT})*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")


@dataclass(frozen=True, repr=False)
class Credentials:
    """The credentials of a command; its text form shows names only."""

    #: the entries of credential.json, with what the environment adds
    entries: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    #: the MAD_SECRETS* variables
    secrets: Mapping[str, str] = field(default_factory=dict)
    #: contents of the private keys that entries name by path (`ssh_key_file`), by that path
    key_files: Mapping[str, str] = field(default_factory=dict)
    #: for the user, once, a line each
    warnings: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"Credentials(entries={sorted(self.entries)}, secrets={sorted(self.secrets)})"


@dataclass(frozen=True)
class Login:
    """A user of a registry."""

    #: its host, `docker.io` for Docker Hub
    registry: str
    username: str
    password: str = field(repr=False)


def load_credentials(root: Path, environ: Mapping[str, str], names: Iterable[str] = ()) -> Credentials:
    """Read `credential.json` of the package at `root`, if there is one, and the variables of the environment.

    `names` are entries that models need: variables named after them (AMD_GITHUB_PASSWORD, or a file's name in
    AMD_GITHUB_PASSWORD_FILE) add to the file's values, and win over them. From here on no output shows the secrets.
    Raise ConfigurationError, naming the place and never a value, for a file that is broken or can't be read.
    """
    path = root / FILE
    places = {**_with_places(_object(path), f"{path}: "), **_with_places(_endpoints(environ, root), "")}
    entries = {name: _with_files(_in_upper_case(name, entry), root, where) for name, entry, where in _entries(places)}
    for name in names:
        if additions := _of_environment(name, entries.get(name, {}), environ, root):
            entries[name] = {**entries.get(name, {}), **additions}
    docker_hub = _docker_hub(entries.get("dockerhub", {}), environ, root)
    if docker_hub:
        entries["dockerhub"] = docker_hub
    credentials = Credentials(
        entries,
        _secret_variables(environ, root),
        _key_files(entries, root),
        (*_mode_warning(path), *_docker_hub_warning(environ), *_unknown_keys(entries)),
    )
    programs.hide(secret_values(credentials))
    return credentials


def registry_login(credentials: Credentials, registry: str) -> Login | None:
    """Return the login of a registry (`docker.io`, `dockerhub` or empty is Docker Hub); None is anonymous.

    Raise ConfigurationError if its entry has only one of username and password.
    """
    host = registry.partition("/")[0]
    on_docker_hub = host in _DOCKER_HUB
    names = (registry, "dockerhub") if on_docker_hub else (registry, host)
    name = next((name for name in names if name in credentials.entries), None)
    if name is None:
        return None
    username, password = (credentials.entries[name].get(key, "") for key in ("username", "password"))
    if bool(username) != bool(password):
        missing = "password" if username else "username"
        raise ConfigurationError(f"{FILE}: {name}: no {missing} to log in with; add it, or take the entry out")
    return Login("docker.io" if on_docker_hub else host, username, password) if username else None


def registry_image(registry: str, image: str, credentials: Credentials) -> str:
    """Name an image for a registry; if the registry's entry has a `repository`, the image becomes its tag.

    Raise ConfigurationError for a registry, repository or tag that no engine would take.
    """
    registry_name(registry)
    on_docker_hub = registry in _DOCKER_HUB
    entry = "dockerhub" if on_docker_hub else registry
    repository = credentials.entries.get(entry, {}).get("repository", "")
    prefix = "" if on_docker_hub else f"{registry}/"
    if not repository:
        return prefix + image
    if not _REPOSITORY.fullmatch(repository):
        raise expected(f"{FILE}: {entry}.repository", "lower case such as org/repo", repository)
    if not _TAG.fullmatch(image):
        raise ConfigurationError(
            f"{shown(image)}: invalid tag for {prefix}{repository}, expected at most 128 letters, digits, _ . -; "
            "shorten the model's name"
        )
    return f"{prefix}{repository}:{image}"


def registry_name(registry: str) -> str:
    """Return a registry as it is, `host[:port][/path]` or `dockerhub`.

    Raise ConfigurationError, with the right form, for anything else.
    """
    if "@" in registry:
        # without the value: a password may be in it
        raise ConfigurationError(f"registry: write it without user and password, and put those in {FILE}")
    if registry == "dockerhub" or (_REGISTRY.fullmatch(registry) and _is_host(registry)):
        return registry
    raise ConfigurationError(f"invalid registry {shown(registry)}; write {_rewritten(registry)}")


def model_secrets(credentials: Credentials, model: Model) -> dict[str, str]:
    """Return the environment variables of a model's `cred`, such as AMD_GITHUB_USERNAME.

    Raise ConfigurationError if the entry is missing.
    """
    if not model.cred:
        return {}
    if model.cred not in credentials.entries:
        owner = f" or ask the model's owner, {model.owner}" if model.owner else ""
        raise ConfigurationError(f"{FILE}: no entry {model.cred!r}, which model {model.name} needs; add it{owner}")
    return {_variable_name(model.cred, key): value for key, value in credentials.entries[model.cred].items()}


def secret_values(credentials: Credentials) -> tuple[str, ...]:
    """Return what must not be printed, longest first: secrets of four characters or more, in all their forms."""
    forms = {form for secret in _secrets(credentials) for form in _forms(secret)}
    return tuple(sorted((form for form in forms if len(form) >= _SHORTEST_SECRET), key=lambda form: (-len(form), form)))


def _secrets(credentials: Credentials) -> Iterator[str]:
    for entry in credentials.entries.values():
        for key, value in entry.items():
            yield from _PASSWORD_IN_URL.findall(value)
            if not _PUBLIC.search(key.lower()):
                yield value
        if entry.get("username") and entry.get("password"):
            yield f"{entry['username']}:{entry['password']}"
    yield from credentials.secrets.values()
    yield from credentials.key_files.values()


def _forms(secret: str) -> Iterator[str]:
    """Return the forms in which a secret may be in a text; none for one that is too short."""
    value = secret.strip()
    if len(value) < _SHORTEST_SECRET:
        return
    yield from (value, *(quote(value, safe, errors="surrogateescape") for safe in ("/", "")))
    yield from (
        quote_plus(value, errors="surrogateescape"),
        json.dumps(value)[1:-1],
        json.dumps(value, ensure_ascii=False)[1:-1],
    )
    # As a shell prints it: `set -x`, `printf %q`, `export -p`.
    yield from (
        value.replace("'", "'\\''"),
        value.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n").replace("\t", "\\t"),
        re.sub(r"([^\w@%+=:./-])", r"\\\1", value),
        re.sub(r'([\\"$`])', r"\\\1", value),
    )
    for text in (value, value + "\n"):
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            encoded = encode(text.encode("utf-8", "surrogateescape")).decode("ascii")
            yield from (encoded, encoded.rstrip("="))
    if "\n" in value:
        lines = (line.strip() for line in value.splitlines())
        yield from (line for line in lines if len(line) >= _SHORTEST_LINE and not line.startswith("-----"))


def _object(path: Path) -> dict[str, Any]:
    value = read_json(path, missing={})
    if not isinstance(value, dict):
        raise ConfigurationError(f"{path}: expected an object of named entries, got {kind_of(value)}")
    return value


def _with_places(entries: Mapping[str, Any], where: str) -> dict[str, tuple[Any, str]]:
    return {name: (entry, where + shown_key(name)) for name, entry in entries.items()}


def _endpoints(environ: Mapping[str, str], root: Path) -> dict[str, Any]:
    """Return the entries that variables set in place of the file's of the same name."""
    texts = {name: _variable(name, environ, root) for name in ENDPOINT_KEYS}
    return {name: _json(text, name) for name, text in texts.items() if text}


def _json(text: str, name: str) -> Any:
    try:
        return parse_json(text)
    except ValueError:
        # without the parser's own words, which may hold a part of the text
        raise ConfigurationError(f"{name}: not JSON; write it as the entry {name!r} of {FILE}") from None


def _entries(places: Mapping[str, tuple[Any, str]]) -> Iterator[tuple[str, dict[str, str], str]]:
    """Return the entries by name with their places; those of a list such as NAS_NODES as `NAS_NODES[0]` and so on."""
    for name, (entry, where) in places.items():
        check_key(name, where)
        if isinstance(entry, list):
            for index, item in enumerate(entry):
                yield f"{name}[{index}]", _entry(item, f"{where}[{index}]"), f"{where}[{index}]"
        else:
            yield name, _entry(entry, where), where


def _in_upper_case(name: str, entry: dict[str, str]) -> dict[str, str]:
    """Return an endpoint's entry with its keys as they are read; older documentation has them in lower case."""
    return {key.upper(): value for key, value in entry.items()} if name.partition("[")[0] in ENDPOINT_KEYS else entry


def _of_environment(name: str, entry: Mapping[str, str], environ: Mapping[str, str], root: Path) -> dict[str, str]:
    """Return the values that variables set of an entry, under the entry's own spelling of their keys."""
    spellings = {key.upper(): key for key in entry}
    values = {key: _variable(f"{name}_{key}", environ, root) for key in {*KEYS, *spellings}}
    return {spellings.get(key, key.lower()): value for key, value in values.items() if value}


def _variable(name: str, environ: Mapping[str, str], root: Path) -> str:
    """Return a variable, or the content of the file that the one with _FILE after it names."""
    value, file = environ.get(name, ""), environ.get(f"{name}_FILE", "")
    return _secret_file(root / file, f"{name}_FILE") if file and not value else value


def _secret_variables(environ: Mapping[str, str], root: Path) -> dict[str, str]:
    """Return the MAD_SECRETS* variables; one that ends in _FILE names the file with the value of the one without it."""
    secrets = {}
    for name, value in environ.items():
        if "MAD_SECRETS" not in name:
            continue
        plain = name.removesuffix("_FILE")
        if plain == name:
            secrets[name] = value
        elif value and plain not in environ:
            secrets[plain] = _secret_file(root / value, name)
    return secrets


def _entry(value: Any, where: str) -> dict[str, str]:
    if not isinstance(value, dict):
        raise ConfigurationError(
            f'{where}: expected an object such as {{"username": …, "password": …}}, got {kind_of(value)}'
        )
    for key in value:
        check_key(key, where)
    return {key: _text(item, f"{where}.{shown_key(key)}") for key, item in value.items() if item is not None}


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str | int | float):
        raise ConfigurationError(f"{where}: expected a string, got {kind_of(value)}")
    if not is_passable(str(value)):
        raise ConfigurationError(f"{where}: contains a null character or a lone surrogate; remove it")
    return str(value).lower() if isinstance(value, bool) else str(value)


def _with_files(entry: dict[str, str], root: Path, where: str) -> dict[str, str]:
    """Return the entry with the content of each `<key>_file` as `<key>`; an ssh_key_file stays a path for the model."""
    values: dict[str, str] = {}
    for key, value in entry.items():
        name = re.sub("_(file|FILE)$", "", key)
        if name.lower() in ("", key.lower(), "ssh_key"):
            values[key] = value
        else:
            values[name] = _secret_file(root / value, f"{where}.{key}")
    return values


def _secret_file(path: Path, where: str) -> str:
    try:
        content = read_text(path).rstrip("\r\n")
    except ConfigurationError as error:
        raise ConfigurationError(f"{where}: {error}") from None
    if not content:
        raise ConfigurationError(f"{where}: {path}: expected a secret, got an empty file")
    if "\0" in content:
        raise ConfigurationError(f"{where}: {path}: expected text, got a null character")
    return content


def _key_files(entries: Mapping[str, Mapping[str, str]], root: Path) -> dict[str, str]:
    """Return the private keys on this machine by path; a path may also be one inside the container."""
    contents: dict[str, str] = {}
    for path in (value for entry in entries.values() for key, value in entry.items() if key.lower() == "ssh_key_file"):
        with suppress(ConfigurationError):
            contents[path] = read_text(root / path)
    return contents


def _docker_hub(entry: dict[str, str], environ: Mapping[str, str], root: Path) -> dict[str, str]:
    """Return the `dockerhub` entry after MAD_DOCKERHUB_*: user and password together replace all of it."""
    user, repository = environ.get("MAD_DOCKERHUB_USER", ""), environ.get("MAD_DOCKERHUB_REPO", "")
    password = _variable("MAD_DOCKERHUB_PASSWORD", environ, root) if user else ""
    login = {"username": user, "password": password} if password else entry
    return {**login, "repository": repository} if repository else login


def _docker_hub_warning(environ: Mapping[str, str]) -> tuple[str, ...]:
    user = bool(environ.get("MAD_DOCKERHUB_USER"))
    password = bool(environ.get("MAD_DOCKERHUB_PASSWORD") or environ.get("MAD_DOCKERHUB_PASSWORD_FILE"))
    if user == password:
        return ()
    half, missing = ("USER", "PASSWORD") if user else ("PASSWORD", "USER")
    return (f"MAD_DOCKERHUB_{half}: ignored without MAD_DOCKERHUB_{missing}; set both",)


def _unknown_keys(entries: Mapping[str, Mapping[str, str]]) -> Iterator[str]:
    for name, entry in entries.items():
        known = ENDPOINT_KEYS.get(name.partition("[")[0])
        for key in (key for key in entry if known and key not in known and not key.startswith("_")):
            yield f"{FILE}: {shown_key(name)}: unknown key {shown(key)} ignored"


def _mode_warning(path: Path) -> tuple[str, ...]:
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
    except OSError:
        return ()
    return (f"{path}: readable by others (mode {mode:04o}); chmod 600 it",) if mode & 0o044 else ()


def _is_host(registry: str) -> bool:
    """Return whether engines take the first part for a host: another word would be an organisation on Docker Hub."""
    host = registry.partition("/")[0]
    return host == "localhost" or "." in host or ":" in host


def _rewritten(registry: str) -> str:
    """Return how to write an invalid registry."""
    host, slash, path = (
        re.sub(r"^[A-Za-z][A-Za-z+]*://", "", registry.strip()).strip("/").removeprefix("dockerhub/").partition("/")
    )
    better = host + slash + path.lower()
    if not _REGISTRY.fullmatch(better):
        return "it as host[:port][/path], such as reg.example.com/team"
    if not _is_host(better):
        return f"docker.io/{better.lower()} for Docker Hub, or the host with its port, such as {host}:5000"
    return better


def _variable_name(cred: str, key: str) -> str:
    name = f"{cred}_{key.upper()}"
    if not re.fullmatch(r"[!-<>-~]+", name):
        raise ConfigurationError(f"{FILE}: {cred}.{key}: can't be part of a variable's name; rename it")
    return name
