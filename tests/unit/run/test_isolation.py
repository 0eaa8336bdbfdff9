from __future__ import annotations

from pathlib import Path

import pytest

from madengine.programs.engine import Docker
from madengine.programs.nerdctl import Nerdctl
from madengine.run.isolation import flags


@pytest.mark.parametrize(("enforce", "expected"), [("1", ["--security-opt=label=disable"]), ("0\n", []), (None, [])])
def test_where_selinux_would_refuse_the_mounts_a_container_has_no_label(
    tmp_path: Path, enforce: str | None, expected: list[str]
) -> None:
    if enforce is not None:
        (tmp_path / "enforce").write_text(enforce)
    assert flags("least", "NONE", "", Docker.without_label, tmp_path / "enforce") == expected
    assert flags("least", "NONE", "1G", Docker.without_label, tmp_path / "enforce") == [*expected, "--shm-size=1G"]
    assert "--security-opt=label=disable" not in flags("compat", "NONE", "", Docker.without_label, tmp_path / "enforce")
    assert flags("least", "NONE", "", Nerdctl.without_label, tmp_path / "enforce") == []
