"""The completion script, asked by a real bash."""

from __future__ import annotations

import subprocess
import sys

import pytest

from madengine.cli.parser import DESCRIPTIONS

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


def completed(*words: str) -> set[str]:
    """What bash offers for the last word."""
    text = ASK.format(script=script("bash"), words=" ".join(f"'{word}'" for word in words), index=len(words) - 1)
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
        (("build", "--engine", "p"), {"podman"}),
        (("run", "--isolation", ""), {"least", "compat"}),
        (("run", "--manifest-file", ""), set()),
    ],
)
def test_options_and_fixed_values_are_completed(words: tuple[str, ...], expected: set[str]) -> None:
    assert completed("madengine", *words) == expected


def test_zsh_gets_bashs_completion() -> None:
    assert script("zsh").startswith("autoload -U +X bashcompinit")
