"""The README's tables of fields and keys name all that the code knows, each once."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest

from madengine.config.context_keys import KEYS
from madengine.config.hooks import tool_catalogue
from madengine.data_sets import data_file
from madengine.records import Model

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")


def first_cells(heading: str) -> list[str]:
    """The names in the first column of the only table whose head begins so."""
    (table,) = re.findall(rf"^\| {re.escape(heading)}.*\n\|[-|]+\|\n((?:\|.*\n)+)", README, re.MULTILINE)
    return [name for line in table.splitlines() for name in re.findall(r"`([^`]+)`", line.split("|")[1])]


@pytest.mark.parametrize(
    ("heading", "known"),
    [
        ("of a card (`models.json`)", {field.name for field in fields(Model)} - {"extra"}),
        ("of the context", set(KEYS)),
        ("provider (`data.json`)", set(data_file.PROVIDERS)),
        ("key of each provider", {"home", "readwrite", "mirrorlocal", "sha256"}),
        ("of `credential.json` and the environment", {"NAS_NODES", "MAD_AWS_S3", "MAD_MINIO", "dockerhub"}),
        ("of a tool (`tools.json`)", {"pre_scripts", "post_scripts", "cmd", "env_vars", "artifacts"}),
        ("tool", set(tool_catalogue())),
    ],
)
def test_a_table_names_each_key_once(heading: str, known: set[str]) -> None:
    names = first_cells(heading)
    assert known - set(names) == set()
    assert sorted(names) == sorted(set(names))


def test_the_context_has_no_other_keys_than_the_documented_ones() -> None:
    assert set(first_cells("of the context")) == set(KEYS)
