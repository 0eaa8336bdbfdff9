"""No code outside the engines' classes depends on an engine's name."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from madengine.records import ENGINE_NAMES

PACKAGE = Path(__file__).parents[3] / "madengine"


def _constants(*nodes: ast.expr | None) -> Iterator[object]:
    for node in nodes:
        if isinstance(node, ast.Tuple | ast.List | ast.Set):
            yield from _constants(*node.elts)
        elif isinstance(node, ast.Constant):
            yield node.value


def engine_branches(source: str) -> list[int]:
    """The lines that compare something with an engine's name, or look something up by it."""
    lines = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Compare):
            values = _constants(node.left, *node.comparators)
        elif isinstance(node, ast.Dict):
            values = _constants(*node.keys)
        elif isinstance(node, ast.MatchValue):
            values = _constants(node.value)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            values = _constants(*node.args) if node.func.attr in ("startswith", "endswith") else iter(())
        else:
            continue
        if set(ENGINE_NAMES).intersection(value for value in values if isinstance(value, str)):
            lines.append(node.lineno)
    return lines


@pytest.mark.parametrize(
    "line",
    [
        'engine.name == "docker"',
        '"podman" != name',
        'name in ("docker", "podman")',
        'name not in ["nerdctl"]',
        '{"podman": 1}.get(name)',
        'name.startswith("podman")',
        'match name:\n  case "docker": pass',
    ],
)
def test_a_branch_on_an_engines_name_is_noticed(line: str) -> None:
    assert engine_branches(line)


@pytest.mark.parametrize("line", ['name == "dockerhub"', 'name = "docker"', 'folder / "docker" == path', 'f("podman")'])
def test_an_engines_name_alone_is_no_branch(line: str) -> None:
    assert not engine_branches(line)


def test_no_engine_is_asked_for_its_name() -> None:
    """What differs between engines is a method or attribute of their classes."""
    files = {str(file.relative_to(PACKAGE)): file.read_text(encoding="utf-8") for file in PACKAGE.rglob("*.py")}
    assert len(files) > 100
    assert {name: lines for name, text in files.items() if (lines := engine_branches(text))} == {}
