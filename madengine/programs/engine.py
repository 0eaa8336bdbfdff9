"""The container engine: docker, podman or nerdctl; what differs between them is in this file alone."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from madengine import programs
from madengine.errors import CommandError, EngineError

if TYPE_CHECKING:
    from plumbum.commands.base import BaseCommand

NAMES = ("docker", "podman", "nerdctl")
# An engine that needs longer than this to say its version doesn't count as answering.
PROBE_SECONDS = 10.0

_LOOPBACK = re.compile(r"^(localhost|127(\.\d+){3}|\[::1\])(:\d+)?$")
# A registry that can't be reached or breaks off: worth another try. A refusal (denied, unauthorized, unknown) is not.
_TRANSPORT = re.compile(
    r"connection (refused|reset)|i/o timeout|timeout exceeded|deadline exceeded|timed out|\bEOF\b|broken pipe"
    r"|no such host|network is unreachable|TLS handshake timeout|temporary failure|50[0234] |server misbehaving"
    r"|use of closed network|http2: |received unexpected HTTP status: 5",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Container:
    """What to start: everything that `run` turns into flags.

    `mounts` are (host path, container path, read-only); `environment` is passed by value,
    `inherited` by name only, so that a secret's value stays out of argv; `options` are the
    model card's own words, after all of ours.
    """

    name: str
    image: str
    words: Sequence[str] = ()
    entrypoint: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    inherited: Sequence[str] = ()
    mounts: Sequence[tuple[str, str, bool]] = ()
    devices: Sequence[str] = ()
    workdir: str = ""
    cpus: str = ""
    shm_bytes: int = 0
    unlimited: bool = False
    stop_seconds: int = 10
    options: Sequence[str] = ()


@dataclass(frozen=True)
class State:
    """How a container ended: exit code, out of memory or not, and the engine's own error text."""

    exit_code: int
    oom_killed: bool
    error: str
    running: bool


@dataclass(frozen=True)
class Docker:
    """A container engine's command line (`name`: docker, podman or nerdctl).

    Methods named after a verb hand back a command; those that ask give the answer. `environment` is
    what every command gets beside the caller's own (a private login, say).
    """

    name: str = "docker"
    version: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)

    def __call__(self, *words: str) -> BaseCommand:
        return programs.program(self.name, *words, env=self.environment)

    # --- commands ---

    def build(
        self,
        tags: Sequence[str],
        dockerfile: Path | str,
        context: Path | str,
        *,
        build_args: Mapping[str, str] | None = None,
        id_file: Path | str | None = None,
        no_cache: bool = False,
    ) -> BaseCommand:
        """Build one Dockerfile; the new image's id is left in `id_file`.

        The host's network, as older madengine gave it: Dockerfiles in use fetch from mirrors on it.
        """
        command = self(
            "build",
            *(["--no-cache"] if no_cache else []),
            "--network=host",
            *_pairs("--tag", tags),
            *(["--iidfile", str(id_file)] if id_file else []),
            "--file",
            str(dockerfile),
            *_pairs("--build-arg", [f"{key}={value}" for key, value in (build_args or {}).items()]),
            str(context),
        )
        # A provenance attestation would make the pushed digest that of an index, not of the image.
        return command.with_env(BUILDX_NO_DEFAULT_ATTESTATIONS="1") if self.name == "docker" else command

    def push(self, name: str, digest_file: Path | str | None = None) -> BaseCommand:
        """Push a name; podman leaves the registry's digest in `digest_file`, docker in the image's own record."""
        digest = ["--digestfile", str(digest_file)] if digest_file and self.name == "podman" else []
        return self(*self._global(name), "push", *self._tls(name), *digest, self.remote(name))

    def pull(self, reference: str) -> BaseCommand:
        return self(*self._global(reference), "pull", *self._tls(reference), self.remote(reference))

    def tag(self, source: str, name: str) -> BaseCommand:
        return self("tag", source, self.remote(name))

    def login(self, registry: str, username: str) -> BaseCommand:
        """Log in; the password comes by stdin."""
        server = [] if registry in ("", "docker.io", "dockerhub") else [registry]
        if self.name == "podman" and not server:
            server = ["docker.io"]
        words = ["login", *self._tls(registry), "--username", username, "--password-stdin", *server]
        return self(*self._global(registry), *words)

    def run(self, container: Container) -> BaseCommand:
        """Start a container that goes on by itself (detached)."""
        shown = container
        return self(
            "run",
            "--detach",
            "--init",
            "--name",
            shown.name,
            *_pairs("--label", [f"{key}={value}" for key, value in shown.labels.items()]),
            "--user=root",
            f"--stop-timeout={shown.stop_seconds}",
            *([f"--shm-size={shown.shm_bytes}"] if shown.shm_bytes else []),
            *self._limits(shown.unlimited),
            *([f"--cpuset-cpus={shown.cpus}"] if shown.cpus else []),
            *shown.devices,
            *_pairs("--env", [f"{key}={value}" for key, value in shown.environment.items()]),
            *_pairs("--env", shown.inherited),
            *_pairs("--volume", [f"{host}:{inside}{':ro' if ro else ''}" for host, inside, ro in shown.mounts]),
            *([f"--workdir={shown.workdir}"] if shown.workdir else []),
            *([f"--entrypoint={shown.entrypoint}"] if shown.entrypoint else []),
            *shown.options,
            shown.image,
            *shown.words,
        )

    def wait(self, container: str) -> BaseCommand:
        return self("wait", container)

    def stop(self, container: str, seconds: int) -> BaseCommand:
        return self("stop", f"--time={seconds}", container)

    def kill(self, container: str) -> BaseCommand:
        return self("kill", container)

    def remove(self, container: str) -> BaseCommand:
        return self("rm", "--force", "--volumes", container)

    def logs(self, container: str) -> BaseCommand:
        return self("logs", "--tail=100", container)

    # --- questions ---

    def has(self, reference: str) -> bool:
        """Whether the image is on this machine."""
        return programs.attempt(self("image", "inspect", "--format={{.Id}}", reference)).code == 0

    def image(self, reference: str) -> Mapping[str, Any] | None:
        """`image inspect` of one image (Id, Size, RepoDigests, Config …), None where it isn't here."""
        answer = programs.attempt(self("image", "inspect", reference))
        if answer.code != 0:
            return None
        found: list[dict[str, Any]] = json.loads(answer.out)
        return found[0]

    def state(self, container: str) -> State | None:
        """How the container is, None where there is none of that name.

        Raises CommandError where the engine doesn't answer.
        """
        command = self("container", "inspect", "--format={{json .State}}", container)
        answer = programs.attempt(command)
        if answer.code != 0:
            if re.search(r"no such (container|object)", answer.err, re.IGNORECASE):
                return None
            raise programs.failure(command, answer)
        found = json.loads(answer.out)
        return State(
            exit_code=int(found.get("ExitCode") or 0),
            oom_killed=bool(found.get("OOMKilled")),
            error=str(found.get("Error") or ""),
            running=found.get("Status") in ("running", "created", "paused", "restarting", "stopping"),
        )

    def containers(self, label: str) -> list[tuple[str, Mapping[str, str]]]:
        """Name and labels of every container (running or not) that carries the label."""
        listed = programs.ask(self("ps", "--all", "--no-trunc", "--quiet", f"--filter=label={label}")).split()
        if not listed:
            return []
        # One that ends and is removed between the two questions makes inspect fail, but the others are still listed.
        answer = programs.attempt(self("container", "inspect", *listed))
        found: list[dict[str, Any]] = json.loads(answer.out or "[]")
        return [(item["Name"].lstrip("/"), item["Config"].get("Labels") or {}) for item in found]

    # --- what the engines do differently ---

    def remote(self, name: str) -> str:
        """A registry name in full: podman would look for `org/image` on this machine or in its own list of registries."""
        host = name.partition("/")[0]
        if self.name == "docker" or "/" not in name or "." in host or ":" in host or host == "localhost":
            return name
        return f"docker.io/{name}"

    def _tls(self, name: str) -> list[str]:
        # Docker takes plain HTTP from loopback by itself; the others have to be told.
        return ["--tls-verify=false"] if self.name == "podman" and is_loopback(name) else []

    def _global(self, name: str) -> list[str]:
        return ["--insecure-registry"] if self.name == "nerdctl" and is_loopback(name) else []

    def _limits(self, unlimited: bool) -> list[str]:
        """What collective libraries need: pinned memory without a limit, and a large stack."""
        if not unlimited:
            return []
        if self.name == "podman" and os.geteuid() != 0:
            return ["--ulimit=host"]
        return ["--ulimit=memlock=-1:-1", "--ulimit=stack=67108864:67108864"]


def find(name: str = "auto") -> Docker:
    """The engine to use: the one that was named, or the first that answers (which PATH order does not tell).

    Raises EngineError that says what was tried, and what each said.
    """
    tried = []
    for candidate in NAMES if name == "auto" else (name,):
        try:
            return replace(Docker(candidate), version=_version(Docker(candidate)))
        except CommandError as error:
            tried.append(str(error))
    if name == "auto":
        raise EngineError(f"no container engine answers: {'; '.join(tried)}; install podman, or start docker")
    raise EngineError(f"{tried[0]}; start {name}, or choose another with --engine")


def _version(engine: Docker) -> str:
    server = "{{.Client.Version}}" if engine.name == "podman" else "{{.Server.Version}}"
    command = engine("version", f"--format={server}")
    answer = programs.attempt(command, seconds=PROBE_SECONDS)
    if answer.code != 0 or not answer.out.strip():
        raise programs.failure(command, answer, PROBE_SECONDS)
    return answer.out.strip()


def is_loopback(name: str) -> bool:
    """Whether the registry of an image name (or a registry's own address) means the machine that asks."""
    return bool(_LOOPBACK.match(name.partition("/")[0]))


def is_transport(message: str) -> bool:
    """Whether a registry's error is one of the line (try again) and not a refusal."""
    return bool(_TRANSPORT.search(message))


def repository(name: str) -> str:
    """The part of an image name before its tag or digest; the colon of a port is none."""
    bare = name.partition("@")[0]
    head, slash, tail = bare.rpartition("/")
    return head + slash + tail.partition(":")[0]


def repo_digest(digests: Sequence[str], name: str) -> str:
    """The digest that the registry of `name` gave an image, out of `image inspect`'s RepoDigests; empty if none."""
    wanted = _canonical(repository(name))
    for entry in digests:
        repo, _, digest = entry.partition("@")
        if _canonical(repo) == wanted:
            return digest
    return ""


def _canonical(repo: str) -> str:
    return repo.removeprefix("docker.io/").removeprefix("library/")


def _pairs(flag: str, values: Sequence[str]) -> list[str]:
    return [word for value in values for word in (flag, value)]
