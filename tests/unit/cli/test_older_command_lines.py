"""The command lines that the documentation of older versions shows are understood."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest

from madengine.cli.options import values_of
from madengine.cli.parser import command_parser
from madengine.distributed_cli import main
from tests.conftest import StandIns


def parsed(line: str) -> dict[str, Any]:
    words = shlex.split(line)
    options, unknown = command_parser(words).parse_known_args(words)
    assert unknown == []
    return values_of(options, options.declared)


@pytest.mark.parametrize(
    ("line", "values"),
    [
        ("build -t dummy -r localhost:5000 -m out.json -s sum.json -l -v", {"manifest_output": Path("out.json")}),
        ("build --tags dummy --manifest-output out.json", {"manifest_output": Path("out.json")}),
        ("build --tags dummy -a gfx90a gfx942 --use-image", {"use_image": "auto", "tags": ("dummy",)}),
        ("build --use-image rocm/x:1 --tags a b", {"use_image": "rocm/x:1", "tags": ("a", "b")}),
        ("build --batch-manifest batch.json --clean-docker-cache", {"no_cache": True}),
        ("build -t x -c '{}' --additional-context-file c.json", {"additional_context": "{}"}),
        (
            "build -t x --data-config d.json --tools-config t.json --sys-env-details --force-mirror-local /m "
            "--disable-skip-gpu-arch -o perf.csv --ignore-deprecated",
            {"data_file": Path("d.json"), "tools_file": Path("t.json"), "ignore_deprecated": True},
        ),
        ("run -m build_manifest.json --timeout -1", {"manifest_file": Path("build_manifest.json"), "timeout": None}),
        ("run --tags dummy --timeout 0 --live-output", {"timeout": 0, "live_output": True}),
        ("run -t a -t b,c --manifest-output m.json --cleanup-perf", {"tags": ("a", "b", "c"), "cleanup_perf": True}),
        ("run --data-config d.json --tools-config t.json --verbose", {"data_file": Path("d.json"), "verbosity": 2}),
        ("run --data-config-file-name d.json --tools-json-file-name t.json", {"data_file": Path("d.json")}),
        ("run --generate-sys-env-details True --ignore-deprecated-flag", {"describe_environment": True}),
        ("run --sys-env-details --keep-alive --keep-model-dir --skip-model-run", {"describe_environment": True}),
        ("run -f c.json -r reg:5000 -s s.json -o perf.csv --force-mirror-local /m", {"force_mirror_local": "/m"}),
        ("run --disable-skip-gpu-arch --clean-docker-cache", {"skip_gpu_arch": False, "no_cache": True}),
        ("discover -t dummy -v", {"tags": ("dummy",), "verbosity": 1}),
        ("export-config -t dummy -o execution_config.json", {"output": Path("execution_config.json")}),
        ("generate ansible -m m.json -e e.json -o p.yml", {"execution_config": Path("e.json")}),
        ("generate k8s -m m.json -e e.json -n bench", {"namespace": "bench"}),
    ],
)
def test_a_documented_command_line_is_understood(line: str, values: dict[str, Any]) -> None:
    assert {name: value for name, value in parsed(line).items() if name in values} == values


def test_options_of_runs_are_named_by_a_build(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stand_ins: StandIns, capfd: pytest.CaptureFixture[str]
) -> None:
    stand_ins.add("docker", "echo 27.0.0")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "d.json").write_text("{}")
    assert main(["init", "package"]) == 0
    monkeypatch.chdir(tmp_path / "package")
    words = ["build", "--dry-run", "--engine=docker", "--data-config=../d.json", "--disable-skip-gpu-arch"]
    assert main(words) == 0
    assert "--data-config-file-name, --disable-skip-gpu-arch ignored: a build runs nothing\n" in capfd.readouterr().err
