"""What engines without a daemon share: images are files that nodes share, and containers the caller's own processes."""

from __future__ import annotations

import json
import logging
import os
import re
import socket
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

from madengine import programs
from madengine.errors import RunError
from madengine.files import cache_home
from madengine.programs.engine import Container, Docker
from madengine.programs.engine_answers import LabelledContainer, State
from madengine.programs.translated_options import Translated, translated
from madengine.records import Gpu, repository

if TYPE_CHECKING:
    from plumbum.commands.base import BaseCommand

logger = logging.getLogger(__name__)

#: where images are kept; a folder that nodes share spares each of them the pull
IMAGE_FOLDER_VARIABLE = "MADENGINE_SIF_FOLDER"
# An image is pulled under a lock, to a file that appears whole: nodes may share the folder.
_PULL = """set -e
file=$1 source=$2
shift 2
mkdir -p "$(dirname "$file")"
exec 9>"$file.lock"
flock 9 2>/dev/null || true
[ ! -e "$file" ] || exit 0
trap 'rm -f "$file.$$.part"' EXIT
"$@" "$file.$$.part" "$source"
mv "$file.$$.part" "$file"
"""
# The container's processes are a group of their own; its first one leaves their output and exit code in its folder, and
# its number with its start, for after its end another process may have that number.
_RUN = """set -e
folder=$1
mkdir -p "$(dirname "$folder")"
mkdir -m 700 "$folder"
printf %s "$2" >"$folder/labels"
shift 2
setsid sh -c 'folder=$1; shift; trap : TERM; code=0
started() { set -- ${1##*) }; echo "${20}"; }
read -r stat <"/proc/$$/stat"; echo "$$ $(started "$stat")" >"$folder/group"
"$@" >"$folder/output" 2>&1 || code=$?
echo "$code" >"$folder/code.part"; mv "$folder/code.part" "$folder/code"' sh "$folder" "$@" \\
  </dev/null >/dev/null 2>&1 &
while [ ! -s "$folder/group" ]; do sleep 0.02; done
"""
_ALIVE = """read -r group started <"$1/group"
# Whether the group's number is its first process's, or no process's.
is_ours() {
  { read -r stat <"/proc/$group/stat"; } 2>/dev/null || return 0
  set -- ${stat##*) }
  state=$1
  [ "${20}" = "$started" ]
}
alive() {
  state=
  is_ours && case $state in '' | [ZX]) return 1 ;; esac
}
"""
_WAIT = f"""{_ALIVE}
while alive; do sleep 0.1; done
"""
# With an engine's own `send SIGNAL`. What a KILL through it leaves is killed here.
_END = """
wait_for_end() {
  tenths=$(($1 * 10))
  while alive && [ "$tenths" -gt 0 ]; do sleep 0.1; tenths=$((tenths - 1)); done
}
end() {
  ! alive || send KILL
  wait_for_end 5
  ! is_ours || kill -KILL "-$group" 2>/dev/null || true
}
"""
_STOP = f"""{_END}
alive || exit 0
if [ "$2" -gt 0 ]; then
  send TERM
  wait_for_end "$2"
fi
end
while alive; do sleep 0.02; done
"""
_REMOVE = f"""{_END}
end
rm -rf "$1"
"""


class ProcessEngine(Docker):
    """An engine without a daemon and a store of images, which builds none; its containers are groups of processes."""

    has_store: ClassVar[bool] = False
    opens_devices_as_caller: ClassVar[bool] = True
    access_fix: ClassVar[str] = ""
    without_label: ClassVar[tuple[str, ...]] = ()
    #: How its files of images end.
    suffix: ClassVar[str]
    #: A shell function `send SIGNAL`, to all processes of the container whose group is `$group`, and folder `$1`.
    send: ClassVar[str] = 'send() { kill "-$1" "-$group" 2>/dev/null || true; }'
    #: How GPUs are passed, by vendor.
    gpu_flags: ClassVar[Mapping[str, Sequence[str]]] = {}

    # --- what each does in its own way ---

    def image_source(self, reference: str) -> str:
        """Return what it pulls an image from."""
        return f"docker://{self.full_name(reference)}"

    def pull_words(self, reference: str) -> Sequence[str]:
        """Return the line that pulls an image, without the file and the source that follow."""
        raise NotImplementedError

    def run_line(self, container: Container, options: Translated) -> tuple[Sequence[str], Mapping[str, str]]:
        """Return the line that runs a container in the foreground, and the variables that the line needs."""
        raise NotImplementedError

    # --- commands ---

    def build(self, *words: Any, **how: Any) -> NoReturn:
        raise RunError(self._builds_none())

    def push(self, name: str, digest_file: Path | str | None = None, image_id: str = "") -> NoReturn:
        raise RunError(self._builds_none())

    def tag(self, source: str, name: str) -> NoReturn:
        raise RunError(self._builds_none())

    def load(self, archive: Path | str) -> NoReturn:
        raise RunError(f"{archive}: {self.name} takes images from a registry; push them")

    def save(self, image: str, archive: Path | str) -> NoReturn:
        raise RunError(self._builds_none())

    def pull(self, reference: str) -> BaseCommand:
        return self.shell(
            _PULL, str(self.image_file(reference)), self.image_source(reference), *self.pull_words(reference)
        )

    def run(self, container: Container) -> BaseCommand:
        options = translated([*container.devices, *container.options], self.name)
        ignored = [*options.ignored, *(["--cpuset-cpus"] if container.cpus else [])]
        if ignored:
            logger.info(f"{self.name}: without effect: {' '.join(dict.fromkeys(ignored))}")
        line, variables = self.run_line(container, options)
        command = self.shell(_RUN, str(self.folder(container.name)), json.dumps(dict(container.labels)), *line)
        return command.with_env(**variables) if variables else command

    def wait(self, container: str) -> BaseCommand:
        return self.shell(_WAIT, str(self.folder(container)))

    def stop(self, container: str, seconds: int) -> BaseCommand:
        return self.shell(f"{_ALIVE}{self.send}{_STOP}", str(self.folder(container)), str(seconds), container)

    def kill(self, container: str) -> BaseCommand:
        return self.stop(container, 0)

    def remove(self, container: str) -> BaseCommand:
        script = f'[ -d "$1" ] || exit 0\n{_ALIVE}{self.send}{_REMOVE}'
        return self.shell(script, str(self.folder(container)), "", container)

    def logs(self, container: str) -> BaseCommand:
        return self.shell('cat "$1"/output* | tail -n 100', str(self.folder(container)))

    # --- questions ---

    def images(self, *references: str) -> Sequence[Mapping[str, Any]]:
        return [
            {"Id": reference, "Size": self.image_file(reference).stat().st_size, "RepoDigests": [reference]}
            for reference in references
            if self.image_file(reference).is_file()
        ]

    def state(self, container: str) -> State | None:
        folder = self.folder(container)
        if not folder.is_dir():
            return None
        with suppress(OSError, ValueError):
            return State(int((folder / "code").read_text()), False, "", running=False)
        # Killed with all that it has started.
        return State(0 if _is_alive(folder) else 137, False, "", running=_is_alive(folder))

    def containers(self, label: str, running: bool = False, sizes: bool = False) -> list[LabelledContainer]:
        entries = [(path, _labels(path)) for path in sorted(self._containers().glob("*"))]
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
        """Return options for these GPUs: the engine passes all, and a variable chooses."""
        if mode not in ("auto", "devices"):
            raise RunError(f"--gpu-mode {mode}: {self.name} passes all GPUs, and a variable chooses; use auto")
        if not gpus:
            return []
        flags = self.gpu_flags[gpus[0].vendor]
        if gpus[0].vendor == "AMD":
            return [*flags, f"--env=ROCR_VISIBLE_DEVICES={','.join(str(gpu.index) for gpu in gpus)}"]
        return [*flags, f"--env=CUDA_VISIBLE_DEVICES={','.join(gpu.uuid or str(gpu.index) for gpu in gpus)}"]

    def log_caller_settings(self, environ: Mapping[str, str]) -> None:
        """Log nothing: its variables are in its manual."""

    def shell(self, script: str, *words: str) -> BaseCommand:
        """Return a command that runs a script of ours with these words."""
        return programs.program("sh", "-c", script, "sh", *words, env=self.environment)

    def image_file(self, reference: str) -> Path:
        """Return the file of an image: by its digest, which is the same in every registry, else by its name."""
        name, _, digest = reference.partition("@sha256:")
        if re.fullmatch(r"[0-9a-f]{64}", digest):
            return _images() / f"{repository(name).rpartition('/')[2]}-{digest}{self.suffix}"
        return _images() / (re.sub(r"[^A-Za-z0-9_.-]", "_", reference)[:200] + self.suffix)

    def _builds_none(self) -> str:
        return f"{self.name} builds no images: build with --engine docker or podman, and push"

    def _containers(self) -> Path:
        """Return the folder of this machine's containers; the home directory may be another's too."""
        return cache_home() / self.name / socket.gethostname()

    def folder(self, container: str) -> Path:
        """Return the folder of a container's state. Raises RunError for a name that is none."""
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,250}", container):
            raise RunError(f"{container!r}: no name of a container")
        return self._containers() / container


def _images() -> Path:
    return Path(os.environ.get(IMAGE_FOLDER_VARIABLE) or cache_home() / "sif").expanduser().absolute()


def _labels(folder: Path) -> dict[str, str]:
    with suppress(OSError, ValueError):
        labels = json.loads((folder / "labels").read_text(encoding="utf-8"))
        return {str(name): str(value) for name, value in labels.items()} if isinstance(labels, dict) else {}
    return {}


def _is_alive(folder: Path) -> bool:
    """Whether the first process of a container runs; one that nobody collects has ended."""
    with suppress(OSError, ValueError):
        group, started = (folder / "group").read_text().split()
        fields = Path(f"/proc/{int(group)}/stat").read_text(errors="replace").rpartition(") ")[2].split()
        return fields[0] not in ("Z", "X") and fields[19] == started
    return False
