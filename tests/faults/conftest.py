"""What the campaign breaks: an engine of its own that can be killed, a package, and hosts where a round needs them."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from tests.bed.components import Engine, Registry
from tests.engine.conftest import _missing, base_image, bed, registry
from tests.faults.campaign import Campaign, Daemon
from tests.fleet.conftest import Hosts, fleet

__all__ = ["base_image", "bed", "fleet", "registry"]

ROUNDS = int(os.environ.get("faults_rounds", "8"))  # noqa: SIM112 # as `just faults rounds=N` hands it on
SEED = os.environ.get("faults_seed") or str(random.SystemRandom().randrange(10**9))  # noqa: SIM112
HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Every test of this folder needs the engines."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.engine)


def pytest_report_header() -> str:
    return f"faults: {ROUNDS} rounds with seed {SEED}; again: just faults rounds={ROUNDS} seed={SEED}"


@pytest.fixture(scope="session")
def daemon(bed: Mapping[str, str], base_image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A dockerd of the campaign's own, with the base image."""
    if shutil.which("dockerd") is None or "no_docker" in bed:
        _missing("the campaign needs docker.io")
    own = Daemon(tmp_path_factory.mktemp("docker"), Path("/tmp") / f"faults-{os.getpid()}")
    own.start()
    try:
        archive = own.data / "base.tar"
        Engine("docker", {"DOCKER_HOST": bed["DOCKER_HOST"]})("save", "--output", str(archive), base_image)
        own.engine("load", "--input", str(archive))
        yield own
    finally:
        own.stop()


@pytest.fixture(scope="session")
def campaign(
    daemon: Daemon,
    base_image: str,
    registry: Registry,
    tmp_path_factory: pytest.TempPathFactory,
    request: pytest.FixtureRequest,
) -> Campaign:
    """The package, built and pushed once; hosts come with the first round that needs them."""
    hosts: Callable[[], Hosts] = lambda: request.getfixturevalue("fleet")  # noqa: E731
    made = Campaign(daemon, registry, base_image, tmp_path_factory.mktemp("campaign"), SEED, hosts)
    made.prepare()
    return made
