"""Checks that a container starts with the GPUs and can use them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from madengine import programs
from madengine.doctor.check import FAILED, NOTE, OK, Check, Subject
from madengine.doctor.gpus import device_nodes
from madengine.doctor.tiny_image import write_tiny_image
from madengine.errors import RunError
from madengine.machine.gpus import AMD, NVIDIA
from madengine.process import own_process_id
from madengine.programs import devices
from madengine.programs.engine import Docker
from madengine.programs.engine_errors import explain_engine_error, is_init_missing
from madengine.programs.engine_files import in_visible_folder
from madengine.run.orphans import OWNER_LABEL

if TYPE_CHECKING:
    from plumbum.commands.base import BaseCommand

TOOLKITS = {
    NVIDIA: ("nvidia-container-toolkit", "nvidia-ctk"),
    AMD: ("amd-container-toolkit", "amd-ctk"),
}
# Tests the GPUs in a container, after a line that names the test; prints nothing if it has no tool for it. A node is
# opened, because root passes any look at its permissions.
TRIALS = {
    NVIDIA: "command -v nvidia-smi >/dev/null || exit 0; echo nvidia-smi -L; nvidia-smi -L 2>&1",
    AMD: (
        'echo opening /dev/kfd and the render nodes; for node in "$@"; do [ -c "$node" ] || '
        '{ echo "$node: missing"; exit 1; }; (: <> "$node") 2>&1 || exit 1; done'
    ),
}
_NO_IMAGE = "no image of a manifest is on this machine"
_UNTESTED = "starts with the GPUs, without the driver's nvidia-smi to test them"
_LISTED = re.compile(r"GPU \d+: |\s+MIG |WARNING|\s*$")


def check_gpu_access(subject: Subject) -> Iterator[Check]:
    """Check that the engine can pass the GPUs to a container."""
    if not subject.gpus or not subject.engine:
        return
    engine, vendor = subject.engine, subject.vendor
    count = len(devices.cdi_devices(vendor))
    devices_text = f"{count} device{'' if count == 1 else 's'} specified"
    yield Check("CDI", OK if count else NOTE, devices_text if count else "no specification")
    try:
        flags = engine.devices(subject.gpus, subject.gpu_mode)
    except RunError as error:
        is_cdi = engine.gpu_mode(vendor, subject.gpu_mode) == "cdi"
        fix = devices.CDI_COMMANDS[vendor] if is_cdi else "--gpu-mode auto"
        yield Check("GPU access", FAILED, str(error), fix)
        return
    if flags[0] == "--gpus" and not (count or engine.has_gpu_runtime(vendor)):
        result = f"{engine.name} has no runtime for these GPUs"
        yield Check("container toolkit", FAILED, result, _install_toolkit(vendor))
        return
    yield Check("GPU access", OK, " ".join(flags)[:80])


def _install_toolkit(vendor: str) -> str:
    toolkit, tool = TOOLKITS[vendor]
    return f"apt-get install {toolkit} && {tool} runtime configure && systemctl restart docker"


def check_container(subject: Subject) -> Iterator[Check]:
    """Start a container as a run would, and test the GPUs in it if an image of the manifest is on this machine."""
    if not subject.engine:
        return
    engine = subject.engine
    try:
        flags = engine.devices(subject.gpus, subject.gpu_mode)
    except RunError:
        return  # check_gpu_access has reported it
    if not engine.has_store:
        yield Check("container", NOTE, f"not tested: {engine.name} starts files, which are made of a registry's images")
        return
    image = next((name for name in (each.reference for each in subject.images) if engine.images(name)), "")
    if not image:
        yield from _check_tiny_container(engine, bool(subject.gpus))
        return
    words = ["--entrypoint=sh", engine.full_name(image), "-c", *_trial_words(subject)]
    command, answer = _trial(engine, [*flags, *words])
    yield from _init_check(engine, command)
    fault = _fault(subject, answer)
    if not fault:
        yield Check("container", OK, f"{_success(subject, answer)} ({image[:60]})")
        return
    no_driver = "could not select device driver" in fault
    yield Check(
        "container", FAILED, fault, _install_toolkit(subject.vendor) if no_driver else programs.shell_line(command)
    )


def _check_tiny_container(engine: Docker, has_gpus: bool) -> Iterator[Check]:
    """Start a container of an image of our own, which tells whether one starts, but not with GPUs."""
    name = f"localhost/madengine-doctor:{os.urandom(6).hex()}"
    try:
        has_image = in_visible_folder(engine.name, lambda folder: _load_tiny_image(folder, engine, name), Path.home())
    except RunError as error:
        yield Check("container", FAILED, f"an image can't be loaded: {error}", f"{engine.name} info")
        return
    if not has_image:
        yield Check("container", NOTE, f"not tested: {_NO_IMAGE}")
        return
    try:
        command, answer = _trial(engine, [engine.full_name(name)])
    finally:
        programs.attempt(engine("image", "rm", "--force", engine.full_name(name)))
    yield from _init_check(engine, command)
    if answer.code == 0:
        yield Check(
            "container", NOTE if has_gpus else OK, f"starts; GPUs not tested: {_NO_IMAGE}" if has_gpus else "starts"
        )
        return
    fault = "no answer" if answer.code is None else explain_engine_error(answer.err)
    yield Check("container", FAILED, fault, f"repair {engine.name}, or choose another engine with --engine")


def _load_tiny_image(folder: Path, engine: Docker, name: str) -> bool:
    """Load an image; return False if none can be made here. Raises RunError if the engine doesn't take it."""
    archive = folder / "image.tar"
    if not write_tiny_image(archive, name):
        return False
    loaded = programs.attempt(engine.load(archive))
    if loaded.code != 0:
        raise RunError(explain_engine_error(loaded.err or loaded.out))
    return True


def _trial(engine: Docker, words: Sequence[str]) -> tuple[BaseCommand, programs.Answer]:
    """Run a container as a run does: with the engine's init, or without it where there is none."""
    options = [f"--label={OWNER_LABEL}={own_process_id()}", "--user=0:0", *words]
    command = engine("run", "--rm", "--init", *options)
    answer = programs.attempt(command)
    if answer.code != 0 and is_init_missing(answer.err):
        command = engine("run", "--rm", *options)
        answer = programs.attempt(command)
    return command, answer


def _init_check(engine: Docker, command: BaseCommand) -> Iterator[Check]:
    if "--init" not in command.formulate():
        yield Check("init", NOTE, f"{engine.name} has none; containers start without one", engine.init_fix)


def _trial_words(subject: Subject) -> list[str]:
    # Device nodes come without the driver's tool: the image's own would lack the driver's libraries.
    is_bare = subject.vendor == NVIDIA and subject.gpu_mode == "devices"
    nodes = device_nodes(subject)
    return [":" if is_bare else TRIALS.get(subject.vendor, ":"), *(["sh", *nodes] if nodes else [])]


def _fault(subject: Subject, answer: programs.Answer) -> str:
    """Return what is wrong: reported by the engine, which prints nothing on stdout, or by the test of the GPUs."""
    test, _, output = answer.out.partition("\n")
    if answer.code is None:
        return f"{test}: no answer" if test else "no answer"
    if answer.code != 0 and not test:
        return explain_engine_error(answer.err)
    if answer.code != 0:
        return f"{test}: {_message(output) or f'exit code {answer.code}'}"
    usable = [gpu for gpu in subject.gpus if gpu.vendor != NVIDIA or gpu.uuid in output]
    is_lost = test and len(usable) < len(subject.gpus)
    return f"{test} lists {len(usable)} of {len(subject.gpus)} GPUs in the container" if is_lost else ""


def _message(output: str) -> str:
    """Return the first line of a tool's output that is neither a GPU nor a warning."""
    return next((line.strip() for line in output.splitlines() if not _LISTED.match(line)), "")


def _success(subject: Subject, answer: programs.Answer) -> str:
    if not subject.gpus:
        return "starts without a GPU"
    test = answer.out.partition("\n")[0]
    return f"starts with the GPUs, {test} works" if test else _UNTESTED
