"""Image in, RunResult out: one model, one container, whatever happens to it."""

from __future__ import annotations

import os
import re
import secrets
import shlex
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from functools import partial
from io import FileIO
from pathlib import Path

from madengine import (
    artifacts,
    gpu_locks,
    isolation,
    model_code,
    multi_node,
    owner,
    payload,
    process,
    programs,
    telemetry,
)
from madengine import gpus as gpu_choice
from madengine import hooks as hook_files
from madengine import outcome as outcomes
from madengine.context import Context
from madengine.credentials import Credentials, model_secrets
from madengine.data import Data, Provided
from madengine.errors import CommandError, ConfigurationError, MadengineError, RunError
from madengine.fetch import Client
from madengine.hooks import Hooks
from madengine.log_errors import log_errors
from madengine.model_code import Checkout, ModelCode
from madengine.performance import MetricScan
from madengine.programs import secret_files
from madengine.programs.engine import Container, Docker, State, explain, is_limit_refused, is_transport, pinned
from madengine.records import FAILURE, SKIPPED, SUCCESS, Gpu, Image, Model, RunResult

# entry.sh keeps the limit; this is how much longer the host waits before it acts itself.
HOST_GRACE_SECONDS = 15.0
STOP_SECONDS = 10
# An engine that is being restarted is asked again for so long.
ENGINE_GRACE_SECONDS = 30.0
START_SECONDS = 300.0
PULL_ATTEMPTS = 4
PULL_PAUSE_SECONDS = 1.0
# Before a container that the engine has lost sight of is waited for again.
WAIT_AGAIN_SECONDS = 1.0
SERIES_FILE = "gpu_series.csv"
# What entry.sh may need for its description of the environment, and for ending a hook that is late.
DESCRIPTION_SECONDS = 30
HOOK_GRACE_SECONDS = 20
_CHUNK = 1 << 20
_SHOWN_LOG_LINES = 20


@dataclass(frozen=True)
class ContainerRunner:
    """Runs models one by one with one engine on this machine.

    Everything of a run goes below `directory`, a folder a model. `root` is the local model package
    (None where there is none), needed only for images without the payload. `timeout` overrides the
    cards' (seconds, 0 is none, None is unset). `gpus` are all of this machine: a run holds as many as its
    card asks for, waits `gpu_wait` seconds for them, and samples them `sample_hz` times a second. `hooks` are what
    runs around every script, `describe` has each container describe what a script finds there. `done`
    gets every result, also that of a run which Ctrl-C broke off, before the interruption is passed on;
    `stopping` breaks off the runs of other threads.
    """

    engine: Docker
    run_id: str
    directory: Path
    context: Context
    gpus: tuple[Gpu, ...]
    data: Data
    done: Callable[[RunResult], None]
    credentials: Credentials = field(default_factory=Credentials)
    root: Path | None = None
    timeout: int | None = None
    gpu_mode: str = "auto"
    gpu_wait: float = 0.0
    sample_hz: float = 1.0
    packed: bool = False
    environment_id: str = ""
    stopping: threading.Event = field(default_factory=threading.Event)
    force_mirror_local: str = ""
    keep_alive: bool = False
    keep_model_dir: bool = False
    skip_model_run: bool = False
    hooks: Hooks = field(default_factory=Hooks)
    describe: bool = False
    isolation: str = "least"
    live: Callable[[bytes], None] | None = None
    say: Callable[[str], None] = print

    def run(self, model: Model, image: Image) -> None:
        """Run one model; a failure is a result with a reason, not an error."""
        model = self._with_args(model)
        result = RunResult(
            run_id=self.run_id,
            model=model,
            image=image,
            status=FAILURE,
            started=datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
            machine_name=socket.gethostname(),
            gpu_vendor=self.context.gpu_vendor,
            gpu_architecture=self.gpus[0].architecture if self.gpus else "",
            n_gpus=model.n_gpus,
            engine=f"{self.engine.name} {self.engine.version}",
            packed=self.packed,
            environment_id=self.environment_id,
        )
        interrupted = False
        try:
            result = self._run(result, model, image)
        except MadengineError as error:
            result = replace(result, reason=str(error))
        except _Interrupted as stopped:
            result, interrupted = stopped.result, True
        except KeyboardInterrupt:
            result, interrupted = replace(result, reason="interrupted"), True
        with programs.uninterrupted():
            self.done(result)
        if interrupted:
            raise KeyboardInterrupt

    def _run(self, result: RunResult, model: Model, image: Image) -> RunResult:
        reference, digest = self._present(image)
        self._secrets(model, image)
        provided = Provided()
        if not self.skip_model_run:
            provided = self.data.mounts(model, self.force_mirror_local, Client(self.say, self.stopping))
        workspace = _new_folder(self.directory, model.name)
        result = replace(
            result,
            image_digest=digest,
            directory=str(workspace),
            log_file=str(workspace / log_name(model, image)),
            dataname=provided.dataname,
            data_provider_type=provided.data_provider_type,
            data_size=provided.data_size,
            data_download_duration=provided.data_download_duration,
        )
        if self.skip_model_run:
            return replace(result, status=SKIPPED, reason="--skip-model-run")
        try:
            code = self._code(model, image)
            result = replace(result, git_commit=code.commit if code else image.git_commit)
            candidates = gpu_choice.eligible(self.gpus, self.context.docker_gpus)
            count = gpu_choice.wanted(model.n_gpus, candidates, self.gpus)
            with gpu_locks.held(candidates, count, model.name, self.gpu_wait, self.stopping) as gpus:
                if gpus:
                    # One who held them and was killed meanwhile has left a container on them.
                    owner.sweep(self.engine, self.say)
                nodes = int(multi_node.arguments(self.context.multi_node_args)["NNODES"])
                result = replace(result, gpus=gpus, n_gpus=str(count), nnodes=nodes)
                result = replace(result, foreign_processes=self._foreign(gpus))
                return self._contained(result, self._prepared(model, image, reference, result, provided, code))
        except MadengineError as error:
            return replace(result, reason=str(error))

    def _foreign(self, gpus: tuple[Gpu, ...]) -> int | None:
        count = gpu_choice.foreign_processes(gpus)
        if count:
            self.say(f"{count} processes of others use GPUs of this run: its figures are of what they leave")
        return count

    def _code(self, model: Model, image: Image) -> Checkout | None:
        """What a card's url names, where the image doesn't carry it: older versions cloned it at every run."""
        if image.self_contained:
            return None
        folder = self.directory / "payload"
        return ModelCode(folder, self.root or Path(), self.credentials, Client(self.say, self.stopping)).checkout(model)

    def _prepared(
        self,
        model: Model,
        image: Image,
        reference: str,
        result: RunResult,
        provided: Provided,
        code: Checkout | None,
    ) -> Container:
        local = None
        if not image.self_contained:
            local = _new_folder(self.directory / "payload", model.name)
            payload.write(self._local_payload(model, code), local)
            if code:
                shutil.rmtree(code.folder)
        if self.hooks:
            folder = Path(result.directory) / hook_files.FOLDER
            folder.mkdir()
            payload.write(self._hooks_payload(), folder)
        return self._container(model, image, reference, Path(result.log_file), provided, local, result.gpus)

    def shell_lines(self, model: Model, image: Image) -> Iterator[str]:
        """What `run` starts for a model, as lines for a POSIX shell; the log is then in the model's folder."""
        model = self._with_args(model)
        provided, fetching = self.data.planned(model, self.force_mirror_local)
        name = pinned(image)
        workspace = self.directory / _slug(model.name)
        yield f"# {' '.join(model.name.split())} ({image.key})"
        if name or image.registry_image:
            yield programs.shell_line(self.engine.pull(name or image.registry_image))
        yield from fetching
        yield shlex.join(["mkdir", "-p", str(workspace)])
        local = None
        if not image.self_contained:
            local = self.directory / "payload" / workspace.name
            yield from payload.shell_lines(self._local_payload(model), str(local))
            yield from model_code.shell_lines(model, f"{local}/code")
        if self.hooks:
            yield from payload.shell_lines(self._hooks_payload(), str(workspace / hook_files.FOLDER))
        log = workspace / log_name(model, image)
        reference = self.engine.remote(name) or image.image_id or image.registry_image or image.docker_image
        candidates = gpu_choice.eligible(self.gpus, self.context.docker_gpus)
        gpus = tuple(candidates[: gpu_choice.wanted(model.n_gpus, candidates, self.gpus)])
        container = self._container(model, image, reference, log, provided, local, gpus)
        # Whoever pastes the lines removes the container; to a later madengine it must not look like an orphan.
        labels = {name: value for name, value in container.labels.items() if name != owner.LABEL}
        yield programs.shell_line(self.engine.run(replace(container, labels=labels)))
        yield programs.shell_line(self.engine.wait(container.name))
        yield programs.shell_line(self.engine.remove(container.name))
        yield shlex.join(["cat", str(log)])

    def _with_args(self, model: Model) -> Model:
        """The model with the arguments that it runs with, which its row then has too."""
        return model if self.context.model_args is None else replace(model, args=self.context.model_args)

    # --- the image ---

    def _present(self, image: Image) -> tuple[str, str]:
        """Make sure that the very image of the manifest is on this machine; gives what to run, and its digest.

        Raises RunError where it isn't and can't be pulled.
        """
        if name := pinned(image):
            if not self.engine.images(name):
                self._pull(name)
            return self.engine.remote(name), image.registry_digest
        if image.image_id:
            if not self.engine.images(image.image_id):
                raise RunError(
                    f"{image.docker_image} ({image.image_id[:19]}) is not on this machine and was never pushed; "
                    "build with --registry, or run where it was built"
                )
            return image.image_id, image.image_id
        return self._unpinned(image)

    def _unpinned(self, image: Image) -> tuple[str, str]:
        """An older manifest's image: it has a name only, so the row says which id that name had here."""
        name = image.registry_image or image.docker_image
        if image.registry_image:
            self._pull(name)
        found = self.engine.images(name)
        if not found:
            raise RunError(f"{name}: no such image on this machine, and the manifest names no registry for it")
        return str(found[0]["Id"]), str(found[0]["Id"])

    def _pull(self, reference: str) -> None:
        pause = PULL_PAUSE_SECONDS
        for attempt in range(1, PULL_ATTEMPTS + 1):
            self.say(f"pulling {reference}")
            lines: list[str] = []
            code = programs.stream(self.engine.pull(reference), partial(self._heard, lines))
            if code == 0:
                return
            said = explain("".join(lines[-20:]))
            if attempt == PULL_ATTEMPTS or not is_transport(said):
                raise RunError(f"pull {reference}: {said or f'exit code {code}'}")
            self.say(f"pull {reference}: {said}; again in {pause:g} s")
            if self.stopping.wait(pause):
                raise KeyboardInterrupt
            pause *= 2

    def _heard(self, lines: list[str], line: str) -> None:
        lines.append(line)
        if self.stopping.is_set():
            raise KeyboardInterrupt

    # --- the container ---

    def _container(
        self,
        model: Model,
        image: Image,
        reference: str,
        log: Path,
        provided: Provided,
        local_payload: Path | None,
        gpus: tuple[Gpu, ...],
    ) -> Container:
        workspace = log.parent.resolve()
        mounts = [(str(workspace), payload.WORKSPACE, False), *provided.mounts]
        if local_payload:
            mounts.append((str(local_payload.resolve()), payload.DIRECTORY, True))
        for inside, host in self.context.docker_mounts.items():
            if not Path(host).exists():
                raise RunError(f"docker_mounts {inside}: {host}: no such file or directory on this machine")
            mounts.append((str(Path(host).absolute()), inside, False))
        options = [
            *isolation.flags(self.isolation, self.context.gpu_vendor, self.context.shm_size),
            *payload.split(model.additional_docker_run_options, model),
        ]
        return Container(
            name=f"madengine-{self.run_id}-{workspace.name}"[:200],
            image=reference,
            entrypoint=payload.ENTRY,
            words=[] if self.context.model_args is None else ["--", *payload.split(model.args, model)],
            labels={
                "madengine.run": self.run_id,
                "madengine.model": model.name,
                **({} if self.keep_alive else {owner.LABEL: process.mine()}),
            },
            environment=self._environment(model, log.name, provided, gpus),
            secrets=self._secrets(model, image),
            mounts=mounts,
            devices=self.engine.devices(gpus, self.gpu_mode),
            cpus=self.context.docker_cpus.replace(" ", ""),
            shm_bytes=0 if any(re.match(r"--(ipc|shm-size)\b", word) for word in options) else _half_of_memory(),
            unlimited=self.isolation == "least" and _may_raise_limits(),
            stop_seconds=STOP_SECONDS,
            options=options,
        )

    def _environment(self, model: Model, log: str, provided: Provided, gpus: tuple[Gpu, ...]) -> dict[str, str]:
        limit = self._limit(model)
        mine = {
            "MADENGINE_LOG": f"{payload.WORKSPACE}/{log}",
            "MADENGINE_TIMEOUT": str(limit),
            **({"MADENGINE_KEEP": "1"} if self.keep_alive else {}),
            "MAD_MODEL_NAME": model.name,
            "JENKINS_BUILD_NUMBER": os.environ.get("BUILD_NUMBER", "0"),
            "MAD_GPU_VENDOR": self.context.gpu_vendor,
            "MAD_SYSTEM_NGPUS": str(len(self.gpus)),
            "MAD_RUNTIME_NGPUS": str(len(gpus)),
            "MAD_MULTI_NODE_RUNNER": multi_node.runner(self.context.multi_node_args, len(gpus)),
            **_of_machine(self.gpus),
            **({"MAD_OUTPUT_CSV": model.multiple_results} if model.multiple_results else {}),
            **(self._description(model) if self.describe else {}),
        }
        return {**mine, **provided.environment, **self.hooks.environment, **self.context.docker_env_vars}

    def _description(self, model: Model) -> dict[str, str]:
        mode = str(self.context.values.get("rocenv_mode") or "lite")
        return {"MADENGINE_ENVIRONMENT": f"{_slug(model.name)}_env.csv", "MADENGINE_ENVIRONMENT_MODE": mode}

    def _secrets(self, model: Model, image: Image) -> dict[str, str]:
        """The MAD_SECRETS* variables and what the card's `cred` names.

        Raises ConfigurationError where that is missing, unless it was needed for code that the image carries by now.
        """
        try:
            return {**self.credentials.secrets, **model_secrets(self.credentials, model)}
        except ConfigurationError as error:
            if not (model.url and image.self_contained):
                raise
            self.say(f"{error}; it runs without, for its code is in the image")
            return dict(self.credentials.secrets)

    def _limit(self, model: Model) -> int:
        if self.timeout is not None:
            return self.timeout
        return payload.DEFAULT_TIMEOUT if model.timeout is None else model.timeout

    def _local_payload(self, model: Model, code: Checkout | None = None) -> payload.Payload:
        """The payload of a model whose image has none, out of the local package."""
        if self.root is None or not model.scripts:
            raise RunError(
                f"the image of {model.name!r} doesn't carry its scripts and there is no model package here; "
                "run in the package's folder (or set MODEL_DIR), or build again with this madengine"
            )
        return payload.payload(model, self.root, hook_files.files(Hooks(), self.root), code.folder if code else None)

    def _hooks_payload(self) -> payload.Payload:
        """What entry.sh needs for the hooks, out of our catalogue and out of the package here, if there is one."""
        found = hook_files.files(self.hooks, self.root) if self.root else {}
        return payload.Payload(
            hook_files.texts(self.hooks), {f"workspace/{name}": path for name, path in found.items()}
        )

    # --- its life ---

    def _contained(self, result: RunResult, container: Container) -> RunResult:
        """Start the container, follow it to its end, remove it, and say what came of it."""
        # Opened before anything can run: the script may put a link to a file of this machine in the log's place.
        with _run_folder_is_ours(self.directory), open(result.log_file, "x+b", buffering=0) as log:
            series = Path(result.directory) / SERIES_FILE
            with telemetry.sampled(result.gpus, self.gpus, series, 1.0 / self.sample_hz, self.say) as cost:
                outcome, interrupted = self._lived(result, container, log)
            outcome = replace(outcome, cost=cost())
            if outcome.status == FAILURE:
                self.say(_last_lines(log))
        if interrupted:
            raise _Interrupted(outcome)
        return outcome

    def _lived(self, result: RunResult, container: Container, log: FileIO) -> tuple[RunResult, bool]:
        """The container's life: what came of it, and whether somebody broke it off."""
        name, limit = container.name, self._limit(result.model)
        # A warm-up before the script is no measurement.
        mark = hook_files.SCRIPT_MARK.encode() if self.hooks.pre_scripts else b""
        scan, reason, state, said = MetricScan(mark), "", None, ""
        interrupted = False
        began = time.monotonic()
        try:
            try:
                self._start(container)
                reason, state = self._followed(name, log, scan, limit)
            except KeyboardInterrupt:
                interrupted, reason = True, "interrupted"
            if reason:
                self._stop(name)
                state = self._state(name)
            said = self._keep_engine_log(name, log)
        finally:
            stays = self.keep_alive and not reason and state is not None and state.running
            if not stays:
                self._remove(name)
        scan.finish()
        result = replace(result, run_duration=time.monotonic() - began)
        outcome = outcomes.outcome(result, state, scan, reason, limit, said, bool(self.hooks))
        outcome = self._unless_log_errors(outcome, log)
        outcome = self._with_artifacts(outcome)
        self._tidy(outcome)
        if stays:
            self.say(_how_to_enter(self.engine.name, name))
        return outcome, interrupted

    def _start(self, container: Container) -> None:
        answer = self._attempted(container)
        if answer.code == 0:
            return
        if container.unlimited and is_limit_refused(answer.err):
            self._remove(container.name)
            self._start(replace(container, unlimited=False))
            return
        how = "no answer" if answer.code is None else f"exit code {answer.code}"
        raise RunError(f"{self.engine.name} could not start the container ({how}): {explain(answer.err)}")

    def _attempted(self, container: Container) -> programs.Answer:
        if not container.secrets:
            return programs.attempt(self.engine.run(container), seconds=START_SECONDS)
        with secret_files.private_file(secret_files.variables(container.secrets)) as file:
            return programs.attempt(self.engine.run(replace(container, env_file=file)), seconds=START_SECONDS)

    def _followed(self, name: str, log: FileIO, scan: MetricScan, limit: int) -> tuple[str, State | None]:
        """Follow a container to its end; gives the reason where it has to be stopped, and how it is then."""
        others = self.hooks.seconds + HOOK_GRACE_SECONDS * len(self.hooks.scripts)
        others += DESCRIPTION_SECONDS if self.describe else 0
        deadline = time.monotonic() + limit + others + HOST_GRACE_SECONDS if limit else None
        while True:
            reason = self._follow(name, log, scan, deadline)
            state = self._state(name)
            if reason or state is None or not state.running or self._is_kept(log):
                return reason, state
            # The engine has lost sight of a container that goes on: it was restarted, or the line to it broke.
            time.sleep(WAIT_AGAIN_SECONDS)

    def _follow(self, name: str, log: FileIO, scan: MetricScan, deadline: float | None) -> str:
        """Hand the log on as it grows until the container ends; gives the reason where it has to be stopped."""
        with programs.background(self.engine.wait(name)) as waiter:
            while True:
                ended = waiter.poll() is not None or self._is_kept(log)
                if chunk := log.read(_CHUNK):
                    scan.feed(chunk)
                    if self.live:
                        self.live(chunk)
                elif ended:
                    return ""
                else:
                    programs.pause(waiter, 0.1)
                if self.stopping.is_set():
                    raise KeyboardInterrupt
                if deadline and time.monotonic() > deadline:
                    return "timeout: the container did not end in time"

    def _is_kept(self, log: FileIO) -> bool:
        """Whether the script has ended in a container that stays."""
        return self.keep_alive and Path(str(log.name)).with_name("entry.json").exists()

    def _state(self, name: str) -> State | None:
        """How the container is now; an engine that is being restarted gets some time to answer."""
        deadline = time.monotonic() + ENGINE_GRACE_SECONDS
        while True:
            try:
                return self.engine.state(name)
            except CommandError as error:
                if time.monotonic() > deadline:
                    raise RunError(f"{self.engine.name} doesn't answer any more: {error}") from error
            time.sleep(0.5)

    def _stop(self, name: str) -> None:
        with suppress(CommandError):
            programs.attempt(self.engine.stop(name, STOP_SECONDS), seconds=STOP_SECONDS + 20)
            state = self.engine.state(name)
            if state and state.running:
                programs.attempt(self.engine.kill(name))

    def _remove(self, name: str) -> None:
        """Remove the container and make sure that it is gone: what it holds, GPUs among it, is free then."""
        try:
            answer = programs.attempt(self.engine.remove(name))
            if answer.code != 0 and self.engine.state(name) is not None:
                self.say(f"{name} could not be removed: {answer.said}; `{self.engine.name} rm --force {name}`")
        except CommandError as error:
            self.say(f"{name} may still be there: {error}; `{self.engine.name} rm --force {name}`")

    def _keep_engine_log(self, name: str, log: FileIO) -> str:
        """What was said outside the model's own log (entry.sh's errors, a missing shell) goes to its end."""
        answer = programs.attempt(self.engine.logs(name))
        said = (answer.out + answer.err).strip()
        if not said or answer.code != 0:
            return ""
        with suppress(OSError):
            log.seek(0, os.SEEK_END)
            log.write(f"{said}\n".encode(errors="replace"))
        return said

    def _unless_log_errors(self, result: RunResult, log: FileIO) -> RunResult:
        """A failure where the user's error patterns are in the log of what would be a success."""
        asked = log_errors(result.model.extra, self.context.values)
        if result.status != SUCCESS or not asked.patterns:
            return result
        log.seek(0)
        with os.fdopen(os.dup(log.fileno()), "rb") as lines:
            reason = asked.found_in(lines)
        return replace(result, status=FAILURE, reason=reason) if reason else result

    def _with_artifacts(self, result: RunResult) -> RunResult:
        patterns = artifacts_of(result.model, self.context, self.hooks)
        if not patterns:
            return result
        workspace = Path(result.directory)
        brought = artifacts.bring(
            workspace,
            payload.model_directory(result.model),
            patterns,
            besides=(Path(result.log_file).name, SERIES_FILE),
            may_move=self._tidies(result),
            say=self.say,
        )
        told = f"no artifacts match {', '.join(patterns)}"
        if brought:
            size = sum(one.size_bytes for one in brought)
            told = f"{len(brought)} artifacts, {size} bytes, in {workspace / artifacts.FOLDER}"
        self.say(f"{result.model.name}: {told}")
        return replace(result, artifacts=brought)

    def _tidies(self, result: RunResult) -> bool:
        return not (self.keep_model_dir or self.keep_alive) and result.status == SUCCESS

    def _tidy(self, result: RunResult) -> None:
        """Older versions removed the model's directory after its run; results are read by now."""
        workspace = Path(result.directory)
        if self._tidies(result):
            for name in (payload.model_directory(result.model), "scripts"):
                shutil.rmtree(workspace / name, ignore_errors=True)
        if not self.keep_alive:
            shutil.rmtree(workspace / hook_files.FOLDER, ignore_errors=True)


class _Interrupted(Exception):
    """Ctrl-C came while a container ran; it is gone, and this is its result."""

    def __init__(self, result: RunResult) -> None:
        super().__init__(result.model.name)
        self.result = result


def artifacts_of(model: Model, context: Context, hooks: Hooks) -> tuple[str, ...]:
    """The globs of what is brought back: the card's, the context's and the tools'.

    Raises ConfigurationError for what is none.
    """
    return (
        *artifacts.patterns(model.artifacts, f"artifacts of {model.name!r}"),
        *artifacts.patterns(context.values.get("artifacts") or (), "context: artifacts"),
        *hooks.artifacts,
    )


def _of_machine(gpus: Sequence[Gpu]) -> dict[str, str]:
    """What older versions told a model of the machine's GPUs; NVIDIA's architecture was the product's name."""
    if not gpus:
        return {}
    first = gpus[0]
    told = {
        "MAD_SYSTEM_GPU_ARCHITECTURE": first.architecture if first.vendor == gpu_choice.AMD else first.name,
        "MAD_SYSTEM_GPU_PRODUCT_NAME": first.name,
        "MAD_SYSTEM_HIP_VERSION": ".".join(first.runtime.split(".")[:2]),
    }
    return {name: value for name, value in told.items() if value}


def log_name(model: Model, image: Image) -> str:
    """`<model>_<Dockerfile without its suffix>.run.live.log`, as older versions name it."""
    named = "" if image.dockerfile.startswith("N/A") else image.dockerfile
    stem = re.sub(r"\.dockerfile$", "", Path(named).name, flags=re.IGNORECASE)
    return re.sub(r"[^\w.-]+", "_", f"{model.name}_{stem or image.key}")[:200] + ".run.live.log"


def new_run_id() -> str:
    """A run's name: when it started (UTC), and a part that no other run of that second has."""
    return f"{datetime.now(timezone.utc).strftime('%Y%m%dT%H%M%SZ')}-{secrets.token_hex(3)}"


def _slug(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", name).strip("._-")[:100] or "model"


def _new_folder(parent: Path, name: str) -> Path:
    stem = _slug(name)
    for number in range(1, 10_000):
        folder = parent / (stem if number == 1 else f"{stem}_{number}")
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        except OSError as error:
            raise RunError(f"{folder}: can't be made: {error.strerror}") from error
        return folder
    raise RunError(f"{parent / stem}: there are 10,000 of them already; remove some")


@contextmanager
def _run_folder_is_ours(directory: Path) -> Iterator[None]:
    """Turn the system's refusals (a full disk, a read-only one) into the run's reason."""
    try:
        yield
    except OSError as error:
        raise RunError(f"{directory}: {error.strerror or error}") from error


def _half_of_memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


def _may_raise_limits() -> bool:
    """Whether this machine's root may raise limits at all (CAP_SYS_RESOURCE, bit 24 of the bounding set)."""
    with suppress(OSError, StopIteration, ValueError):
        lines = Path("/proc/self/status").read_text().splitlines()
        return bool(int(next(line.split()[1] for line in lines if line.startswith("CapBnd")), 16) >> 24 & 1)
    return True


def _last_lines(log: FileIO) -> str:
    size = log.seek(0, os.SEEK_END)
    log.seek(max(0, size - 16_384))
    lines = log.read().splitlines()[-_SHOWN_LOG_LINES:]
    shown = [f"  | {line.decode(errors='replace')[:300]}" for line in lines]
    return "\n".join([*shown, f"  the whole log: {log.name}"])


def _how_to_enter(engine: str, name: str) -> str:
    return f"the container stays: `{engine} exec -it {name} sh` enters it, `{engine} rm --force {name}` removes it"
