from __future__ import annotations

import hashlib
import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from plumbum import local as local_environment

from madengine.config.credentials import Credentials
from madengine.data_sets import providers
from madengine.data_sets.fetch import Client
from madengine.data_sets.mounts import Data, Provided, provided_names
from madengine.errors import ConfigurationError, RunError
from madengine.records import Model
from tests.conftest import StandIns, collect_messages


def model(data: str) -> Model:
    return Model("dummy", "docker/dummy", "scripts/dummy/run.sh", data=data)


def data(folder: Path, **sources: Any) -> Data:
    (folder / "data.json").write_text(json.dumps(sources))
    return Data.load(folder / "data.json", {})


def local(path: Path | str, **config: Any) -> dict[str, Any]:
    return {"local": {"path": str(path), **config}}


def run_error(known: Data, names: str, mirror: str = "") -> str:
    with pytest.raises(RunError) as caught:
        known.mounts(model(names), mirror)
    return str(caught.value)


def test_a_model_without_data_gets_nothing(tmp_path: Path) -> None:
    assert data(tmp_path).mounts(model(""), "") == Provided((), {}, "", "")
    assert data(tmp_path).mounts(model(" , "), "") == Provided()


def test_a_local_folder_is_mounted_read_only_where_the_variable_says(tmp_path: Path) -> None:
    provided = data(tmp_path, imagenet=local(tmp_path)).mounts(model("imagenet"), "")
    assert provided.mounts == ((str(tmp_path), "/data_dlm_0", True),)
    assert provided.environment == {"MAD_DATAHOME": "/data_dlm_0", "MAD_DATANAME": "imagenet"}
    assert (provided.dataname, provided.data_provider_type) == ("imagenet", "local")


def test_data_with_a_pointer_of_git_lfs_are_no_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GIT_LFS_SKIP_SMUDGE", raising=False)
    (tmp_path / "set/inner").mkdir(parents=True)
    for name in ("set/a.parquet", "set/inner/b.parquet"):
        (tmp_path / name).write_text(
            f"version https://git-lfs.github.com/spec/v1\noid sha256:{'4d' * 32}\nsize 12345\n"
        )
    assert run_error(data(tmp_path, x=local("set")), "x") == (
        f"model dummy: no provider of data 'x' can be used: local: {tmp_path}/set/a.parquet, and 1 more, "
        "is a git-lfs pointer, not the file; run `git lfs pull` there, or set GIT_LFS_SKIP_SMUDGE=1 to use pointers "
        "as they are"
    )


@pytest.mark.parametrize("home", ["/data", "/data/"])
def test_a_configured_home_is_used_as_it_is(tmp_path: Path, home: str) -> None:
    provided = data(tmp_path, x=local(tmp_path, home=home)).mounts(model("x"), "/mirror")
    assert provided.mounts == ((str(tmp_path), "/data", True),)
    assert provided.environment["MAD_DATAHOME"] == "/data"


def test_several_names_have_numbered_homes_that_agree_with_their_mounts(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    known = data(tmp_path, a=local(tmp_path), b=local(tmp_path / "b", home="/b"), c=local(tmp_path, readwrite="true"))
    provided = known.mounts(model("a, b,,c,a"), "")
    assert provided.mounts == (
        (str(tmp_path), "/data_dlm_0", True),
        (str(tmp_path / "b"), "/b_1", True),
        (str(tmp_path), "/data_dlm_2", False),
    )
    assert provided.environment == {"MAD_DATAHOME": "/data_dlm_0,/b_1,/data_dlm_2", "MAD_DATANAME": "a,b,c"}
    assert provided.environment["MAD_DATAHOME"].split(",") == [container for _, container, _ in provided.mounts]
    assert (provided.dataname, provided.data_provider_type) == ("a,b,c", "local,local,local")


@pytest.mark.parametrize(
    ("readwrite", "read_only"), [("true", False), ("True", False), (True, False), ("false", True), (False, True)]
)
def test_only_readwrite_true_opens_a_mount(tmp_path: Path, readwrite: Any, read_only: bool) -> None:
    provided = data(tmp_path, x=local(tmp_path, readwrite=readwrite)).mounts(model("x"), "")
    assert provided.mounts[0][2] is read_only


def test_a_relative_path_starts_at_the_data_file(tmp_path: Path) -> None:
    (tmp_path / "sets").mkdir()
    provided = data(tmp_path, x=local("sets")).mounts(model("x"), "")
    assert provided.mounts[0][0] == str(tmp_path / "sets")


def test_local_is_used_where_other_providers_are_listed_too(tmp_path: Path) -> None:
    known = data(tmp_path, x={"aws": {"path": "s3://x"}, "minio": {"path": "b/x"}, **local(tmp_path)})
    assert known.mounts(model("x"), "").data_provider_type == "local"


def test_the_contexts_data_replaces_entries_of_the_file(tmp_path: Path) -> None:
    extra = {"x": local(tmp_path, home="/mine")}
    (tmp_path / "data.json").write_text(json.dumps({"x": local("/nowhere"), "y": local(tmp_path)}))
    known = Data.load(tmp_path / "data.json", extra)
    assert known.mounts(model("x"), "").mounts == ((str(tmp_path), "/mine", True),)
    assert known.mounts(model("y"), "").dataname == "y"
    assert extra == {"x": local(tmp_path, home="/mine")}


def test_an_unknown_name_lists_the_known_ones(tmp_path: Path) -> None:
    message = run_error(data(tmp_path, b=local(tmp_path), a=local(tmp_path)), "imagnet")
    assert message == (
        f"model dummy: no data 'imagnet' in {tmp_path}/data.json; known: a, b; add it, as {{}} if its script fetches it"
    )


def test_without_a_data_file_scripts_fetch_their_data(tmp_path: Path) -> None:
    messages = collect_messages()
    known = Data.load(tmp_path / "data.json", {"here": local(tmp_path)}, provided=["imagenet"])
    assert known.mounts(model(""), "") == Provided()
    assert known.mounts(model("here"), "").dataname == "here"
    assert messages == []
    names = Provided(environment={"MAD_DATANAME": "huggingface,x"}, dataname="huggingface,x")
    assert known.mounts(model("huggingface, x"), "") == names
    assert messages == [
        f"data {name}: there is no {tmp_path}/data.json; the script of dummy has to fetch it"
        for name in ("huggingface", "x")
    ]
    assert run_error(known, "imagenet") == (
        f"model dummy: needs data 'imagenet', and there is no {tmp_path}/data.json; copy it from where it was built"
    )


def test_a_data_set_without_providers_is_the_scripts_own(tmp_path: Path) -> None:
    messages = collect_messages()
    known = data(tmp_path, huggingface={}, one=local(tmp_path, home="/one"), two=local(tmp_path))
    provided, lines = known.planned(model("huggingface"), "")
    assert provided == known.mounts(model("huggingface"), "")
    assert (provided.environment, provided.mounts) == ({"MAD_DATANAME": "huggingface"}, ())
    assert (provided.dataname, provided.data_provider_type, provided.data_size, lines) == ("huggingface", "", "", [])
    both = known.mounts(model("huggingface,one"), "")
    assert both.environment == {"MAD_DATANAME": "huggingface,one", "MAD_DATAHOME": "/one"}
    assert (both.dataname, both.data_provider_type) == ("huggingface,one", "local")
    three = known.mounts(model("one,huggingface,two"), "")
    assert three.environment["MAD_DATAHOME"] == "/one_0,/data_dlm_1"
    assert messages == []


def test_a_build_notes_the_data_sets_that_need_a_data_file(tmp_path: Path) -> None:
    data(tmp_path, huggingface={}, one=local(tmp_path), two=local(tmp_path), other=local(tmp_path))
    models = [model("huggingface, two"), model("one,two,nowhere")]
    assert provided_names(tmp_path / "data.json", models) == ["one", "two"]
    assert provided_names(tmp_path / "nope.json", models) == []
    (tmp_path / "data.json").write_text("{")
    assert provided_names(tmp_path / "data.json", models) == []


def test_an_empty_data_file_knows_none(tmp_path: Path) -> None:
    assert "; known: none; add it" in run_error(data(tmp_path), "x")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where fetched data go."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache/madengine/data"


def script(folder: Path, text: str, **config: Any) -> dict[str, Any]:
    (folder / "get.sh").write_text(text)
    return {"custom": {"path": "get.sh", **config}}


def test_each_provider_is_listed_with_why_it_failed_in_the_order_they_are_tried(tmp_path: Path) -> None:
    there = {"path": "x"}
    claim = {"pvc": {"claim": "sets"}}
    known = data(tmp_path, x={**claim, "http": there, "nas": there, "custom": there, **local("/no/such folder")})
    assert run_error(known, "x") == (
        "model dummy: no provider of data 'x' can be used: "
        f"custom: {tmp_path}/x: no such file; local: /no/such folder does not exist; "
        "nas: no NAS_NODES in credential.json or the environment; "
        "http: path: expected a URL such as https://host/file, got 'x'; "
        "pvc: only a pod can mount it; a run on a host needs one of local, custom, minio, nas, aws, http"
    )


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"minoi": {"path": "b"}}, "unknown provider 'minoi'; expected one of minio, "),
        ({"local": {"paht": "/x"}}, ".local: unknown key 'paht'; expected one of path, "),
        ({"aws": {"path": "b/x", "regoin": "eu"}}, ".aws: unknown key 'regoin'; expected one of region, "),
        ({"nas": {"path": "/x", "cred": "web"}}, ".nas: unknown key 'cred'; expected one of "),
        ({"pvc": {"clam": "sets"}}, ".pvc: unknown key 'clam'; expected one of claim, "),
    ],
)
def test_what_nobody_knows_is_refused_with_the_known_ones(tmp_path: Path, entry: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        data(tmp_path, x=entry)
    assert f"{tmp_path}/data.json: x" in str(caught.value)
    assert message in str(caught.value)
    with pytest.raises(ConfigurationError, match="context data: x"):
        Data.load(tmp_path / "nothing.json", {"x": entry})


def test_keys_of_other_versions_are_named_and_do_no_harm(tmp_path: Path) -> None:
    old = {"mirrorlocal": "/mirror", "timeout_multiplier": 2, "data_sources": {"y": {}}}
    known = data(tmp_path, x=local(tmp_path, args="", timeout_multiplier=2), **old)
    path = f"{tmp_path}/data.json"
    assert known.ignored_keys == (
        *(f"{path}: {key}" for key in ("data_sources", "mirrorlocal", "timeout_multiplier")),
        *(f"{path}: x.local.{key}" for key in ("args", "timeout_multiplier")),
    )
    assert set(known.sources) == {"x"}
    assert known.mounts(model("x"), "").mounts[0][0] == str(tmp_path)


def test_what_pods_mount_and_a_host_has_may_be_named_beside_each_other(tmp_path: Path) -> None:
    pods = {"pvc": {"claim": "sets", "home": "/x"}, "nfs": {"server": "nas1", "path": "/x", "readwrite": "true"}}
    assert data(tmp_path, x={**pods, **local(tmp_path)}).mounts(model("x"), "").data_provider_type == "local"


def test_a_mirror_has_to_be_there(tmp_path: Path) -> None:
    message = run_error(data(tmp_path, x={"nas": {"path": "/x"}}), "x", mirror="/no/mirror")
    assert "nas: its mirror /no/mirror does not exist; make the folder" in message
    message = run_error(data(tmp_path, x={"nas": {"path": "/x", "mirrorlocal": "/nor/this"}}), "x")
    assert "nas: its mirror /nor/this does not exist" in message


def test_a_missing_program_is_named_with_what_installs_it(tmp_path: Path, stand_ins: StandIns) -> None:
    sources = {"minio": {"path": "b/x"}, "nas": {"path": "/x"}, "http": {"path": "https://h/x"}}
    (tmp_path / "data.json").write_text(json.dumps({"x": sources}))
    known = Data.load(tmp_path / "data.json", {}, Credentials({"NAS_NODES": {"NAME": "n1", "HOST": "h"}}))
    with local_environment.env(PATH=str(stand_ins.folder)):
        message = run_error(known, "x")
    assert "nas: rsync is not installed here; apt-get install rsync openssh-client" in message
    assert "minio: the AWS CLI (aws) is not installed here; pip install awscli" in message
    assert "http: curl is not installed here; apt-get install curl" in message


def test_what_a_custom_script_leaves_is_the_data_once(tmp_path: Path) -> None:
    text = f'echo run >>{tmp_path}/count; printf "%s|" "$@" "$MAD_DATANAME" >numbers\n'
    known = data(tmp_path, x=script(tmp_path, text, args="'a b' c"))
    provided = known.mounts(model("x"), "")
    ((folder, home, read_only),) = provided.mounts
    assert (Path(folder) / "numbers").read_text() == "a b|c|x|"
    assert (home, read_only, provided.data_provider_type, provided.data_size) == ("/data_dlm_0", True, "custom", "8B")
    assert float(provided.data_download_duration) > 0
    again = known.mounts(model("x"), "")
    assert (again.mounts, again.data_download_duration) == (provided.mounts, "0.0")
    assert (tmp_path / "count").read_text() == "run\n"


def test_a_mirror_is_the_names_own_folder_and_writable(tmp_path: Path) -> None:
    mirror = {"mirrorlocal": str(tmp_path / "mirror")}
    (tmp_path / "mirror").mkdir()
    known = data(tmp_path, x=script(tmp_path, "echo 1 >numbers\n", **mirror))
    assert known.mounts(model("x"), "").mounts == ((f"{tmp_path}/mirror/x", "/data_dlm_0", False),)
    assert (tmp_path / "mirror/x/numbers").read_text() == "1\n"
    closed = data(tmp_path, x=script(tmp_path, "echo 1 >numbers\n", readwrite="false", **mirror))
    assert closed.mounts(model("x"), "").mounts[0][2] is True
    assert "holds data of another source" in run_error(data(tmp_path, x=script(tmp_path, "", args="2", **mirror)), "x")


def test_another_script_of_the_same_name_brings_other_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = data(tmp_path, x=script(tmp_path, "echo 1 >numbers\n")).mounts(model("x"), "").mounts[0][0]
    second = data(tmp_path, x=script(tmp_path, "echo 2 >numbers\n")).mounts(model("x"), "").mounts[0][0]
    assert [(Path(folder) / "numbers").read_text() for folder in (first, second)] == ["1\n", "2\n"]
    monkeypatch.setattr("madengine.data_sets.providers.CUSTOM_SECONDS", 0.2)
    slow = data(tmp_path, x=script(tmp_path, "sleep 100\n"))
    assert "custom: get.sh: took longer than 0.2 s" in run_error(slow, "x")


def test_the_same_path_of_other_machines_is_other_data(tmp_path: Path) -> None:
    (tmp_path / "data.json").write_text(json.dumps({"x": {"nas": {"path": "/sets/x"}}}))
    folders = {
        Data.load(tmp_path / "data.json", {}, Credentials({"NAS_NODES": {"HOST": host}}))
        .planned(model("x"), "")[0]
        .mounts[0][0]
        for host in ("a", "b")
    }
    assert len(folders) == 2


def test_a_script_that_fails_leaves_no_data_that_count(tmp_path: Path, cache: Path) -> None:
    text = "echo half >numbers; echo no such set >&2; [ -e ../ready ] || exit 3\n"
    known = data(tmp_path, x=script(tmp_path, text))
    assert "custom: get.sh: no such set" in run_error(known, "x")
    assert "custom: get.sh: no such set" in run_error(known, "x")
    (cache / "ready").touch()
    assert known.mounts(model("x"), "").dataname == "x"


def test_a_wrong_sha256_is_no_data(tmp_path: Path) -> None:
    text = "echo 1 >numbers\n"
    right = hashlib.sha256(b"1\n").hexdigest()
    wrong = data(tmp_path, x=script(tmp_path, text, sha256="0" * 64))
    assert f"expected sha256 {'0' * 64}, got {right}" in run_error(wrong, "x")
    assert f"expected sha256 {'0' * 64}, got {right}" in run_error(wrong, "x")
    for sha256 in (right, {"numbers": right.upper()}):
        assert data(tmp_path, x=script(tmp_path, text, sha256=sha256)).mounts(model("x"), "").data_size == "2B"
    missing = data(tmp_path, x=script(tmp_path, text, sha256={"other": right}))
    assert "other: no such file, and sha256 names it" in run_error(missing, "x")
    (tmp_path / "set").mkdir()
    (tmp_path / "set/numbers").write_text("2\n")
    assert ": expected sha256 " in run_error(data(tmp_path, x=local("set", sha256=right)), "x")


def test_a_second_fetch_waits_for_the_first(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    text = f"echo run >>{tmp_path}/count; until [ -e {gate} ]; do sleep 0.05; done; echo 1 >n\n"
    known = data(tmp_path, x=script(tmp_path, text))
    waiting = "data x: waiting for another fetch of it"
    messages = collect_messages()
    with ThreadPoolExecutor(2) as pool:
        fetches = [pool.submit(known.mounts, model("x"), "", Client()) for _ in range(2)]
        while waiting not in messages:
            time.sleep(0.02)
        gate.touch()
        results = [fetch.result() for fetch in fetches]
    assert results[0].mounts == results[1].mounts
    assert (tmp_path / "count").read_text() == "run\n"


def test_who_is_stopped_ends_the_program_that_fetches(tmp_path: Path) -> None:
    known = data(tmp_path, x=script(tmp_path, f"echo $$ >{tmp_path}/pid; exec sleep 1000\n"))
    client = Client()
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(known.mounts, model("x"), "", client)
        while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
            time.sleep(0.02)
        client.stopping.set()
        with pytest.raises(KeyboardInterrupt):
            future.result(20)
    assert not Path(f"/proc/{(tmp_path / 'pid').read_text().strip()}").exists()


def test_the_lines_of_a_dry_run_fetch_and_ask_nobody(tmp_path: Path, cache: Path) -> None:
    entries = {
        "MAD_MINIO": {"USERNAME": "key", "PASSWORD": "very-secret", "MINIO_ENDPOINT": "http://m:9000"},
        "NAS_NODES[0]": {"HOST": "n1", "PORT": "2222", "USERNAME": "ann", "PASSWORD": "very-secret"},
        "web": {"username": "ann", "password": "very-secret"},
    }
    sources = {
        "a": {"minio": {"path": "bucket/a"}},
        "b": {"nas": {"path": "/sets/b"}},
        "c": {"http": {"path": "https://h/dir/c.tar?sig=very-secret", "cred": "web"}},
    }
    (tmp_path / "data.json").write_text(json.dumps(sources))
    known = Data.load(tmp_path / "data.json", {}, Credentials(entries))
    provided, lines = known.planned(model("a,b,c"), "")
    text = "\n".join(lines)
    assert "aws s3 sync --only-show-errors s3://bucket/a/" in text
    assert "--endpoint-url=http://m:9000" in text
    assert "'--rsh=ssh -p 2222'" in text
    assert "ann@n1:/sets/b/" in text
    assert "c.tar https://h/dir/c.tar" in text
    assert "very-secret" not in text
    assert provided.dataname == "a,b,c"
    assert not cache.exists()
    assert known.credential_names() == {"web"}


def test_a_file_in_place_of_the_folder_is_named(tmp_path: Path) -> None:
    assert f"local: {tmp_path}/data.json is no directory" in run_error(data(tmp_path, x=local("data.json")), "x")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"x": {\n"local": }}', "data.json:2:10: not JSON: expecting value"),
        ("", "data.json:1:1: not JSON: expecting value"),
        ("[]", "data.json: expected an object of data sets by name"),
        ('{"x": []}', "data.json: x: expected an object such as"),
        ('{"x": {"local": "/data"}}', "data.json: x.local: expected an object such as"),
        ('{"x": {"local": {}}}', "data.json: x.local.path: expected a folder on the host, got null"),
        ('{"x": {"local": {"path": 1}}}', "x.local.path: expected a folder on the host, got 1"),
        (
            '{"x": {"local": {"path": "/a", "home": "data"}}}',
            "x.local.home: expected an absolute path in the container without , or :, got 'data'",
        ),
        (
            '{"x": {"local": {"path": "/a", "home": "/"}}}',
            "x.local.home: expected an absolute path in the container without , or :, got '/'",
        ),
        (
            '{"x": {"local": {"path": "/a", "home": "/a,b"}}}',
            "x.local.home: expected an absolute path in the container without , or :, got '/a,b'",
        ),
        (
            '{"x": {"local": {"path": "/a", "readwrite": "yes"}}}',
            'x.local.readwrite: expected "true" or "false", got \'yes\'',
        ),
        ('{"x": {"local": {"path": "/a", "mirrorlocal": "/m"}}}', "x.local.mirrorlocal: a local folder has no mirror"),
    ],
)
def test_a_broken_data_file_is_named_with_its_place(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "data.json").write_text(text)
    with pytest.raises(ConfigurationError) as caught:
        Data.load(tmp_path / "data.json", {})
    assert message in str(caught.value)


def test_broken_data_of_the_context_is_named_as_such(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="context data: x: expected an object"):
        Data.load(tmp_path / "data.json", {"x": 1})


def test_a_data_file_that_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="can't be read: is a directory"):
        Data.load(tmp_path, {})
    (tmp_path / "data.json").write_bytes(b"\xff")
    with pytest.raises(ConfigurationError, match=r"data\.json: byte 0 is not UTF-8"):
        Data.load(tmp_path / "data.json", {})


def test_a_forced_mirror_holds_what_is_fetched_and_nothing_local(tmp_path: Path) -> None:
    (tmp_path / "mirror").mkdir()
    known = data(tmp_path, x=script(tmp_path, "echo 1 >numbers\n"), y=local(tmp_path))
    provided = known.mounts(model("x,y"), str(tmp_path / "mirror"))
    assert [mount[0] for mount in provided.mounts] == [f"{tmp_path}/mirror/x", str(tmp_path)]


def test_a_terminal_sees_how_much_has_come(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    gate = tmp_path / "gate"
    text = f"head -c 5000 /dev/zero >n; until [ -e {gate} ]; do sleep 0.1; done\n"
    drawn: list[str] = []

    def draw(what: str, line: str) -> None:
        drawn.append(line)
        gate.touch()

    monkeypatch.setattr("madengine.data_sets.fetch._draw", draw)
    data(tmp_path, x=script(tmp_path, text)).mounts(model("x"), "", Client())
    assert drawn[0].startswith("data x from custom: ")
    assert drawn[-1] == ""


def test_an_s3_accounts_region_and_session_are_used_and_the_data_sets_region_before(tmp_path: Path) -> None:
    entry = {"USERNAME": "id", "PASSWORD": "key22", "SESSION_TOKEN": "session22", "REGION": "eu-west-1"}
    credentials = Credentials({"MAD_AWS_S3": entry})
    (tmp_path / "data.json").write_text(json.dumps({"x": {"aws": {"path": "s3://b/x"}}}))
    (line,) = Data.load(tmp_path / "data.json", {}, credentials).planned(model("x"), "")[1][1:]
    assert "AWS_DEFAULT_REGION=eu-west-1" in line
    assert "session22" not in line
    source = providers.source("aws", "x", {"path": "b/x", "region": "us-east-1"}, tmp_path, credentials)
    assert isinstance(source, providers.S3)
    assert (source.account.region, source.account.session_token) == ("us-east-1", "session22")
