"""What a model's container is started with: its mounts, its variables and secrets, its limits and GPUs."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from madengine.build import payload
from madengine.build.source_code import Checkout
from madengine.config.context import GUEST_OS, Context, expanded
from madengine.config.credentials import Credentials, model_secrets, secret_values
from madengine.config.entry_keys import env_vars
from madengine.config.hooks import Hooks, hook_files, hook_texts
from madengine.config.launchers import INTERFACES, Launch
from madengine.config.nodes import node_count, nodes_by_hand
from madengine.data_sets.mounts import Provided
from madengine.errors import ConfigurationError, RunError
from madengine.machine.gpu_locks import lock_name
from madengine.machine.gpus import architecture_of, eligible_gpus, requested_count
from madengine.process import own_process_id
from madengine.programs.engine import Container, Docker
from madengine.records import Gpu, Image, Model
from madengine.run import isolation
from madengine.run.names import slug
from madengine.run.options import RunOptions
from madengine.run.orphans import GPU_LABEL, LOG_LABEL, MODEL_LABEL, OWNER_LABEL, RUN_LABEL
from madengine.run.workspace import RUN_FOLDER, Workspace

if TYPE_CHECKING:
    from madengine.run.peers import Peers

logger = logging.getLogger(__name__)

# Between the engine's TERM and its KILL.
STOP_SECONDS = 10
# In a model's folder: the nodes that run it together, as deepspeed reads them.
HOSTFILE = "hostfile"
# entry.sh enforces the limit; how much longer the host waits before it acts itself.
HOST_GRACE_SECONDS = 15.0
# How long entry.sh may take to describe the environment, and to end a hook that is late.
DESCRIPTION_SECONDS = 30
HOOK_GRACE_SECONDS = 20


@dataclass(frozen=True)
class Setup:
    """What all containers of one run on this machine have in common."""

    engine: Docker
    run_id: str
    context: Context
    options: RunOptions = field(default_factory=RunOptions)
    #: All GPUs of this machine.
    gpus: tuple[Gpu, ...] = ()
    credentials: Credentials = field(default_factory=Credentials)
    #: The local model package, needed only for images without the payload; None without one.
    root: Path | None = None
    #: What runs around every script.
    hooks: Hooks = field(default_factory=Hooks)
    #: Variables of the caller's own launcher.
    inherited: Mapping[str, str] = field(default_factory=dict)
    workspace: Workspace = field(default_factory=Workspace)
    #: The other nodes of a run on several; None for a run on one.
    peers: Peers | None = None

    @cached_property
    def eligible_gpus(self) -> list[Gpu]:
        """The GPUs that the context leaves."""
        return eligible_gpus(self.gpus, self.context.docker_gpus)

    @property
    def requires_pinned_image(self) -> bool:
        """Whether only images run that the manifest pins by a registry's digest."""
        return self.options.require_pinned_image or self.context.requires_pinned_image

    def nodes(self, model: Model) -> int:
        """Return how many nodes run a model together."""
        return node_count(self.options.nodes, self.context, model, os.environ)

    def is_joint(self, model: Model) -> bool:
        """Whether this node runs a model together with its peers."""
        return self.peers is not None and self.nodes(model) == self.peers.nodes

    def launch(self, model: Model) -> Launch:
        """Return how a model's processes are started. Raises RunError where the other nodes haven't come."""
        launch = self.context.launch_of(model, os.environ)
        if self.peers is None or not self.is_joint(model):
            return launch
        return launch.on(self.peers.world(), f"{self.workspace.inside}/{HOSTFILE}")

    @property
    def mirror(self) -> str:
        """The folder that data sets are copied to; empty where they are used in place."""
        return self.options.force_mirror_local or self.context.shared_data

    def gpu_count(self, model: Model) -> int:
        """Return how many GPUs a model gets. Raises RunError if there are not that many."""
        return requested_count(model.n_gpus, self.eligible_gpus, self.gpus)

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
        """Return the container of one model; its workspace is the log's folder, `local` the payload if not the image's.

        Raises RunError for a mount that is not there.
        """
        workspace = log.parent.resolve()
        mode = self.options.isolation
        options = [
            *isolation.flags(mode, self.context.gpu_vendor, self.context.shm_size, self.engine.without_label),
            *self.workspace.options,
            *payload.split(model.additional_docker_run_options, model),
        ]
        if self._spans_nodes(model) and not any(re.match(r"--net(work)?\b", word) for word in options):
            logger.info(f"{model.name}: the container has this machine's network, to reach the other nodes")
            options.insert(0, "--network=host")
        return Container(
            name=f"madengine-{self.run_id}-{workspace.name}"[:200],
            image=reference,
            entrypoint=payload.ENTRY,
            words=[] if self.context.model_args is None else ["--", *payload.split(model.args, model)],
            labels=self._labels(model, workspace / log.name, gpus),
            environment=self._environment(model, image, log.name, provided, gpus),
            secrets=self.secrets_of(model, image),
            mounts=self._mounts(model, workspace, provided, local),
            devices=self.engine.devices(gpus, self.options.gpu_mode),
            cpus=self.context.docker_cpus.replace(" ", ""),
            shm_bytes=0 if any(re.match(r"--(ipc|shm-size)\b", word) for word in options) else _half_of_memory(),
            unlimited=mode == "least" and _may_raise_limits(),
            stop_seconds=STOP_SECONDS,
            options=options,
        )

    def _labels(self, model: Model, log: Path, gpus: Sequence[Gpu]) -> dict[str, str]:
        labels = {RUN_LABEL: self.run_id, MODEL_LABEL: model.name, LOG_LABEL: str(log)}
        if self.options.keep_alive:
            # No later run removes a container that stays, nor waits for its GPUs.
            return labels
        names = {GPU_LABEL: " ".join(map(lock_name, gpus))} if gpus else {}
        return {**labels, OWNER_LABEL: own_process_id(), **names}

    def _mounts(
        self, model: Model, workspace: Path, provided: Provided, local: Path | None
    ) -> list[tuple[str, str, bool]]:
        mounts = [*self.workspace.mounts(model, workspace), *provided.mounts]
        if local:
            mounts.append((str(local.resolve()), payload.DIRECTORY, True))
        for inside, host in self.context.docker_mounts.items():
            if not Path(host).exists():
                raise RunError(f"docker_mounts {inside}: {host}: no such file or directory on this machine")
            mounts.append((str(Path(host).absolute()), inside, False))
        return mounts

    def _environment(
        self, model: Model, image: Image, log: str, provided: Provided, gpus: tuple[Gpu, ...]
    ) -> dict[str, str]:
        variables = {
            "MADENGINE_LOG": f"{self.workspace.inside}/{log}",
            **({"MADENGINE_WORKSPACE": RUN_FOLDER} if self.workspace.folder else {}),
            "MADENGINE_TIMEOUT": str(self.limit(model)),
            **({"MADENGINE_KEEP": "1"} if self.options.keep_alive else {}),
            "MAD_MODEL_NAME": model.name,
            "JENKINS_BUILD_NUMBER": os.environ.get("BUILD_NUMBER", "0"),
            "MAD_GPU_VENDOR": self.context.gpu_vendor,
            "MAD_GUEST_OS": self.context.guest_os or image.guest_os or GUEST_OS,
            "MAD_SYSTEM_NGPUS": str(len(self.gpus)),
            "MAD_RUNTIME_NGPUS": str(len(gpus)),
            **self._interfaces(model),
            **self.launch(model).variables(len(gpus)),
            **_gpu_variables(self.gpus),
            **({"MAD_OUTPUT_CSV": model.multiple_results} if model.multiple_results else {}),
            **(self._description(model) if self._describes_environment else {}),
            **self.inherited,
        }
        of_user = {**env_vars(model), **self.context.env_vars}
        return {
            **variables,
            **{name: expanded(value, os.environ) for name, value in of_user.items()},
            **provided.environment,
            **self._of_tools,
            **self.context.docker_env_vars,
        }

    def _spans_nodes(self, model: Model) -> bool:
        return self.is_joint(model) or nodes_by_hand(self.context) > 1

    def _interfaces(self, model: Model) -> dict[str, str]:
        """Return the network interface towards the other nodes, which libraries would guess."""
        name = self.peers.world().interface if self.peers and self.is_joint(model) else ""
        return dict.fromkeys(INTERFACES, name) if name else {}

    @property
    def _of_tools(self) -> dict[str, str]:
        """The variables of the tools, whose files are the run's own."""
        before, after = f"{payload.WORKSPACE}/", f"{self.workspace.inside}/"
        return {name: re.sub(f"^{before}", after, value) for name, value in self.hooks.environment.items()}

    @property
    def _describes_environment(self) -> bool:
        """Whether each container describes what its script finds there."""
        choice = self.options.describe_environment
        choice = self.context.describes_environment if choice is None else choice
        return choice is None or choice

    def _description(self, model: Model) -> dict[str, str]:
        mode = str(self.context.values.get("rocenv_mode") or "lite")
        return {"MADENGINE_ENVIRONMENT": f"{slug(model.name)}_env.csv", "MADENGINE_ENVIRONMENT_MODE": mode}

    def secrets_of(self, model: Model, image: Image) -> dict[str, str]:
        """Return the MAD_SECRETS* variables and those of the model's `cred`.

        Raises ConfigurationError if that is missing, unless it was needed only for code that the image carries.
        """
        try:
            return {**self.credentials.secrets, **model_secrets(self.credentials, model)}
        except ConfigurationError as error:
            if not (model.url and image.self_contained):
                raise
            logger.info(f"{error}; ignored: the image carries the code")
            return dict(self.credentials.secrets)

    def hidden_values(self, model: Model) -> tuple[str, ...]:
        """Return what the log must not show of the secrets that a model's container has."""
        entries = {name: entry for name, entry in self.credentials.entries.items() if name == model.cred}
        return secret_values(Credentials(entries, self.credentials.secrets))

    def limit(self, model: Model) -> int:
        """Return how long the model's script may take (seconds, 0 is without end)."""
        return model.time_limit(self.options.timeout)

    def patience(self, model: Model) -> float:
        """Return how long the host waits for the container to end by itself (seconds, 0 is without end)."""
        limit = self.limit(model)
        hooks = self.hooks.seconds + HOOK_GRACE_SECONDS * len(self.hooks.scripts)
        description = DESCRIPTION_SECONDS if self._describes_environment else 0
        return limit + hooks + description + HOST_GRACE_SECONDS if limit else 0.0

    def local_payload(self, model: Model, code: Checkout | None = None) -> payload.Payload:
        """Return the payload of a model whose image has none, from the local package.

        Raises RunError if there is no package.
        """
        if self.root is None or not model.scripts:
            raise RunError(
                f"the image of {model.name!r} doesn't carry its scripts and there is no model package here; "
                "run in the package's folder (or set MODEL_DIR), or build again with this madengine"
            )
        return payload.payload(model, self.root, hook_files(Hooks(), self.root), code.folder if code else None)

    def hooks_payload(self) -> payload.Payload:
        """Return what entry.sh needs for the hooks, from our catalogue and from the package here, if there is one."""
        files = hook_files(self.hooks, self.root) if self.root else {}
        return payload.Payload(hook_texts(self.hooks), {f"workspace/{name}": path for name, path in files.items()})


def _gpu_variables(gpus: Sequence[Gpu]) -> dict[str, str]:
    """Return the variables that older versions set for the machine's GPUs; NVIDIA's architecture was the product."""
    if not gpus:
        return {}
    first = gpus[0]
    variables = {
        "MAD_SYSTEM_GPU_ARCHITECTURE": architecture_of(gpus),
        "MAD_SYSTEM_GPU_PRODUCT_NAME": first.name,
        "MAD_SYSTEM_HIP_VERSION": ".".join(first.runtime.split(".")[:2]),
    }
    return {name: value for name, value in variables.items() if value}


def _half_of_memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


def _may_raise_limits() -> bool:
    """Return whether this machine's root may raise limits at all (CAP_SYS_RESOURCE, bit 24 of the bounding set)."""
    with suppress(OSError, StopIteration, ValueError):
        lines = Path("/proc/self/status").read_text().splitlines()
        return bool(int(next(line.split()[1] for line in lines if line.startswith("CapBnd")), 16) >> 24 & 1)
    return True
