from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from madengine.data import Data, Provided
from madengine.errors import ConfigurationError, RunError
from madengine.records import Model


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
    known = data(tmp_path, x={"aws": {"path": "s3://x"}, "custom": {"path": "get.sh"}, **local(tmp_path)})
    assert known.mounts(model("x"), "").data_provider_type == "local"


def test_the_contexts_data_replaces_entries_of_the_file(tmp_path: Path) -> None:
    extra = {"x": local(tmp_path, home="/mine")}
    (tmp_path / "data.json").write_text(json.dumps({"x": local("/nowhere"), "y": local(tmp_path)}))
    known = Data.load(tmp_path / "data.json", extra)
    assert known.mounts(model("x"), "").mounts == ((str(tmp_path), "/mine", True),)
    assert known.mounts(model("y"), "").dataname == "y"
    assert extra == {"x": local(tmp_path, home="/mine")}


def test_an_unknown_name_lists_the_known_ones(tmp_path: Path) -> None:
    said = run_error(data(tmp_path, b=local(tmp_path), a=local(tmp_path)), "imagnet")
    assert said == f"model dummy: no data 'imagnet' in {tmp_path}/data.json; known: a, b"


def test_a_missing_data_file_is_empty_until_a_model_needs_data(tmp_path: Path) -> None:
    known = Data.load(tmp_path / "data.json", {})
    assert known.mounts(model(""), "") == Provided()
    assert run_error(known, "x") == f"model dummy: needs data 'x', and there is no {tmp_path}/data.json; write one"


def test_an_empty_data_file_knows_none(tmp_path: Path) -> None:
    assert run_error(data(tmp_path), "x").endswith("known: none")


def test_each_provider_is_listed_with_why_it_failed_in_the_order_they_are_tried(tmp_path: Path) -> None:
    known = data(tmp_path, x={"gcs": {}, "aws": {}, "minio": {}, "custom": {}, **local("/no/such folder")})
    fetching = "fetching is not supported by this version; put the data under a local path"
    assert run_error(known, "x") == (
        "model dummy: no provider of data 'x' can be used: "
        f"custom: {fetching}; local: /no/such folder does not exist; minio: {fetching}; aws: {fetching}; "
        "gcs: no such provider, use one of custom, local, minio, nas, aws"
    )


def test_a_forced_mirror_is_named_where_it_would_have_been_used(tmp_path: Path) -> None:
    said = run_error(data(tmp_path, x={"nas": {}}), "x", mirror="/shared/data")
    assert "nas: fetching into /shared/data/x is not supported" in said


def test_a_file_in_place_of_the_folder_and_no_provider_at_all_are_told_apart(tmp_path: Path) -> None:
    assert f"local: {tmp_path}/data.json is no directory" in run_error(data(tmp_path, x=local("data.json")), "x")
    assert run_error(data(tmp_path, x={}), "x").endswith("can be used: it has none")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"x": {\n"local": }}', "data.json:2:10: not JSON: expecting value"),
        ("", "data.json:1:1: not JSON: expecting value"),
        ("[]", "data.json: expected an object of data sets by name"),
        ('{"x": []}', "data.json: x: expected an object such as"),
        ('{"x": {"local": "/data"}}', "data.json: x.local: expected an object such as"),
        ('{"x": {"local": {}}}', "data.json: x.local.path: None, expected a folder on the host"),
        ('{"x": {"local": {"path": 1}}}', "x.local.path: 1, expected a folder on the host"),
        ('{"x": {"local": {"path": "/a", "home": "data"}}}', "x.local.home: 'data', expected an absolute path"),
        ('{"x": {"local": {"path": "/a", "home": "/"}}}', "x.local.home: '/', expected an absolute path"),
        ('{"x": {"local": {"path": "/a", "home": "/a,b"}}}', "x.local.home: '/a,b', expected an absolute path"),
        ('{"x": {"local": {"path": "/a", "readwrite": "yes"}}}', "x.local.readwrite: 'yes', expected"),
        ('{"x": {"local": {"path": "/a", "mirrorlocal": "/m"}}}', "x.local.mirrorlocal: a local folder has no mirror"),
    ],
)
def test_a_broken_data_file_is_named_with_its_place(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "data.json").write_text(text)
    with pytest.raises(ConfigurationError) as caught:
        Data.load(tmp_path / "data.json", {})
    assert said in str(caught.value)


def test_broken_data_of_the_context_is_named_as_such(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="context data: x: expected an object"):
        Data.load(tmp_path / "data.json", {"x": 1})


def test_a_data_file_that_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="can't be read: is a directory"):
        Data.load(tmp_path, {})
    (tmp_path / "data.json").write_bytes(b"\xff")
    with pytest.raises(ConfigurationError, match=r"data\.json: byte 0 is not UTF-8"):
        Data.load(tmp_path / "data.json", {})
