"""The container engine: docker, podman or nerdctl; who asks need not know which, only the rooms beside it do too."""

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
from madengine.programs import devices, podman_steps, secret_files
from madengine.records import Gpu, Image

if TYPE_CHECKING:
    from plumbum.commands.base import BaseCommand

NAMES = ("docker", "podman", "nerdctl")
# Attempts at what meets a change of podman's store.
STORE_ATTEMPTS = 5
# An engine that needs longer than this to say its version doesn't count as answering.
PROBE_SECONDS = 10.0

_LOOPBACK = re.compile(r"^(localhost|127(\.\d+){3}|\[::1\])(:\d+)?$")
# A registry that can't be reached or breaks off: worth another try. A refusal (denied, unauthorized, unknown) is not.
_TRANSPORT = re.compile(
    r"connection (refused|reset)|i/o timeout|timeout exceeded|deadline exceeded|timed out|\bEOF\b|broken pipe"
    r"|no such host|network is unreachable|no route to host|TLS handshake timeout|temporary failure|server misbehaving"
    r"|use of closed network|http2: |\b(429|50[0234])\b.? [A-Z]|toomanyrequests|received unexpected HTTP status: 5",
    re.IGNORECASE,
)

_STORE_RACE = re.compile(r"layer not known|locating image with ID .*: image not known|locating item named \"manifest\"")


@dataclass(frozen=True)
class Container:
    """What to start: everything that `run` turns into flags.

    `mounts` are (host path, container path, read-only); `environment` is passed by value,
    `secrets` by name, or in `env_file` those that it can hold, so that they stay out of argv; `options` are the
    model card's own words, after all of ours.
    """

    name: str
    image: str
    words: Sequence[str] = ()
    entrypoint: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)
    env_file: str = ""
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
        labels: Mapping[str, str] | None = None,
        id_file: Path | str = "",
        no_cache: bool = False,
        secrets: Mapping[str, str] | None = None,
        secret_args: Mapping[str, str] | None = None,
    ) -> BaseCommand:
        """Build one Dockerfile and give the image its names; `secret_args` stay in its history, `secrets` nowhere.

        `id_file` gets the image's id.
        The host's network, as older madengine gave it: Dockerfiles in use fetch from mirrors on it.
        """
        command = self(
            "build",
            *(["--no-cache"] if no_cache else []),
            "--network=host",
            *(["--iidfile", str(id_file)] if id_file else []),
            *_pairs("--tag", tags),
            "--file",
            str(dockerfile),
            *_pairs("--build-arg", [*_settings(build_args or {}), *(secret_args or {})]),
            *_pairs("--secret", [f"id={name},env={name}" for name in secrets or {}]),
            *_pairs("--label", _settings(labels or {})),
            str(context),
        )
        hidden = {**(secrets or {}), **(secret_args or {})}
        if hidden:
            command = command.with_env(**{name: programs.Secret(value) for name, value in hidden.items()})
        if secrets:
            from madengine.programs import buildkit

            command = command.with_env(**buildkit.environment(self.name, self))
        # A provenance attestation would make the pushed digest that of an index, not of the image.
        return command.with_env(BUILDX_NO_DEFAULT_ATTESTATIONS="1") if self.name == "docker" else command

    def push(self, name: str, digest_file: Path | str | None = None, image_id: str = "") -> BaseCommand:
        """Push a name; podman leaves the registry's digest in `digest_file`, docker in the image's own record.

        podman pushes the image of `image_id` under that name, the others whatever has the name now.
        """
        podman = self.name == "podman"
        digest = ["--digestfile", str(digest_file)] if digest_file and podman else []
        source = [image_id] if image_id and podman else []
        return self(*self._global(name), "push", *self._tls(name), *digest, *source, self.remote(name))

    def pull(self, reference: str) -> BaseCommand:
        return self(*self._global(reference), "pull", *self._tls(reference), self.remote(reference))

    def tag(self, source: str, name: str) -> BaseCommand:
        return self("tag", source, self.remote(name))

    def untag(self, name: str) -> BaseCommand:
        """Remove one name of an image that has others."""
        return self("rmi", name)

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
        by_name = {
            name: programs.Secret(value)
            for name, value in shown.secrets.items()
            if not (shown.env_file and secret_files.is_plain(value))
        }
        command = self(
            "run",
            "--detach",
            "--init",
            "--name",
            shown.name,
            *_pairs("--label", _settings(shown.labels)),
            "--user=0:0",
            f"--stop-timeout={shown.stop_seconds}",
            *([f"--shm-size={shown.shm_bytes}"] if shown.shm_bytes else []),
            *self._limits(shown.unlimited),
            *([f"--cpuset-cpus={shown.cpus}"] if shown.cpus else []),
            *shown.devices,
            *_pairs("--env", _settings(shown.environment)),
            *_pairs("--env", list(by_name)),
            *([f"--env-file={shown.env_file}"] if shown.env_file else []),
            *_pairs("--mount", [_bind(*mount) for mount in shown.mounts]),
            *([f"--workdir={shown.workdir}"] if shown.workdir else []),
            *([f"--entrypoint={shown.entrypoint}"] if shown.entrypoint else []),
            *shown.options,
            shown.image,
            *shown.words,
        )
        return command.with_env(**by_name) if by_name else command

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

    def images(self, *references: str) -> list[Mapping[str, Any]]:
        """`image inspect` of those images that are on this machine (Id, Size, RepoDigests, RepoTags, Config …).

        Raises CommandError where the engine doesn't answer.
        """
        command = self("image", "inspect", *map(self.remote, references))
        answer = programs.attempt(command)
        for _ in range(STORE_ATTEMPTS - 1):
            if is_store_race(answer.err):
                answer = programs.attempt(command)
        if answer.code is None or (answer.code != 0 and is_unreachable(answer.err)):
            raise programs.failure(command, answer, programs.ANSWER_SECONDS)
        found: list[Mapping[str, Any]] = json.loads(answer.out or "[]")
        return found

    def state(self, container: str) -> State | None:
        """How the container is, None where there is none of that name, or somebody is just removing it.

        Raises CommandError where the engine doesn't answer.
        """
        command = self("container", "inspect", "--format={{json .State}}", container)
        answer = programs.attempt(command)
        if answer.code != 0:
            if re.search(r"no such (container|object)", answer.err, re.IGNORECASE):
                return None
            raise programs.failure(command, answer)
        found = json.loads(answer.out)
        if found.get("Status") == "removing":
            return None
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

    def devices(self, gpus: Sequence[Gpu], mode: str) -> list[str]:
        """The flags that hand these GPUs, and no others, to a container; raises RunError where that can't work."""
        return devices.flags(self.name, self.version, gpus, mode)

    # --- what the engines do differently ---

    def remote(self, name: str) -> str:
        """A registry name in full: podman looks for `org/image` on this machine and in its own list first."""
        host = name.partition("/")[0]
        if self.name == "docker" or "/" not in name or "." in host or ":" in host or host == "localhost":
            return name
        return f"docker.io/{name}"

    @property
    def builds_from_ids(self) -> bool:
        """Whether a Dockerfile's FROM takes an image's id; BuildKit's takes names only."""
        return self.name == "podman"

    def end_build_steps(self) -> None:
        """End what the RUN steps of our builds have started; podman would leave it running, and the build's layers."""
        if self.name == "podman":
            podman_steps.end()

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


def find_engine(name: str = "auto") -> Docker:
    """The engine to use: the one that was named, or the first that answers (which PATH order does not tell).

    Raises EngineError that says what was tried, and what each said.
    """
    tried = []
    for candidate in NAMES if name == "auto" else (name,):
        try:
            return replace(Docker(candidate), version=_version(Docker(candidate)))
        except (CommandError, EngineError) as error:
            tried.append(str(error))
    if name == "auto":
        raise EngineError(f"no container engine answers: {'; '.join(tried)}; install podman, or start docker")
    raise EngineError(f"{tried[0]}; install or start it, or choose another with --engine")


def _version(engine: Docker) -> str:
    """The version of an engine that answers.

    Raises CommandError where it is not installed, EngineError where it doesn't answer.
    """
    command = {
        "docker": engine("version", "--format={{.Server.Version}}"),
        "podman": engine("version", "--format={{.Client.Version}}"),
        "nerdctl": engine("info", "--format={{.ServerVersion}}"),
    }[engine.name]
    answer = programs.attempt(command, seconds=PROBE_SECONDS)
    if answer.code is None:
        raise EngineError(f"{engine.name} gives no answer in {PROBE_SECONDS:g} s")
    if answer.code != 0 or not answer.out.strip():
        raise EngineError(f"{engine.name} doesn't answer: {explain_engine_error(answer.err)}")
    return answer.out.strip()


def is_loopback(name: str) -> bool:
    """Whether the registry of an image name (or a registry's own address) means the machine that asks."""
    return bool(_LOOPBACK.match(name.partition("/")[0]))


def is_transport(message: str) -> bool:
    """Whether a registry's error is one of the line (try again) and not a refusal."""
    return bool(_TRANSPORT.search(message))


def is_unreachable(message: str) -> bool:
    """Whether an engine's program could not ask the engine at all."""
    return bool(re.search(r"cannot connect to|error during connect|connection refused", message, re.IGNORECASE))


def is_store_race(message: str) -> bool:
    """Whether podman met an image in its store that was just being removed: any image, so another try will do."""
    return bool(_STORE_RACE.search(message))


def is_limit_refused(message: str) -> bool:
    """Whether a container didn't start because its limits could not be raised."""
    return bool(re.search(r"rlimit|ulimit", message, re.IGNORECASE))


def explain_engine_error(message: str) -> str:
    """The line of an engine's error text that says what is wrong, without its prefixes and its advice."""
    lines = [line.strip() for line in message.splitlines()]
    lines = [line for line in lines if line and not re.match(r"Run '|See '|Usage:|time=", line)]
    errors = [line for line in lines if re.match(r"(docker|Error|error|ERROR)\b.*: ", line)]
    line = (errors or lines or ["it printed nothing"])[-1]
    return re.sub(r"^(docker: |Error response from daemon: |Error: )+", "", line)


def repository(name: str) -> str:
    """The part of an image name before its tag or digest; the colon of a port is none."""
    bare = name.partition("@")[0]
    head, slash, tail = bare.rpartition("/")
    return head + slash + tail.partition(":")[0]


def pinned(image: Image) -> str:
    """The name that can only mean this very image; empty where the manifest knows no digest."""
    if not (image.registry_image and image.registry_digest):
        return ""
    return f"{repository(image.registry_image)}@{image.registry_digest}"


def repo_digest(digests: Sequence[str], name: str) -> str:
    """The digest that the registry of `name` gave an image, out of `image inspect`'s RepoDigests; empty if none."""
    return next(iter(repo_digests(digests, name)), "")


def repo_digests(digests: Sequence[str], name: str) -> list[str]:
    """All of them: podman lists that of its own copy of the image too, which the registry may not know."""
    wanted = _canonical(repository(name))
    pairs = (entry.partition("@") for entry in digests)
    return [digest for repo, _, digest in pairs if _canonical(repo) == wanted]


def _canonical(repo: str) -> str:
    return repo.removeprefix("docker.io/").removeprefix("library/")


def _settings(values: Mapping[str, str]) -> list[str]:
    return [f"{key}={value}" for key, value in values.items()]


def _bind(host: str, inside: str, read_only: bool) -> str:
    """A bind mount that fails where the host's path is missing; the value is one line of CSV."""
    fields = ["type=bind", f"source={host}", f"target={inside}", *(["readonly"] if read_only else [])]
    return ",".join('"' + field.replace('"', '""') + '"' if re.search(r'[",]', field) else field for field in fields)


def _pairs(flag: str, values: Sequence[str]) -> list[str]:
    return [word for value in values for word in (flag, value)]
