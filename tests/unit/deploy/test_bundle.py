"""madengine.pyz runs alone, is the same every time, and comes out of what is installed."""

from __future__ import annotations

import gzip
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from madengine import __version__
from madengine.deploy.bundle import sources_bundle, write_bundle
from madengine.distributed_cli import main
from madengine.errors import MadengineError

CHECKOUT = Path(__file__).parents[3]
# The system's own python3, which has none of our packages, where there is one that is new enough.
BARE = Path("/usr/bin/python3")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "madengine"


def bare_python() -> str:
    asked = [str(BARE), "-I", "-c", "import sys; sys.exit(sys.version_info < (3, 10))"]
    return str(BARE) if BARE.exists() and subprocess.run(asked).returncode == 0 else sys.executable


def answer(pyz: Path, *words: str, cwd: Path) -> str:
    # -S takes also the site-packages away: whatever is missing in the file is missing.
    done = subprocess.run(
        [bare_python(), "-I", "-S", str(pyz), *words], cwd=cwd, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def names(pyz: Path) -> list[str]:
    with zipfile.ZipFile(pyz) as archive:
        return archive.namelist()


def test_the_bundle_answers_under_a_python_that_has_no_packages(tmp_path: Path) -> None:
    pyz = write_bundle(tmp_path / "madengine.pyz")
    assert answer(pyz, "--version", cwd=tmp_path) == f"madengine {__version__}\n"
    assert "collect" in answer(pyz, "--help", cwd=tmp_path)


def test_the_bundle_of_sources_runs_too_and_is_small(tmp_path: Path) -> None:
    pyz = tmp_path / "sources.pyz"
    pyz.write_bytes(sources_bundle())
    assert answer(pyz, "--version", cwd=tmp_path) == f"madengine {__version__}\n"
    assert len(gzip.compress(pyz.read_bytes())) < 1 << 20
    whole = write_bundle(tmp_path / "madengine.pyz")
    assert sorted(names(pyz)) == sorted(name for name in names(whole) if not name.endswith(".pyc"))
    code = "import sys; from madengine.deploy.bundle import sources_bundle; sys.stdout.buffer.write(sources_bundle())"
    environment = {"PYTHONPATH": str(whole)}
    again = subprocess.run([bare_python(), "-S", "-c", code], env=environment, cwd=tmp_path, capture_output=True)
    assert again.stdout == pyz.read_bytes(), again.stderr.decode()


@pytest.mark.parametrize("version", [(2, 7, 18), (3, 6, 15), (3, 9, 18)])
def test_an_older_python_is_told_what_is_needed_in_one_line(tmp_path: Path, version: tuple[int, ...]) -> None:
    pyz = write_bundle(tmp_path / "madengine.pyz")
    older = f"import runpy, sys; sys.version_info = {version}; runpy.run_path(sys.argv[1], run_name='__main__')"
    ended = subprocess.run([bare_python(), "-I", "-c", older, str(pyz)], capture_output=True, text=True, timeout=60)
    number = f"{version[0]}.{version[1]}"
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr == f"madengine.pyz: Python {number} is too old; run it with python3 3.10 or newer\n"


def test_what_the_main_job_imports_is_all_in_the_bundle(tmp_path: Path) -> None:
    pyz = write_bundle(tmp_path / "madengine.pyz")
    answer(pyz, "init", "models", cwd=tmp_path)
    folder = tmp_path / "models"
    assert "dummy" in answer(pyz, "discover", cwd=folder)
    answer(pyz, "export-config", cwd=folder)
    assert (folder / "execution_config.json").is_file()
    imported = "import fastjsonschema, jinja2, plumbum, tabulate, typing_extensions, yaml; print(yaml.safe_load('[1]'))"
    code = f"import sys; sys.path.insert(0, {str(pyz)!r}); {imported}"
    done = subprocess.run([bare_python(), "-I", "-S", "-c", code], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("[1]\n", "")


def test_the_bundle_starts_as_a_program_and_gives_its_exit_code(tmp_path: Path) -> None:
    pyz = write_bundle(tmp_path / "madengine.pyz")
    assert os.access(pyz, os.X_OK)
    assert pyz.read_bytes().startswith(b"#!/usr/bin/env python3\n")
    assert subprocess.run([sys.executable, str(pyz), "rum"], capture_output=True).returncode == 4


def test_the_bundle_holds_sources_templates_schemas_and_licences_and_nothing_for_one_machine(tmp_path: Path) -> None:
    held = names(write_bundle(tmp_path / "madengine.pyz"))
    assert {
        "__main__.py",
        "madengine/deploy/bundle.py",
        "madengine/templates/image/entry.sh",
        "madengine/templates/package/models.json",
        "madengine/schemas/manifest.schema.json",
        "licenses/madengine/LICENSE",
        "licenses/plumbum/LICENSE",
    } <= set(held)
    assert {name.split("/")[1] for name in held if name.startswith("licenses/")} == {
        "fastjsonschema",
        "jinja2",
        "madengine",
        "markupsafe",
        "plumbum",
        "tabulate",
        "typing_extensions",
        "yaml",
    }
    assert not [name for name in held if name.endswith((".so", ".c")) or "__pycache__" in name]
    modules = {name for name in held if name.endswith(".py") and "/templates/" not in name}
    # Templates go into containers as they are.
    assert {name.removesuffix("c") for name in held if name.endswith(".pyc")} == modules


def test_another_python_than_the_one_that_packed_takes_the_sources(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.MAGIC_NUMBER", b"\0\0\r\n")
    pyz = write_bundle(tmp_path / "madengine.pyz")
    assert b"\0\0\r\n" in zipfile.ZipFile(pyz).read("madengine/errors.pyc")[:4]
    ended = subprocess.run([sys.executable, "-I", str(pyz), "--version"], capture_output=True, text=True, check=True)
    assert ended.stdout == f"madengine {__version__}\n"


def test_the_same_installation_makes_the_same_bytes_with_and_without_the_cache(tmp_path: Path, cache: Path) -> None:
    first = write_bundle(tmp_path / "first.pyz").read_bytes()
    assert write_bundle(tmp_path / "second.pyz").read_bytes() == first
    shutil.rmtree(cache)
    assert write_bundle(tmp_path / "third.pyz").read_bytes() == first
    (cached,) = cache.iterdir()
    assert cached.read_bytes() == first


def test_names_are_sorted_and_times_are_fixed(tmp_path: Path) -> None:
    pyz = write_bundle(tmp_path / "madengine.pyz")
    sources = [name for name in names(pyz) if not name.endswith(".pyc")]
    assert sources == sorted(sources)
    with zipfile.ZipFile(pyz) as archive:
        assert {entry.date_time for entry in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}


@pytest.mark.parametrize("rest", [0, 1000])
def test_a_broken_file_in_the_cache_is_packed_again(tmp_path: Path, cache: Path, rest: int) -> None:
    good = write_bundle(tmp_path / "good.pyz").read_bytes()
    (cached,) = cache.iterdir()
    cached.write_bytes(good[:rest])
    assert write_bundle(tmp_path / "again.pyz").read_bytes() == good
    assert cached.read_bytes() == good


def test_a_cache_that_cannot_be_written_costs_nothing_but_time(tmp_path: Path, cache: Path) -> None:
    cache.parent.write_text("a file where the folder would be")
    assert answer(write_bundle(tmp_path / "madengine.pyz"), "--version", cwd=tmp_path)


def test_a_bundle_copies_itself(tmp_path: Path) -> None:
    pyz = write_bundle(tmp_path / "madengine.pyz")
    assert answer(pyz, "bundle", "--output", "copy.pyz", cwd=tmp_path) == "copy.pyz\n"
    assert (tmp_path / "copy.pyz").read_bytes() == pyz.read_bytes()
    assert os.access(tmp_path / "copy.pyz", os.X_OK)
    answer(pyz, "bundle", "--output", "madengine.pyz", cwd=tmp_path)
    assert (tmp_path / "copy.pyz").read_bytes() == pyz.read_bytes()


def test_a_package_that_is_not_installed_is_named(tmp_path: Path) -> None:
    site = tmp_path / "site"
    site.mkdir()
    (site / "madengine").symlink_to(CHECKOUT / "madengine")
    (site / "templates").symlink_to(CHECKOUT / "templates")
    code = (
        f"import sys; sys.path.insert(0, {str(site)!r}); from madengine.distributed_cli import main; sys.exit(main())"
    )
    words = [sys.executable, "-I", "-S", "-c", code, "bundle", "--output", str(tmp_path / "x.pyz")]
    done = subprocess.run(words, capture_output=True, text=True, env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"})
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        "madengine: error: fastjsonschema: not installed here, but needed for madengine.pyz; "
        "`pip install fastjsonschema`\n"
    )
    assert not (tmp_path / "x.pyz").exists()


def test_a_target_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(MadengineError, match=r"file/madengine\.pyz: can't be written"):
        write_bundle(tmp_path / "file" / "madengine.pyz")


def test_the_verb_prints_where_the_bundle_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["bundle"]) == 0
    assert capsys.readouterr().out == "madengine.pyz\n"
    assert (tmp_path / "madengine.pyz").is_file()
