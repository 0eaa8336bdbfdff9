"""What goes into an image beside the model's own Dockerfile."""

from __future__ import annotations

import json
import os
import re
import shlex
import stat
import subprocess
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as some

from madengine.build import payload
from madengine.build.payload import Payload
from madengine.config.package import template
from madengine.errors import BuildError
from madengine.records import Model

# What a card may hold and a process may get: no null, no half of a character.
TEXTS = some.text(some.characters(blacklist_categories=["Cs"], blacklist_characters="\0"), max_size=20)


def model(**card: object) -> Model:
    return Model(**{"name": "m", "dockerfile": "docker/m", "scripts": "scripts/m", **card})  # type: ignore[arg-type]


def package(root: Path) -> Path:
    (root / "scripts/m/data").mkdir(parents=True)
    (root / "scripts/m/run.sh").write_text("echo ran\n")
    (root / "scripts/m/run.sh").chmod(0o755)
    (root / "scripts/m/data/a file").write_bytes(b"\0\xff")
    (root / "scripts/m/link").symlink_to("data/a file")
    return root


def tree(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Every file below a folder with its mode and its content."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): (stat.S_IMODE(path.stat().st_mode), path.read_bytes()) for path in files}


@pytest.mark.parametrize(
    ("named", "expected"),
    [
        ("scripts/m", ("scripts/m", "run.sh")),
        ("scripts/m/", ("scripts/m", "run.sh")),
        ("scripts/m/run.sh", ("scripts/m", "run.sh")),
        ("scripts/m/go.slurm", ("scripts/m", "go.slurm")),
        ("scripts/m/train.py", ("scripts/m", "train.py")),
        ("run.sh", (".", "run.sh")),
        ("scripts/v1.5", ("scripts/v1.5", "run.sh")),
    ],
)
def test_scripts_is_a_folder_with_a_run_sh_or_one_script(named: str, expected: tuple[str, str]) -> None:
    assert payload.scripts(model(scripts=named)) == expected


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("", "run_directory"),
        ("https://github.com/org/repo", "repo"),
        ("https://github.com/org/repo/", "repo"),
        ("git@git.example.com:model", "model"),
        ("https://git.example.com/..", "run_directory"),
    ],
)
def test_a_models_directory_is_the_last_part_of_its_url(url: str, expected: str) -> None:
    assert payload.model_directory(model(url=url)) == expected


def test_the_payload_is_laid_out_with_scripts_card_and_entry(tmp_path: Path) -> None:
    root = package(tmp_path / "package")
    (tmp_path / "out").mkdir()
    payload.write(payload.payload(model(extra={"unknown": [1]}), root), tmp_path / "out")
    files = tree(tmp_path / "out")
    assert set(files) == {
        *(
            "entry.sh",
            "environment.sh",
            "model.json",
            "model.sh",
            "scripts/run.sh",
            "scripts/data/a file",
            "scripts/link",
        )
    }
    assert json.loads(files["model.json"][1])["unknown"] == [1]
    assert files["scripts/link"][1] == b"\0\xff"
    assert [files[name][0] for name in ("entry.sh", "model.sh", "model.json", "scripts/run.sh")] == [
        *(0o755, 0o755, 0o644, 0o755)
    ]


def test_the_shell_lines_write_what_write_writes(tmp_path: Path) -> None:
    root = package(tmp_path / "package")
    beside = {"scripts/common": root / "scripts/m", "scripts/site/x.sh": root / "scripts/m/run.sh"}
    content = payload.payload(model(name="END\n$HOME `id` 'ü'\nEND_", args="'a\nEND\n'"), root, beside)
    target = tmp_path / "it's a $folder"
    target.mkdir()
    payload.write(content, target)
    folder = str(tmp_path / "shell's")
    lines = [*payload.shell_lines(content, folder), *payload.mode_lines(folder)]
    subprocess.run(["sh", "-e"], input="\n".join(lines), encoding="utf-8", check=True)
    assert tree(tmp_path / "shell's") == tree(target)


def test_a_script_beside_models_json_takes_no_other_file_along(tmp_path: Path) -> None:
    (tmp_path / "run.sh").write_text("")
    (tmp_path / "credential.json").write_text("{}")
    content = payload.payload(model(scripts="run.sh"), tmp_path)
    assert content.copies == {"scripts/run.sh": tmp_path / "run.sh"}


def test_a_missing_script_is_named_with_its_card(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match=r"scripts/m/run\.sh: no such file; model 'm' names it"):
        payload.payload(model(), tmp_path)


def test_an_open_quote_in_the_arguments_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="args of 'm': no closing quotation"):
        payload.payload(model(args="--text 'open"), package(tmp_path))


def test_a_null_in_the_arguments_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="model 'm' holds a null character"):
        payload.payload(model(args="a\0b"), package(tmp_path))


def test_the_umask_of_the_build_machine_is_none_of_the_images(tmp_path: Path) -> None:
    root = package(tmp_path / "package")
    (root / "scripts/m/run.sh").chmod(0o4710)
    (root / "scripts/m/data/a file").chmod(0o600)
    (root / "scripts/m/data").chmod(0o2700)
    content = payload.payload(model(), root)
    modes = []
    for name, umask in (("open", 0o022), ("closed", 0o077)):
        (tmp_path / name).mkdir()
        before = os.umask(umask)
        try:
            payload.write(content, tmp_path / name)
        finally:
            os.umask(before)
        modes.append({str(path): stat.S_IMODE(path.lstat().st_mode) for path in (tmp_path / name).rglob("*")})
    assert list(modes[0].values()) == list(modes[1].values())
    assert modes[0][f"{tmp_path}/open/scripts/run.sh"] == 0o755
    assert modes[0][f"{tmp_path}/open/scripts/data/a file"] == 0o644
    assert modes[0][f"{tmp_path}/open/scripts/data"] == 0o755


def test_the_files_of_a_payload_have_one_time_which_their_content_decides(tmp_path: Path) -> None:
    root = package(tmp_path / "package")
    (root / "code/folder").mkdir(parents=True)
    (root / "code/link").symlink_to("folder")
    (root / "code/dangling").symlink_to("nowhere")
    times = []
    for number, script in enumerate(("echo 1\n", "echo 1\n", "echo 2\n")):
        (root / "scripts/m/run.sh").write_text(script)
        target = tmp_path / f"payload{number}"
        target.mkdir()
        payload.write(payload.payload(model(), root, code=root / "code"), target)
        (time,) = {path.lstat().st_mtime_ns for path in (target, *target.rglob("*"))}
        times.append(time)
    assert times[0] == times[1] != times[2]
    assert 946_684_800 <= min(times) / 1e9 <= max(times) / 1e9 < 1_600_000_000


def test_a_payload_that_can_not_be_written_names_the_folder(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match=f"{tmp_path}/nowhere"):
        payload.write(Payload({"a": "text\n"}), tmp_path / "nowhere")


@given(some.lists(TEXTS), TEXTS)
def test_the_cards_values_arrive_in_a_shell_as_they_are(words: list[str], name: str) -> None:
    sourced = payload.model_sh(model(name=name, args=shlex.join(words), timeout=0))
    printed = '"$_madengine_model_name" "$_madengine_model_timeout" "$@"'
    script = f"_madengine_arguments=entry\n{sourced}printf '%s\\0' {printed}\n"
    ran = subprocess.run(["sh"], input=script.encode(), capture_output=True, check=True)
    assert ran.stdout.decode().split("\0")[:-1] == [name, "0", *words]


def test_given_arguments_replace_the_cards() -> None:
    script = f"_madengine_arguments=given; set -- other; {payload.model_sh(model(args='own'))} echo $1"
    assert subprocess.run(["sh"], input=script, capture_output=True, text=True, check=True).stdout == "other\n"


@given(TEXTS)
@example("E\x80")
@example("END\nSTOP\nE\u00e9")
def test_a_file_is_written_by_the_shell_as_it_is(text: str) -> None:
    (here, _) = payload.file_lines("/dev/stdout", f"{text}\n")
    ran = subprocess.run(["sh"], input=here.replace(">/dev/stdout", "").encode(), capture_output=True, check=True)
    assert ran.stdout.decode() == f"{text}\n"


def test_entry_sh_reads_by_no_builtin_that_a_signal_breaks() -> None:
    """In busybox 1.38 `read` spins for ever once a signal was trapped."""
    lines = template("image/entry.sh").splitlines()
    code = [line.partition("#")[0] for line in lines if not line.lstrip().startswith("#")]
    assert [line for line in code if re.search(r"(^|[;|&{(]|\b(while|until|if|do|then)) *read\b", line)] == []
