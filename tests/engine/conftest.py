"""The real components under the engine tests: container engines, registries, a base image, a model package."""

from __future__ import annotations

import fcntl
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NoReturn

import pytest

from tests.bed.components import ENGINES, Engine, Outcome, Registry, outcome

CHECKOUT = Path(__file__).parents[2]
HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Every test of this folder is an engine test."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.engine)


@pytest.fixture(scope="session")
def bed(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, str]:
    """The bed's environment: the bed that bin/test has started, else one that ends with this pytest."""
    folder = Path(os.environ.get("MADENGINE_TEST_BED") or _own_bed(tmp_path_factory.getbasetemp()))
    lines = (folder / "environment").read_text(encoding="utf-8").splitlines()
    return {name: "".join(shlex.split(value)) for name, value in (line.split("=", 1) for line in lines)}


def _own_bed(basetemp: Path) -> Path:
    """Start a bed, once for all workers of this pytest."""
    worker = "PYTEST_XDIST_WORKER" in os.environ
    shared, owner = (basetemp.parent, os.getppid()) if worker else (basetemp, os.getpid())
    folder = shared / "bed"
    with (shared / "bed.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "environment").exists():
            _start_bed(folder, owner, shared / "bed.log")
    return folder


def _start_bed(folder: Path, owner: int, log: Path) -> None:
    words = [str(CHECKOUT / "tests/bed/up"), str(folder), str(owner)]
    with log.open("w") as output:
        process = subprocess.Popen(words, stdout=output, stderr=output, start_new_session=True)
    limit = time.monotonic() + 60
    while not (folder / "environment").exists():
        if process.poll() is not None or time.monotonic() > limit:
            pytest.fail(f"the test bed did not start: {log.read_text(encoding='utf-8')}")
        time.sleep(0.1)
    process.returncode = 0  # it outlives this worker: no warning about that


def _missing(reason: str) -> NoReturn:
    """Fail where everything has to be there, skip where a developer has less."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"{reason}; bin/test installs it")
    pytest.skip(reason)


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest, bed: Mapping[str, str], tmp_path: Path) -> Engine:
    """docker, then podman: each logged in nowhere, and only for this test where a test logs in."""
    name: str = request.param
    if f"no_{name}" in bed:
        _missing(bed[f"no_{name}"])
    settings = tmp_path / "engine-settings"
    settings.mkdir()
    (settings / "auth.json").write_text("{}")
    environment = {key: bed[key] for key in (*ENGINES[name], "SSL_CERT_DIR")}
    logins = {"DOCKER_CONFIG": str(settings), "REGISTRY_AUTH_FILE": str(settings / "auth.json")}
    return Engine(name, {**environment, **logins})


@pytest.fixture(scope="session")
def registry(bed: Mapping[str, str]) -> Registry:
    """A plain registry on a loopback address that asks for no password."""
    if "no_registry" in bed:
        _missing(bed["no_registry"])
    return Registry(bed["REGISTRY"])


@pytest.fixture(scope="session")
def tls_registry(bed: Mapping[str, str]) -> Registry:
    """A registry with TLS and a password, on an address where the engines do verify TLS."""
    if "no_registry" in bed:
        _missing(bed["no_registry"])
    return Registry(bed["TLS_REGISTRY"], bed["TLS_REGISTRY_USER"], bed["TLS_REGISTRY_PASSWORD"])


@pytest.fixture(scope="session")
def base_image(bed: Mapping[str, str]) -> str:
    """The name of a small image (busybox and bash) that both engines hold."""
    return bed["BASE_IMAGE"]


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A copy of the starter package, the test's own."""
    return Path(shutil.copytree(CHECKOUT / "templates/package", tmp_path / "package"))


@pytest.fixture
def madengine(engine: Engine, tmp_path: Path) -> Callable[..., Outcome]:
    """Run `python -m madengine.distributed_cli` with the engine: madengine("build", …, cwd=…, env=…, check=True).

    Without `cwd` it runs in the test's own folder; with `check` an exit code other than 0 fails the test.
    """

    def run(*words: str, cwd: Path = tmp_path, env: Mapping[str, str] | None = None, check: bool = True) -> Outcome:
        path = os.pathsep.join(filter(None, [str(CHECKOUT), os.environ.get("PYTHONPATH", "")]))
        environment = {**engine.environment, "MADENGINE_ENGINE": engine.name, "PYTHONPATH": path, **(env or {})}
        return outcome([sys.executable, "-m", "madengine.distributed_cli", *words], environment, cwd=cwd, check=check)

    return run
