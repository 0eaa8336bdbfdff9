"""What a model's container is started with: its mounts, its variables and secrets, its limits and GPUs."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from madengine.build import payload
from madengine.build.source_code import Checkout
from madengine.config import launchers
from madengine.config.context import Context
from madengine.config.credentials import Credentials, model_secrets
from madengine.config.hooks import Hooks, hook_files, hook_texts
from madengine.data_sets.mounts import Provided
from madengine.errors import ConfigurationError, RunError
from madengine.machine.gpus import AMD
from madengine.process import own_process_id
from madengine.programs.engine import Container, Docker
from madengine.records import Gpu, Image, Model
from madengine.run import isolation
from madengine.run.names import slug
from madengine.run.orphans import OWNER_LABEL

logger = logging.getLogger(__name__)

# Between the engine's TERM and its KILL.
STOP_SECONDS = 10
# entry.sh keeps the limit; this is how much longer the host waits before it acts itself.
HOST_GRACE_SECONDS = 15.0
# What entry.sh may need for its description of the environment, and for ending a hook that is late.
DESCRIPTION_SECONDS = 30
HOOK_GRACE_SECONDS = 20


@dataclass(frozen=True)
class Setup:
    """What all containers of one run on this machine are set up by.

    `gpus` are all of this machine; `root` is the local model package (None where there is none), needed only for
    images without the payload. `timeout` overrides the cards' (seconds, 0 is none, None is unset). `hooks` are what
    runs around every script, `describe` has each container describe what a script finds there; `keep_alive` says
    that it stays, and then nobody's sweep may take it.
    """

    engine: Docker
    run_id: str
    context: Context
    gpus: tuple[Gpu, ...] = ()
    credentials: Credentials = field(default_factory=Credentials)
    root: Path | None = None
    timeout: int | None = None
    gpu_mode: str = "auto"
    keep_alive: bool = False
    hooks: Hooks = field(default_factory=Hooks)
    describe: bool = False
    isolation: str = "least"

    def container(
        self,
        model: Model,
        image: Image,
        reference: str,
        log: Path,
        provided: Provided,
        local: Path | None,
        gpus: tuple[Gpu, ...],
    ) -> Container:
        """The container of one model; its workspace is the log's folder.

        Raises RunError for a mount that is not there.
        """
        workspace = log.parent.resolve()
        mounts = self._mounts(workspace, provided, local)
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
                **({} if self.keep_alive else {OWNER_LABEL: own_process_id()}),
            },
            environment=self._environment(model, log.name, provided, gpus),
            secrets=self.secrets_of(model, image),
            mounts=mounts,
            devices=self.engine.devices(gpus, self.gpu_mode),
            cpus=self.context.docker_cpus.replace(" ", ""),
            shm_bytes=0 if any(re.match(r"--(ipc|shm-size)\b", word) for word in options) else _half_of_memory(),
            unlimited=self.isolation == "least" and _may_raise_limits(),
            stop_seconds=STOP_SECONDS,
            options=options,
        )

    def _mounts(self, workspace: Path, provided: Provided, local: Path | None) -> list[tuple[str, str, bool]]:
        mounts = [(str(workspace), payload.WORKSPACE, False), *provided.mounts]
        if local:
            mounts.append((str(local.resolve()), payload.DIRECTORY, True))
        for inside, host in self.context.docker_mounts.items():
            if not Path(host).exists():
                raise RunError(f"docker_mounts {inside}: {host}: no such file or directory on this machine")
            mounts.append((str(Path(host).absolute()), inside, False))
        return mounts

    def _environment(self, model: Model, log: str, provided: Provided, gpus: tuple[Gpu, ...]) -> dict[str, str]:
        limit = self.limit(model)
        mine = {
            "MADENGINE_LOG": f"{payload.WORKSPACE}/{log}",
            "MADENGINE_TIMEOUT": str(limit),
            **({"MADENGINE_KEEP": "1"} if self.keep_alive else {}),
            "MAD_MODEL_NAME": model.name,
            "JENKINS_BUILD_NUMBER": os.environ.get("BUILD_NUMBER", "0"),
            "MAD_GPU_VENDOR": self.context.gpu_vendor,
            "MAD_SYSTEM_NGPUS": str(len(self.gpus)),
            "MAD_RUNTIME_NGPUS": str(len(gpus)),
            "MAD_MULTI_NODE_RUNNER": launchers.runner(self.context.multi_node_args, len(gpus)),
            **_of_machine(self.gpus),
            **({"MAD_OUTPUT_CSV": model.multiple_results} if model.multiple_results else {}),
            **(self._description(model) if self.describe else {}),
        }
        return {**mine, **provided.environment, **self.hooks.environment, **self.context.docker_env_vars}

    def _description(self, model: Model) -> dict[str, str]:
        mode = str(self.context.values.get("rocenv_mode") or "lite")
        return {"MADENGINE_ENVIRONMENT": f"{slug(model.name)}_env.csv", "MADENGINE_ENVIRONMENT_MODE": mode}

    def secrets_of(self, model: Model, image: Image) -> dict[str, str]:
        """The MAD_SECRETS* variables and what the card's `cred` names.

        Raises ConfigurationError where that is missing, unless it was needed for code that the image carries by now.
        """
        try:
            return {**self.credentials.secrets, **model_secrets(self.credentials, model)}
        except ConfigurationError as error:
            if not (model.url and image.self_contained):
                raise
            logger.info(f"{error}; it runs without, for its code is in the image")
            return dict(self.credentials.secrets)

    def limit(self, model: Model) -> int:
        """How long the model's script may take (seconds, 0 is without end)."""
        return model.time_limit(self.timeout)

    def patience(self, model: Model) -> float:
        """How long the host waits for the container to end by itself (seconds, 0 is without end)."""
        limit = self.limit(model)
        hooks = self.hooks.seconds + HOOK_GRACE_SECONDS * len(self.hooks.scripts)
        return limit + hooks + (DESCRIPTION_SECONDS if self.describe else 0) + HOST_GRACE_SECONDS if limit else 0.0

    def local_payload(self, model: Model, code: Checkout | None = None) -> payload.Payload:
        """The payload of a model whose image has none, out of the local package."""
        if self.root is None or not model.scripts:
            raise RunError(
                f"the image of {model.name!r} doesn't carry its scripts and there is no model package here; "
                "run in the package's folder (or set MODEL_DIR), or build again with this madengine"
            )
        return payload.payload(model, self.root, hook_files(Hooks(), self.root), code.folder if code else None)

    def hooks_payload(self) -> payload.Payload:
        """What entry.sh needs for the hooks, out of our catalogue and out of the package here, if there is one."""
        found = hook_files(self.hooks, self.root) if self.root else {}
        return payload.Payload(hook_texts(self.hooks), {f"workspace/{name}": path for name, path in found.items()})


def _of_machine(gpus: Sequence[Gpu]) -> dict[str, str]:
    """What older versions told a model of the machine's GPUs; NVIDIA's architecture was the product's name."""
    if not gpus:
        return {}
    first = gpus[0]
    told = {
        "MAD_SYSTEM_GPU_ARCHITECTURE": first.architecture if first.vendor == AMD else first.name,
        "MAD_SYSTEM_GPU_PRODUCT_NAME": first.name,
        "MAD_SYSTEM_HIP_VERSION": ".".join(first.runtime.split(".")[:2]),
    }
    return {name: value for name, value in told.items() if value}


def _half_of_memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


def _may_raise_limits() -> bool:
    """Whether this machine's root may raise limits at all (CAP_SYS_RESOURCE, bit 24 of the bounding set)."""
    with suppress(OSError, StopIteration, ValueError):
        lines = Path("/proc/self/status").read_text().splitlines()
        return bool(int(next(line.split()[1] for line in lines if line.startswith("CapBnd")), 16) >> 24 & 1)
    return True
