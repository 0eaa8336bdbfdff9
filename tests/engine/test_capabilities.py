"""What a machine may lack: models run without it, or are refused before anything starts."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bed.components import Engine, Registry, outcome
from tests.engine.packages import Package, images
from tests.engine.trial import CHECKOUT, METRIC, Trial, wait_for
from tests.engine.trial import trial as make_trial

WITHOUT_PIDFD = "import os\ndel os.pidfd_open\n"
# As Lustre without `-o flock` and some FUSE file systems.
WITHOUT_LOCKS_AND_SYNC = """
import errno, fcntl, os
def refuse(*words):
    raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
fcntl.flock = os.fsync = refuse
"""


@pytest.fixture
def trial(
    engine: Engine, base_image: str, registry: Registry, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> Trial:
    return make_trial(engine, base_image, registry, tmp_path, tmp_path_factory.getbasetemp())


def python_with(folder: Path, text: str) -> dict[str, str]:
    """Return the variables that make every Python run this text first."""
    (folder / "sitecustomize.py").write_text(text)
    return {"PYTHONPATH": os.pathsep.join([str(folder), str(CHECKOUT)])}


def test_a_python_without_pidfd_open_runs_models(trial: Trial, tmp_path: Path) -> None:
    done = trial.run(METRIC, env=python_with(tmp_path, WITHOUT_PIDFD))
    assert (done.code, done.row["status"], done.row["performance"]) == (0, "SUCCESS", "1"), done.stderr


def test_a_file_system_without_locks_and_fsync_takes_the_rows(trial: Trial, tmp_path: Path) -> None:
    env = python_with(tmp_path, WITHOUT_LOCKS_AND_SYNC)
    for count in (1, 2):
        done = trial.run(METRIC, env=env)
        assert (done.code, [row["performance"] for row in done.rows]) == (0, ["1"] * count), done.stderr
    assert [path.name for path in trial.folder.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize("engine", ["podman"], indirect=True)
def test_podman_without_catatonit_runs_models_and_stops_them(trial: Trial, tmp_path: Path) -> None:
    settings = Path(trial.engine.environment["CONTAINERS_CONF"]).read_text()
    (tmp_path / "containers.conf").write_text(f'{settings}\n[containers]\ninit_path = "/nowhere/catatonit"\n')
    env = {"CONTAINERS_CONF": str(tmp_path / "containers.conf")}
    done = trial.run(METRIC, env=env)
    assert (done.code, done.row["status"]) == (0, "SUCCESS"), done.stderr
    assert "podman has no init: containers start without one (container-init binary not found" in done.stderr
    started = trial.start("echo started; sleep 60", env=env)
    began = time.monotonic()
    started.process.send_signal(signal.SIGINT)
    stopped = started.end()
    assert (stopped.code, stopped.rows[-1]["reason"]) == (130, "interrupted")
    assert time.monotonic() - began < 20
    assert [trial.containers(directory.name) for directory in (trial.folder / "runs").iterdir()] == [[], []]


def test_doctor_starts_a_container_before_any_image_is_there(engine: Engine, tmp_path: Path) -> None:
    words = [sys.executable, "-m", "madengine.distributed_cli", "doctor", "--engine", engine.name, "--json"]
    environment = {**engine.environment, "PYTHONPATH": str(CHECKOUT)}
    doctor = outcome(words, environment, cwd=tmp_path, check=False)
    (check,) = [check for check in json.loads(doctor.stdout)["checks"] if check["name"] == "container"]
    assert (check["status"], check["result"]) == ("ok", "starts")
    assert "madengine-doctor" not in engine("images").stdout


@pytest.mark.parametrize("engine", ["podman"], indirect=True)
def test_doctor_tells_an_engine_in_which_no_container_starts(engine: Engine, tmp_path: Path) -> None:
    settings = Path(engine.environment["CONTAINERS_CONF"]).read_text()
    broken = tmp_path / "runtime"
    broken.write_text("#!/bin/sh\necho 'the runtime is broken' >&2\nexit 1\n")
    broken.chmod(0o755)
    (tmp_path / "containers.conf").write_text(settings.replace(str(CHECKOUT / "tests/bed/runc-lenient"), str(broken)))
    words = [sys.executable, "-m", "madengine.distributed_cli", "doctor", "--engine", engine.name, "--json"]
    environment = {**engine.environment, "PYTHONPATH": str(CHECKOUT)}
    environment["CONTAINERS_CONF"] = str(tmp_path / "containers.conf")
    doctor = outcome(words, environment, cwd=tmp_path, check=False)
    (check,) = [check for check in json.loads(doctor.stdout)["checks"] if check["name"] == "container"]
    assert (doctor.code, check["status"]) == (1, "FAILED")
    assert "the runtime is broken" in check["result"]


# docker as Ubuntu's snap has it: with a /tmp of its own.
SNAP_DOCKER = """#!/bin/sh
exec unshare -m sh -c 'mount --make-rprivate /
  sockets=$(mktemp -d /run/snap-XXXXXX)
  mount --bind "$(dirname "${DOCKER_HOST#unix://}")" "$sockets"
  mount -t tmpfs tmpfs /tmp
  DOCKER_HOST=unix://$sockets/$(basename "$DOCKER_HOST")
  export DOCKER_HOST
  (sleep 5; rmdir "$sockets") >/dev/null 2>&1 &
  exec "$REAL_DOCKER" "$@"' docker "$@"
"""


@pytest.mark.parametrize("engine", ["docker"], indirect=True)
def test_a_docker_with_a_tmp_of_its_own_builds_pushes_and_runs(
    engine: Engine, base_image: str, tls_registry: Registry
) -> None:
    with tempfile.TemporaryDirectory(dir=Path.home(), prefix="madengine-test-") as folder:
        package = Package(Path(folder, "package"), base_image)
        package.add("snapped", script=f'[ "$MAD_SECRETS_A" = hidden-value ] && {METRIC}\n', steps="ONBUILD RUN exit 9")
        login = {tls_registry.address: {"username": tls_registry.user, "password": tls_registry.password}}
        (package.folder / "credential.json").write_text(json.dumps(login))
        (package.folder / "credential.json").chmod(0o600)
        Path(folder, "bin").mkdir()
        Path(folder, "bin/docker").write_text(SNAP_DOCKER)
        Path(folder, "bin/docker").chmod(0o755)
        environment = {
            **engine.environment,
            "DOCKER_CONFIG": str(Path(folder, "docker-config")),
            "MADENGINE_ENGINE": "docker",
            "MAD_SECRETS_A": "hidden-value",
            "PATH": f"{folder}/bin:{os.environ['PATH']}",
            "PYTHONPATH": str(CHECKOUT),
            "REAL_DOCKER": shutil.which("docker") or "",
        }
        words = [sys.executable, "-m", "madengine.distributed_cli", "run", "--registry", tls_registry.address]
        ran = outcome(words, environment, cwd=package.folder)
        assert "docker doesn't see /tmp (it has a /tmp of its own)" in ran.stderr
        (image,) = images(package.folder).values()
        assert image["registry_digest"].startswith("sha256:")
        assert "SUCCESS" in (package.folder / "perf.csv").read_text()
        assert [path.name for path in (package.folder / "build_logs").iterdir()] == ["snapped_m0.os.build.live.log"]
        assert list(Path.home().glob("madengine-private-*")) == []
        doctor = outcome([*words[:3], "doctor", "--engine", "docker", "--json"], environment, cwd=folder)
        assert json.loads(doctor.stdout)["fit"]


def test_a_folder_that_the_containers_root_may_not_write_to_is_named_with_the_way_out(trial: Trial) -> None:
    done = trial.run(METRIC, card={"additional_docker_run_options": "--user=1234:1234"})  # as root_squash has it
    assert (
        "/myworkspace/run_directory: can't be made; the container's root may not write to the run's folder"
        in done.reason
    )
    assert done.reason.endswith("run on a local disk")


@pytest.fixture
def remapped(tmp_path: Path, base_image: str, engine: Engine) -> Iterator[Engine]:
    """A dockerd whose containers have users of their own, with the base image."""
    archive = tmp_path / "base.tar"
    engine("save", "--output", str(archive), base_image)
    (tmp_path / "subid").write_text("nobody:200000:65536\n")
    folder = Path(tempfile.mkdtemp(prefix="users-", dir="/tmp"))
    folder.chmod(0o755)
    script = """
        mount --make-rprivate /
        touch /etc/subuid /etc/subgid
        mount --bind "$1" /etc/subuid
        mount --bind "$1" /etc/subgid
        exec dockerd --userns-remap=nobody:nogroup --data-root "$2/root" --exec-root "$2/exec" --pidfile "$2/pid" \\
            --host "unix://$2/socket" --iptables=false \\
            --add-runtime "lenient=$3" --default-runtime lenient"""
    words = ["unshare", "--mount", "--net", "bash", "-c", script, "bash", str(tmp_path / "subid"), str(folder)]
    with (tmp_path / "dockerd.log").open("w") as log:
        process = subprocess.Popen([*words, str(CHECKOUT / "tests/bed/runc-lenient")], stdout=log, stderr=log)
    try:
        environment = {**engine.environment, "DOCKER_HOST": f"unix://{folder}/socket"}
        users = Engine("docker", environment)
        wait_for(lambda: users("version", check=False).code == 0, 60)
        users("load", "--input", str(archive))
        yield users
    finally:
        process.terminate()
        process.wait(30)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.parametrize("engine", ["docker"], indirect=True)
@pytest.mark.parametrize("builder", ["0", "1"])
def test_an_engine_whose_containers_have_users_of_their_own_builds_and_runs(
    remapped: Engine, base_image: str, tmp_path: Path, builder: str
) -> None:
    own = Package(tmp_path / "own", base_image)
    for number in range(2):
        own.add(f"m{number}", "RUN id", tags=["both"])
    environment = {"PYTHONPATH": str(CHECKOUT), "MADENGINE_ENGINE": "docker", "DOCKER_BUILDKIT": builder}
    environment |= {**remapped.environment, "PATH": f"/usr/bin:{os.environ['PATH']}"}
    words = [sys.executable, "-m", "madengine.distributed_cli", "full", "--tags", "both"]
    done = outcome(words, environment, cwd=own.folder, check=False)
    assert done.code == 0, done.stderr
    assert done.stderr.count("built in its own network") == done.stderr.count("started with the host's") == 1
    with (own.folder / "perf.csv").open(newline="") as rows:
        assert [row["status"] for row in csv.DictReader(rows)] == ["SUCCESS", "SUCCESS"]
