"""What a model's image declares for its own program and for its children acts neither on our layer nor on a run."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.bed.components import Engine, Outcome
from tests.engine.packages import Package, images, started
from tests.engine.trial import wait_for

Madengine = Callable[..., Outcome]
DECLARATIONS = """
USER 4321:4321
WORKDIR /srv
STOPSIGNAL SIGKILL
HEALTHCHECK --interval=1s CMD touch /checked
VOLUME ["/opt", "/opt/madengine", "/myworkspace"]
ENTRYPOINT ["/bin/false"]
ONBUILD RUN \\
  echo triggered >/triggered && \\
  exit 9
ONBUILD COPY . /opt/madengine/twice
"""
SCRIPT = """
trap 'echo it was told >/myworkspace/ended; exit 1' TERM
echo performance: 1 runs
echo "user $(id -u) triggered $(ls -d /triggered /opt/madengine/twice 2>/dev/null)"
[ -z "$1" ] || { echo started; sleep 60 & wait; }
sleep 2
echo "checked $(ls /checked 2>/dev/null)"
"""


@pytest.fixture
def own(tmp_path: Path, base_image: str, engine: Engine) -> Package:
    package = Package(tmp_path / "package", base_image)
    package.add(f"declares-{engine.name}", steps=DECLARATIONS, script=SCRIPT)
    return package


def log(folder: Path) -> str:
    return "".join(path.read_text() for path in folder.glob("runs/*/*/*.run.live.log"))


def test_declarations_act_on_neither_build_nor_run(madengine: Madengine, engine: Engine, own: Package) -> None:
    madengine("run", cwd=own.folder)
    lines = log(own.folder).splitlines()
    assert "user 0 triggered " in lines
    assert "checked " in lines
    (image,) = images(own.folder).values()
    by_hand = engine("run", "--rm", image["image_id"], "/opt/madengine/entry.sh").stdout.splitlines()
    assert "user 0 triggered " in by_hand


def test_a_stop_reaches_the_script_whatever_signal_the_image_declares(
    madengine: Madengine, engine: Engine, own: Package
) -> None:
    madengine("build", cwd=own.folder)
    context = '{"model_args": "wait"}'
    with started(engine, own.folder, "run", "--additional-context", context) as process:
        wait_for(lambda: "started" in log(own.folder), 60)
        process.send_signal(signal.SIGINT)
        assert process.wait(40) == 130
    (ended,) = own.folder.glob("runs/*/*/ended")
    assert ended.read_text() == "it was told\n"


def test_the_printed_lines_build_the_same(madengine: Madengine, engine: Engine, own: Package) -> None:
    lines = madengine("build", "--dry-run", cwd=own.folder).stdout
    assert "ONBUILD" not in lines
    assert "cat >" in lines
