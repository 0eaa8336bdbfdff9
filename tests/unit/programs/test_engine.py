"""The container engine's command lines, word by word, and what is made of its answers."""

from __future__ import annotations

import csv
import io
import json
import os
import shlex
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from plumbum import local
from plumbum.commands.base import BaseCommand

from madengine import programs
from madengine.errors import CommandError, EngineError
from madengine.programs import engine_finder
from madengine.programs.engine import Container, Docker
from madengine.programs.engine_answers import LabelledContainer, State
from madengine.programs.engine_errors import (
    explain_engine_error,
    is_limit_refused,
    is_push_race,
    is_transport,
)
from madengine.programs.engine_finder import ENGINES, engine_named, find_engine
from madengine.programs.engine_logins import logged_in, refused_login
from madengine.programs.image_references import is_loopback, repo_digest
from madengine.programs.nerdctl import Nerdctl
from madengine.programs.podman import Podman
from madengine.records import ENGINE_NAMES
from tests.conftest import StandIns, collect_messages

DIGEST = "sha256:" + "a" * 64
OTHER_DIGEST = "sha256:" + "b" * 64


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> Docker:
    return engine_named(request.param)


def line(command: BaseCommand) -> str:
    return programs.shell_line(command)


# --- build ---

BUILDS = {
    "docker": "BUILDX_NO_DEFAULT_ATTESTATIONS=1 docker build",
    "podman": "podman build",
    "nerdctl": "nerdctl build",
}


def test_build_of_one_dockerfile(engine: Docker) -> None:
    built = engine.build(["ci-a:base"], "docker/a.Dockerfile", "docker")
    assert line(built) == f"{BUILDS[engine.name]} --network=host --tag ci-a:base --file docker/a.Dockerfile docker"


def test_build_with_everything_set(engine: Docker) -> None:
    built = engine.build(
        ["ci-a", "reg:5000/ci-a"],
        Path("docker/a b.Dockerfile"),
        Path("/tmp/x"),
        build_args={"BASE_DOCKER": "ubuntu:22.04", "FLAGS": "-O2 '$HOME'"},
        labels={"madengine.model": "a/b c"},
        no_cache=True,
    )
    assert line(built) == (
        f"{BUILDS[engine.name]} --no-cache --network=host --tag ci-a --tag reg:5000/ci-a --file 'docker/a b.Dockerfile'"
        " --build-arg BASE_DOCKER=ubuntu:22.04 --build-arg 'FLAGS=-O2 '\"'\"'$HOME'\"'\"''"
        " --label 'madengine.model=a/b c' /tmp/x"
    )


def test_every_command_gets_the_environment_of_the_engine() -> None:
    private = Docker(environment={"DOCKER_CONFIG": "/private"})
    assert line(private.wait("c")) == "DOCKER_CONFIG=/private docker wait c"
    assert line(private.build([], "Dockerfile", ".")).startswith(
        "DOCKER_CONFIG=/private BUILDX_NO_DEFAULT_ATTESTATIONS=1 docker build "
    )


# --- push, pull, tag, login ---


@pytest.mark.parametrize(
    ("name", "docker", "podman", "nerdctl"),
    [
        (
            "localhost:5000/ci-a",
            "docker push localhost:5000/ci-a",
            "podman push --tls-verify=false --digestfile /tmp/d localhost:5000/ci-a",
            "nerdctl --insecure-registry push localhost:5000/ci-a",
        ),
        (
            "reg.example.com/team/ci-a:1",
            "docker push reg.example.com/team/ci-a:1",
            "podman push --digestfile /tmp/d reg.example.com/team/ci-a:1",
            "nerdctl push reg.example.com/team/ci-a:1",
        ),
        (
            "org/repo:ci-a",
            "docker push org/repo:ci-a",
            "podman push --digestfile /tmp/d docker.io/org/repo:ci-a",
            "nerdctl push docker.io/org/repo:ci-a",
        ),
    ],
)
def test_push(name: str, docker: str, podman: str, nerdctl: str) -> None:
    assert [line(engine_named(engine).push(name, "/tmp/d")) for engine in ENGINES] == [docker, podman, nerdctl]


def test_push_without_a_digest_file(engine: Docker) -> None:
    assert line(engine.push("reg.example.com/ci-a")) == f"{engine.name} push reg.example.com/ci-a"


@pytest.mark.parametrize(
    ("reference", "docker", "podman", "nerdctl"),
    [
        (
            "127.0.0.1:5000/ci-a@sha256:1",
            "docker pull 127.0.0.1:5000/ci-a@sha256:1",
            "podman pull --tls-verify=false 127.0.0.1:5000/ci-a@sha256:1",
            "nerdctl --insecure-registry pull 127.0.0.1:5000/ci-a@sha256:1",
        ),
        ("reg:5000/a", "docker pull reg:5000/a", "podman pull reg:5000/a", "nerdctl pull reg:5000/a"),
        ("org/a:1", "docker pull org/a:1", "podman pull docker.io/org/a:1", "nerdctl pull docker.io/org/a:1"),
        ("ubuntu:22.04", "docker pull ubuntu:22.04", "podman pull ubuntu:22.04", "nerdctl pull ubuntu:22.04"),
    ],
)
def test_pull(reference: str, docker: str, podman: str, nerdctl: str) -> None:
    assert [line(engine_named(engine).pull(reference)) for engine in ENGINES] == [docker, podman, nerdctl]


def test_tag(engine: Docker) -> None:
    full = "org/repo:ci-a" if engine.name == "docker" else "docker.io/org/repo:ci-a"
    assert line(engine.tag("ci-a", "reg:5000/ci-a")) == f"{engine.name} tag ci-a reg:5000/ci-a"
    assert line(engine.tag(DIGEST, "org/repo:ci-a")) == f"{engine.name} tag {DIGEST} {full}"


@pytest.mark.parametrize(
    ("registry", "docker", "podman", "nerdctl"),
    [
        (
            "localhost:5000",
            "docker login --username ann --password-stdin localhost:5000",
            "podman login --tls-verify=false --username ann --password-stdin localhost:5000",
            "nerdctl --insecure-registry login --username ann --password-stdin localhost:5000",
        ),
        (
            "reg.example.com",
            "docker login --username ann --password-stdin reg.example.com",
            "podman login --username ann --password-stdin reg.example.com",
            "nerdctl login --username ann --password-stdin reg.example.com",
        ),
        *(
            (
                hub,
                "docker login --username ann --password-stdin",
                "podman login --username ann --password-stdin docker.io",
                "nerdctl login --username ann --password-stdin",
            )
            for hub in ("docker.io", "dockerhub", "")
        ),
    ],
)
def test_login(registry: str, docker: str, podman: str, nerdctl: str) -> None:
    assert [line(engine_named(engine).login(registry, "ann")) for engine in ENGINES] == [docker, podman, nerdctl]


# --- run and what follows ---


def test_run_with_nothing_set(engine: Docker) -> None:
    started = engine.run(Container("n", "image"))
    assert (
        line(started) == f"{engine.name} run --detach --init --name n --user=0:0 --stop-timeout=10{end(engine)} image"
    )


def end(engine: Docker) -> str:
    """What replaces the image's own declarations."""
    return " --stop-signal=TERM" + ("" if engine.name == "nerdctl" else " --no-healthcheck")


def test_run_with_everything_set(engine: Docker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    container = Container(
        name="madengine-1-dummy",
        image=f"reg:5000/ci-dummy@{DIGEST}",
        words=["--", "--note", "two words"],
        entrypoint="/opt/madengine/entry.sh",
        labels={"madengine.run": "1", "madengine.model": "a b"},
        environment={"A": "1", "B": "$HOME `x`"},
        secrets={"MAD_SECRETS_HFTOKEN": "hf_0"},
        mounts=[("/runs/1", "/myworkspace", False), ("/data", "/data_0", True)],
        devices=["--device=/dev/kfd"],
        workdir="/w d",
        cpus="0-3,8",
        shm_bytes=1024,
        unlimited=True,
        stop_seconds=7,
        options=["--privileged", "--shm-size=2g"],
    )
    assert line(engine.run(container)) == (
        f"{engine.name} run --detach --init --name madengine-1-dummy"
        " --label madengine.run=1 --label 'madengine.model=a b' --user=0:0 --stop-timeout=7"
        f"{end(engine)} --shm-size=1024"
        " --ulimit=memlock=-1:-1 --ulimit=stack=67108864:67108864 --cpuset-cpus=0-3,8 --device=/dev/kfd"
        " --env A=1 --env 'B=$HOME `x`' --env MAD_SECRETS_HFTOKEN"
        " --mount type=bind,source=/runs/1,target=/myworkspace --mount type=bind,source=/data,target=/data_0,readonly"
        " '--workdir=/w d' --entrypoint=/opt/madengine/entry.sh --privileged --shm-size=2g"
        f" reg:5000/ci-dummy@{DIGEST} -- --note 'two words'"
    )


def test_a_user_without_root_gives_podman_his_own_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    unlimited = Container("n", "image", unlimited=True)
    assert line(Podman().run(unlimited)).endswith("--no-healthcheck --ulimit=host image")
    for name in ("docker", "nerdctl"):
        assert " --ulimit=memlock=-1:-1 --ulimit=stack=67108864:67108864 " in line(engine_named(name).run(unlimited))


@pytest.mark.parametrize(
    ("host", "inside", "expected"),
    [
        ("/a", "/b", "type=bind,source=/a,target=/b"),
        ("/a,b", "/b", 'type=bind,"source=/a,b",target=/b'),
        ('/say "hi"', "/b", 'type=bind,"source=/say ""hi""",target=/b'),
        ("/a", '/x,"y', 'type=bind,source=/a,"target=/x,""y"'),
        ("/a=b c", "/b:c", "type=bind,source=/a=b c,target=/b:c"),
    ],
)
def test_a_mount_is_one_line_of_csv_whatever_is_in_its_paths(
    engine: Docker, host: str, inside: str, expected: str
) -> None:
    words = engine.run(Container("n", "image", mounts=[(host, inside, False)])).formulate()
    value = words[words.index("--mount") + 1]
    assert value == expected
    assert next(csv.reader(io.StringIO(value))) == ["type=bind", f"source={host}", f"target={inside}"]


def test_a_container_is_waited_for_stopped_killed_removed_and_its_log_is_read(engine: Docker) -> None:
    commands = (engine.wait("c"), engine.stop("c", 10), engine.kill("c"), engine.remove("c"), engine.logs("c"))
    assert [line(command) for command in commands] == [
        f"{engine.name} wait c",
        f"{engine.name} stop --time=10 c",
        f"{engine.name} kill c",
        f"{engine.name} rm --force --volumes c",
        f"{engine.name} logs --tail=100 c",
    ]


# --- names ---


@pytest.mark.parametrize(
    ("name", "full"),
    [
        ("ubuntu:22.04", "ubuntu:22.04"),
        ("org/image", "docker.io/org/image"),
        ("org/a/b:1", "docker.io/org/a/b:1"),
        ("localhost/image", "localhost/image"),
        ("reg:5000/image", "reg:5000/image"),
        ("reg.example.com/image", "reg.example.com/image"),
        ("docker.io/org/image", "docker.io/org/image"),
        (DIGEST, DIGEST),
    ],
)
def test_podman_and_nerdctl_get_a_registry_name_in_full(name: str, full: str) -> None:
    assert Podman().full_name(name) == Nerdctl().full_name(name) == full
    assert Docker().full_name(name) == name


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("localhost:5000/a", True),
        ("localhost/a", True),
        ("localhost", True),
        ("127.0.0.1:5000/team/a:1", True),
        ("127.1.2.3/a", True),
        ("[::1]:5000/a", True),
        ("localhost.example.com/a", False),
        ("127.0.0.1.example.com/a", False),
        ("reg:5000/localhost", False),
        ("10.0.0.1:5000/a", False),
        ("ubuntu", False),
        ("", False),
    ],
)
def test_loopback_is_this_machine_and_nothing_that_looks_like_it(name: str, expected: bool) -> None:
    assert is_loopback(name) is expected


@pytest.mark.parametrize(
    ("digests", "name", "expected"),
    [
        ([f"localhost:5000/a@{DIGEST}"], "localhost:5000/a:1", DIGEST),
        (["reg/b@sha256:0", f"localhost:5000/a@{DIGEST}"], "localhost:5000/a", DIGEST),
        ([f"localhost:5001/a@{DIGEST}"], "localhost:5000/a", ""),
        ([f"ubuntu@{DIGEST}"], "docker.io/library/ubuntu:22.04", DIGEST),
        ([f"docker.io/library/ubuntu@{DIGEST}"], "ubuntu:22.04", DIGEST),
        ([f"docker.io/org/a@{DIGEST}"], "org/a", DIGEST),
        ([], "a", ""),
    ],
)
def test_an_images_digest_is_that_of_the_registry_that_was_asked(digests: list[str], name: str, expected: str) -> None:
    assert repo_digest(digests, name) == expected


# --- what engines say ---

RESET = "Error response from daemon: read tcp 127.0.0.1:49730->127.0.0.1:5443: read: connection reset by peer"
REFUSED = 'Get "http://127.0.0.1:1/v2/": dial tcp 127.0.0.1:1: connect: connection refused'
NO_HOST = (
    "Unable to find image 'nosuch-image:1' locally\n"
    'docker: Error response from daemon: Get "https://reg.example/v2/": dial tcp: lookup reg.example on 10.0.0.2:53:'
    " no such host\n\nRun 'docker run --help' for more information"
)
NOT_LOCAL = "An image does not exist locally with the tag: 127.0.0.1:5443/nope"
UNKNOWN = (
    'Resolving "nosuch" using unqualified-search registries (pod/registries.conf)\n'
    "Trying to pull 127.0.0.1:5002/nosuch:1...\n"
    "Error: initializing source docker://127.0.0.1:5002/nosuch:1: reading manifest 1 in 127.0.0.1:5002/nosuch:"
    " manifest unknown: manifest unknown"
)
DENIED = (
    "Error response from daemon: pull access denied for nosuch, repository does not exist or may require"
    " 'docker login': denied: requested access to the resource is denied"
)
UNAUTHORIZED = "unauthorized: authentication required"
X509 = (
    'Get "https://10.0.0.1:5443/v2/": tls: failed to verify certificate: x509: certificate signed by unknown authority'
)
NO_SUCH_IMAGE = "Error: 127.0.0.1:1/x:1: image not known"


@pytest.mark.parametrize(
    "message",
    [
        RESET,
        REFUSED,
        NO_HOST,
        "net/http: TLS handshake timeout",
        "net/http: request canceled while waiting for connection (Client.Timeout exceeded while awaiting headers)",
        "unexpected EOF",
        "write tcp 127.0.0.1:5000: write: broken pipe",
        "received unexpected HTTP status: 503 Service Unavailable",
        "dial tcp 10.0.0.9:5000: i/o timeout",
        "use of closed network connection",
    ],
)
def test_a_broken_line_is_worth_another_try(message: str) -> None:
    assert is_transport(message)


@pytest.mark.parametrize("message", [NOT_LOCAL, UNKNOWN, DENIED, UNAUTHORIZED, X509, NO_SUCH_IMAGE, ""])
def test_a_refusal_is_not_tried_again(message: str) -> None:
    assert not is_transport(message)
    assert not is_push_race(message)


def test_a_layer_that_another_push_sends_too_is_sent_again() -> None:
    assert is_push_race("localhost:5000/ci-a: the push failed: manifest blob unknown: blob unknown to registry")
    assert is_push_race("errors:\ndigest invalid: provided digest did not match uploaded content")


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (RESET, "read tcp 127.0.0.1:49730->127.0.0.1:5443: read: connection reset by peer"),
        (REFUSED, REFUSED),
        (
            NO_HOST,
            'Get "https://reg.example/v2/": dial tcp: lookup reg.example on 10.0.0.2:53: no such host',
        ),
        (NOT_LOCAL, NOT_LOCAL),
        (
            UNKNOWN,
            "initializing source docker://127.0.0.1:5002/nosuch:1: reading manifest 1 in 127.0.0.1:5002/nosuch:"
            " manifest unknown: manifest unknown",
        ),
        (
            "docker: Error response from daemon: failed to create shim task: OCI runtime create failed: runc create"
            ' failed: unable to start container process: exec: "nosuchcmd": executable file not found in $PATH:'
            " unknown\n\nRun 'docker run --help' for more information",
            "failed to create shim task: OCI runtime create failed: runc create failed: unable to start container"
            ' process: exec: "nosuchcmd": executable file not found in $PATH: unknown',
        ),
        (
            'docker: Error response from daemon: could not select device driver "" with capabilities: [[gpu]]\n\n'
            "Run 'docker run --help' for more information",
            'could not select device driver "" with capabilities: [[gpu]]',
        ),
        (
            "docker: Error response from daemon: error gathering device information while adding custom device"
            " \"/dev/kfd\": no such file or directory\n\nRun 'docker run --help' for more information",
            'error gathering device information while adding custom device "/dev/kfd": no such file or directory',
        ),
        (
            'invalid argument "zz" for "--shm-size" flag: invalid size: \'zz\'\n\n'
            "Usage:  docker run [OPTIONS] IMAGE [COMMAND] [ARG...]\n\nRun 'docker run --help' for more information",
            'invalid argument "zz" for "--shm-size" flag: invalid size: \'zz\'',
        ),
        (
            "Cannot connect to the Docker daemon at unix:///nonexistent.sock. Is the docker daemon running?",
            "Cannot connect to the Docker daemon at unix:///nonexistent.sock. Is the docker daemon running?",
        ),
        (
            "Error: setting up CDI devices: unresolvable CDI devices nvidia.com/gpu=all",
            "setting up CDI devices: unresolvable CDI devices nvidia.com/gpu=all",
        ),
        (NO_SUCH_IMAGE, "127.0.0.1:1/x:1: image not known"),
        ("The command '/bin/sh -c false' returned a non-zero code: 1", None),
        ("", "no output"),
        ("\n \n", "no output"),
    ],
)
def test_an_error_is_explained_by_its_own_line(message: str, expected: str | None) -> None:
    assert explain_engine_error(message) == (message if expected is None else expected)


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("error setting rlimits for ready process: error setting rlimit type 8: operation not permitted", True),
        ("OCI runtime error: crun: setrlimit `RLIMIT_MEMLOCK`: Operation not permitted", True),
        (RESET, False),
    ],
)
def test_refused_limits_are_told_from_other_refusals(message: str, expected: bool) -> None:
    assert is_limit_refused(message) is expected


# --- questions ---


def answering(stand_ins: StandIns, name: str, out: str = "", err: str = "", code: int = 0) -> Docker:
    stand_ins.add(name, f"printf %s {shlex.quote(out)}\nprintf %s {shlex.quote(err)} >&2\nexit {code}")
    return engine_named(name)


def test_images_are_those_that_are_here(stand_ins: StandIns, engine: Docker) -> None:
    answering(stand_ins, engine.name, json.dumps([{"Id": DIGEST}]), "Error: No such object: nosuch\n", 1)
    assert engine.images("org/a", "nosuch") == [{"Id": DIGEST}]
    full = "org/a" if engine.name == "docker" else "docker.io/org/a"
    assert stand_ins.calls() == [f"{engine.name} image inspect {full} nosuch"]


def test_the_state_of_a_container(stand_ins: StandIns, engine: Docker) -> None:
    state = {"Status": "exited", "ExitCode": 137, "OOMKilled": True, "Error": ""}
    answering(stand_ins, engine.name, json.dumps(state))
    assert engine.state("c") == State(exit_code=137, oom_killed=True, error="", running=False)
    assert stand_ins.calls() == [f"{engine.name} container inspect '--format={{{{json .State}}}}' c"]


@pytest.mark.parametrize(
    "message",
    [
        "Error: No such container: nosuch",
        "Error response from daemon: No such container: nosuch",
        "Error: No such object: nosuch",
        'Error: inspecting object: no such container "nosuch"',
    ],
)
def test_a_container_that_is_not_there_has_no_state(stand_ins: StandIns, message: str) -> None:
    assert answering(stand_ins, "docker", "[]\n", message, 1).state("nosuch") is None


def test_a_container_that_is_being_removed_is_gone(stand_ins: StandIns, engine: Docker) -> None:
    answering(stand_ins, engine.name, json.dumps({"Status": "removing", "ExitCode": 137}))
    assert engine.state("c") is None


def test_an_engine_that_is_gone_is_not_taken_for_a_container_that_is(stand_ins: StandIns) -> None:
    engine = answering(stand_ins, "docker", "", "Cannot connect to the Docker daemon at unix:///x. Is it running?", 1)
    with pytest.raises(CommandError, match="Cannot connect to the Docker daemon"):
        engine.state("c")


NONSENSE = [
    "null", "true", "3", '"x"', "[3]", "{", "<html>", "[" * 100_000, '[{"Id": 3}]', '[{"Id": ""}]', "[{}]",
    '[{"Id": "sha256:1", "Size": "1"}]', '[{"Id": "sha256:1", "Size": -1}]', '[{"Id": "x", "RepoDigests": "y"}]',
    '[{"Id": "x", "RepoTags": [1]}]', '[{"Name": "x"}]', '[{"Name": 1, "Config": {}}]',
    '[{"Name": "x", "Config": {"Labels": 3}}]', '{"ExitCode": 1e999}', '{"ExitCode": NaN}', '{"ExitCode": "3"}',
    '{"ExitCode": true}', '{"ExitCode": %s}' % ("9" * 4000), "\0\x1b[2J",
    f'[{{"Id": "x", "a": {"[" * 99 + "]" * 99}}}]',
]  # fmt: skip


@pytest.mark.parametrize("output", NONSENSE)
def test_an_answer_that_is_none_is_an_error_of_the_engine(stand_ins: StandIns, engine: Docker, output: str) -> None:
    asked = answering(stand_ins, engine.name, output)
    with pytest.raises(CommandError, match="unexpected output"):
        asked.images("x")
    with pytest.raises(CommandError, match="unexpected output"):
        asked.state("x")
    stand_ins.add(engine.name, f"[ $1 = ps ] && echo x || printf %s {shlex.quote(output)}")
    with pytest.raises(CommandError, match="unexpected output"):
        asked.containers("label")


def test_no_answer_at_all_is_no_image_and_no_state(stand_ins: StandIns, engine: Docker) -> None:
    asked = answering(stand_ins, engine.name, "\n")
    assert asked.images("x") == []
    with pytest.raises(CommandError, match="unexpected output"):
        asked.state("x")


def test_a_banner_before_an_answer_is_no_part_of_it(stand_ins: StandIns, engine: Docker) -> None:
    banner = "Emulate Docker CLI using podman.\n[note] {x}\n"
    assert answering(stand_ins, engine.name, f'{banner}[\n  {{"Id": "{DIGEST}"}}\n]\n').images("x") == [{"Id": DIGEST}]
    state = answering(stand_ins, engine.name, f'{banner}{{"Status": "running"}}\n').state("x")
    assert state and state.running


def test_containers_with_a_label(stand_ins: StandIns, engine: Docker) -> None:
    inspected = json.dumps([{"Name": "/m-1", "Config": {"Labels": {"madengine.owner": "x"}}}])
    stand_ins.add(engine.name, f'[ "$1" = ps ] && echo 0123 || printf %s {shlex.quote(inspected)}')
    assert engine.containers("madengine.owner") == [LabelledContainer("m-1", {"madengine.owner": "x"})]
    assert stand_ins.calls() == [
        f"{engine.name} ps --all --no-trunc --quiet --filter=label=madengine.owner",
        f"{engine.name} container inspect 0123",
    ]


def test_no_containers_are_not_inspected(stand_ins: StandIns, engine: Docker) -> None:
    answering(stand_ins, engine.name)
    assert engine.containers("madengine.owner") == []
    assert len(stand_ins.calls()) == 1


def test_docker_and_nerdctl_know_the_registrys_digest_from_their_own_record(stand_ins: StandIns) -> None:
    image = {"Id": "1", "RepoDigests": [f"reg/other@{OTHER_DIGEST}", f"reg/a@{DIGEST}"]}
    assert Docker().digest_of("reg/a:1", image) == Nerdctl().digest_of("reg/a:1", image) == DIGEST
    assert Docker().digest_of("reg/b:1", image) == Docker().digest_of("reg/a:1", {"Id": "1"}) == ""
    assert stand_ins.calls() == []


def test_podman_pulls_to_know_which_digest_is_the_registrys(stand_ins: StandIns) -> None:
    pushed = {"Id": "1", "RepoDigests": [f"reg.example/a@{OTHER_DIGEST}"]}
    pulled = json.dumps([{"Id": "1", "RepoDigests": [f"reg.example/a@{OTHER_DIGEST}", f"reg.example/a@{DIGEST}"]}])
    cases = f"image) printf %s {shlex.quote(pulled)} ;; pull) [ $2 != reg.example/a@{OTHER_DIGEST} ] ;;"
    stand_ins.add("podman", f'case "$1" in {cases} esac')
    assert Podman().digest_of("reg.example/a:1", pushed) == DIGEST
    assert Podman().digest_of("reg.example/b:1", pushed) == ""


@pytest.mark.parametrize(
    ("name", "template"),
    [("docker", "{{.DockerRootDir}}"), ("nerdctl", "{{.DockerRootDir}}"), ("podman", "{{.Store.GraphRoot}}")],
)
def test_the_folder_of_the_images_is_asked_of_the_engine(stand_ins: StandIns, name: str, template: str) -> None:
    assert answering(stand_ins, name, "/var/lib/images\n").image_root() == Path("/var/lib/images")
    assert stand_ins.calls() == [f"{name} info '--format={template}'"]
    assert answering(stand_ins, name, "", "Error", 1).image_root() is None


# --- which engine ---


def test_every_name_has_its_class_in_the_order_of_auto() -> None:
    assert tuple(ENGINES) == ENGINE_NAMES
    assert [engine_named(name).name for name in ENGINE_NAMES] == list(ENGINE_NAMES)


DEAD = "Cannot connect to the Docker daemon at unix:///var/run/docker.sock. Is the docker daemon running?"


@pytest.fixture
def alone(stand_ins: StandIns) -> Iterator[StandIns]:
    """Stand-ins with none of this machine's engines behind them."""
    tools = stand_ins.folder / "tools"
    tools.mkdir()
    for name in ("sleep", "sh"):
        (tools / name).symlink_to(f"/bin/{name}")
    path = f"{stand_ins.folder}{os.pathsep}{tools}"
    with local.env(PATH=path):
        yield stand_ins


def test_the_first_that_answers_is_taken_not_the_first_on_path(alone: StandIns) -> None:
    answering(alone, "docker", "\n", DEAD, 1)
    answering(alone, "podman", "4.3.1\n")
    answering(alone, "nerdctl", "1.7.0\n")
    assert find_engine() == Podman("4.3.1")
    assert alone.calls() == [
        "docker version '--format={{.Server.Version}}'",
        "podman version '--format={{.Client.Version}}'",
    ]


def test_docker_is_taken_where_it_answers(alone: StandIns) -> None:
    answering(alone, "docker", "24.0.5\n")
    answering(alone, "podman", "4.3.1\n")
    assert find_engine("auto") == Docker("24.0.5")


def test_nerdctl_is_asked_last(alone: StandIns) -> None:
    answering(alone, "nerdctl", "1.7.0\n")
    assert find_engine() == Nerdctl("1.7.0")
    assert alone.calls() == ["nerdctl info '--format={{.ServerVersion}}'"]


def test_no_engine_at_all_says_what_each_said_and_what_to_do(alone: StandIns) -> None:
    answering(alone, "docker", "", DEAD, 1)
    with pytest.raises(EngineError) as caught:
        find_engine()
    assert str(caught.value) == (
        f"no container engine answers: docker doesn't answer: {DEAD}; podman is not installed, or not on PATH;"
        " nerdctl is not installed, or not on PATH; install podman, or start docker"
    )
    assert caught.value.exit_code == 1


REFUSED_SOCKET = "permission denied while trying to connect to the Docker daemon socket at unix:///var/run/docker.sock"
GROUP = "usermod --append --groups docker $USER, then log in again"


@pytest.mark.parametrize(("name", "prefix"), [("docker", "docker"), ("auto", "no container engine answers: docker")])
def test_a_user_who_may_not_use_docker_is_told_how_to_get_access(alone: StandIns, name: str, prefix: str) -> None:
    answering(alone, "docker", "", f"{REFUSED_SOCKET}: Get x: dial unix: connect: permission denied", 1)
    with pytest.raises(EngineError) as caught:
        find_engine(name)
    assert str(caught.value).startswith(f"{prefix} doesn't answer: {REFUSED_SOCKET}")
    assert str(caught.value).endswith(f"; to get access: {GROUP}; or use sudo or podman")
    assert caught.value.fix == GROUP


def test_podman_needs_no_group(alone: StandIns) -> None:
    answering(alone, "podman", "", "Error: open /x: permission denied", 1)
    with pytest.raises(EngineError) as caught:
        find_engine("podman")
    assert str(caught.value).endswith("; install or start it, or choose another with --engine")
    assert caught.value.fix == ""


def test_an_engine_that_does_not_exist_is_refused_by_name() -> None:
    expected = "unknown engine 'dokcer'; expected one of docker, podman, nerdctl, apptainer, pyxis"
    with pytest.raises(EngineError, match=f"^{expected}$"):
        find_engine("dokcer")


def test_an_engine_that_hangs_is_passed_over(alone: StandIns, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_finder, "PROBE_SECONDS", 0.3)
    alone.add("docker", "exec sleep 60")
    answering(alone, "podman", "4.3.1\n")
    began = time.monotonic()
    assert find_engine() == Podman("4.3.1")
    assert time.monotonic() - began < 5
    with pytest.raises(EngineError, match=r"^docker: no answer in 0\.3 s; install or start it, or choose another"):
        find_engine("docker")


def test_an_engine_that_says_no_version_does_not_answer(alone: StandIns) -> None:
    answering(alone, "docker", "\n")
    with pytest.raises(EngineError, match="docker doesn't answer: no output"):
        find_engine("docker")


def test_a_named_engine_is_the_only_one_asked(alone: StandIns) -> None:
    answering(alone, "docker", "24.0.5\n")
    with pytest.raises(EngineError) as caught:
        find_engine("podman")
    assert str(caught.value) == (
        "podman is not installed, or not on PATH; install or start it, or choose another with --engine"
    )
    assert alone.calls() == []


# --- private logins ---


class Ann:
    def __init__(self, registry: str) -> None:
        self.registry = registry
        self.username = "ann"
        self.password = "hunter2"


@pytest.mark.parametrize(("name", "variable"), [("docker", "DOCKER_CONFIG"), ("podman", "REGISTRY_AUTH_FILE")])
def test_a_login_is_private_by_stdin_and_gone_afterwards(
    stand_ins: StandIns, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, variable: str
) -> None:
    monkeypatch.setenv(variable, str(tmp_path / "own"))
    stand_ins.add(name, f'cat >{tmp_path}/stdin; printf %s "${variable}" >{tmp_path}/where')
    with logged_in(engine_named(name), [Ann("reg.example.com")]) as private:
        place = Path(private.environment[variable])
        assert place.exists()
        assert place != tmp_path / "own"
        assert (tmp_path / "where").read_text() == str(place)
    assert not place.exists()
    assert (tmp_path / "stdin").read_text() == "hunter2"
    assert stand_ins.calls()[-1:] == [f"{name} login --username ann --password-stdin reg.example.com"]


def test_a_private_login_keeps_the_users_other_logins_and_away_from_his_helper(
    stand_ins: StandIns, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    own = {"auths": {"other": {"auth": "x"}}, "credsStore": "desktop"}
    (tmp_path / "config.json").write_text(json.dumps(own))
    stand_ins.add("docker")
    with logged_in(Docker(), [Ann("reg.example.com"), Ann("docker.io")]) as private:
        config = Path(private.environment["DOCKER_CONFIG"]) / "config.json"
        assert config.stat().st_mode & 0o077 == 0
        helpers = {"reg.example.com": "", "https://index.docker.io/v1/": ""}
        assert json.loads(config.read_text()) == {**own, "credHelpers": helpers}
    assert json.loads((tmp_path / "config.json").read_text()) == own


def test_a_refused_login_is_one_line_without_the_password(stand_ins: StandIns, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programs, "_secrets", set())
    programs.hide(("hunter2",))
    stand_ins.add("docker", 'read p; echo "Error: unauthorized: $p" >&2; exit 1')
    with pytest.raises(CommandError) as caught, logged_in(Docker(), [Ann("reg.example.com")]):
        raise AssertionError("unreachable")
    assert "unauthorized" in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_a_refused_login_that_may_fail_is_a_warning_and_explains_a_later_refusal(stand_ins: StandIns) -> None:
    messages = collect_messages()
    stand_ins.add("docker", 'read p; case "$*" in *good*) ;; *) echo "Error: unauthorized" >&2; exit 1 ;; esac')
    with logged_in(Docker(), [Ann("good.example.com")], [Ann("reg.example.com"), Ann("docker.io")]) as private:
        assert private.environment["DOCKER_CONFIG"]
        line = (
            "reg.example.com: login as 'ann' failed: unauthorized; check that the registry answers, and the login in "
        )
        assert [message.startswith(line) for message in messages] == [True, False]
        assert refused_login("reg.example.com/x:1").startswith(f"; {line}")
        assert refused_login("org/x").startswith("; docker.io: login as 'ann' failed")
        assert refused_login("ubuntu") == refused_login("org/x")
        assert refused_login("good.example.com/x") == refused_login("localhost/x") == ""
    assert refused_login("org/x") == ""


def test_secrets_are_in_no_words_of_a_run(stand_ins: StandIns) -> None:
    secrets = {"MAD_SECRETS_A": "hunter2", "MAD_SECRETS_B": "two\nlines"}
    by_name = Docker().run(Container("c", "i", secrets=secrets))
    assert "--env MAD_SECRETS_A --env MAD_SECRETS_B" in programs.shell_line(by_name)
    filed = programs.shell_line(Docker().run(Container("c", "i", secrets=secrets, env_file="/tmp/f")))
    assert "--env MAD_SECRETS_B --env-file=/tmp/f" in filed
    assert "MAD_SECRETS_A" not in filed
    assert "hunter2" not in f"{filed} {programs.shell_line(by_name)} {Container('c', 'i', secrets=secrets)}"


@pytest.mark.parametrize(
    ("version", "buildx", "problem"),
    [
        ("28.2.2", 0, ""),
        (
            "28.2.2",
            1,
            "docker 28.2.2 without buildx takes no named contexts, as COPY --from=tools",
        ),
        (
            "20.10.24",
            0,
            "docker 20.10.24 takes no named contexts, as COPY --from=tools needs; install",
        ),
        ("20.10.24", 1, "docker 20.10.24 without buildx takes no named contexts"),
    ],
)
def test_docker_takes_named_contexts_with_buildx_only(
    stand_ins: StandIns, version: str, buildx: int, problem: str
) -> None:
    stand_ins.add("docker", f'case "$1" in buildx) exit {buildx} ;; version) echo {version} ;; esac')
    contexts = {"tools": "docker/common", "base": "docker-image://r/x:1"}
    for name in ("podman", "nerdctl"):
        build = line(engine_named(name).build(["x"], "f", ".", contexts=contexts))
        assert "--build-context tools=docker/common --build-context base=docker-image://r/x:1 ." in build
    if problem:
        with pytest.raises(EngineError) as caught:
            Docker().build(["x"], "f", ".", contexts=contexts)
        assert str(caught.value).startswith(problem)
    else:
        build = line(Docker().build(["x"], "f", ".", contexts=contexts))
        assert "DOCKER_BUILDKIT=1" in build
        assert "--build-context tools=docker/common --build-context base=docker-image://r/x:1 ." in build


@pytest.mark.parametrize(
    ("version", "buildx", "works"), [("20.10.24", 1, True), ("28.2.2", 1, False), ("28.2.2", 0, True)]
)
def test_docker_takes_build_secrets_with_buildkit_only(
    stand_ins: StandIns, version: str, buildx: int, works: bool
) -> None:
    stand_ins.add("docker", f'case "$1" in buildx) exit {buildx} ;; version) echo {version} ;; esac')

    def line() -> str:
        return programs.shell_line(Docker().build(["t"], "d", ".", secrets={"A_KEY": "hunter2"}))

    if works:
        assert "DOCKER_BUILDKIT=1" in line()
        assert "--secret id=A_KEY,env=A_KEY" in line()
        assert "hunter2" not in line()
    else:
        with pytest.raises(EngineError, match="docker has no buildx here"):
            line()


def test_a_secret_argument_of_a_build_is_in_it_by_name_only(stand_ins: StandIns) -> None:
    command = Podman().build(["t"], "d", ".", build_args={"B": "1"}, secret_args={"A_KEY": "hunter2"})
    assert "--build-arg B=1 --build-arg A_KEY " in programs.shell_line(command)
    assert "hunter2" not in programs.shell_line(command)


@pytest.mark.parametrize("state", ["{}", '{"Status": "exited"}', '{"Status": "exited", "ExitCode": "0"}'])
def test_an_exit_code_that_is_missing_is_no_success(stand_ins: StandIns, state: str) -> None:
    stand_ins.add("docker", f"echo '{state}'")
    with pytest.raises(CommandError, match=r"docker container inspect: .*unexpected output: "):
        Docker().state("container")
