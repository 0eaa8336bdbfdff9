"""README.md and docs/ name what the code knows: keys, columns, options, commands and messages."""

from __future__ import annotations

import ast
import functools
import re
import shlex
from collections.abc import Iterator
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import pytest

from madengine.cli.commands import VERBS
from madengine.config.context_keys import KEYS
from madengine.config.entry_keys import ENTRY_KEYS
from madengine.config.hooks import tool_catalogue
from madengine.data_sets import data_file
from madengine.distributed_cli import main
from madengine.results.rows import COLUMNS

CHECKOUT = Path(__file__).parents[2]
PAGES = (CHECKOUT / "README.md", CHECKOUT / "CONTRIBUTING.md", *sorted((CHECKOUT / "docs").glob("*.md")))


def text_of(page: str) -> str:
    return (CHECKOUT / page).read_text(encoding="utf-8")


def page_name(path: Path) -> str:
    return str(path.relative_to(CHECKOUT))


def first_cells(page: str, heading: str) -> list[str]:
    """The names in the first column of the only table whose first head is this."""
    pattern = rf"^\| {re.escape(heading)} \|.*\n\|[-|]+\|\n((?:\|.*\n)+)"
    (table,) = re.findall(pattern, text_of(page), re.MULTILINE)
    return [name for line in table.splitlines() for name in re.findall(r"`([^`]+)`", line.split("|")[1])]


@pytest.mark.parametrize(
    ("page", "heading", "known"),
    [
        ("docs/reference.md", "key of a model entry", set(ENTRY_KEYS)),
        ("docs/reference.md", "key of the context", set(KEYS)),
        ("docs/reference.md", "provider", set(data_file.PROVIDERS)),
        ("docs/reference.md", "key of every provider", {"home", "readwrite", "mirrorlocal", "sha256"}),
        ("docs/reference.md", "entry or variable", {"NAS_NODES", "MAD_AWS_S3", "MAD_MINIO", "dockerhub"}),
        ("docs/reference.md", "key of a tool", {"pre_scripts", "post_scripts", "cmd", "env_vars", "artifacts"}),
        ("docs/reference.md", "column", set(COLUMNS)),
        ("docs/building-and-running.md", "tool", set(tool_catalogue())),
    ],
)
def test_a_table_names_each_key_once(page: str, heading: str, known: set[str]) -> None:
    names = first_cells(page, heading)
    assert known - set(names) == set()
    assert sorted(names) == sorted(set(names))


def test_the_context_has_no_other_keys_than_the_documented_ones() -> None:
    assert set(first_cells("docs/reference.md", "key of the context")) == set(KEYS)


def test_the_readme_is_short() -> None:
    assert len(text_of("README.md").splitlines()) <= 200


def test_the_index_names_every_page() -> None:
    names = {path.name for path in PAGES if path.parent == CHECKOUT / "docs"} - {"README.md"}
    assert set(re.findall(r"\]\(([\w-]+\.md)\)", text_of("docs/README.md"))) == names


# --- links ---


def anchors(path: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", PAGES, ids=page_name)
def test_links_lead_to_a_page_and_a_heading(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    for link in re.findall(r"\]\(((?!https?:)[^)\s]+)\)", text):
        name, _, anchor = link.partition("#")
        target = (path.parent / name) if name else path
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


# --- commands ---


@functools.cache
def options_of(verb: str) -> frozenset[str]:
    """The options in a verb's help text; none where there is no such verb."""
    output = StringIO()
    with redirect_stdout(output), pytest.raises(SystemExit) as ended:
        main([*verb.split(), "--help"])
    options = re.findall(r"(?<![\w-])--?[a-z][a-z0-9-]*", output.getvalue())
    return frozenset(() if ended.value.code else options)


def commands(path: Path) -> Iterator[list[str]]:
    """The words of every madengine command in a page, in code blocks and in the text."""
    text = re.sub(r'"\{.*?\}"', "CONTEXT", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    blocks = "\n".join(re.findall(r"```(?:sh|yaml|groovy)\n(.*?)```", text, re.DOTALL))
    program = r"(?:python3 )?madengine(?:\.pyz)? ([a-z][^`'#\n]*)"
    lines = re.findall(rf"^\s*(?:- |- run: |sh ')?{program}", blocks, re.MULTILINE)
    for command in [*lines, *re.findall(rf"`{program}`", text)]:
        yield shlex.split(command.split("&&")[0])


@pytest.mark.parametrize("path", PAGES, ids=page_name)
def test_commands_exist_with_their_options(path: Path) -> None:
    for words in commands(path):
        verb = " ".join(words[:2]) if " ".join(words[:2]) in VERBS else words[0]
        known = options_of(verb)
        assert known, words
        assert {word.partition("=")[0] for word in words if word.startswith("-")} <= known, words


@pytest.mark.parametrize("path", PAGES, ids=page_name)
def test_just_recipes_exist(path: Path) -> None:
    recipes = set(re.findall(r"^([a-z0-9-]+)(?: [^:\n]*)?:$", text_of("justfile"), re.MULTILINE))
    named = re.findall(r"(?:`|^|# )just ([a-z][a-z0-9-]*)", path.read_text(encoding="utf-8"), re.MULTILINE)
    assert set(named) <= recipes


def test_the_reference_has_every_option() -> None:
    (section,) = re.findall(r"<!-- options:begin -->(.*)<!-- options:end -->", text_of("docs/reference.md"), re.DOTALL)
    verbs = [*first_cells("README.md", "verb")]
    every = {option for verb in verbs if verb != "generate" for option in options_of(verb) if len(option) > 2}
    assert every - {"--help", "-vv"} <= set(re.findall(r"--[a-z][a-z0-9-]*", section))


# --- messages ---


@functools.cache
def literals() -> str:
    """Every text in the code that may be a part of a message."""
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in (CHECKOUT / "madengine").rglob("*.py")]
    texts = [node.value for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Constant)]
    scripts = [path.read_text(encoding="utf-8") for path in (CHECKOUT / "bin").iterdir()]
    return "\n".join([*(text for text in texts if isinstance(text, str)), *scripts])


def test_quoted_messages_are_in_the_code() -> None:
    rows = re.findall(r"^\| (`[^|]*) \|", text_of("docs/troubleshooting.md"), re.MULTILINE)
    quoted = [message for row in rows for message in re.findall(r"`([^`]+)`", row)]
    fragments = [part.strip(" :;,") for message in quoted for part in message.split("…")]
    assert len(fragments) > 40
    assert [fragment for fragment in fragments if fragment not in literals()] == []
