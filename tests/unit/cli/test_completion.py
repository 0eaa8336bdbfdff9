"""The completion script, asked by a real bash."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from madengine.cli.descriptions import DESCRIPTIONS

ASK = """
{script}
COMP_WORDS=({words})
COMP_CWORD={index}
COMPREPLY=()
_madengine
printf '%s\\n' "${{COMPREPLY[@]}}"
"""


def script(shell: str) -> str:
    """What `madengine completion` prints."""
    words = (sys.executable, "-m", "madengine", "completion", shell)
    return subprocess.run(words, capture_output=True, text=True, check=True, timeout=30).stdout


def completed(*words: str, before: str = "") -> set[str]:
    """What bash offers for the last word."""
    text = before + ASK.format(
        script=script("bash"), words=" ".join(f"'{word}'" for word in words), index=len(words) - 1
    )
    done = subprocess.run(["bash", "-euc", text], capture_output=True, text=True, check=True, timeout=30)
    return {line for line in done.stdout.splitlines() if line}


def test_the_first_word_is_a_command() -> None:
    assert completed("madengine", "") == set(DESCRIPTIONS)
    assert completed("madengine", "bu") == {"build", "bundle"}


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("run", "--gpu-"), {"--gpu-mode", "--gpu-wait"}),
        (("run", "--batch"), set()),
        (("build", "--batch"), {"--batch-manifest"}),
        (("generate", ""), {"ansible", "k8s", "slurm"}),
        (("generate", "k8s", "--may"), {"--may-share-nodes"}),
        (("build", "--engine", "p"), {"podman", "pyxis"}),
        (("run", "--isolation", ""), {"least", "compat"}),
        (("run", "--manifest-file", ""), set()),
    ],
)
def test_options_and_fixed_values_are_completed(words: tuple[str, ...], expected: set[str]) -> None:
    assert completed("madengine", *words) == expected


def test_zsh_gets_bashs_completion() -> None:
    assert script("zsh").startswith("autoload -U +X bashcompinit")


def test_fish_gets_a_script_of_its_own_with_nothing_unquoted() -> None:
    text = script("fish")
    lines = [line for line in text.splitlines() if line.startswith("complete ")]
    assert "complete -c madengine -n '__madengine_is generate k8s' -l 'may-share-nodes'" in text
    assert any("-l 'engine'" in line and "-x -a 'auto docker podman nerdctl apptainer pyxis'" in line for line in lines)
    assert all(len(shlex.split(line.replace("\\'", "’"))) >= 4 for line in lines)


MODELS = """
madengine() { printf '%s\\n' bert 'a b' '$(touch canary)' '`touch canary`' gpt/large; }
"""


def test_models_and_hosts_are_completed_and_no_name_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".ssh").mkdir()
    (tmp_path / ".ssh/config").write_text("Host node-1 node-2\nHost *.example !x\n  User me\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert completed("madengine", "run", "--tags", "", before=MODELS) == {"bert", "gpt/large"}
    assert completed("madengine", "run", "--host", "node-", before=MODELS) == {"node-1", "node-2"}
    assert not (tmp_path / "canary").exists()
