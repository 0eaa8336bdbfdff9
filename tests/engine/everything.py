"""A package of models that ask for much, to be built here and run elsewhere."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.bed.components import Engine, Outcome, outcome
from tests.engine.packages import Package, read_json
from tests.engine.trial import CHECKOUT, Done

TOOLS = {
    "tools": {
        "mine": {
            "pre_scripts": [{"path": "scripts/common/pre_scripts/note.sh", "args": "'before it'"}],
            "cmd": "sh ../scripts/common/tools/around.sh",
            "env_vars": {"MINE": "tool"},
            "post_scripts": [{"path": "scripts/common/post_scripts/note.sh", "args": "after"}],
        }
    }
}


class Everything:
    """A package of two models that use hooks and what of a card needs no server; it can be run where it is not.

    `files` are written into it; `steps` end its Dockerfiles, `script` begins its scripts, `more` is for its cards.
    """

    def __init__(
        self,
        engine: Engine,
        base: str,
        folder: Path,
        token: str,
        files: Mapping[str, str] | None = None,
        steps: str = "",
        script: str = "",
        **more: Any,
    ) -> None:
        self.engine = engine
        self.folder = folder / "package"
        self.node = folder / "node"
        self.node.mkdir()
        package = Package(self.folder, base)
        card: dict[str, Any] = {
            "n_gpus": "0",
            "owner": "someone@example.com",
            "training_precision": "fp16",
            "tags": ["every"],
            "timeout": 60,
            "skip_gpu_arch": "gfx000",
            "additional_docker_run_options": "--hostname=every --env CARD=1",
            "dockercontext": "docker",
            "multiple_results": "figures.csv",
            "artifacts": "left.txt",
            "unknown": {"kept": [1]},
            **more,
        }
        script += (
            "echo model $1 $MINE $CARD $(hostname)\n"
            "echo left >left.txt; echo kept >trace_output.csv\n"
            "printf 'model,performance,metric,batch\\na,1,tokens,8\\nb,2,tokens,16\\n' >figures.csv\n"
        )
        header = f"# CONTEXT {{}}\n# {token}"
        for name in ("one", "two"):
            package.add(f"every/{name}", steps, header=header, script=script, args=f"--{name}", **card)
        package.add("old", header=header, is_deprecated=True)
        self.write("scripts/common/tools.json", json.dumps(TOOLS))
        self.write("scripts/common/pre_scripts/note.sh", 'echo "pre: $*"\n')
        self.write("scripts/common/post_scripts/note.sh", 'echo "post: $*"; ls\n')
        self.write("scripts/common/tools/around.sh", 'echo around; exec "$@"\n')
        self.write("scripts/sites/prepare.sh", "echo prepared\n")
        for path, text in (files or {}).items():
            self.write(path, text)

    def write(self, name: str, text: str) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def madengine(self, folder: Path, *words: str, env: Mapping[str, str] | None = None) -> Outcome:
        environment = {**self.engine.environment, "MADENGINE_ENGINE": self.engine.name, "PYTHONPATH": str(CHECKOUT)}
        command = [sys.executable, "-m", "madengine.distributed_cli", *words]
        return outcome(command, {**environment, **(env or {})}, cwd=folder, check=False)

    def build(self, *words: str, env: Mapping[str, str] | None = None) -> dict[str, Any]:
        ended = self.madengine(self.folder, "build", *words, env=env)
        assert ended.code == 0, ended.stderr
        shutil.copy(self.folder / "build_manifest.json", self.node)
        found: dict[str, Any] = read_json(self.node / "build_manifest.json")
        return found

    def run(self, *words: str, env: Mapping[str, str] | None = None) -> Done:
        ended = self.madengine(self.node, "run", "--manifest-file", "build_manifest.json", *words, env=env)
        return Done(ended.code, ended.stdout, ended.stderr, self.node)


def spoken(log: bytes) -> list[str]:
    """The log without what entry.sh says."""
    return [line for line in log.decode().splitlines() if not line.startswith("entry.sh: ")]
