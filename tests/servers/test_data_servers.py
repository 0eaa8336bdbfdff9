"""Data come from real servers: over ssh, from S3, over HTTP; broken lines, wrong passwords, and what is said then."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from plumbum import local

from madengine.config.credentials import Credentials
from madengine.data_sets.fetch import Client
from madengine.data_sets.mounts import Data, Provided
from madengine.errors import RunError
from madengine.records import Model
from tests.bed.components import outcome
from tests.servers.conftest import PORT, S3_USER, Nas
from tests.servers.programs import CANARIES, Web, cut_line, wait_for

WEB = {"web": {"username": "ann", "password": CANARIES["web"]}}
MODEL = Model("m", "docker/m", "scripts/m", data="x")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fetched data go below the test's own folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def known(folder: Path, entries: Mapping[str, Any] | None = None, **providers: Any) -> Data:
    """A data.json with the data set x, and credentials."""
    (folder / "data.json").write_text(json.dumps({"x": providers}))
    return Data.load(folder / "data.json", {}, Credentials(entries or {}))


def files(provided: Provided) -> dict[str, int]:
    """The files of the only data set, with their sizes."""
    folder = Path(provided.mounts[0][0])
    return {str(path.relative_to(folder)): path.stat().st_size for path in folder.rglob("*") if path.is_file()}


def node(nas: Nas, **more: str) -> dict[str, dict[str, str]]:
    entry = {"NAME": "n1", "HOST": nas.host, "PORT": str(PORT), "USERNAME": "root", "PASSWORD": CANARIES["nas"]}
    return {"NAS_NODES[0]": {"NAME": "gone", "HOST": "127.0.0.1", "PORT": "1"}, "NAS_NODES[1]": {**entry, **more}}


@pytest.mark.usefixtures("known_hosts")
def test_a_folder_comes_over_ssh_with_a_password(nas: Nas, tmp_path: Path, client: Client) -> None:
    provided = known(tmp_path, node(nas), nas={"path": "/srv/sets/a set"}).mounts(MODEL, "", client)
    assert files(provided) == {"one": 2, "two": 300000}
    assert (provided.data_provider_type, provided.data_size) == ("nas", "300kB")


@pytest.mark.usefixtures("known_hosts")
def test_a_file_comes_over_ssh_with_a_key(nas: Nas, tmp_path: Path, client: Client) -> None:
    entries = node(nas, PORT="22", PASSWORD="", SSH_KEY_FILE=str(nas.folder / "id"))
    provided = known(tmp_path, entries, nas={"path": "/srv/sets/a set/one"}).mounts(MODEL, "", client)
    assert files(provided) == {"one": 2}


@pytest.mark.usefixtures("known_hosts")
def test_a_file_over_ssh_is_taken_up_where_its_line_broke(
    nas: Nas, tmp_path: Path, client: Client, messages: list[str]
) -> None:
    nas.sh("head -c 8000000 /dev/urandom >/srv/large")
    # Far more than ssh and rsync hold on the way, which a cut line loses.
    with cut_line(nas.host, PORT, after=6_000_000) as (port, passed):
        entries = node(nas, HOST="127.0.0.1", PORT=str(port))
        provided = known(tmp_path, entries, nas={"path": "/srv/large"}).mounts(MODEL, "", client)
    found = hashlib.sha256(Path(provided.mounts[0][0], "large").read_bytes()).hexdigest()
    assert found == nas.sh("sha256sum /srv/large").split()[0]
    assert any("resuming from" in line for line in messages)
    assert max(passed[:-1]) > 6_000_000 > passed[-1]  # what was here already did not come again


@pytest.mark.usefixtures("known_hosts")
def test_what_each_node_said_is_the_reason(nas: Nas, tmp_path: Path, client: Client) -> None:
    entries = node(nas, PASSWORD="wrong-password")
    with pytest.raises(RunError) as caught:
        known(tmp_path, entries, nas={"path": "/srv/sets"}).mounts(MODEL, "", client)
    assert "nas: gone: " in str(caught.value)
    assert "Connection refused" in str(caught.value)
    assert "n1: " in str(caught.value)
    assert "Permission denied" in str(caught.value)
    assert "wrong-password" not in str(caught.value)
    with pytest.raises(RunError, match="No such file"):
        known(tmp_path, node(nas), nas={"path": "/srv/nothing"}).mounts(MODEL, "", client)


@pytest.mark.parametrize(
    ("provider", "path", "expected"),
    [("minio", "sets/set", {"one": 2, "deep/two": 3}), ("aws", "s3://sets/single.bin", {"single.bin": 10240})],
)
def test_folders_and_objects_come_from_s3(
    s3: str, tmp_path: Path, client: Client, provider: str, path: str, expected: dict[str, int]
) -> None:
    entry = {"USERNAME": S3_USER, "PASSWORD": CANARIES["s3"]}
    entries = {"MAD_MINIO": {**entry, "MINIO_ENDPOINT": s3}, "MAD_AWS_S3": {**entry, "AWS_ENDPOINT_URL_S3": s3}}
    config = {"path": path, "region": "us-east-1"}
    provided = known(tmp_path, entries, **{provider: config}).mounts(MODEL, "", client)
    assert files(provided) == expected
    assert provided.data_provider_type == provider


@pytest.mark.parametrize(
    ("path", "verb", "expected"),
    [("sets/single.bin", "cp", ["single.bin"]), ("sets/set", "sync", ["deep", "one"]), ("sets", "sync", ["set"])],
)
def test_the_printed_lines_fetch_a_folder_and_an_object(
    s3: str, tmp_path: Path, client: Client, path: str, verb: str, expected: list[str]
) -> None:
    entry = {"USERNAME": S3_USER, "PASSWORD": CANARIES["s3"], "MINIO_ENDPOINT": s3}
    provided, lines = known(tmp_path, {"MAD_MINIO": entry}, minio={"path": path}).planned(MODEL, "")
    text = "\n".join(lines)
    assert CANARIES["s3"] not in text
    ended = outcome(["sh", "-exc", text], {"AWS_SECRET_ACCESS_KEY": CANARIES["s3"]})
    assert f" aws s3 {verb} " in ended.stderr
    assert set(expected) <= {path.name for path in Path(provided.mounts[0][0]).iterdir()}


def test_a_wrong_key_and_a_missing_object_are_reasons(s3: str, tmp_path: Path, client: Client) -> None:
    entry = {"USERNAME": S3_USER, "PASSWORD": "wrong-password", "MINIO_ENDPOINT": s3}
    with pytest.raises(RunError, match=r"minio: .*SignatureDoesNotMatch"):
        known(tmp_path, {"MAD_MINIO": entry}, minio={"path": "sets/set"}).mounts(MODEL, "", client)
    entry["PASSWORD"] = CANARIES["s3"]
    with pytest.raises(RunError, match=r"minio: (s3://sets/nothing: no such object|exit code 1)"):
        known(tmp_path, {"MAD_MINIO": entry}, minio={"path": "sets/nothing"}).mounts(MODEL, "", client)


def test_a_file_over_http_is_taken_up_where_its_line_broke(tmp_path: Path, client: Client, messages: list[str]) -> None:
    web = Web(bytes(range(251)) * 4000, cuts=2, password=CANARIES["web"])
    with web.served() as url:
        provided = known(tmp_path, WEB, http={"path": url, "cred": "web"}).mounts(MODEL, "", client)
    assert (Path(provided.mounts[0][0]) / "numbers.bin").read_bytes() == web.content
    assert web.asked[0] in ("", "bytes=0-")
    assert [int(asked[6:-1]) for asked in web.asked[1:]] == [502000, 753000]
    assert any("resuming from byte 502000" in line for line in messages)


def test_what_changed_on_the_server_meanwhile_comes_anew(tmp_path: Path, client: Client) -> None:
    web = Web(b"a" * 1000, password=CANARIES["web"])
    with web.served() as url:
        data = known(tmp_path, WEB, http={"path": url, "cred": "web"})
        place = next(iter(data.planned(MODEL, "")[0].mounts))[0]
        Path(place).mkdir(parents=True)
        # as an interrupted fetch leaves it
        (Path(place) / "numbers.bin").write_bytes(b"b" * 400)
        Path(place).with_name(f".{Path(place).name}.etag").write_text('"zero"\n')
        data.mounts(MODEL, "", client)
    assert (Path(place) / "numbers.bin").read_bytes() == web.content


def test_the_users_own_settings_of_curl_change_no_byte(tmp_path: Path, client: Client, messages: list[str]) -> None:
    web = Web(bytes(range(256)) * 40, password=CANARIES["web"])
    (tmp_path / ".curlrc").write_text("include\nrange = 0-9\n")
    with web.served() as url, local.env(CURL_HOME=str(tmp_path)), pytest.MonkeyPatch.context() as patch:
        patch.setenv("CURL_HOME", str(tmp_path))
        provided = known(tmp_path, WEB, http={"path": url, "cred": "web"}).mounts(MODEL, "", client)
    assert (Path(provided.mounts[0][0]) / "numbers.bin").read_bytes() == web.content
    assert [line for line in messages if f"{tmp_path}/.curlrc is ignored" in line]


def test_a_wrong_password_over_http_is_a_reason_and_the_next_provider_is_tried(tmp_path: Path, client: Client) -> None:
    web = Web(b"content", password=CANARIES["web"])
    entries = {"web": {"username": "ann", "password": "wrong-password"}}
    with web.served() as url, pytest.raises(RunError) as caught:
        known(tmp_path, entries, http={"path": url, "cred": "web"}, minio={"path": "b/x"}).mounts(MODEL, "", client)
    assert "minio: " in str(caught.value)
    assert "http: curl: (22) The requested URL returned error: 401" in str(caught.value)
    assert "wrong-password" not in str(caught.value)


def test_ctrl_c_ends_the_client_and_the_next_fetch_goes_on(tmp_path: Path, client: Client) -> None:
    web = Web(bytes(range(256)) * 2000, password=CANARIES["web"], stuck_at=100000)
    with web.served() as url, ThreadPoolExecutor(1) as pool:
        data = known(tmp_path, WEB, http={"path": url, "cred": "web"})
        place = Path(data.planned(MODEL, "")[0].mounts[0][0])
        future = pool.submit(data.mounts, MODEL, "", client)
        try:
            wait_for(lambda: (place / "numbers.bin").exists() and (place / "numbers.bin").stat().st_size > 0)
        finally:
            client.stopping.set()
        with pytest.raises(KeyboardInterrupt):
            future.result(30)
        came = (place / "numbers.bin").stat().st_size
        web.stuck_at = 0
        data.mounts(MODEL, "", Client())
    assert (place / "numbers.bin").read_bytes() == web.content
    assert web.asked[-1] == f"bytes={came}-"
