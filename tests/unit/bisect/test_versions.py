"""The versions between good and bad: values of a list, or commits of a real repository."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from madengine.bisect.options import BisectOptions
from madengine.bisect.versions import selected_model, versions_between
from madengine.errors import CommandError, ConfigurationError
from madengine.session import Session


def git(folder: Path, *words: str) -> str:
    identity = ("-c", "user.name=n", "-c", "user.email=e", "-c", "init.defaultBranch=main")
    environment = {**os.environ, "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_SYSTEM": "/dev/null"}
    return subprocess.run(
        ["git", "-C", str(folder), *identity, *words], check=True, capture_output=True, text=True, env=environment
    ).stdout.strip()


@pytest.fixture
def session(tmp_path: Path) -> Session:
    """A package with a model whose code has a main line of four commits, the third a merge, and a branch."""
    code = tmp_path / "code"
    code.mkdir()
    git(code, "init", "--quiet")
    for name in ("one", "two"):
        git(code, "commit", "--quiet", "--allow-empty", "--message", name)
    git(code, "tag", "v1", "HEAD~1")
    git(code, "checkout", "--quiet", "-b", "side", "v1")
    git(code, "commit", "--quiet", "--allow-empty", "--message", "aside")
    git(code, "checkout", "--quiet", "main")
    git(code, "merge", "--quiet", "--no-ff", "--message", "merge", "side")
    git(code, "commit", "--quiet", "--allow-empty", "--message", "four")
    return package(tmp_path / "package", url=f"file://{code}")


def package(root: Path, **entry: Any) -> Session:
    root.mkdir(exist_ok=True)
    card = {"name": "m", "dockerfile": "docker/m", "scripts": "scripts/m.sh", **entry}
    (root / "models.json").write_text(json.dumps([card, {**card, "name": "other", "url": ""}]))
    return Session(root, environ={})


def titles(session: Session, good: str, bad: str) -> list[str]:
    model = selected_model(session, ["m"], False)
    return [version.title for version in versions_between(session, model, BisectOptions(good=good, bad=bad))]


def test_commits_are_those_of_the_main_line(session: Session) -> None:
    assert titles(session, "v1", "main") == ["one", "two", "merge", "four"]
    code = Path(selected_model(session, ["m"], False).url.removeprefix("file://"))
    good, bad = git(code, "rev-parse", "main~2"), git(code, "rev-parse", "--short", "main~1")
    assert titles(session, good, bad) == ["two", "merge"]


@pytest.mark.parametrize(
    ("good", "bad", "message"),
    [
        ("main", "v1", "v1 does not come after main"),
        ("main", "main", "main does not come after main"),
        ("v1", "v9", "no commit, tag or branch v9"),
        ("v1", "--all", "no commit, tag or branch --all"),
    ],
)
def test_what_is_no_range_of_commits_is_refused(session: Session, good: str, bad: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        titles(session, good, bad)


def test_a_repository_that_cannot_be_cloned_is_named(tmp_path: Path) -> None:
    missing = package(tmp_path / "package", url=f"file://{tmp_path}/missing")
    with pytest.raises(CommandError, match=r"file:///.*missing"):
        titles(missing, "a", "b")


def test_values_are_those_of_the_list_between_both(tmp_path: Path) -> None:
    here = package(tmp_path / "package")
    model = selected_model(here, ["m"], False)
    options = BisectOptions(good="6.1", bad="6.3", build_arg="ROCM", values=("6.0", "6.1", "6.2", "6.3", "6.4"))
    assert [version.name for version in versions_between(here, model, options)] == ["6.1", "6.2", "6.3"]
    with pytest.raises(ConfigurationError, match="m has no url; name a --build-arg"):
        titles(here, "a", "b")
    with pytest.raises(ConfigurationError, match="expected one model, got 2 "):
        selected_model(here, [], False)


def test_a_build_argument_of_the_session_replaces_that_of_the_context(tmp_path: Path) -> None:
    context = '{"docker_build_arg": {"ROCM": "6.0", "BASE": "x"}}'
    session = Session(tmp_path, context_text=context, build_args={"ROCM": "6.2"}, environ={})
    assert session.context({}, {}).docker_build_arg == {"ROCM": "6.2", "BASE": "x"}
