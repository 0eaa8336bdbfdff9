"""Pushing: digests, another try after network errors, and names that another build takes meanwhile."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

import pytest

from madengine.build import push
from madengine.build.build_log import open_log
from madengine.build.push import Pusher
from madengine.errors import BuildError
from madengine.programs.engine import Docker
from madengine.programs.podman import Podman
from madengine.records import Image
from tests.conftest import StandIns, collect_messages
from tests.unit.build.samples import DIGEST

OTHER = "sha256:" + "e" * 64


@pytest.fixture
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(push, "PUSH_PAUSE_SECONDS", 0.01)


def pushed(image_id: str = "") -> Image:
    with open_log() as log:
        return Pusher(Docker()).push(Image("k", "k", image_id=image_id), ["reg:5/a"], log)


@pytest.mark.usefixtures("short_pauses")
def test_a_push_is_tried_again_after_a_pause_that_doubles(tmp_path: Path, stand_ins: StandIns) -> None:
    refused = "echo 'dial tcp 127.0.0.1:5: connect: connection refused' >&2; exit 1"
    count = f"echo x >>{tmp_path}/count; [ $(wc -l <{tmp_path}/count) -gt 3 ]"
    stand_ins.add(
        "docker", f"[ $1 = push ] || exit 0; {count} || {{ {refused}; }}; echo 'latest: digest: {DIGEST} size: 3'"
    )
    messages = collect_messages()
    assert pushed().registry_digest == DIGEST
    assert [line.rpartition("; ")[2] for line in messages[:3]] == [
        "again in 0.01 s",
        "again in 0.02 s",
        "again in 0.04 s",
    ]
    assert messages[3] == f"k: pushed reg:5/a@{DIGEST}"


@pytest.mark.usefixtures("short_pauses")
def test_a_registry_that_is_never_reached_ends_in_its_error(tmp_path: Path, stand_ins: StandIns) -> None:
    stand_ins.add("docker", "echo 'dial tcp: lookup reg: no such host' >&2; exit 1")
    with pytest.raises(BuildError, match="reg:5/a: the push failed: dial tcp: lookup reg: no such host"):
        pushed()
    assert len(stand_ins.calls()) == push.PUSH_ATTEMPTS


@pytest.mark.parametrize(
    "refusal",
    [
        "denied: requested access to the resource is denied",
        "unauthorized: authentication required",
        "no basic auth credentials",
        "denied: the quota of 1500 images is used up",
        "x509: certificate signed by unknown authority",
    ],
)
def test_a_refusal_is_not_tried_again(tmp_path: Path, stand_ins: StandIns, refusal: str) -> None:
    stand_ins.add("docker", f"echo '{refusal}' >&2; exit 1")
    with pytest.raises(BuildError, match=refusal) as raised:
        pushed()
    assert len(stand_ins.calls()) == 1
    asks_who = any(word in refusal for word in ("basic auth", "unauthorized", "access"))
    assert str(raised.value).endswith("; credential.json may hold a login for it") == asks_who


def test_a_digest_that_docker_does_not_print_is_looked_up(tmp_path: Path, stand_ins: StandIns) -> None:
    record = json.dumps([{"Id": "1", "RepoDigests": [f"other/a@sha256:{'0' * 64}", f"reg:5/a@{DIGEST}"]}])
    stand_ins.add("docker", f"[ $1 = push ] || echo '{record}'")
    assert pushed().registry_digest == DIGEST


def test_a_push_without_a_digest_is_no_success(tmp_path: Path, stand_ins: StandIns) -> None:
    stand_ins.add("docker", "[ $1 = push ] || echo '[]'")
    with pytest.raises(BuildError, match="reg:5/a: pushed, but docker doesn't know its digest"):
        pushed()


def test_ctrl_c_does_not_wait_for_the_next_attempt(tmp_path: Path, stand_ins: StandIns) -> None:
    stand_ins.add("docker", "echo 'connection refused' >&2; exit 1")
    stopped = Pusher(Docker())
    stopped.stopping.set()
    began = time.monotonic()
    with open_log() as log, pytest.raises(BuildError):
        stopped.push(Image("k", "k"), ["reg:5/a"], log)
    assert time.monotonic() - began < 3


# The name `reg:5/a` is another build's until it is tagged again.
TAKEN = f"""case "$1" in
push) [ -e FOLDER/ours ] && echo "latest: digest: {DIGEST} size: 3" || echo "latest: digest: {OTHER} size: 3" ;;
tag) touch FOLDER/ours ;;
image) printf '[{{"Id": "sha256:ours"}}, {{"Id": "sha256:%s"}}]' "$([ -e FOLDER/ours ] && echo ours || echo theirs)" ;;
esac"""


def test_a_name_that_another_build_took_is_taken_back_and_pushed_again(tmp_path: Path, stand_ins: StandIns) -> None:
    stand_ins.add("docker", TAKEN.replace("FOLDER", str(tmp_path)))
    messages = collect_messages()
    assert pushed("sha256:ours").registry_digest == DIGEST
    assert stand_ins.calls() == [
        "docker push reg:5/a",
        f"docker image inspect sha256:ours reg:5/a@{OTHER}",
        "docker tag sha256:ours reg:5/a",
        "docker push reg:5/a",
        f"docker image inspect sha256:ours reg:5/a@{DIGEST}",
    ]
    assert messages == [
        "reg:5/a: pushing again: another build took the name",
        f"k: pushed reg:5/a@{DIGEST}",
    ]


def test_a_name_that_is_taken_again_and_again_is_a_failure(stand_ins: StandIns) -> None:
    stand_ins.add("docker", TAKEN.replace("touch FOLDER/ours", ":"))
    with pytest.raises(BuildError, match="reg:5/a: other builds took the name during each of 10 pushes"):
        pushed("sha256:ours")


def test_podman_pushes_by_id(tmp_path: Path, stand_ins: StandIns) -> None:
    stand_ins.add("podman", f'printf {DIGEST} >"$3"')
    with open_log() as log:
        image = Pusher(Podman()).push(Image("k", "k", image_id="sha256:ours"), ["reg.example/a"], log)
    assert image.registry_digest == DIGEST
    (call,) = stand_ins.calls()
    assert re.fullmatch(r"podman push --digestfile \S+/digest sha256:ours reg.example/a", call)
