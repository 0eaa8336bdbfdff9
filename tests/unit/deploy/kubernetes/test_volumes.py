from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from madengine.data_sets.mounts import Data
from madengine.deploy.kubernetes.volumes import Volumes, sources_of_options, volumes
from madengine.errors import ConfigurationError
from madengine.records import Model


def model(names: str) -> Model:
    return Model("bert", "docker/bert", "scripts/bert", data=names)


def data(folder: Path, **sets: Any) -> Data:
    (folder / "data.json").write_text(json.dumps(sets))
    return Data.load(folder / "data.json", {})


def test_a_data_set_without_providers_needs_no_volume(tmp_path: Path) -> None:
    known = data(tmp_path, huggingface={}, set={"pvc": {"claim": "sets", "home": "/sets"}})
    own = volumes(model("huggingface"), known, {}, False)
    assert own == Volumes(environment={"MAD_DATANAME": "huggingface"}, dataname="huggingface")
    both = volumes(model("huggingface,set"), known, {}, False)
    assert both.environment == {"MAD_DATANAME": "huggingface,set", "MAD_DATAHOME": "/sets"}
    assert (len(both.volumes), both.dataname, both.provider) == (1, "huggingface,set", "pvc")


def test_without_a_data_file_the_script_fetches_what_no_option_names(tmp_path: Path) -> None:
    known = Data.load(tmp_path / "data.json", {}, provided=["imagenet"])
    assert volumes(model("huggingface"), known, {}, False).environment == {"MAD_DATANAME": "huggingface"}
    overrides = sources_of_options(["huggingface=pvc:claim", "imagenet=pvc:claim"])
    assert len(volumes(model("huggingface,imagenet"), known, overrides, False).volumes) == 2
    with pytest.raises(ConfigurationError, match=r"needs data 'imagenet', and there is no .*--data-volume imagenet=…"):
        volumes(model("imagenet"), known, {}, False)


def test_an_unknown_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as error:
        volumes(model("hugginface"), data(tmp_path, huggingface={}), {}, False)
    assert str(error.value) == (
        f"model bert: no data 'hugginface' in {tmp_path}/data.json; known: huggingface; add it, as {{}} if its script "
        "fetches it; or use --data-volume hugginface=…"
    )
