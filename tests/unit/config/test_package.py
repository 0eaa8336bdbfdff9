from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import madengine
from madengine.config.package import init_package, package_root, starter_package, template
from madengine.errors import ConfigurationError, MadengineError

STARTER = {
    "README.md",
    "models.json",
    "docker/dummy.ubuntu.amd.Dockerfile",
    "docker/dummy.ubuntu.nvidia.Dockerfile",
    "docker/dummy.ubuntu.cpu.Dockerfile",
    "scripts/dummy/run.sh",
}
SHELLS = [["sh"], ["bash"], *([["busybox", "sh"]] if shutil.which("busybox") else [])]


def contents(directory: Path) -> set[str]:
    return {str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file()}


def touched(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("[]")
    return path


def run_script(shell: list[str], *arguments: str) -> subprocess.CompletedProcess[str]:
    script = starter_package() / "scripts/dummy/run.sh"
    return subprocess.run([*shell, str(script), *arguments], capture_output=True, text=True, timeout=30)


@pytest.mark.parametrize("file", ["models.json", "scripts/nlp/models.json", "scripts/nlp/get_models_json.py"])
def test_the_current_directory_is_the_package_where_it_lists_models(tmp_path: Path, file: str) -> None:
    touched(tmp_path / file)
    assert package_root({}, tmp_path) == (tmp_path, "")


def test_model_dir_wins_over_the_current_directory(tmp_path: Path) -> None:
    touched(tmp_path / "models.json")
    touched(tmp_path / "other/models.json")
    assert package_root({"MODEL_DIR": str(tmp_path / "other")}, tmp_path) == (tmp_path / "other", "")


def test_a_relative_model_dir_starts_at_the_current_directory(tmp_path: Path) -> None:
    touched(tmp_path / "other/models.json")
    assert package_root({"MODEL_DIR": "other"}, tmp_path) == (tmp_path / "other", "")


@pytest.mark.parametrize("make", [True, False])
def test_a_model_dir_without_models_is_named(tmp_path: Path, make: bool) -> None:
    if make:
        (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigurationError, match=r"^MODEL_DIR=empty: no models\.json there; "):
        package_root({"MODEL_DIR": "empty"}, tmp_path)


@pytest.mark.parametrize("environ", [{}, {"MODEL_DIR": ""}])
def test_the_starter_stands_in_and_a_line_says_so(tmp_path: Path, environ: dict[str, str]) -> None:
    root, message = package_root(environ, tmp_path)
    assert root == starter_package()
    assert message == (
        f"no models.json in {tmp_path}: using the bundled starter package; `madengine init DIR` writes it for you"
    )


def test_the_starter_is_a_real_directory_with_the_dummy() -> None:
    assert contents(starter_package()) == STARTER


def test_a_template_is_text_and_a_missing_one_an_error() -> None:
    assert '"name": "dummy"' in template("package/models.json")
    with pytest.raises(FileNotFoundError):
        template("package/nope")


def test_init_writes_the_starter(tmp_path: Path) -> None:
    directory = tmp_path / "a/b"
    written = init_package(directory)
    assert {str(path.relative_to(directory)) for path in written} == STARTER == contents(directory)
    for path in written:
        assert path.read_bytes() == (starter_package() / path.relative_to(directory)).read_bytes()
        assert os.access(path, os.X_OK) == (path.suffix == ".sh")
    assert package_root({}, directory) == (directory, "")


def test_init_refuses_to_overwrite_and_then_writes_nothing(tmp_path: Path) -> None:
    dockerfile = tmp_path / "scripts/dummy/run.sh"
    touched(dockerfile)
    with pytest.raises(ConfigurationError, match=f"^{dockerfile} already exists; "):
        init_package(tmp_path)
    assert contents(tmp_path) == {"scripts/dummy/run.sh"}
    assert dockerfile.read_text() == "[]"


def test_init_takes_a_dangling_link_for_a_file_that_exists(tmp_path: Path) -> None:
    (tmp_path / "models.json").symlink_to(tmp_path / "gone")
    with pytest.raises(ConfigurationError, match=r"models\.json already exists"):
        init_package(tmp_path)


def test_init_below_a_file_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(MadengineError, match=r"can't be written"):
        init_package(touched(tmp_path / "file"))


@pytest.mark.parametrize(("vendor", "header"), [("amd", "AMD"), ("nvidia", "NVIDIA"), ("cpu", "NONE")])
def test_each_dockerfile_of_the_dummy_says_what_it_is_for(vendor: str, header: str) -> None:
    text = template(f"package/docker/dummy.ubuntu.{vendor}.Dockerfile")
    first = text.splitlines()[0]
    assert ast.literal_eval(first.removeprefix("# CONTEXT ")) == {"gpu_vendor": header, "guest_os": "UBUNTU"}
    assert "\nARG BASE_DOCKER=ubuntu:22.04\nFROM $BASE_DOCKER\n" in text


@pytest.mark.parametrize("shell", SHELLS, ids=" ".join)
def test_the_dummy_measures_for_the_time_it_is_given(shell: list[str]) -> None:
    done = run_script(shell, "--seconds", "1")
    assert (done.returncode, done.stderr) == (0, "")
    name, number, unit = done.stdout.splitlines()[-1].split()
    _, iterations, _, _, milliseconds, _ = done.stdout.splitlines()[-2].split()
    assert (name, unit) == ("performance:", "iterations_per_second")
    assert 1000 <= int(milliseconds) < 3000
    assert int(number) == int(iterations) * 1000 // int(milliseconds) > 0


@pytest.mark.parametrize("shell", SHELLS, ids=" ".join)
@pytest.mark.parametrize("arguments", [["--seconds"], ["--seconds", "0"], ["--seconds", "1; ls"], ["--fast"], ["2"]])
def test_the_dummy_refuses_a_wrong_argument(shell: list[str], arguments: list[str]) -> None:
    done = run_script(shell, *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("run.sh: ")
    assert repr(arguments[-1] if len(arguments) > 1 or arguments != ["--seconds"] else "") in done.stderr


def archived(tmp_path: Path) -> Path:
    """madengine and its templates in a zip archive, as in madengine.pyz."""
    source = Path(madengine.__file__).parent
    archive = tmp_path / "madengine.pyz"
    with zipfile.ZipFile(archive, "w") as zipped:
        modules = ("__init__.py", "errors.py", "process.py", "files/__init__.py", "config/__init__.py")
        for name in (*modules, "config/package.py"):
            zipped.write(source / name, f"madengine/{name}")
        for path in starter_package().rglob("*"):
            zipped.write(path, f"madengine/templates/package/{path.relative_to(starter_package())}")
    return archive


def in_archive(tmp_path: Path, program: str) -> str:
    lines = (
        f"import sys; sys.path.insert(0, {str(archived(tmp_path))!r})\nfrom madengine.config import package\n{program}"
    )
    environ = {**os.environ, "TMPDIR": str(tmp_path)}
    return subprocess.run(
        [sys.executable, "-I", "-c", lines], capture_output=True, text=True, check=True, env=environ, timeout=30
    ).stdout


def test_out_of_a_zip_the_starter_is_a_private_directory_until_exit(tmp_path: Path) -> None:
    program = """
import os
directory = package.starter_package()
assert directory is package.starter_package()
assert os.access(directory / "scripts/dummy/run.sh", os.X_OK)
print(directory, oct(directory.stat().st_mode & 0o777), (directory / "models.json").read_text() != "", sep="\\n")
"""
    directory, mode, filled = in_archive(tmp_path, program).splitlines()
    assert Path(directory).parent == tmp_path
    assert not Path(directory).exists()
    assert (mode, filled) == ("0o700", "True")


def test_out_of_a_zip_templates_and_init_work(tmp_path: Path) -> None:
    program = f"""
from pathlib import Path
print(package.template("package/models.json"), end="")
package.init_package(Path({str(tmp_path / "mine")!r}))
"""
    assert in_archive(tmp_path, program) == template("package/models.json")
    assert contents(tmp_path / "mine") == STARTER
    assert os.access(tmp_path / "mine/scripts/dummy/run.sh", os.X_OK)
