"""The same commit is the same code, whatever the settings of git and the environment of the user who builds."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from plumbum import local

from madengine.build.source_code import Checkout, ModelCode
from madengine.config.credentials import Credentials
from madengine.data_sets.fetch import Client
from madengine.errors import CommandError
from madengine.records import Model
from tests.conftest import collect_messages

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:" + "4d" * 32 + "\nsize 12345\n"
AUTHOR = ("-c", "user.name=a", "-c", "user.email=a@example.com")


def git(folder: Path, *words: str) -> str:
    command = ["git", "-C", str(folder), *AUTHOR, *words]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with one commit; the user has no settings of git but the test's."""
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    folder = tmp_path / "code"
    folder.mkdir()
    git(folder, "init", "--quiet", "--initial-branch=main")
    (folder / "f.sh").write_text("echo hi\n")
    (folder / "link").symlink_to("f.sh")
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "-m", "one")
    return folder


def checkout(repository: Path, folder: str, url: str = "", **environ: str) -> Checkout:
    """Clone a repository as a build does, in this environment."""
    root = repository.parent / folder
    root.mkdir()
    model = Model("m", "docker/m", "scripts/m", url=url or f"file://{repository}")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environ.items():
            patch.setenv(name, value)
        with local.env(HOME=os.environ["HOME"], XDG_CONFIG_HOME=os.environ["XDG_CONFIG_HOME"], **environ):
            code = ModelCode(root, root, Credentials({}), Client()).checkout(model)
    assert code is not None
    return code


def content(code: Checkout) -> dict[str, bytes]:
    """Return each file of a clone, those of git too."""
    files = (path for path in code.folder.rglob("*") if path.is_file())
    return {str(path.relative_to(code.folder)): path.read_bytes() for path in files}


SETTINGS = {
    "core.autocrlf": "true",
    "core.eol": "crlf",
    "core.symlinks": "false",
    "core.sharedRepository": "0666",
    "core.compression": "0",
    "core.untrackedCache": "true",
    "clone.defaultRemoteName": "upstream",
    "feature.manyFiles": "true",
    "fetch.writeCommitGraph": "true",
    "index.version": "4",
    "pack.compression": "1",
    "core.hooksPath": "[hooks]",
    "core.attributesFile": "[attributes]",
    "init.templateDir": "[template]",
}


def test_the_users_gitconfig_changes_nothing(repository: Path, tmp_path: Path) -> None:
    expected = content(checkout(repository, "plain"))
    hook = tmp_path / "hooks/post-checkout"
    for folder in ("hooks", "template/info"):
        (tmp_path / folder).mkdir(parents=True)
    hook.write_text("#!/bin/sh\nexit 1\n")
    hook.chmod(0o755)
    (tmp_path / "attributes").write_text("* text eol=crlf\n")
    (tmp_path / "template/info/exclude").write_text("*\n")
    for name, value in SETTINGS.items():
        path = value.startswith("[")
        git(repository, "config", "--global", name, str(tmp_path / value.strip("[]")) if path else value)
    code = checkout(repository, "settings")
    assert content(code) == expected
    assert (code.folder / "link").is_symlink()


def test_the_variables_of_a_git_hook_that_builds_change_nothing(repository: Path, tmp_path: Path) -> None:
    expected = content(checkout(repository, "plain"))
    other = tmp_path / "other"
    other.mkdir()
    git(other, "init", "--quiet")
    variables = {
        "GIT_DIR": str(other / ".git"),
        "GIT_WORK_TREE": str(other),
        "GIT_INDEX_FILE": str(other / ".git/index"),
        "GIT_OBJECT_DIRECTORY": str(other / ".git/objects"),
        "GIT_PREFIX": "inner/",
        "GIT_NAMESPACE": "n",
        "GIT_DEFAULT_HASH": "sha256",
        "GIT_TEMPLATE_DIR": str(other),
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": "core.autocrlf",
        "GIT_CONFIG_VALUE_0": "true",
        "LANGUAGE": "de",
    }
    assert content(checkout(repository, "hooked", **variables)) == expected
    assert sorted(path.name for path in other.iterdir()) == [".git"]


def test_a_url_that_the_users_settings_replace_is_named(repository: Path) -> None:
    messages = collect_messages()
    git(repository, "config", "--global", f"url.file://{repository.parent}/.insteadOf", "https://git.example.com/")
    checkout(repository, "mirrored", "https://git.example.com/code")
    assert (
        f"m: https://git.example.com/code comes from file://{repository}: insteadOf of git's configuration" in messages
    )


def test_an_empty_repository_is_named_so(repository: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    git(tmp_path / "empty", "init", "--quiet")
    with pytest.raises(CommandError) as caught:
        checkout(repository, "code-of-empty", f"file://{tmp_path}/empty")
    assert str(caught.value) == (
        f"file://{tmp_path}/empty: no commit: the repository is empty, or its HEAD names no branch of it; push one"
    )


# --- git-lfs ---


@pytest.fixture
def with_pointer(repository: Path) -> Path:
    """The repository with a file of git-lfs."""
    (repository / ".gitattributes").write_text("*.bin filter=lfs diff=lfs merge=lfs -text\n")
    (repository / "deep").mkdir()
    (repository / "deep/weights.bin").write_text(POINTER)
    git(repository, "-c", "filter.lfs.clean=cat", "-c", "filter.lfs.required=false", "add", ".")
    git(repository, "commit", "--quiet", "-m", "weights")
    return repository


def test_a_pointer_of_git_lfs_is_an_error(with_pointer: Path) -> None:
    with pytest.raises(CommandError) as caught:
        checkout(with_pointer, "without-lfs", PATH=path_without_lfs(with_pointer.parent))
    assert str(caught.value) == (
        f"file://{with_pointer}: deep/weights.bin is a git-lfs pointer, not the file; install git-lfs here, "
        "or set GIT_LFS_SKIP_SMUDGE=1 to use pointers as they are"
    )


def test_pointers_are_used_where_the_user_says_so(with_pointer: Path) -> None:
    messages = collect_messages()
    code = checkout(with_pointer, "skipped", GIT_LFS_SKIP_SMUDGE="1", PATH=path_without_lfs(with_pointer.parent))
    assert (code.folder / "deep/weights.bin").read_text() == POINTER
    assert [line for line in messages if "GIT_LFS_SKIP_SMUDGE is set" in line]


def path_without_lfs(folder: Path) -> str:
    """Return a PATH whose git has no git-lfs."""
    (folder / "bin").mkdir()
    (folder / "bin/git-lfs").write_text("#!/bin/sh\nexit 1\n")
    (folder / "bin/git-lfs").chmod(0o755)
    return f"{folder}/bin:{os.environ['PATH']}"


def at_commit(repository: Path, folder: str, commit: str) -> Checkout:
    root = repository.parent / folder
    root.mkdir()
    model = Model("m", "docker/m", "scripts/m", url=f"file://{repository}")
    code = ModelCode(root, root, Credentials({}), Client(), commit).checkout(model)
    assert code is not None
    return code


@pytest.mark.parametrize("protocol", ["2", "0"])
def test_a_commit_is_cloned_alone_or_with_its_history_where_the_server_gives_no_single_one(
    repository: Path, protocol: str
) -> None:
    first = git(repository, "rev-parse", "HEAD")
    (repository / "f.sh").write_text("echo later\n")
    git(repository, "commit", "--quiet", "--all", "-m", "two")
    with local.env(GIT_CONFIG_COUNT="1", GIT_CONFIG_KEY_0="protocol.version", GIT_CONFIG_VALUE_0=protocol):
        code = at_commit(repository, "at", first)
    assert (code.commit, (code.folder / "f.sh").read_text()) == (first, "echo hi\n")
    assert git(code.folder, "status", "--porcelain") == ""
    # A server that speaks the older protocol gives no commit that is no branch's end.
    assert git(code.folder, "log", "--all", "--format=%s").split() == (["one"] if protocol == "2" else ["two", "one"])
    assert git(code.folder, "remote", "get-url", "origin") == f"file://{repository}"


def test_a_commit_alone_is_the_same_clone_each_time(repository: Path) -> None:
    first = git(repository, "rev-parse", "HEAD")
    git(repository, "commit", "--quiet", "--allow-empty", "-m", "two")
    assert content(at_commit(repository, "one", first)) == content(at_commit(repository, "two", first))


def test_a_commit_that_the_repository_does_not_have_is_an_error(repository: Path) -> None:
    with pytest.raises(CommandError, match=str(repository)):
        at_commit(repository, "at", "4" * 40)
