"""What this machine is fit for: one check a line, and the command that mends what fails."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from madengine import gpus as gpu_finder
from madengine import programs
from madengine.errors import EngineError, MadengineError
from madengine.programs import devices
from madengine.programs import engine as engines
from madengine.programs.engine import Docker
from madengine.records import Found, Gpu

OK, NOTE, FAILED = "ok", "note", "FAILED"

OLDEST_PYTHON = (3, 10)
# Free space: below the first a run is refused by the next full disk, below the second an image may not fit.
LITTLE_DISK, SMALL_DISK = 2**30, 20 * 2**30
CLOCK_SECONDS = 60.0
REGISTRY_SECONDS = 30.0


@dataclass(frozen=True)
class Check:
    """One thing that a run needs: what was found, and the command or step that mends it where it failed."""

    name: str
    status: str
    found: str
    mend: str = ""


@dataclass(frozen=True)
class Examination:
    """What the checks look at: the engine's name, the registry (empty for none), the GPUs and who told of them."""

    engine_name: str
    registry: str
    gpu_mode: str
    sources: Mapping[str, Found[Gpu]]
    gpus: tuple[Gpu, ...]
    engine: list[Docker] = field(default_factory=list)


def examine(engine_name: str, registry: str, gpu_mode: str) -> list[Check]:
    """Look at everything that a run needs here; never raises for what it finds."""
    subject = Examination(engine_name, registry, gpu_mode, gpu_finder.report(), gpu_finder.found())
    found: list[Check] = []
    for look in _CHECKS:
        try:
            found.extend(look(subject))
        except (MadengineError, OSError, ValueError) as error:
            found.append(Check(look.__name__.strip("_").replace("_", " "), FAILED, str(error)))
    return found


def is_fit(checks: Sequence[Check]) -> bool:
    """Whether a run can start here."""
    return all(check.status != FAILED for check in checks)


def as_json(checks: Sequence[Check]) -> dict[str, Any]:
    return {"fit": is_fit(checks), "checks": [asdict(check) for check in checks]}


def table(checks: Sequence[Check]) -> str:
    """The checks for a terminal; below them what to do about those that failed."""
    from tabulate import tabulate

    rows = [[check.name, check.status, check.found] for check in checks]
    steps = [f"{check.name}: {check.mend}" for check in checks if check.mend]
    drawn = tabulate(rows, headers=["check", "", "found"], disable_numparse=True)
    return "\n".join([drawn, *([""] if steps else []), *steps])


def _python(subject: Examination) -> Iterator[Check]:
    version = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info >= OLDEST_PYTHON:
        yield Check("python", OK, version)
    else:
        yield Check("python", FAILED, version, "apt-get install python3 (3.10 or newer)")


def _engine(subject: Examination) -> Iterator[Check]:
    try:
        engine = engines.find(subject.engine_name)
    except EngineError as error:
        yield Check("engine", FAILED, str(error), "apt-get install podman, or: systemctl start docker")
        return
    subject.engine.append(engine)
    yield Check("engine", OK, f"{engine.name} {engine.version}")


def _gpu_tools(subject: Examination) -> Iterator[Check]:
    for source, found in subject.sources.items():
        if found.items:
            first = found.items[0]
            versions = ", ".join(filter(None, (f"driver {first.driver}" if first.driver else "", first.runtime)))
            said = f"{len(found.items)} × {first.name or first.architecture}" + (f" ({versions})" if versions else "")
            yield Check(source, NOTE if found.problem else OK, f"{said}; {found.problem}".rstrip("; "))
        else:
            yield Check(source, NOTE, found.problem or "names no GPU")


def _gpus(subject: Examination) -> Iterator[Check]:
    if not subject.gpus:
        yield Check("GPUs", NOTE, "none: images for gpu_vendor NONE run here")
        return
    listed = ", ".join(f"{gpu.index}: {gpu.name or gpu.architecture} {gpu.partition}".rstrip() for gpu in subject.gpus)
    yield Check("GPUs", OK, f"{len(subject.gpus)} of {subject.gpus[0].vendor} ({listed})")


def _device_nodes(subject: Examination) -> Iterator[Check]:
    """The nodes that a container is given must be there, and ours to give where the engine runs as us."""
    nodes = ["/dev/kfd", *(gpu.render_node for gpu in subject.gpus)] if _vendor(subject) == gpu_finder.AMD else []
    for node in dict.fromkeys(filter(None, nodes)):
        if not Path(node).exists():
            yield Check(node, FAILED, "not there", "modprobe amdgpu")
        elif not os.access(node, os.R_OK | os.W_OK):
            yield Check(node, FAILED, "no permission", "usermod --append --groups render,video $USER, then log in anew")
        else:
            yield Check(node, OK, "readable and writable")


def _handing_over(subject: Examination) -> Iterator[Check]:
    """Whether the engine can give the GPUs to a container."""
    if not subject.gpus or not subject.engine:
        return
    engine, vendor = subject.engine[0], subject.gpus[0].vendor
    specified = devices.cdi_devices(vendor)
    yield Check(
        "CDI", OK if specified else NOTE, f"{len(specified)} devices specified" if specified else "no specification"
    )
    flags = engine.devices(subject.gpus, subject.gpu_mode)
    if flags[0] == "--gpus" and engine.name == "docker" and not (specified or _has_runtime(engine, vendor)):
        toolkit = "nvidia-container-toolkit" if vendor == gpu_finder.NVIDIA else "amd-container-toolkit"
        yield Check("container toolkit", FAILED, "docker has no runtime for these GPUs", f"install {toolkit}")
        return
    yield Check("handing GPUs over", OK, " ".join(flags)[:80])


def _has_runtime(engine: Docker, vendor: str) -> bool:
    said = programs.attempt(engine("info", "--format={{json .Runtimes}}")).out
    return f'"{vendor.lower()}"' in said


def _disk(subject: Examination) -> Iterator[Check]:
    for name, path in {"disk here": Path.cwd(), **_engine_root(subject)}.items():
        if not path.exists():
            continue
        free = shutil.disk_usage(path).free
        said = f"{free / 2**30:.1f} GiB free in {path}"
        if free < LITTLE_DISK:
            yield Check(
                name, FAILED, said, f"make room in {path}; `{_name(subject)} image prune` removes unused images"
            )
        else:
            yield Check(name, NOTE if free < SMALL_DISK else OK, said)


def _engine_root(subject: Examination) -> dict[str, Path]:
    if not subject.engine:
        return {}
    template = {"podman": "{{.Store.GraphRoot}}"}.get(_name(subject), "{{.DockerRootDir}}")
    root = programs.attempt(subject.engine[0]("info", f"--format={template}")).out.strip()
    return {"disk of images": Path(root)} if root.startswith("/") else {}


def _shared_memory(subject: Examination) -> Iterator[Check]:
    half = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2
    yield Check("shared memory", OK, f"a container gets {half / 2**30:.1f} GiB as /dev/shm")


def _registry(subject: Examination) -> Iterator[Check]:
    """A pull of what can't exist: a registry that is reached and lets us in says that it doesn't know it."""
    if not subject.registry or not subject.engine:
        return
    engine, name = subject.engine[0], f"{subject.registry}/madengine/doctor:none"
    answer = programs.attempt(engine.pull(name), seconds=REGISTRY_SECONDS)
    said = engines.explain(answer.err or answer.out)
    if answer.code is None:
        yield Check("registry", FAILED, f"{subject.registry}: no answer", _reach(subject.registry))
    elif any(word in said.lower() for word in ("unknown", "not found", "no such manifest")) or answer.code == 0:
        yield Check("registry", OK, f"{subject.registry} answers and lets us in")
    elif any(word in said.lower() for word in ("unauthorized", "denied", "authentication", "no basic auth")):
        yield Check("registry", FAILED, f"{subject.registry}: {said}", f"{engine.name} login {subject.registry}")
    else:
        yield Check("registry", FAILED, f"{subject.registry}: {said}", _reach(subject.registry))


def _reach(registry: str) -> str:
    return f"curl -v https://{registry}/v2/ (http:// on loopback): is it up, and its port open in the firewall?"


def _clock(subject: Examination) -> Iterator[Check]:
    """Against the registry's clock; logins and certificates fail where they differ much."""
    if not subject.registry:
        return
    from email.utils import parsedate_to_datetime
    from urllib.error import HTTPError, URLError
    from urllib.request import urlopen

    scheme = "http" if engines.is_loopback(subject.registry) else "https"
    try:
        with urlopen(f"{scheme}://{subject.registry}/v2/", timeout=10) as answer:
            said = answer.headers.get("Date")
    except HTTPError as error:
        said = error.headers.get("Date")
    except (URLError, OSError):
        return
    if not said:
        return
    off = abs((datetime.now(timezone.utc) - parsedate_to_datetime(said)).total_seconds())
    if off > CLOCK_SECONDS:
        yield Check("clock", FAILED, f"{off:.0f} s off the registry's", "timedatectl set-ntp true")
    else:
        yield Check("clock", OK, f"within {max(1, round(off))} s of the registry's")


def _vendor(subject: Examination) -> str:
    return gpu_finder.vendor(subject.gpus)


def _name(subject: Examination) -> str:
    return subject.engine[0].name if subject.engine else "docker"


_CHECKS: Sequence[Callable[[Examination], Iterator[Check]]] = (
    _python,
    _engine,
    _gpu_tools,
    _gpus,
    _device_nodes,
    _handing_over,
    _disk,
    _shared_memory,
    _registry,
    _clock,
)
