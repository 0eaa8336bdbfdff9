"""The container engine: docker, podman or nerdctl; what differs between them is in this file alone."""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from madengine import programs
from madengine.errors import CommandError, EngineError
from madengine.records import Gpu

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


class Login(Protocol):
    """A user at a registry's host (`docker.io` for Docker Hub)."""

    @property
    def registry(self) -> str: ...
    @property
    def username(self) -> str: ...
    @property
    def password(self) -> str: ...


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
        labels: Mapping[str, str] | None = None,
        no_cache: bool = False,
    ) -> BaseCommand:
        """Build one Dockerfile and give the image its names.

        The host's network, as older madengine gave it: Dockerfiles in use fetch from mirrors on it.
        """
        command = self(
            "build",
            *(["--no-cache"] if no_cache else []),
            "--network=host",
            *_pairs("--tag", tags),
            "--file",
            str(dockerfile),
            *_pairs("--build-arg", _settings(build_args or {})),
            *_pairs("--label", _settings(labels or {})),
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
            *_pairs("--label", _settings(shown.labels)),
            "--user=0:0",
            f"--stop-timeout={shown.stop_seconds}",
            *([f"--shm-size={shown.shm_bytes}"] if shown.shm_bytes else []),
            *self._limits(shown.unlimited),
            *([f"--cpuset-cpus={shown.cpus}"] if shown.cpus else []),
            *shown.devices,
            *_pairs("--env", _settings(shown.environment)),
            *_pairs("--env", shown.inherited),
            *_pairs("--mount", [_bind(*mount) for mount in shown.mounts]),
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

    def images(self, *references: str) -> list[Mapping[str, Any]]:
        """`image inspect` of those images that are on this machine (Id, Size, RepoDigests, RepoTags, Config …)."""
        found: list[Mapping[str, Any]] = json.loads(
            programs.attempt(self("image", "inspect", *map(self.remote, references))).out or "[]"
        )
        return found

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

    def devices(self, gpus: Sequence[Gpu]) -> list[str]:
        """The flags that hand these GPUs, and no others, to a container."""
        if not gpus:
            return []
        if gpus[0].vendor == "NVIDIA":
            listed = ",".join(gpu.uuid or str(gpu.index) for gpu in gpus)
            # The inner quotes belong to the value: docker reads it as CSV.
            return ["--gpus", f'"device={listed}"']
        return [f"--device={node}" for node in ("/dev/kfd", *(gpu.render_node for gpu in gpus))]

    # --- what the engines do differently ---

    def remote(self, name: str) -> str:
        """A registry name in full: podman looks for `org/image` on this machine and in its own list first."""
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
    command = {
        "docker": engine("version", "--format={{.Server.Version}}"),
        "podman": engine("version", "--format={{.Client.Version}}"),
        "nerdctl": engine("info", "--format={{.ServerVersion}}"),
    }[engine.name]
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


def is_limit_refused(message: str) -> bool:
    """Whether a container didn't start because its limits could not be raised."""
    return bool(re.search(r"rlimit|ulimit", message, re.IGNORECASE))


def explain(message: str) -> str:
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


def _settings(values: Mapping[str, str]) -> list[str]:
    return [f"{key}={value}" for key, value in values.items()]


def _bind(host: str, inside: str, read_only: bool) -> str:
    """A bind mount that fails where the host's path is missing; the value is one line of CSV."""
    fields = ["type=bind", f"source={host}", f"target={inside}", *(["readonly"] if read_only else [])]
    return ",".join('"' + field.replace('"', '""') + '"' if re.search(r'[",]', field) else field for field in fields)


def _pairs(flag: str, values: Sequence[str]) -> list[str]:
    return [word for value in values for word in (flag, value)]


@contextmanager
def logged_in(engine: Docker, logins: Iterable[Login]) -> Iterator[Docker]:
    """The engine with private logins beside the user's own ones; they are gone when the block ends.

    Raises CommandError where a registry refuses the login.
    """
    with tempfile.TemporaryDirectory(prefix="madengine-login-") as folder:
        private = replace(engine, environment={**engine.environment, **_private_logins(engine.name, Path(folder))})
        for login in logins:
            _keep_from_helper(Path(folder) / "config.json", login.registry)
            programs.ask(private.login(login.registry, login.username), stdin=login.password)
        yield private


def _private_logins(engine: str, folder: Path) -> dict[str, str]:
    """A copy of the user's own logins, as the environment variable that makes the engine use it."""
    if engine == "podman":
        runtime = os.environ.get("XDG_RUNTIME_DIR", f"/run/user/{os.getuid()}")
        own = Path(os.environ.get("REGISTRY_AUTH_FILE", f"{runtime}/containers/auth.json"))
        target, variable = folder / "auth.json", {"REGISTRY_AUTH_FILE": str(folder / "auth.json")}
    else:
        home = Path(os.environ.get("DOCKER_CONFIG", Path.home() / ".docker"))
        own, target, variable = home / "config.json", folder / "config.json", {"DOCKER_CONFIG": str(folder)}
        for name in ("cli-plugins", "contexts", "buildx"):
            if (home / name).exists():
                (folder / name).symlink_to(home / name)
    text = own.read_text() if own.is_file() and os.access(own, os.R_OK) else "{}"
    target.touch(mode=0o600)
    target.write_text(text)
    return variable


def _keep_from_helper(config: Path, registry: str) -> None:
    """Docker would give the login to the user's credential helper, where it would stay: an empty name means none."""
    if not config.is_file():
        return
    try:
        content = json.loads(config.read_text() or "{}")
    except ValueError:
        return
    hub = "https://index.docker.io/v1/"
    content.setdefault("credHelpers", {})[hub if registry == "docker.io" else registry] = ""
    config.write_text(json.dumps(content))
