"""apptainer: images are files that nodes share, and a container is a group of processes of the caller's."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import socket
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

from madengine import programs
from madengine.errors import RunError
from madengine.files import cache_home
from madengine.programs.apptainer_options import translated
from madengine.programs.engine import Container, Docker
from madengine.programs.engine_answers import LabelledContainer, State
from madengine.programs.image_references import is_loopback
from madengine.records import Gpu, repository

if TYPE_CHECKING:
    from plumbum.commands.base import BaseCommand

logger = logging.getLogger(__name__)

#: where images are kept; a folder that nodes share spares each of them the pull
SIF_FOLDER_VARIABLE = "MADENGINE_SIF_FOLDER"
_BUILD = "apptainer builds no images: build with --engine docker or podman, and push"
# An image is pulled under a lock, to a file that appears whole: nodes may share the folder.
_PULL = """set -e
sif=$1 reference=$2
shift 2
mkdir -p "$(dirname "$sif")"
exec 9>"$sif.lock"
flock 9 2>/dev/null || true
[ ! -e "$sif" ] || exit 0
trap 'rm -f "$sif.$$.part"' EXIT
apptainer pull "$@" "$sif.$$.part" "docker://$reference"
mv "$sif.$$.part" "$sif"
"""
# The container's processes are a group of their own; its first one leaves their output and exit code in its folder.
_RUN = """set -e
folder=$1
mkdir -p "$(dirname "$folder")"
mkdir -m 700 "$folder"
printf %s "$2" >"$folder/labels"
shift 2
setsid sh -c 'folder=$1; shift; trap : TERM; echo $$ >"$folder/group"; code=0
"$@" >"$folder/output" 2>&1 || code=$?
echo "$code" >"$folder/code.part"; mv "$folder/code.part" "$folder/code"' sh "$folder" "$@" \\
  </dev/null >/dev/null 2>&1 &
while [ ! -s "$folder/group" ]; do sleep 0.02; done
"""
_ALIVE = """group=$(cat "$1/group")
alive() {
  { read -r stat <"/proc/$group/stat"; } 2>/dev/null || return 1
  case ${stat##*) } in [ZX]*) return 1 ;; esac
}
"""
_WAIT = f"""{_ALIVE}
while alive; do sleep 0.1; done
"""
_STOP = f"""{_ALIVE}
kill -TERM "-$group" 2>/dev/null || exit 0
tenths=$(($2 * 10))
while alive && [ "$tenths" -gt 0 ]; do sleep 0.1; tenths=$((tenths - 1)); done
kill -KILL "-$group" 2>/dev/null || true
while alive; do sleep 0.02; done
"""
_REMOVE = """[ -d "$1" ] || exit 0
kill -KILL "-$(cat "$1/group")" 2>/dev/null || true
rm -rf "$1"
"""


class Apptainer(Docker):
    """What apptainer does differently from Docker: it has no daemon, no store of images, and builds none."""

    name: ClassVar[str] = "apptainer"
    has_store: ClassVar[bool] = False
    opens_devices_as_caller: ClassVar[bool] = True
    access_fix: ClassVar[str] = ""
    without_label: ClassVar[tuple[str, ...]] = ()

    # --- commands ---

    def build(self, *words: Any, **how: Any) -> NoReturn:
        raise RunError(_BUILD)

    def push(self, name: str, digest_file: Path | str | None = None, image_id: str = "") -> NoReturn:
        raise RunError(_BUILD)

    def tag(self, source: str, name: str) -> NoReturn:
        raise RunError(_BUILD)

    def load(self, archive: Path | str) -> NoReturn:
        raise RunError(f"{archive}: apptainer takes images from a registry; push them")

    def save(self, image: str, archive: Path | str) -> NoReturn:
        raise RunError(_BUILD)

    def version_command(self) -> BaseCommand:
        return self._shell('version=$(apptainer --version) && echo "${version##* }"')

    def login(self, registry: str, username: str) -> BaseCommand:
        server = "docker.io" if registry in ("", "dockerhub") else registry
        return self("registry", "login", "--username", username, "--password-stdin", f"docker://{server}")

    def pull(self, reference: str) -> BaseCommand:
        plain = ["--no-https"] if is_loopback(reference) else []
        return self._shell(_PULL, str(_image_file(reference)), self.full_name(reference), *plain)

    def run(self, container: Container) -> BaseCommand:
        options = translated([*container.devices, *container.options])
        if options.ignored:
            logger.info(f"apptainer: without effect: {' '.join(dict.fromkeys(options.ignored))}")
        environment = {**container.environment, **options.environment}
        variables = {f"APPTAINERENV_{name}": value for name, value in environment.items()}
        secrets = {f"APPTAINERENV_{name}": programs.Secret(value) for name, value in container.secrets.items()}
        program = [container.entrypoint] if container.entrypoint else []
        command = self._shell(
            _RUN,
            str(_folder(container.name)),
            json.dumps(dict(container.labels)),
            self.name,
            "exec",
            "--containall",
            "--writable-tmpfs",
            # Root without all of its capabilities, as in a container, can't hand them on.
            *(["--no-privs"] if os.geteuid() == 0 else []),
            *[word for mount in container.mounts for word in ("--mount", _mount(*mount))],
            *([f"--pwd={container.workdir}"] if container.workdir else []),
            *options.words,
            str(_image_file(container.image)),
            *program,
            *container.words,
        )
        return command.with_env(**variables, **secrets)

    def wait(self, container: str) -> BaseCommand:
        return self._shell(_WAIT, str(_folder(container)))

    def stop(self, container: str, seconds: int) -> BaseCommand:
        return self._shell(_STOP, str(_folder(container)), str(seconds))

    def kill(self, container: str) -> BaseCommand:
        return self._shell(_STOP, str(_folder(container)), "0")

    def remove(self, container: str) -> BaseCommand:
        return self._shell(_REMOVE, str(_folder(container)))

    def logs(self, container: str) -> BaseCommand:
        return programs.program("tail", "--lines=100", str(_folder(container) / "output"))

    # --- questions ---

    def images(self, *references: str) -> Sequence[Mapping[str, Any]]:
        return [
            {"Id": reference, "Size": _image_file(reference).stat().st_size, "RepoDigests": [reference]}
            for reference in references
            if _image_file(reference).is_file()
        ]

    def state(self, container: str) -> State | None:
        folder = _folder(container)
        if not folder.is_dir():
            return None
        with suppress(OSError, ValueError):
            return State(int((folder / "code").read_text()), False, "", running=False)
        # Killed with all that it has started.
        return State(0 if _is_alive(folder) else 137, False, "", running=_is_alive(folder))

    def containers(self, label: str, running: bool = False, sizes: bool = False) -> list[LabelledContainer]:
        entries = [(path, _labels(path)) for path in sorted(_containers().glob("*"))]
        return [
            LabelledContainer(name=path.name, labels=labels, running=_is_alive(path))
            for path, labels in entries
            if label.partition("=")[0] in labels
            and label.partition("=")[2] in ("", labels[label.partition("=")[0]])
            and (_is_alive(path) or not running)
        ]

    def sees(self, folder: Path) -> bool:
        return True

    def remaps_users(self) -> bool:
        return False

    def image_root(self) -> Path | None:
        return _images()

    def has_gpu_runtime(self, vendor: str) -> bool:
        return True

    def devices(self, gpus: Sequence[Gpu], mode: str) -> list[str]:
        """Return options for these GPUs: apptainer passes all, and a variable chooses."""
        if mode not in ("auto", "devices"):
            raise RunError(f"--gpu-mode {mode}: apptainer passes all GPUs, and a variable chooses; use auto")
        if not gpus:
            return []
        numbers = ",".join(str(gpu.index) for gpu in gpus)
        if gpus[0].vendor == "AMD":
            return ["--rocm", f"--env=ROCR_VISIBLE_DEVICES={numbers}"]
        return ["--nv", f"--env=CUDA_VISIBLE_DEVICES={','.join(gpu.uuid or str(gpu.index) for gpu in gpus)}"]

    def login_environment(self, folder: Path, registries: Sequence[str]) -> dict[str, str]:
        own = Path(os.environ.get("APPTAINER_CONFIGDIR") or Path.home() / ".apptainer") / "docker-config.json"
        if own.is_file():
            shutil.copy(own, folder / own.name)
        return {"APPTAINER_CONFIGDIR": str(folder)}

    def log_caller_settings(self, environ: Mapping[str, str]) -> None:
        """Log nothing: its variables are in its manual."""

    def _shell(self, script: str, *words: str) -> BaseCommand:
        return programs.program("sh", "-c", script, "sh", *words, env=self.environment)


def _images() -> Path:
    return Path(os.environ.get(SIF_FOLDER_VARIABLE) or cache_home() / "sif").expanduser().absolute()


def _image_file(reference: str) -> Path:
    """Return the file of an image: by its digest, which is the same in every registry, else by its name."""
    name, _, digest = reference.partition("@sha256:")
    if re.fullmatch(r"[0-9a-f]{64}", digest):
        return _images() / f"{repository(name).rpartition('/')[2]}-{digest}.sif"
    return _images() / (re.sub(r"[^A-Za-z0-9_.-]", "_", reference)[:200] + ".sif")


def _containers() -> Path:
    """Return the folder of this machine's containers; the home directory may be another's too."""
    return cache_home() / "apptainer" / socket.gethostname()


def _folder(container: str) -> Path:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,250}", container):
        raise RunError(f"{container!r}: no name of a container")
    return _containers() / container


def _labels(folder: Path) -> dict[str, str]:
    with suppress(OSError, ValueError):
        labels = json.loads((folder / "labels").read_text(encoding="utf-8"))
        return {str(name): str(value) for name, value in labels.items()} if isinstance(labels, dict) else {}
    return {}


def _is_alive(folder: Path) -> bool:
    """Whether the first process of a container runs; one that nobody collects has ended."""
    with suppress(OSError, ValueError):
        stat = Path(f"/proc/{int((folder / 'group').read_text())}/stat").read_text(errors="replace")
        return stat.rpartition(") ")[2][:1] not in ("Z", "X")
    return False


def _mount(host: str, inside: str, read_only: bool) -> str:
    """Return a bind mount, as a line of CSV."""
    fields = ["type=bind", f"source={host}", f"destination={inside}", *(["ro"] if read_only else [])]
    return ",".join('"' + text.replace('"', '""') + '"' if re.search(r'[",]', text) else text for text in fields)
