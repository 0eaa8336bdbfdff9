"""What this machine is fit for: one check a line, and the command that mends what fails."""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from madengine import programs
from madengine.config.manifest import load_manifest
from madengine.config.package import package_root
from madengine.errors import ConfigurationError, EngineError, MadengineError, RunError
from madengine.machine.gpus import AMD, NVIDIA, detected_vendor, gpu_sources
from madengine.process import own_process_id
from madengine.programs import devices
from madengine.programs.engine import Docker, explain_engine_error, find_engine, is_loopback
from madengine.records import Gpu, Image, Reading
from madengine.run.orphans import OWNER_LABEL
from madengine.tools.discover_models import DiscoverModels

OK, NOTE, FAILED = "ok", "note", "FAILED"

OLDEST_PYTHON = (3, 10)
# Free space: below the first a run is refused by the next full disk, below the second an image may not fit.
LITTLE_DISK, SMALL_DISK = 2**30, 20 * 2**30
CLOCK_SECONDS = 60.0
REGISTRY_SECONDS = 30.0
# What an engine says of an image that the registry doesn't have (not of an unknown authority, or any page).
_IS_UNKNOWN = re.compile(r"(manifest|name) unknown|manifest for .* not found|no such manifest|: not found$")
MANIFEST = Path("build_manifest.json")
# Where the kernel lists what is plugged in, with or without a driver; the vendors' numbers; the classes that
# data-centre GPUs have, and a server's own display or a processor's has not.
PCI = Path("/sys/bus/pci/devices")
PCI_VENDORS = {NVIDIA: "0x10de", AMD: "0x1002"}
PCI_CLASSES = ("0x0302", "0x0380", "0x1200")
MODULES = {NVIDIA: "nvidia", AMD: "amdgpu"}
KFD = "/dev/kfd"
TOOLKITS = {
    NVIDIA: ("nvidia-container-toolkit", "nvidia-ctk"),
    AMD: ("amd-container-toolkit", "amd-ctk"),
}
# What tries GPUs in a container, after a line that says how; nothing where there is no tool to try them with. A node is
# opened, because root passes any look at its permissions.
TRIALS = {
    NVIDIA: "command -v nvidia-smi >/dev/null || exit 0; echo nvidia-smi -L; nvidia-smi -L 2>&1",
    AMD: (
        'echo opening /dev/kfd and the render nodes; for node in "$@"; do [ -c "$node" ] || '
        '{ echo "$node: not there"; exit 1; }; (: <> "$node") 2>&1 || exit 1; done'
    ),
}
_UNTRIED = "without the driver's nvidia-smi to try them"
_LISTED = re.compile(r"GPU \d+: |\s+MIG |WARNING|\s*$")


@dataclass(frozen=True)
class Check:
    """One thing that a run needs: what was found, and the command or step that mends it where it failed."""

    name: str
    status: str
    found: str
    fix: str = ""


@dataclass(frozen=True)
class Examination:
    """What the checks look at: the engine's name, the registry (empty for none), the GPUs and who told of them.

    `engine` and `images` (the manifest's) are filled by the checks that find them, for those that come after.
    """

    engine_name: str
    registry: str
    gpu_mode: str
    sources: Mapping[str, Reading[Gpu]]
    gpus: tuple[Gpu, ...]
    engine: list[Docker] = field(default_factory=list)
    images: list[Image] = field(default_factory=list)


def examine(engine_name: str, registry: str, gpu_mode: str) -> list[Check]:
    """Look at everything that a run needs here; never raises for what it finds."""
    sources = gpu_sources()
    gpus = next((said.items for said in sources.values() if said.items), ())
    subject = Examination(engine_name, registry, gpu_mode, sources, gpus)
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
    steps = [f"{check.name}: {check.fix}" for check in checks if check.fix]
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
        engine = find_engine(subject.engine_name)
    except EngineError as error:
        refused = "permission denied" in str(error)
        step = _join("docker") if refused else "apt-get install podman, or: systemctl start docker"
        yield Check("engine", FAILED, str(error), step)
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
        plugged = _plugged_in()
        for vendor in plugged:
            yield Check(
                "GPUs", FAILED, f"one of {vendor} is plugged in, nothing names it", f"modprobe {MODULES[vendor]}"
            )
        if not plugged:
            yield Check("GPUs", NOTE, "none: images for gpu_vendor NONE run here")
        return
    listed = ", ".join(f"{gpu.index}: {gpu.name or gpu.architecture} {gpu.partition}".rstrip() for gpu in subject.gpus)
    yield Check("GPUs", OK, f"{len(subject.gpus)} of {subject.gpus[0].vendor} ({listed})")


def _plugged_in() -> list[str]:
    """The vendors of the GPUs on the PCI bus, whether they have a driver or not."""
    found = set()
    for device in PCI.iterdir() if PCI.is_dir() else ():
        with suppress(OSError):
            if (device / "class").read_text().startswith(PCI_CLASSES):
                found.add((device / "vendor").read_text().strip())
    return [vendor for vendor, number in PCI_VENDORS.items() if number in found]


def _device_nodes(subject: Examination) -> Iterator[Check]:
    """The nodes that a container is given must be there, and ours to give where the engine runs as us."""
    for node in _nodes(subject):
        if not Path(node).exists():
            yield Check(node, FAILED, "not there", "modprobe amdgpu")
        elif not os.access(node, os.R_OK | os.W_OK):
            # Docker's daemon opens it for us.
            status = FAILED if _name(subject) == "podman" else NOTE
            yield Check(node, status, "no permission", _join("render,video"))
        else:
            yield Check(node, OK, "readable and writable")


def _nodes(subject: Examination) -> list[str]:
    nodes = [KFD, *(gpu.render_node for gpu in subject.gpus)] if _vendor(subject) == AMD else []
    return list(dict.fromkeys(filter(None, nodes)))


def _handing_over(subject: Examination) -> Iterator[Check]:
    """Whether the engine can give the GPUs to a container."""
    if not subject.gpus or not subject.engine:
        return
    engine, vendor = subject.engine[0], subject.gpus[0].vendor
    specified = len(devices.cdi_devices(vendor))
    said = f"{specified} device{'s' if specified > 1 else ''} specified" if specified else "no specification"
    yield Check("CDI", OK if specified else NOTE, said)
    try:
        flags = engine.devices(subject.gpus, subject.gpu_mode)
    except RunError as error:
        is_cdi = devices.chosen_mode(engine.name, vendor, subject.gpu_mode) == "cdi"
        yield Check("handing GPUs over", FAILED, str(error), devices.SPECIFY[vendor] if is_cdi else "--gpu-mode auto")
        return
    if flags[0] == "--gpus" and engine.name == "docker" and not (specified or _has_runtime(engine, vendor)):
        yield Check("container toolkit", FAILED, "docker has no runtime for these GPUs", _install_toolkit(vendor))
        return
    yield Check("handing GPUs over", OK, " ".join(flags)[:80])


def _install_toolkit(vendor: str) -> str:
    toolkit, tool = TOOLKITS[vendor]
    return f"apt-get install {toolkit} && {tool} runtime configure && systemctl restart docker"


def _has_runtime(engine: Docker, vendor: str) -> bool:
    # Docker takes --gpus where it finds this one, also without a runtime in its configuration.
    if vendor == NVIDIA and shutil.which("nvidia-container-runtime-hook"):
        return True
    said = programs.attempt(engine("info", "--format={{json .Runtimes}}")).out
    return f'"{vendor.lower()}"' in said


def _images(subject: Examination) -> Iterator[Check]:
    """Whether the images of the manifest here are on this machine, or can come."""
    if not MANIFEST.exists():
        yield Check("images", NOTE, f"no {MANIFEST} here")
        return
    try:
        subject.images.extend(load_manifest(MANIFEST).images)
    except ConfigurationError as error:
        yield Check("images", FAILED, str(error), f"copy {MANIFEST} anew from where it was built")
        return
    if not subject.engine:
        return
    missing = [image for image in subject.images if not subject.engine[0].images(image.reference)]
    lost = [image.docker_image for image in missing if not image.registry_image]
    if lost:
        yield Check(
            "images", FAILED, f"{', '.join(lost)}: neither here nor in a registry", "madengine build --registry …"
        )
    else:
        said = f"{len(subject.images) - len(missing)} of {len(subject.images)} of {MANIFEST} are here"
        yield Check("images", NOTE if missing else OK, f"{said}, the others will be pulled" if missing else said)


def _trial(subject: Examination) -> Iterator[Check]:
    """Whether a container starts with the GPUs, as one of a run does, and can use them; of an image that is here."""
    if not subject.engine:
        return
    engine = subject.engine[0]
    try:
        flags = engine.devices(subject.gpus, subject.gpu_mode)
    except RunError:
        return  # told above
    image = next((one.reference for one in subject.images if engine.images(one.reference)), "")
    if not image:
        yield Check("container", NOTE, "not tried: no image of a manifest is here")
        return
    options = ("--rm", "--init", f"--label={OWNER_LABEL}={own_process_id()}", "--user=0:0")
    command = engine("run", *options, *flags, "--entrypoint=sh", engine.remote(image), "-c", *_trial_words(subject))
    answer = programs.attempt(command)
    wrong = _fault(subject, answer)
    if not wrong:
        yield Check("container", OK, f"{_started(subject, answer)} ({image[:60]})")
        return
    no_driver = "could not select device driver" in wrong
    step = _install_toolkit(_vendor(subject)) if no_driver else programs.shell_line(command)
    yield Check("container", FAILED, wrong, step)


def _trial_words(subject: Examination) -> list[str]:
    vendor = _vendor(subject)
    # Device files come without the driver's tool: one of the image's own would lack the driver's libraries.
    is_bare = vendor == NVIDIA and subject.gpu_mode == "devices"
    nodes = _nodes(subject)
    return [":" if is_bare else TRIALS.get(vendor, ":"), *(["sh", *nodes] if nodes else [])]


def _fault(subject: Examination, answer: programs.Answer) -> str:
    """What is wrong with a trial: by the engine, which prints nothing on stdout, or by what tried the GPUs."""
    tried, _, said = answer.out.partition("\n")
    if answer.code is None:
        return f"{tried}: no answer" if tried else "no answer"
    if answer.code != 0:
        return (
            f"{tried}: {_own_line(said) or f'exit code {answer.code}'}" if tried else explain_engine_error(answer.err)
        )
    named = [gpu for gpu in subject.gpus if gpu.vendor != NVIDIA or gpu.uuid in said]
    is_lost = tried and len(named) < len(subject.gpus)
    return f"{tried} names {len(named)} of {len(subject.gpus)} GPUs there" if is_lost else ""


def _own_line(said: str) -> str:
    """What a tool says is wrong: its first line that names no GPU and warns of nothing."""
    return next((line.strip() for line in said.splitlines() if not _LISTED.match(line)), "")


def _started(subject: Examination, answer: programs.Answer) -> str:
    if not subject.gpus:
        return "starts without a GPU"
    tried = answer.out.partition("\n")[0]
    return f"starts with the GPUs, {f'{tried} works' if tried else _UNTRIED}"


def _models(subject: Examination) -> Iterator[Check]:
    """Model discovery; only a build needs it."""
    root, is_starter = package_root(os.environ, Path.cwd())
    if is_starter:
        yield Check("models", NOTE, "no models.json here")
        return
    try:
        yield Check("models", OK, f"{len(DiscoverModels(root).models())} in {root}")
    except MadengineError as error:
        yield Check("models", FAILED, str(error), f"fix it; `madengine discover` in {root} reads it again")


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
    registry = _registry_of(subject)
    if not registry or not subject.engine:
        return
    engine, name = subject.engine[0], f"{registry}/madengine/doctor:none"
    answer = programs.attempt(engine.pull(name), seconds=REGISTRY_SECONDS)
    said = explain_engine_error(answer.err or answer.out)
    if answer.code is None:
        yield Check("registry", FAILED, f"{registry}: no answer", _reach(registry))
    elif answer.code == 0 or _IS_UNKNOWN.search(said):
        yield Check("registry", OK, f"{registry} answers and lets us in")
    elif any(word in said.lower() for word in ("unauthorized", "denied", "authentication", "no basic auth")):
        yield Check("registry", FAILED, f"{registry}: {said}", f"{engine.name} login {registry}")
    else:
        yield Check("registry", FAILED, f"{registry}: {said}", _reach(registry))


def _registry_of(subject: Examination) -> str:
    """The registry that was named, else that of the manifest's images."""
    named = next((image.registry_image for image in subject.images if image.registry_image), "")
    host = named.partition("/")[0]
    return subject.registry or (host if "." in host or ":" in host or host == "localhost" else "")


def _reach(registry: str) -> str:
    scheme = "http" if is_loopback(registry) else "https"
    return f"curl -v {scheme}://{registry}/v2/_catalog; is it up, and its port open (ufw status)?"


def _clock(subject: Examination) -> Iterator[Check]:
    """Against the registry's clock; logins and certificates fail where they differ much."""
    registry = _registry_of(subject)
    if not registry:
        return
    from email.utils import parsedate_to_datetime
    from urllib.error import HTTPError, URLError
    from urllib.request import urlopen

    scheme = "http" if is_loopback(registry) else "https"
    try:
        with urlopen(f"{scheme}://{registry}/v2/", timeout=10) as answer:
            said = answer.headers.get("Date")
    except HTTPError as error:
        said = error.headers.get("Date")
    except (URLError, OSError):
        return
    try:
        off = abs((datetime.now(timezone.utc) - parsedate_to_datetime(said)).total_seconds())
    except (ValueError, TypeError):
        return  # it says none, or nothing that is a time
    if off > CLOCK_SECONDS:
        yield Check("clock", FAILED, f"{off:.0f} s off the registry's", "timedatectl set-ntp true")
    else:
        yield Check("clock", OK, f"within {max(1, round(off))} s of the registry's")


def _join(groups: str) -> str:
    return f"usermod --append --groups {groups} $USER, then log in anew"


def _vendor(subject: Examination) -> str:
    return detected_vendor(subject.gpus)


def _name(subject: Examination) -> str:
    return subject.engine[0].name if subject.engine else "docker"


_CHECKS: Sequence[Callable[[Examination], Iterator[Check]]] = (
    _python,
    _engine,
    _gpu_tools,
    _gpus,
    _device_nodes,
    _handing_over,
    _images,
    _trial,
    _models,
    _disk,
    _shared_memory,
    _registry,
    _clock,
)
