"""pyxis, NVIDIA's plugin of Slurm: a container is a step of the job, out of an image that enroot has imported."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from madengine import programs
from madengine.errors import RunError
from madengine.programs.engine import Container
from madengine.programs.image_references import is_loopback, with_hub
from madengine.programs.process_engine import ProcessEngine
from madengine.programs.translated_options import Translated
from madengine.records import Gpu, repository

if TYPE_CHECKING:
    from plumbum.commands.base import BaseCommand

_HUB = "registry-1.docker.io"
_CREDENTIALS = ".credentials"
_NO_JOB = (
    "pyxis runs containers as steps of a Slurm job, and this is no node of one (no SLURM_JOB_ID, SLURMD_NODENAME); use "
    "`madengine deploy --target slurm`"
)
_VERSION = """[ -n "$1" ] || { echo "$2" >&2; exit 1; }
for option in --container-image --container-env; do
  srun --help 2>/dev/null | grep -q -e "$option" || {
    echo "srun has no $option on this node: pyxis is missing, or too old" >&2
    exit 1
  }
done
enroot version
"""
# TERM goes to the step's processes. A srun that is told to end kills its step.
_SEND = """
name=$3
send() {
  step=
  [ "$1" != TERM ] ||
    step=$(squeue --noheader --steps --jobs="${SLURM_JOB_ID-}" --format='%i|%j' | sed -n "s/|$name\\$//p")
  if [ -n "$step" ]; then
    scancel --signal="$1" "$step"
  else
    kill -TERM "-$group" 2>/dev/null || true
  fi
}
"""
# Our login is the first of the file, and so is the one that counts. A registry may have its tokens from another host.
_LOGIN = """set -eu
umask 077
registry=$1 user=$2 scheme=$3
IFS= read -r password || [ -n "$password" ]
case $password in
'$'* | '"'* | *[[:space:]]*)
  echo "enroot's file of credentials can't hold a password with blanks, or with \\" or \\$ in front" >&2
  exit 1
  ;;
esac
realm=$(curl --silent --head --max-time 20 "$scheme://$registry/v2/" | tr -d '\\r' |
  sed -n 's|^[Ww][Ww][Ww]-[Aa]uthenticate:.*realm="https\\{0,1\\}://\\([A-Za-z0-9.-]*\\).*|\\1|p') || true
file=$ENROOT_CONFIG_PATH/.credentials
{
  for host in "${registry%:*}" $realm; do
    printf 'machine %s login %s password %s\\n' "$host" "$user" "$password"
  done
  [ ! -e "$file" ] || cat "$file"
} >"$file.part"
mv "$file.part" "$file"
"""
# In the container, which has all of srun's variables. Slurm's own would make programs inside take it for a job of
# theirs, and its choice of GPUs is the job's, not the container's.
_INSIDE = r"""for name in $(env | sed -n 's/^\(\(SLURMD*\|SRUN\|SPANK\|PMI\|PMIX\)_[A-Za-z0-9_]*\)=.*/\1/p'); do
  unset "$name"
done
unset CUDA_VISIBLE_DEVICES ROCR_VISIBLE_DEVICES HIP_VISIBLE_DEVICES GPU_DEVICE_ORDINAL ZE_AFFINITY_MASK
[ "${HOME-}" != "$1" ] || export HOME=/root
shift
exec env "$@"
"""


class Pyxis(ProcessEngine):
    """What pyxis does differently from other engines without a daemon."""

    name: ClassVar[str] = "pyxis"
    suffix: ClassVar[str] = ".sqsh"
    send: ClassVar[str] = _SEND
    gpu_flags: ClassVar[Mapping[str, Sequence[str]]] = {
        "AMD": ("--volume=/dev/kfd:/dev/kfd", "--volume=/dev/dri:/dev/dri"),
        "NVIDIA": (),
    }

    def version_command(self) -> BaseCommand:
        return self.shell(_VERSION, "yes" if all(_seat()) else "", _NO_JOB)

    def login(self, registry: str, username: str) -> BaseCommand:
        server = _HUB if registry in ("", "docker.io", "dockerhub") else registry
        return self.shell(_LOGIN, server, username, "http" if is_loopback(server) else "https")

    def login_environment(self, folder: Path, registries: Sequence[str]) -> dict[str, str]:
        settings = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
        own = Path(os.environ.get("ENROOT_CONFIG_PATH") or settings / "enroot")
        for path in own.iterdir() if own.is_dir() else ():
            if path.name == _CREDENTIALS:
                shutil.copy(path, folder / _CREDENTIALS)
            else:
                (folder / path.name).symlink_to(path.resolve())
        return {"ENROOT_CONFIG_PATH": str(folder)}

    def image_source(self, reference: str) -> str:
        """Return what enroot imports; as a tag, every version of it takes a digest."""
        name, _, digest = reference.partition("@")
        repo = repository(name)
        tag = digest or name.removeprefix(repo).removeprefix(":") or "latest"
        registry, slash, image = with_hub(repo).partition("/")
        if not slash:
            registry, image = "docker.io", f"library/{repo}"
        return f"docker://{_HUB if registry == 'docker.io' else registry}#{image}:{tag}"

    def pull_words(self, reference: str) -> Sequence[str]:
        plain = ["env", "ENROOT_ALLOW_HTTP=yes"] if is_loopback(reference) else []
        return [*plain, "enroot", "import", "--output"]

    def run_line(self, container: Container, options: Translated) -> tuple[Sequence[str], Mapping[str, str]]:
        job, node = _seat()
        if not (job and node):
            raise RunError(_NO_JOB)
        environment = {"NVIDIA_VISIBLE_DEVICES": "void", **container.environment, **options.environment}
        # By name, so that they stay out of argv; NVIDIA's also decides which GPUs enroot passes.
        by_name = {
            "NVIDIA_VISIBLE_DEVICES": environment["NVIDIA_VISIBLE_DEVICES"],
            **{name: programs.Secret(value) for name, value in container.secrets.items()},
        }
        of_caller = ["HOME", *sorted(name for name in os.environ if name.startswith("ENROOT_"))]
        mounts = [*(_mount(*mount) for mount in container.mounts), *map(_volume, options.volumes)]
        line = (
            *self._step(container.name, job, node),
            f"--export={','.join([*of_caller, *by_name])}",
            f"--container-image={self.image_file(container.image)}",
            "--container-writable",
            "--container-remap-root",
            "--no-container-mount-home",
            "--no-container-entrypoint",
            *([f"--container-mounts={','.join(mounts)}"] if mounts else []),
            *([f"--container-workdir={container.workdir}"] if container.workdir else []),
            f"--container-env={','.join(by_name)}",
            "sh",
            "-c",
            _INSIDE,
            "sh",
            os.environ.get("HOME", ""),
            *(f"{name}={value}" for name, value in environment.items()),
            *([container.entrypoint] if container.entrypoint else []),
            *container.words,
        )
        return line, by_name

    def _step(self, name: str, job: str, node: str) -> Sequence[str]:
        """Return the words that start a step of a job on a node."""
        return (
            "srun",
            f"--jobid={job}",
            "--overlap",
            "--nodes=1",
            "--ntasks=1",
            f"--nodelist={node}",
            f"--job-name={name}",
            # All of what the job has on this node.
            "--mem=0",
            "--cpu-bind=none",
            "--mpi=none",
            "--quiet",
            "--input=none",
            # By way of srun, its output would hold up the step's end for as long as a process that it leaves has it.
            f"--output={str(self.folder(name)).replace('%', '%%')}/output-%t",
        )

    def devices(self, gpus: Sequence[Gpu], mode: str) -> list[str]:
        flags = super().devices(gpus, mode)
        visible = [word.partition("=CUDA_")[2] for word in flags if word.startswith("--env=CUDA_")]
        return [*flags, *(f"--env=NVIDIA_{setting}" for setting in visible)]


def _seat() -> tuple[str, str]:
    """Return the job, and the name of its node, that this process runs on; empty outside of Slurm."""
    return os.environ.get("SLURM_JOB_ID", ""), os.environ.get("SLURMD_NODENAME", "")


def _mount(host: str, inside: str, read_only: bool) -> str:
    """Return a bind mount. Raises RunError for a path that pyxis can't be given."""
    for path in (host, inside):
        if re.search(r"[\s,:\\]", path):
            raise RunError(f"{path!r}: pyxis can't mount a path with blanks, commas, colons or backslashes")
    return f"{host}:{inside}{':ro' if read_only else ''}"


def _volume(text: str) -> str:
    """Return docker's `--volume` as a mount. Raises RunError for one that pyxis can't be given."""
    host, _, rest = text.partition(":")
    inside, _, flags = rest.partition(":")
    if not (host.startswith("/") and inside.startswith("/")):
        raise RunError(f"additional_docker_run_options: {text}: pyxis mounts folders: expected /HOST:/INSIDE[:ro]")
    return _mount(host, inside, "ro" in flags.split(","))
