"""Container engines: the command line that they share, and how their answers and image names are read."""

from __future__ import annotations

import logging
import re
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from madengine import programs
from madengine.errors import RunError
from madengine.programs import devices, login_files, secret_files
from madengine.programs.buildkit import build_environment
from madengine.programs.caller_settings import log_settings
from madengine.programs.engine_answers import (
    LabelledContainer,
    State,
    checked,
    container_state,
    image_records,
    labelled_containers,
)
from madengine.programs.engine_errors import is_store_race, is_unreachable
from madengine.programs.engine_files import is_hidden
from madengine.programs.image_references import digests_in
from madengine.records import Gpu

if TYPE_CHECKING:
    from plumbum.commands.base import BaseCommand

logger = logging.getLogger(__name__)

# Attempts at a command that meets a change of podman's store.
STORE_ATTEMPTS = 5

# The first Docker whose --gpus takes AMD's: https://github.com/ROCm/container-toolkit
_DOCKER_WITH_AMD = (28, 3)
_HUB = ("", "docker.io", "dockerhub")
_HUB_CONFIG_KEY = "https://index.docker.io/v1/"


@dataclass(frozen=True)
class Container:
    """What `run` starts."""

    name: str
    image: str
    #: Arguments of the entry point.
    words: Sequence[str] = ()
    entrypoint: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    #: Passed by value, in argv.
    environment: Mapping[str, str] = field(default_factory=dict)
    #: Passed by name, or in `env_file` where that can hold them, so that they stay out of argv.
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)
    env_file: str = ""
    #: (host path, container path, read-only).
    mounts: Sequence[tuple[str, str, bool]] = ()
    #: The flags of `Docker.devices`.
    devices: Sequence[str] = ()
    workdir: str = ""
    #: As in `--cpuset-cpus`.
    cpus: str = ""
    shm_bytes: int = 0
    #: Whether memlock and stack limits are raised.
    unlimited: bool = False
    #: Whether root is the host's root, also where the engine gives containers users of their own.
    host_users: bool = False
    #: Whether a program of the engine's starts the entry point, and collects what it leaves.
    init: bool = True
    #: Seconds between TERM and KILL.
    stop_seconds: int = 10
    #: The model entry's own options, after ours.
    options: Sequence[str] = ()


@dataclass(frozen=True)
class Docker:
    """Docker's command line; subclasses override what other engines do differently.

    Methods named after one of its verbs return the command; the others ask the engine.
    """

    name: ClassVar[str] = "docker"
    #: What `--gpu-mode auto` means for NVIDIA GPUs.
    nvidia_gpu_mode: ClassVar[str] = "gpus"
    #: Whether a Dockerfile's FROM takes an image's id; BuildKit's takes names only.
    builds_from_ids: ClassVar[bool] = False
    #: Whether the cache of builds sees all that a step depends on, not only its text and what it copies.
    cache_sees_all_inputs: ClassVar[bool] = True
    #: Whether it keeps images in a store of its own, and runs them with Docker's options.
    has_store: ClassVar[bool] = True
    #: Whether device nodes are opened with the caller's permissions instead of a daemon's.
    opens_devices_as_caller: ClassVar[bool] = False
    #: How a user who may not use the engine gets access; empty if no permission is needed.
    access_fix: ClassVar[str] = "usermod --append --groups docker $USER, then log in again"
    #: What installs the program that `--init` starts.
    init_fix: ClassVar[str] = "apt-get install tini"
    without_label: ClassVar[tuple[str, ...]] = ("--security-opt=label=disable",)  # SELinux's
    #: Where `info` names the folder that images are stored in.
    _root_template: ClassVar[str] = "{{.DockerRootDir}}"
    #: What makes `container inspect` count what a container has written.
    _size_flags: ClassVar[tuple[str, ...]] = ("--size",)

    version: str = ""
    #: Added to the caller's environment for every command, such as a private login.
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
        host_network: bool = True,
        secrets: Mapping[str, str] | None = None,
        secret_args: Mapping[str, str] | None = None,
        contexts: Mapping[str, str] | None = None,
    ) -> BaseCommand:
        """Build and tag one Dockerfile; `secret_args` stay in the image's history, `secrets` nowhere.

        `id_file` gets the image's id. With the host's network, as in older madengine, existing Dockerfiles fetch from
        mirrors on it.
        """
        command = self(
            "build",
            *(["--no-cache"] if no_cache else []),
            *(["--network=host"] if host_network else []),
            *(["--iidfile", str(id_file)] if id_file else []),
            *_pairs("--tag", tags),
            "--file",
            str(dockerfile),
            *_pairs("--build-arg", [*_settings(build_args or {}), *(secret_args or {})]),
            *_pairs("--secret", [f"id={name},env={name}" for name in secrets or {}]),
            *_pairs("--label", _settings(labels or {})),
            *_pairs("--build-context", _settings(contexts or {})),
            str(context),
        )
        hidden = {**(secrets or {}), **(secret_args or {})}
        environment: dict[str, str] = {name: programs.Secret(value) for name, value in hidden.items()}
        environment |= self._build_environment(bool(secrets), bool(contexts))
        return command.with_env(**environment) if environment else command

    def push(self, name: str, digest_file: Path | str | None = None, image_id: str = "") -> BaseCommand:
        """Push a name; an engine that can writes the registry's digest to `digest_file`.

        An engine that can pushes the image of `image_id` under the name, the others what has the name now.
        """
        digest_flags = self._digest_flags(digest_file) if digest_file else []
        words = [*self._registry_flags(name), *digest_flags, *self._push_source(image_id)]
        return self(*self._global_flags(name), "push", *words, self.full_name(name))

    def pull(self, reference: str) -> BaseCommand:
        return self(*self._global_flags(reference), "pull", *self._registry_flags(reference), self.full_name(reference))

    def load(self, archive: Path | str) -> BaseCommand:
        return self("load", "--input", str(archive))

    def save(self, image: str, archive: Path | str) -> BaseCommand:
        return self("save", "--output", str(archive), image)

    def tag(self, source: str, name: str) -> BaseCommand:
        return self("tag", source, self.full_name(name))

    def untag(self, name: str) -> BaseCommand:
        """Remove one name of an image that has others."""
        return self("rmi", name)

    def login(self, registry: str, username: str) -> BaseCommand:
        """Log in; the password comes by stdin."""
        server = self._hub_server() if registry in _HUB else [registry]
        words = ["login", *self._registry_flags(registry), "--username", username, "--password-stdin", *server]
        return self(*self._global_flags(registry), *words)

    def run(self, container: Container) -> BaseCommand:
        """Start a container in the background (detached)."""
        by_name = {
            name: programs.Secret(value)
            for name, value in container.secrets.items()
            if not (container.env_file and secret_files.is_plain(value))
        }
        command = self(
            "run",
            "--detach",
            *(["--init"] if container.init else []),
            "--name",
            container.name,
            *_pairs("--label", _settings(container.labels)),
            "--user=0:0",
            *(["--userns=host"] if container.host_users else []),
            f"--stop-timeout={container.stop_seconds}",
            # The image's own are for its own program.
            "--stop-signal=TERM",
            *self._no_health_check(),
            *([f"--shm-size={container.shm_bytes}"] if container.shm_bytes else []),
            *(self._limits() if container.unlimited else []),
            *([f"--cpuset-cpus={container.cpus}"] if container.cpus else []),
            *container.devices,
            *_pairs("--env", _settings(container.environment)),
            *_pairs("--env", list(by_name)),
            *([f"--env-file={container.env_file}"] if container.env_file else []),
            *_pairs("--mount", [_bind(*mount) for mount in container.mounts]),
            *([f"--workdir={container.workdir}"] if container.workdir else []),
            *([f"--entrypoint={container.entrypoint}"] if container.entrypoint else []),
            *container.options,
            container.image,
            *container.words,
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

    def version_command(self) -> BaseCommand:
        """Print the version; fails if the engine doesn't run."""
        return self("version", "--format={{.Server.Version}}")

    # --- questions ---

    def images(self, *references: str) -> Sequence[Mapping[str, Any]]:
        """Return `image inspect` of those images that are on this machine: Id, Size, RepoDigests, RepoTags, Config …

        Raises CommandError if the engine doesn't answer.
        """
        command = self("image", "inspect", *map(self.full_name, references))
        answer = programs.attempt(command)
        for _ in range(STORE_ATTEMPTS - 1):
            if is_store_race(answer.err):
                answer = programs.attempt(command)
        if answer.code is None or (answer.code != 0 and is_unreachable(answer.err)):
            raise programs.failure(command, answer, programs.ANSWER_SECONDS)
        return checked(command, answer, image_records) if answer.out.strip() else []

    def digest_of(self, name: str, image: Mapping[str, Any]) -> str:
        """Return the digest that the registry of `name` knows an image (its record) by; empty if it has none."""
        return next(iter(digests_in(image, name)), "")

    def state(self, container: str) -> State | None:
        """Return how the container is; None if there is none of that name, or it is just being removed.

        Raises CommandError if the engine doesn't answer.
        """
        command = self("container", "inspect", "--format={{json .State}}", container)
        answer = programs.attempt(command)
        if answer.code != 0:
            if re.search(r"no such (container|object)", answer.err, re.IGNORECASE):
                return None
            raise programs.failure(command, answer)
        state = checked(command, answer, container_state)
        if state.get("Status") == "removing":
            return None
        return State(
            exit_code=int(state.get("ExitCode") or 0),
            oom_killed=bool(state.get("OOMKilled")),
            error=str(state.get("Error") or ""),
            running=state.get("Status") in ("running", "created", "paused", "restarting", "stopping"),
        )

    def containers(self, label: str, running: bool = False, sizes: bool = False) -> list[LabelledContainer]:
        """Return every container with the label, those alone that run if `running`; with `sizes`, which cost time."""
        which = [] if running else ["--all"]
        ids = programs.ask(self("ps", *which, "--no-trunc", "--quiet", f"--filter=label={label}")).split()
        if not ids:
            return []
        # One that ends and is removed between the two commands makes inspect fail, but the others are still listed.
        command = self("container", "inspect", *(self._size_flags if sizes else ()), *ids)
        answer = programs.attempt(command)
        return checked(command, answer, labelled_containers) if answer.out.strip() else []

    def sees(self, folder: Path) -> bool:
        """Whether the engine's client sees a private folder; docker as a snap has a /tmp of its own."""
        variables = folder / "sees"
        variables.write_text("two words=\n")
        # Without the daemon: the client refuses the variable's name, or finds no file.
        answer = programs.attempt(self("create", f"--env-file={variables}", "none"))
        return not is_hidden(variables, answer.err)

    def remaps_users(self) -> bool:
        """Whether root of a container is a user without rights on the host (`userns-remap`)."""
        return "name=userns" in programs.attempt(self("info", "--format={{json .SecurityOptions}}")).out

    def image_root(self) -> Path | None:
        """Return the folder that images are stored in; None if the engine doesn't name one."""
        root = programs.attempt(self("info", f"--format={self._root_template}")).out.strip()
        return Path(root) if root.startswith("/") else None

    def has_gpu_runtime(self, vendor: str) -> bool:
        """Whether `--gpus` can work for a vendor's GPUs without a CDI specification."""
        # Docker takes --gpus where it finds this program, also without a runtime in its configuration.
        if vendor == "NVIDIA" and shutil.which("nvidia-container-runtime-hook"):
            return True
        return f'"{vendor.lower()}"' in programs.attempt(self("info", "--format={{json .Runtimes}}")).out

    def devices(self, gpus: Sequence[Gpu], mode: str) -> list[str]:
        """Return the flags that pass these GPUs, and no others, to a container; raise RunError if the mode can't."""
        return devices.flags(self, gpus, mode)

    # --- what other engines do differently ---

    def full_name(self, name: str) -> str:
        """Return an image name with its registry, where the engine would search other places first."""
        return name

    def login_environment(self, folder: Path, registries: Sequence[str]) -> dict[str, str]:
        """Copy the user's logins into `folder`, and return the variables that make the engine use the copy.

        The registries are taken out of the user's credential helpers, which would keep our logins.
        """
        home = login_files.docker_home()
        for name in ("cli-plugins", "contexts", "buildx"):
            if (home / name).exists():
                (folder / name).symlink_to((home / name).resolve())
        content = login_files.read_logins(home / "config.json")
        # An empty name means none, also where a helper is set for all registries.
        helpers = {_HUB_CONFIG_KEY if registry == "docker.io" else registry: "" for registry in registries}
        own = {name: value for name, value in content["credHelpers"].items() if name not in registries}
        login_files.write_logins(folder / "config.json", {**content, "credHelpers": {**own, **helpers}})
        return {"DOCKER_CONFIG": str(folder)}

    def log_caller_settings(self, environ: Mapping[str, str]) -> None:
        """Log what the user's own settings make the engine do differently."""
        log_settings("docker", ["DOCKER_DEFAULT_PLATFORM"], environ, "images are pulled, built and run for it")
        log_settings("docker", ["DOCKER_CONTENT_TRUST"], environ, "docker refuses images that aren't signed")
        if login_files.read_logins(login_files.docker_home() / "config.json").get("proxies"):
            logger.info("docker: its config.json names proxies: builds and containers get them")

    def end_build_steps(self) -> None:
        """End what RUN steps of our builds have started; Docker's daemon does so by itself."""

    def gpu_mode(self, vendor: str, mode: str) -> str:
        """Return what `auto` means: device nodes for AMD, for NVIDIA what the engine supports best."""
        if mode != "auto":
            return mode
        return "devices" if vendor == "AMD" else self.nvidia_gpu_mode

    def check_gpus_option(self, vendor: str) -> None:
        """Raise RunError if `--gpus` can't pass this vendor's GPUs."""
        if vendor == "AMD" and not self._takes_amd_gpus():
            raise RunError(
                f"--gpu-mode gpus: {self.name} {self.version} supports NVIDIA GPUs only (docker 28.3 also AMD's); "
                "use --gpu-mode devices"
            )

    def group_flags(self, groups: Iterable[int]) -> list[str]:
        """Return the flags that give a container these groups (ids), which device nodes belong to."""
        return [f"--group-add={group}" for group in groups]

    def _takes_amd_gpus(self) -> bool:
        version = re.match(r"(\d+)\.(\d+)", self.version)
        return version is not None and (int(version[1]), int(version[2])) >= _DOCKER_WITH_AMD

    def _build_environment(self, has_secrets: bool, has_contexts: bool) -> dict[str, str]:
        return build_environment(self, has_secrets, has_contexts)

    def _push_source(self, image_id: str) -> Sequence[str]:
        return []

    def _digest_flags(self, digest_file: Path | str) -> list[str]:
        return []

    def _hub_server(self) -> list[str]:
        return []

    def _registry_flags(self, name: str) -> list[str]:
        # Docker takes plain HTTP from loopback without a flag.
        return []

    def _global_flags(self, name: str) -> list[str]:
        return []

    def _no_health_check(self) -> list[str]:
        return ["--no-healthcheck"]

    def _limits(self) -> list[str]:
        """What collective libraries need: unlimited pinned memory, and a large stack."""
        return ["--ulimit=memlock=-1:-1", "--ulimit=stack=67108864:67108864"]


def _settings(values: Mapping[str, str]) -> list[str]:
    return [f"{key}={value}" for key, value in values.items()]


def _bind(host: str, inside: str, read_only: bool) -> str:
    """Return a bind mount, as a line of CSV; it fails if the host's path is missing."""
    fields = ["type=bind", f"source={host}", f"target={inside}", *(["readonly"] if read_only else [])]
    return ",".join('"' + field.replace('"', '""') + '"' if re.search(r'[",]', field) else field for field in fields)


def _pairs(flag: str, values: Sequence[str]) -> list[str]:
    return [word for value in values for word in (flag, value)]
