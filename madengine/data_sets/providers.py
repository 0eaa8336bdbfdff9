"""The providers of data.json that fetch: custom scripts, MinIO, NAS, S3 and HTTP(S)."""

from __future__ import annotations

import hashlib
import logging
import os
import re
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit

from madengine import programs
from madengine.config.credentials import FILE, Credentials
from madengine.data_sets.data_file import POD_PROVIDERS
from madengine.data_sets.fetch import Client, Source
from madengine.errors import CommandError, ConfigurationError, RunError
from madengine.programs import aws, curl, rsync, secret_files
from madengine.programs.caller_settings import log_settings
from madengine.programs.secret_files import Answers

logger = logging.getLogger(__name__)

DEFAULT_MINIO = "http://localhost:9000"
# The limit of a custom script in older versions.
CUSTOM_SECONDS = 1200
# What `timeout` exits with.
_TIMED_OUT = 124


@dataclass(frozen=True)
class Custom:
    """A script of the package that writes the data into its working directory."""

    name: str
    script: Path
    args: str
    provider: str = "custom"

    @property
    def identity(self) -> dict[str, str]:
        # Another script of the same name fetches other data.
        content = self.script.read_bytes() if self.script.is_file() else b""
        script = hashlib.sha256(content).hexdigest()
        return {"provider": self.provider, "path": self.script.name, "script": script, "args": self.args}

    def fetch(self, target: Path, client: Client) -> None:
        if not self.script.is_file():
            raise RunError(f"{self.script}: no such file")
        try:
            client.run(self._command(target), self.script.name)
        except CommandError as error:
            if error.code != _TIMED_OUT:
                raise
            raise RunError(f"{self.script.name}: took longer than {CUSTOM_SECONDS} s") from error

    def shell_lines(self, target: Path) -> Iterator[str]:
        yield f"(cd {shlex.quote(str(target))} && {programs.shell_line(self._command(target))})"

    def _command(self, target: Path) -> Any:
        words = [f"{CUSTOM_SECONDS}", "bash", str(self.script.resolve()), *shlex.split(self.args)]
        environment = {"MAD_DATAHOME": str(target.resolve()), "MAD_DATANAME": self.name}
        return programs.program("timeout", *words, env=environment).with_cwd(target)


@dataclass(frozen=True)
class Nas:
    """A path on one of several machines, over ssh; the first that has it is used."""

    path: str
    nodes: Sequence[Mapping[str, str]]
    root: Path
    provider: str = "nas"

    @property
    def identity(self) -> dict[str, str]:
        # The same path on another machine holds other data.
        hosts = ",".join(node.get("HOST", "") for node in self.nodes)
        return {"provider": self.provider, "path": self.path, "hosts": hosts}

    def fetch(self, target: Path, client: Client) -> None:
        if not self.nodes:
            raise RunError(f"no NAS_NODES in {FILE} or the environment")
        reasons = []
        for node in self.nodes:
            try:
                with secret_files.unattended(self._answers(node)) as environment:
                    self._copy(_host(node), target, client, environment)
                return
            except (CommandError, ConfigurationError) as error:
                reasons.append(f"{node.get('NAME') or node.get('HOST', '')}: {_without_prefix(error)}")
        raise RunError("; ".join(reasons))

    def shell_lines(self, target: Path) -> Iterator[str]:
        for node in self.nodes[:1]:
            port = _port(node)
            environment = {"GIT_SSH": shlex.join(["ssh", *(["-p", port] if port else [])])}
            # Whether it is a file or a folder only the machine knows.
            command = rsync.copy(_host(node), f"{self.path.rstrip('/')}/", target, environment)
            yield shlex.join(command.formulate())

    def _copy(self, host: str, target: Path, client: Client, environment: Mapping[str, str]) -> None:
        listing = client.run(rsync.listing(host, self.path, environment))
        is_folder = any(line.startswith("d") for line in listing)
        path = f"{self.path.rstrip('/')}/" if is_folder else self.path
        client.run_resuming(rsync.copy(host, path, target, environment), target, rsync.BROKEN)

    def _answers(self, node: Mapping[str, str]) -> Answers:
        key = node.get("SSH_KEY_FILE", "")
        return Answers(password=node.get("PASSWORD", ""), key=str(self.root / key) if key else "", port=_port(node))


@dataclass(frozen=True)
class S3:
    """A folder or an object of S3, or of a compatible server (MinIO)."""

    path: str
    account: aws.Account
    provider: str = "aws"

    @property
    def identity(self) -> dict[str, str]:
        return {"provider": self.provider, "path": self.path, "endpoint": self.account.endpoint}

    def fetch(self, target: Path, client: Client) -> None:
        if not self.account.endpoint:
            log_settings("aws", ["AWS_ENDPOINT_URL*"], os.environ, "data come from there, not from Amazon")
        listing = client.run(self.account.listing(self.path))
        kind = aws.kind(listing, self.path)
        if kind == "folder":
            client.run(self.account.copy_folder(self.path, target))
        elif kind == "file":
            client.run(self.account.copy_file(self.path, target))
        else:
            raise RunError(f"{self.path}: no such object or folder")

    def shell_lines(self, target: Path) -> Iterator[str]:
        folder = programs.shell_line(self.account.copy_folder(self.path, target))
        if aws.kind([], self.path) == "folder":
            yield folder
            return
        # Whether it is a folder or an object only the server knows.
        listing = programs.shell_line(self.account.listing(self.path))
        file = programs.shell_line(self.account.copy_file(self.path, target))
        name = shlex.quote(f"PRE {self.path.rstrip('/').rpartition('/')[2]}/")
        yield f"if {listing} | grep -qF {name}; then {folder}; else {file}; fi"


@dataclass(frozen=True)
class Http:
    """One file by its URL."""

    url: str
    username: str = ""
    password: str = field(default="", repr=False)
    token: str = field(default="", repr=False)
    provider: str = "http"

    @property
    def identity(self) -> dict[str, str]:
        parts = urlsplit(self.url)
        query = {"query": hashlib.sha256(parts.query.encode()).hexdigest()[:12]} if parts.query else {}
        return {"provider": self.provider, "url": self.shown, **query}

    @property
    def shown(self) -> str:
        """The URL without its query and login, which may be secret."""
        parts = urlsplit(self.url)
        return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))

    @property
    def file(self) -> str:
        """The file's name here."""
        return unquote(urlsplit(self.url).path.rstrip("/").rpartition("/")[2]).replace("/", "_").lstrip(".") or "data"

    def fetch(self, target: Path, client: Client) -> None:
        if own := curl.users_file():
            logger.info(f"{self.shown}: {own} is ignored; a proxy is read from the environment")
        etag = target.with_name(f".{target.name}.etag")
        file = target / self.file
        try:
            self._fetch(file, etag, client)
        except CommandError as error:
            if error.code != curl.NO_RESUME:
                raise
            logger.info(f"{self.shown}: can't be resumed; fetching it from its start")
            file.unlink(missing_ok=True)
            self._fetch(file, etag, client)
        etag.unlink(missing_ok=True)

    def shell_lines(self, target: Path) -> Iterator[str]:
        words = [
            "curl",
            "--disable",
            "--fail",
            "--location",
            "--continue-at",
            "-",
            "--output",
            str(target / self.file),
            self.shown,
        ]
        yield shlex.join(words) + ("  # with its user and password" if self.username or self.token else "")

    def _fetch(self, file: Path, etag: Path, client: Client) -> None:
        """Fetch what is missing, or all of a file whose ETag has changed."""
        while True:
            before = file.stat().st_size if file.exists() else 0
            tag = etag.read_text().strip() if before and etag.exists() else ""
            text = curl.settings(self.url, self.username, self.password, self.token, tag if tag[:1] == '"' else "")
            try:
                with secret_files.private_file(text) as settings:
                    client.run(curl.fetch(settings, file, etag))
                return
            except CommandError as error:
                if error.code not in curl.BROKEN or not file.exists() or file.stat().st_size <= before:
                    raise
                logger.info(f"{error}; resuming from byte {file.stat().st_size}")


def source(provider: str, name: str, config: Mapping[str, Any], root: Path, credentials: Credentials) -> Source:
    """Return the provider of this name for a data set; the paths of scripts and keys start at `root`.

    Raises ConfigurationError for a wrong entry, RunError where only a pod can mount it.
    """
    if provider in POD_PROVIDERS:
        raise RunError(f"only a pod can mount it; a run on a host needs one of local, {', '.join(_MAKERS)}")
    return _MAKERS[provider](name, config, root, credentials)


def explain(provider: str, error: Exception) -> str:
    """Return why a provider failed, or what to install where its program is missing."""
    message = str(error)
    install = {"nas": rsync.INSTALL, "minio": aws.INSTALL, "aws": aws.INSTALL, "http": curl.INSTALL}.get(provider)
    return install if install and "is not installed, or not on PATH" in message else message


def _custom(name: str, config: Mapping[str, Any], root: Path, credentials: Credentials) -> Source:
    return Custom(name, root / str(config["path"]), str(config.get("args", "")))


def _nas(name: str, config: Mapping[str, Any], root: Path, credentials: Credentials) -> Source:
    nodes = (entry for key, entry in credentials.entries.items() if re.fullmatch(r"NAS_NODES(\[\d+\])?", key))
    return Nas(str(config["path"]), tuple(nodes), root)


def _minio(name: str, config: Mapping[str, Any], root: Path, credentials: Credentials) -> Source:
    entry = credentials.entries.get("MAD_MINIO", {})
    endpoint = str(config.get("endpoint") or entry.get("AWS_ENDPOINT_URL_S3") or entry.get("MINIO_ENDPOINT") or "")
    account = replace(_account(config, entry), endpoint=endpoint or DEFAULT_MINIO)
    return S3(_s3_path(str(config["path"])), account, "minio")


def _aws(name: str, config: Mapping[str, Any], root: Path, credentials: Credentials) -> Source:
    entry = credentials.entries.get("MAD_AWS_S3", {})
    return S3(_s3_path(str(config["path"])), _account(config, entry))


def _account(config: Mapping[str, Any], entry: Mapping[str, str]) -> aws.Account:
    return aws.Account(
        entry.get("USERNAME", ""),
        entry.get("PASSWORD", ""),
        str(config.get("endpoint") or entry.get("AWS_ENDPOINT_URL_S3") or ""),
        str(config.get("region") or entry.get("REGION") or ""),
        entry.get("SESSION_TOKEN", ""),
    )


def _http(name: str, config: Mapping[str, Any], root: Path, credentials: Credentials) -> Source:
    url, cred = str(config["path"]), str(config.get("cred", ""))
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigurationError(f"path: expected a URL such as https://host/file, got {Http(url).shown!r}")
    if parts.password:
        raise ConfigurationError(f"path: holds a password; put it into {FILE} and set cred to its entry")
    if cred and cred not in credentials.entries:
        raise ConfigurationError(f"{FILE}: no entry {cred!r}; add it")
    entry = credentials.entries.get(cred, {})
    return Http(url, entry.get("username", ""), entry.get("password", ""), entry.get("token", ""))


_Maker = Callable[[str, Mapping[str, Any], Path, Credentials], Source]
# In the order in which they are tried; `local`, which fetches nothing, comes second.
_MAKERS: Mapping[str, _Maker] = {"custom": _custom, "minio": _minio, "nas": _nas, "aws": _aws, "http": _http}


def _s3_path(path: str) -> str:
    return path if path.startswith("s3://") else f"s3://{path.lstrip('/')}"


def _host(node: Mapping[str, str]) -> str:
    host, user = node.get("HOST", ""), node.get("USERNAME", "")
    if not re.fullmatch(r"[A-Za-z0-9_.][A-Za-z0-9_.-]*", host) or not re.fullmatch(r"([^\s@:/-][^\s@:/]*)?", user):
        raise ConfigurationError(f"NAS_NODES: expected HOST and USERNAME, got {host!r} and {user!r}")
    return f"{user}@{host}" if user else host


def _port(node: Mapping[str, str]) -> str:
    port = node.get("PORT", "")
    if not re.fullmatch(r"\d{0,5}", port):
        raise ConfigurationError(f"NAS_NODES: PORT: expected a number, got {port!r}")
    return port


def _without_prefix(error: Exception) -> str:
    return re.sub(r"^rsync: ", "", str(error))
