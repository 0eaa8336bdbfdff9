from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from madengine.build.dockerfiles import build_directory
from madengine.build.named_contexts import named_contexts
from madengine.config.models_json import model_of
from madengine.errors import BuildError, ConfigurationError
from madengine.records import Model

TOOLS, SCRIPTS = {"tools": "docker/common"}, {"scripts": "scripts"}


def model(**keys: Any) -> Model:
    return model_of({"name": "m", "dockerfile": "docker/m", "scripts": "scripts/m", **keys}, "models.json")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for folder in ("docker/common", "scripts/m"):
        (tmp_path / folder).mkdir(parents=True)
    return tmp_path


@pytest.mark.parametrize(
    ("text", "contexts"),
    [
        ("FROM x\nCOPY . /\n", {}),
        ("FROM x\nCOPY --from=tools a /\n", TOOLS),
        ("FROM x\nCOPY --chown=1:1 --from=Tools a /\ncopy --from=scripts a /\n", TOOLS | SCRIPTS),
        ("FROM x\nRUN --mount=type=bind,from=scripts,target=/s /s/build\n", SCRIPTS),
        ("FROM x\nONBUILD COPY --from=tools a /\n", TOOLS),
        ("FROM tools\n", TOOLS),
        ("FROM x AS tools\nFROM y\nCOPY --from=tools a /\n", {}),
        ("FROM x\nCOPY --from=0 a /\n# COPY --from=tools\nRUN echo COPY --from=tools\n", {}),
    ],
)
def test_a_dockerfile_gets_the_folders_that_it_names(root: Path, text: str, contexts: dict[str, str]) -> None:
    assert named_contexts(model(), root, text) == contexts


def test_an_entry_names_more_and_replaces_the_shared_ones(root: Path) -> None:
    own = model(build_contexts={"tools": "scripts/m", "base": "docker-image://r/x:1", "unused": "nowhere"})
    text = "FROM base\nCOPY --from=tools a /\n"
    assert named_contexts(own, root, text) == {"tools": "scripts/m", "base": "docker-image://r/x:1"}
    missing = model(build_contexts={"extra": "nowhere"})
    with pytest.raises(BuildError, match=r"/nowhere: no such folder; 'm' names it as build_contexts\.extra"):
        named_contexts(missing, root, "FROM x\nCOPY --from=extra a /\n")


def test_a_name_without_a_folder_is_an_image(tmp_path: Path) -> None:
    assert named_contexts(model(), tmp_path, "FROM x\nCOPY --from=tools a /\n") == {}


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (["docker/common"], "build_contexts: expected an object such as {'tools': 'docker/common'}, got a list"),
        ({"a b": "x"}, "build_contexts: invalid name 'a b'; use letters, digits, _ . and -"),
        ({"a": "/etc"}, "build_contexts.a: expected a folder of the package, or docker-image://IMAGE, got '/etc'"),
        ({"a": "x/../../y"}, "build_contexts.a: expected a folder of the package, or docker-image://IMAGE, got"),
        ({"a": 1}, "build_contexts.a: expected a folder of the package, or docker-image://IMAGE, got 1"),
    ],
)
def test_another_place_is_refused(value: Any, message: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        model(build_contexts=value)
    assert str(caught.value).startswith(f"models.json: {message}")


@pytest.mark.parametrize(
    ("keys", "directory"),
    [
        ({}, "docker"),
        ({"dockerfile": "docker/primus_pretrain"}, "."),
        ({"dockerfile": "docker/Primus/train", "dockercontext": "scripts"}, "scripts"),
    ],
)
def test_the_build_folder_is_that_of_older_versions(root: Path, keys: dict[str, str], directory: str) -> None:
    assert build_directory(root, model(**keys)) == directory
