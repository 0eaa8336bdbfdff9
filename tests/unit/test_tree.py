"""What holds for the whole tree: names, words, sizes, and that a clone needs nothing beside it."""

from __future__ import annotations

import ast
import re
import statistics
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[2]
PACKAGE = CHECKOUT / "madengine"
MODULES = sorted(path for path in PACKAGE.rglob("*.py"))
TREES = {path: ast.parse(path.read_text(encoding="utf-8")) for path in MODULES}
PROSE = [
    *MODULES,
    *sorted((CHECKOUT / "docs").glob("*.md")),
    *(CHECKOUT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "justfile")),
    *sorted(path for path in (CHECKOUT / "templates").rglob("*") if path.is_file()),
    *sorted(path for path in (CHECKOUT / "bin").iterdir() if path.is_file()),
]

# A value is named by what it is, not by what was done to it.
PARTICIPLES = {"kept", "told", "said", "found", "asked", "came", "given", "wanted"}
# Words that the field does not use; on the right what it says.
WORDS = {
    r"heed(s|ed|ing)?|unheeded": "ignored, use",
    r"mend(s|ed|ing)?": "fix",
    r"anew": "again",
    r"whoever|whomever": "the user, the process",
    r"not acted on": "ignored",
    r"is (a|no) text": "expected a string",
    r"the very image": "the image",
}
ROOT_MODULES = {
    "__init__", "__main__", "container_runner", "distributed_cli", "distributed_orchestrator", "docker_builder",
    "errors", "process", "records", "session",
}  # fmt: skip


def where(path: Path) -> str:
    return str(path.relative_to(CHECKOUT))


def names(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Every name that is defined: variables, parameters, fields, functions, classes."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id, node.lineno
        elif isinstance(node, ast.arg):
            yield node.arg, node.lineno
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name, node.lineno
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.attr, node.lineno


def test_the_packages_root_holds_the_documented_modules_only() -> None:
    assert {path.stem for path in PACKAGE.glob("*.py")} == ROOT_MODULES


def test_values_are_named_by_what_they_are() -> None:
    wrong = [
        f"{where(path)}:{line}: {name}"
        for path, tree in TREES.items()
        for name, line in names(tree)
        if name.strip("_") in PARTICIPLES
    ]
    assert wrong == []


def test_nothing_of_ours_is_imported_under_another_name() -> None:
    wrong = [
        f"{where(path)}:{node.lineno}: {alias.name} as {alias.asname}"
        for path, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("madengine")
        for alias in node.names
        if alias.asname
    ]
    assert wrong == []


def test_no_two_classes_have_one_name() -> None:
    classes = Counter(node.name for tree in TREES.values() for node in ast.walk(tree) if isinstance(node, ast.ClassDef))
    assert [name for name, count in classes.items() if count > 1 and not name.startswith("_")] == []


@pytest.mark.parametrize("word", WORDS)
def test_the_text_uses_the_fields_words(word: str) -> None:
    pattern = re.compile(rf"\b({word})\b", re.IGNORECASE)
    wrong = [
        f"{where(path)}:{number}: {line.strip()[:100]} (say: {WORDS[word]})"
        for path in PROSE
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if pattern.search(line)
    ]
    assert wrong == []


def test_files_and_functions_stay_small() -> None:
    lengths = {where(path): len(path.read_text(encoding="utf-8").splitlines()) for path in MODULES}
    assert {name: length for name, length in lengths.items() if length > 450} == {}
    bodies = sorted(
        (node.body[-1].end_lineno or 0) - node.body[0].lineno + 1
        for tree in TREES.values()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef)
    )
    assert statistics.median(bodies) <= 6
    assert bodies[len(bodies) * 9 // 10] <= 16
    assert bodies[-1] <= 45


def test_a_clone_needs_nothing_beside_it() -> None:
    beside = re.compile(r"\.\./shared|parents\[\d\] / .shared")
    files = [path for path in (CHECKOUT / "tests").rglob("*") if path.suffix in (".py", ".bats", ".sh")]
    wrong = [
        where(path) for path in [*PROSE, *files] if path.name != "test_tree.py" and beside.search(path.read_text())
    ]
    assert wrong == []


def test_csv_is_read_in_one_place_which_takes_cells_of_any_length() -> None:
    readers = re.compile(r"\bcsv\.(reader|DictReader|field_size_limit)\(")
    assert [where(path) for path in MODULES if readers.search(path.read_text(encoding="utf-8"))] == [
        "madengine/files/__init__.py"
    ]


def test_the_readme_is_short() -> None:
    assert len((CHECKOUT / "README.md").read_text(encoding="utf-8").splitlines()) <= 200
