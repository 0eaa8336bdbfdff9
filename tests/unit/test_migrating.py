"""docs/migrating.md says of each key, option, variable and file of madengine 2 what becomes of it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from madengine.cli.commands import VERBS
from madengine.config.context_keys import KEYS, Honoured
from madengine.config.credentials import ENDPOINT_KEYS
from madengine.config.entry_keys import ENTRY_KEYS
from madengine.config.hooks import TOOL_KEYS
from madengine.config.manifest import IMAGE_KEYS, MANIFEST_KEYS
from madengine.data_sets import data_file
from madengine.run.inherited import NAMES

TEXT = (Path(__file__).parents[2] / "docs/migrating.md").read_text(encoding="utf-8")
# What the command lines of madengine 2 and of the version before it have.
OPTIONS = [
    "--tags", "--target-archs", "--registry", "--batch-manifest", "--use-image", "--build-on-compute",
    "--additional-context", "--additional-context-file", "--clean-docker-cache", "--manifest-output",
    "--summary-output", "--live-output", "--verbose", "--manifest-file", "--timeout", "--keep-alive",
    "--keep-model-dir", "--skip-model-run", "--output", "--ignore-deprecated", "--ignore-deprecated-flag",
    "--data-config", "--data-config-file-name", "--tools-config", "--tools-json-file-name",
    "--sys-env-details", "--generate-sys-env-details", "--force-mirror-local", "--disable-skip-gpu-arch",
    "--cleanup-perf", "--execution-config", "--namespace", "--require-pinned-image",
]  # fmt: skip
FILES = [
    "models.json", "get_models_json.py", "data.json", "credential.json", "scripts/common/tools.json",
    "build_manifest.json", "build_summary.json", "run_summary.json", "execution_config.json", "perf.csv",
    "perf_entry.csv", "perf_entry.json", "perf_super.json", "perf_super.csv", "perf_entry_super.json",
    "perf_entry_super.csv", "common_info.json", ".madengine_session_start",
]  # fmt: skip


def rows(heading: str) -> dict[str, str]:
    """The lines of the table with this first head, by each name in their first cells."""
    (table,) = re.findall(rf"^\| {re.escape(heading)} \|.*\n\|[-|]+\|\n((?:\|.*\n)+)", TEXT, re.MULTILINE)
    return {name: line for line in table.splitlines() for name in re.findall(r"`([^`]+)`", line.split("|")[1])}


@pytest.mark.parametrize(
    ("heading", "known"),
    [
        ("key of a model entry", set(ENTRY_KEYS)),
        ("key of the context", set(KEYS)),
        ("key of a manifest", set(MANIFEST_KEYS)),
        ("key of an image", set(IMAGE_KEYS)),
        ("key of data.json", {key for provider, keys in data_file.KEYS.items() for key in (provider, *keys)}),
        ("key of data.json", {*data_file.OF_OTHER_VERSIONS, *data_file.BESIDE_DATA_SETS}),
        ("key of tools.json", set(TOOL_KEYS)),
        ("entry of credential.json", {*ENDPOINT_KEYS, "dockerhub"}),
        ("option", set(OPTIONS)),
        ("variable", {*NAMES, "NCCL_*"} - {"LOCAL_RANK"}),
        ("file", set(FILES)),
    ],
)
def test_each_declared_key_is_in_its_table(heading: str, known: set[str]) -> None:
    assert known - rows(heading).keys() == set()


def test_the_table_of_the_context_says_what_the_code_does() -> None:
    lines = rows("key of the context")
    for name, key in KEYS.items():
        is_named = key.honoured is Honoured.NOWHERE
        assert is_named == ("| named" in lines[name] or "| refused" in lines[name]), name
    for name, entry in ENTRY_KEYS.items():
        assert bool(entry.instead) == ("| named" in rows("key of a model entry")[name]), name


def test_an_option_is_declared_or_refused() -> None:
    declared = {flag for verb in VERBS.values() for option in verb.declared() for flag in option.flags}
    for flag, line in rows("option").items():
        if flag.startswith("-") and " of " not in flag:
            assert (flag in declared) == ("| refused" not in line), flag


def test_nothing_is_dropped_without_a_word() -> None:
    assert not re.search(r"silent|without a word", TEXT)
    cells = [line.split("|")[2].strip() for line in TEXT.splitlines() if line.startswith("| ")]
    assert all(cells)
