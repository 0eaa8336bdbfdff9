"""`env_file` of a manifest's deployment_config: a shell file whose variables madengine runs with."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from madengine.cli.verbs import _source_env_file
from madengine.distributed_cli import main
from madengine.errors import ConfigurationError
from madengine.programs.bash import sourced
from madengine.session import SOURCED, open_session
from tests.conftest import collect_messages

VALUES: dict[str, Any] = {"target": "local"}


@pytest.fixture(autouse=True)
def own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SITE", "LIST", "HF_HOME", SOURCED):
        monkeypatch.setenv(name, "")


def manifest_in(folder: Path, **deployment_config: Any) -> Path:
    path = folder / "build_manifest.json"
    content = {"built_images": {}, "built_models": {}, "context": {}, "deployment_config": deployment_config}
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def test_all_that_the_file_sets_is_taken_and_the_key_counts_no_more(tmp_path: Path) -> None:
    (tmp_path / "site.sh").write_text("echo hello\nSITE=lab; LIST=$(printf 'a\\nb c')\nHF_HOME=$SITE/hub\nunset PWD\n")
    path = manifest_in(tmp_path, env_file="site.sh")
    messages = collect_messages()
    _source_env_file(VALUES, path)
    assert [os.environ[name] for name in ("SITE", "LIST", "HF_HOME")] == ["lab", "a\nb c", "lab/hub"]
    assert messages == ["env_file site.sh: sets HF_HOME, LIST, SITE"]
    assert os.environ[SOURCED] == "HF_HOME,LIST,SITE"
    session = open_session(dict(os.environ), tmp_path, may_be_starter=True)
    assert session.context({}, {"env_file": "site.sh"}).refusals == {}
    _source_env_file(VALUES, path)
    assert len([line for line in messages if "env_file" in line]) == 1, "it is not sourced a second time"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "No such file or directory"),
        ("no-such-command-of-ours", "no-such-command-of-ours: command not found"),
        ("echo sorry >&2; exit 3", "sorry"),
        ("return 3", "exit code 3"),
    ],
)
def test_a_file_that_is_missing_or_fails_is_an_error(tmp_path: Path, content: str | None, message: str) -> None:
    if content:
        (tmp_path / "site.sh").write_text(content)
    with pytest.raises(ConfigurationError, match=message) as error:
        sourced(tmp_path / "site.sh", {})
    assert str(error.value).startswith(f"env_file {tmp_path}/site.sh: ")


def test_without_the_key_nothing_is_sourced(tmp_path: Path) -> None:
    _source_env_file(VALUES, manifest_in(tmp_path))
    _source_env_file(VALUES, tmp_path / "none.json")
    assert os.environ[SOURCED] == ""


@pytest.mark.parametrize("words", [["run"], ["full"], ["run", "--host=h1"], ["deploy", "--host=h1", "--registry=r:1"]])
def test_each_command_that_runs_here_or_over_ssh_reads_the_file_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([*words, "--additional-context", "{'env_file': 'none.sh'}"]) == 4
    assert "env_file none.sh: " in capsys.readouterr().err
