from __future__ import annotations

import dataclasses
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import madengine
from madengine.config.models_json import model_of
from madengine.errors import ConfigurationError, DiscoveryError
from madengine.records import Model
from madengine.tools import custom_models
from madengine.tools.discover_models import CustomModel, DiscoverModels, main, report, split_tags

CHECKOUT = Path(madengine.__file__).parent.parent


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package to fill, which is also the current directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MODEL_DIR", raising=False)
    return tmp_path


def entry(name: str, *tags: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "dockerfile": f"docker/{name}", "scripts": f"{name}/run.sh", "tags": list(tags), **more}


def written(path: Path, *entries: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(entries))


def program(directory: Path, text: str) -> Path:
    path = directory / "get_models_json.py"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def custom(directory: Path, *models: str, module: str = "madengine.tools.discover_models") -> Path:
    lines = [f"from {module} import CustomModel", "def list_models():", f"    return [{', '.join(models)}]"]
    return program(directory, "\n".join(lines))


def select(root: Path, *tags: str, ignore_deprecated: bool = False) -> list[tuple[str, str]]:
    return [(model.name, model.args) for model in DiscoverModels(root).select(tags, ignore_deprecated)]


def command(*arguments: str, cwd: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "madengine.tools.discover_models", *arguments],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(CHECKOUT), **environ},
        timeout=60,
    )


@pytest.fixture
def zoo(root: Path) -> Path:
    """Two models at the root, three in two directories."""
    written(root / "models.json", entry("bert", "llm", "nlp", args="--base 1"), entry("alex", "vision"))
    written(root / "scripts/teamb/models.json", entry("gpt", "llm"), entry("bert", "llm"))
    written(root / "scripts/teama/models.json", entry("bert", "nlp"))
    return root


# Sources


def test_models_of_all_sources_come_sorted_by_name(zoo: Path) -> None:
    custom(zoo / "scripts/custom", "CustomModel('c', dockerfile='d', scripts='s')")
    names = [model.name for model in DiscoverModels(zoo).models()]
    assert names == ["alex", "bert", "custom/c", "teama/bert", "teamb/bert", "teamb/gpt"]


def test_a_directorys_models_get_its_name_and_paths_from_the_root(root: Path) -> None:
    written(root / "scripts/team/models.json", entry("m", "x", dockerfile="../../docker/m", scripts="run.sh"))
    (model,) = DiscoverModels(root).models()
    assert (model.name, model.dockerfile, model.scripts) == ("team/m", "docker/m", "scripts/team/run.sh")
    assert model.tags == ("x",)


def test_the_roots_own_models_keep_their_paths(root: Path) -> None:
    written(root / "models.json", entry("m", dockerfile="./docker/m", scripts="scripts/m/"))
    (model,) = DiscoverModels(root).models()
    assert (model.dockerfile, model.scripts) == ("./docker/m", "scripts/m/")


def test_directories_below_the_first_level_are_not_searched(root: Path) -> None:
    written(root / "models.json", entry("m"))
    written(root / "scripts/a/b/models.json", entry("deep"))
    assert select(root) == [("m", "")]


def test_a_package_with_no_source_is_named(root: Path) -> None:
    with pytest.raises(DiscoveryError, match=r"no models\.json there or in scripts/\*; "):
        DiscoverModels(root).models()


def test_a_package_that_lists_nothing_has_nothing_to_select(root: Path) -> None:
    written(root / "models.json")
    assert DiscoverModels(root).models() == ()
    with pytest.raises(DiscoveryError, match="lists no models"):
        DiscoverModels(root).select([])


def test_two_sources_in_one_directory_are_an_error(root: Path) -> None:
    written(root / "scripts/team/models.json", entry("m"))
    custom(root / "scripts/team")
    with pytest.raises(DiscoveryError, match=r"^scripts/team has both models\.json and get_models_json\.py; "):
        DiscoverModels(root).models()


def test_one_name_in_two_places_is_an_error_that_names_both(root: Path) -> None:
    written(root / "models.json", entry("a"), entry("team/m"))
    written(root / "scripts/team/models.json", entry("m"))
    with pytest.raises(DiscoveryError) as caught:
        DiscoverModels(root).models()
    message = "scripts/team/models.json: [0] (m) and models.json: [1] (team/m) have the same name; rename one"
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'[\n  {"name": "a" "b"}\n]', "models.json:2:16: not JSON: "),
        (b"", "models.json:1:1: not JSON: expecting value"),
        (b'[{"name": "\xff"}]', "models.json: byte 11 is not UTF-8; "),
        (b'{"name": "a"}', "models.json: expected a list of models, got an object; "),
        (b"3", "models.json: expected a list of models, got 3; "),
        (b"[" * 200_000, "models.json: not usable as JSON: "),
        (b"[" + b"1" * 5000 + b"]", "models.json: not usable as JSON: "),
    ],
)
def test_a_broken_file_is_named_with_the_place(root: Path, content: bytes, message: str) -> None:
    (root / "models.json").write_bytes(content)
    with pytest.raises(DiscoveryError) as caught:
        DiscoverModels(root).models()
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_a_directory_is_named(root: Path) -> None:
    (root / "models.json").mkdir()
    with pytest.raises(DiscoveryError, match=r"^models\.json: can't be read: is a directory"):
        DiscoverModels(root).models()


def test_a_file_with_a_byte_order_mark_is_read(root: Path) -> None:
    (root / "models.json").write_text(json.dumps([entry("m")]), encoding="utf-8-sig")
    assert select(root) == [("m", "")]


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (entry("m", n_gpus="all"), "scripts/team/models.json: [1] (m): n_gpus: expected a whole number"),
        ({"name": "a\nb"}, "scripts/team/models.json: [1] (a\\nb): dockerfile is missing"),
        ({}, "scripts/team/models.json: [1]: name is missing"),
        (7, "scripts/team/models.json: [1]: expected an object, got 7"),
    ],
)
def test_a_broken_entry_is_named_with_file_position_and_name(root: Path, broken: Any, message: str) -> None:
    written(root / "scripts/team/models.json", entry("good"), broken)
    with pytest.raises(ConfigurationError) as caught:
        DiscoverModels(root).models()
    assert str(caught.value).startswith(message)


def test_a_file_outside_the_current_directory_is_named_in_full(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (root / "package").mkdir()
    (root / "package/models.json").write_text("[")
    (root / "here").mkdir()
    monkeypatch.chdir(root / "here")
    with pytest.raises(DiscoveryError, match=rf"^{root}/package/models\.json:1:2: not JSON"):
        DiscoverModels(root / "package").models()


# get_models_json.py


def test_a_custom_model_has_the_fields_and_defaults_of_older_madengine() -> None:
    assert [field.name for field in dataclasses.fields(CustomModel)] == list(CustomModel("m").to_dict())
    assert CustomModel("m").to_dict() == {
        "name": "m",
        "dockerfile": "",
        "dockercontext": "",
        "scripts": "",
        "url": "",
        "cred": "",
        "owner": "",
        "data": "",
        "n_gpus": "-1",
        "timeout": 7200,
        "training_precision": "",
        "tags": [],
        "args": "",
        "multiple_results": "",
        "skip_gpu_arch": "",
    }


@pytest.mark.parametrize("module", ["madengine.tools.discover_models", "madengine.utils.discover_models"])
def test_custom_models_work_under_both_import_paths(root: Path, module: str) -> None:
    custom(root / "scripts/team", "CustomModel('m', '../../docker/m', scripts='run', tags=['t'])", module=module)
    assert DiscoverModels(root).select(["t"]) == (
        Model("team/m", "docker/m", "scripts/team/run", "-1", tags=("t",), timeout=7200),
    )


def test_a_custom_model_is_updated_and_prefixed_once_however_often_it_is_selected(root: Path) -> None:
    text = """
from __future__ import annotations
from dataclasses import dataclass
from typing import ClassVar
from madengine.tools.discover_models import CustomModel

@dataclass
class Mine(CustomModel):
    is_deprecated: bool = False
    env_vars: dict[str, str] | None = None

    def update_model(self) -> None:
        self.args += " --updated"
        self.env_vars = {"A": "1"}

def list_models():
    yield Mine(name="m", dockerfile="docker/m", scripts="run.sh", tags=["t"])
"""
    program(root / "scripts/team", text)
    package = DiscoverModels(root)
    for tags in (["team/m"], ["t", "team/m", "all", "team/t"], []):
        (model,) = package.select(tags)
        assert (model.args, model.dockerfile, model.scripts) == (
            " --updated",
            "scripts/team/docker/m",
            "scripts/team/run.sh",
        )
        assert model.extra == {"env_vars": {"A": "1"}}


def test_each_program_runs_on_its_own_in_the_packages_root(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = """
import os
import re
from pathlib import Path
from madengine.tools.discover_models import CustomModel
assert __name__ == "get_models_json" and "seen" not in globals()
seen = True
where = os.path.basename(os.path.dirname(__file__))
def list_models():
    return [CustomModel(where, "d", scripts="s", args=Path("at_the_root").read_text())]
"""
    (root / "package").mkdir()
    (root / "package/at_the_root").write_text("--yes")
    for team in ("one", "two"):
        program(root / "package/scripts" / team, text)
    models = DiscoverModels(Path("package")).models()
    assert [(model.name, model.args) for model in models] == [("one/one", "--yes"), ("two/two", "--yes")]
    assert Path.cwd() == root
    assert "get_models_json" not in sys.modules
    assert not list(root.rglob("__pycache__"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1\ndef f(:\n", ":2: SyntaxError: "),
        ("\n\nraise ValueError('two\\nlines')", ":3: ValueError: two lines"),
        ("import sys\nsys.exit(3)", ":2: SystemExit: 3"),
        ("import no_such_module", ":1: ModuleNotFoundError: No module named 'no_such_module'"),
        ("x = 1", ": TypeError: no list_models(); "),
        ("list_models = 3", ": TypeError: no list_models(); "),
        ("def list_models():\n    return 1 / 0", ":2: ZeroDivisionError: division by zero"),
        ("def list_models():\n    return None", ": TypeError: "),
        (
            "def list_models():\n    return [{'name': 'm'}]",
            ": TypeError: list_models(): expected CustomModel objects, got dict {'name': 'm'}",
        ),
        (
            "from madengine.tools.discover_models import CustomModel\n"
            "class Bad(CustomModel):\n"
            "    def update_model(self):\n"
            "        raise OSError('offline')\n"
            "def list_models():\n"
            "    return [Bad('m', 'd', scripts='s')]\n",
            ":4: OSError: offline",
        ),
        (
            "from madengine.tools.discover_models import CustomModel\n"
            "def list_models():\n"
            "    return [CustomModel('m', 'd', scripts='s', args=object())]\n",
            ": TypeError: Object of type object is not JSON serializable",
        ),
    ],
)
def test_a_failing_program_is_named_with_its_error_in_one_line(root: Path, text: str, message: str) -> None:
    program(root / "scripts/team", text)
    with pytest.raises(DiscoveryError) as caught:
        DiscoverModels(root).models()
    assert str(caught.value).startswith("scripts/team/get_models_json.py" + message)
    assert "\n" not in str(caught.value)
    assert Path.cwd() == root


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import os\nos._exit(0)", ": ended without its models: exit code 0"),
        ("import os\nos.kill(os.getpid(), 9)", ": ended without its models: exit code -9"),
        ("class Odd(BaseException): pass\nraise Odd('x')", ":2: Odd: x"),
        ("raise KeyboardInterrupt", ":1: KeyboardInterrupt"),
        ("class Odd(Exception):\n def __str__(self): raise self\nraise Odd", ":3: Odd, whose text can't be shown"),
        ("raise ValueError('\\x1b[2J' + 'x' * 200_000)", ":1: ValueError: \\x1b[2Jxxx"),
        ("import sys\nsys.modules.clear()\n1 / 0", ":3: ZeroDivisionError: division by zero"),
        ("import sys\ndel sys.modules['get_models_json']\n1 / 0", ":3: ZeroDivisionError: division by zero"),
        ("import sys\nsys.stdout.close(); sys.stderr.close()\n1 / 0", ":3: ZeroDivisionError: division by zero"),
        ("def list_models():\n    return list_models()", ":2: RecursionError: "),
        (
            "from madengine.tools.discover_models import CustomModel\n"
            "def list_models(): return [CustomModel('m', 'd', scripts='\\ud800')]",
            ": [0] (m): scripts: contains a null character or a lone surrogate",
        ),
        (
            "from madengine.tools.discover_models import CustomModel\n"
            "def list_models(): return [CustomModel('m', 'd', scripts='s', timeout=10**5000)]",
            ": ValueError: ",
        ),
    ],
)
def test_whatever_a_program_of_a_package_does_is_one_line(root: Path, text: str, message: str) -> None:
    program(root / "scripts/team", text)
    with pytest.raises((DiscoveryError, ConfigurationError)) as caught:
        DiscoverModels(root).models()
    assert str(caught.value).startswith("scripts/team/get_models_json.py" + message)
    assert len(str(caught.value)) < 3000


def test_a_program_of_a_package_that_never_ends_is_ended(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(custom_models, "SECONDS_LIMIT", 0.5)
    program(root / "scripts/team", "while True: pass")
    with pytest.raises(DiscoveryError, match=r"^scripts/team/get_models_json\.py: did not end within 0\.5 s$"):
        DiscoverModels(root).models()


def test_what_a_program_of_a_package_prints_or_leaves_running_is_no_model(root: Path) -> None:
    text = """
import atexit, os, subprocess, sys, threading, time
print("{}")
os.write(1, b"raw")
subprocess.run(["echo", "child"], check=True)
atexit.register(print, "late")
threading.Thread(target=time.sleep, args=[600]).start()
sys.setrecursionlimit(50_000)
os.environ["PATH"] = ""
"""
    path = custom(root / "scripts/team", "CustomModel('m', 'd', scripts='s')")
    path.write_text(text + path.read_text())
    listed = command("--format", "names", cwd=root)
    assert (listed.returncode, listed.stdout) == (0, "team/m\n")
    assert sorted(re.findall("raw|child|{}", listed.stderr)) == ["child", "raw", "{}"]


def test_a_custom_model_without_a_script_is_named(root: Path) -> None:
    custom(root / "scripts/team", "CustomModel('m', 'd')")
    with pytest.raises(
        ConfigurationError, match=r"team/get_models_json\.py: \[0\] \(m\): scripts: expected a non-empty"
    ):
        DiscoverModels(root).models()


# Tags


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ([], ["alex", "bert", "teama/bert", "teamb/bert", "teamb/gpt"]),
        (["all"], ["alex", "bert", "teama/bert", "teamb/bert", "teamb/gpt"]),
        (["bert"], ["bert"]),
        (["llm"], ["bert", "teamb/bert", "teamb/gpt"]),
        (["vision", "nlp"], ["alex", "bert", "teama/bert"]),
        (["llm", "bert", "nlp", "llm"], ["bert", "teama/bert", "teamb/bert", "teamb/gpt"]),
        (["teamb/all"], ["teamb/bert", "teamb/gpt"]),
        (["teamb/llm"], ["teamb/bert", "teamb/gpt"]),
        (["teama/bert"], ["teama/bert"]),
        ([" bert "], ["bert"]),
        (["bert:"], ["bert"]),
    ],
)
def test_tags_select(zoo: Path, tags: list[str], expected: list[str]) -> None:
    assert [name for name, _ in select(zoo, *tags)] == expected


@pytest.mark.parametrize(
    ("tag", "expected"),
    [
        ("bert:batch_size=512", [("bert", "--base 1 --batch_size 512")]),
        ("alex:batch_size=512:x", [("alex", " --batch_size 512 --x")]),
        ("alex: x : : k = v ", [("alex", " --x --k v")]),
        ("alex:b=2=3", [("alex", " --b 2=3")]),
        ("alex:note=it's $HOME `x` \n", [("alex", " --note 'it'\"'\"'s $HOME `x`'")]),
        ("alex:k=", [("alex", " --k ''")]),
        ("alex:model.lr-rate=1e-3", [("alex", " --model.lr-rate 1e-3")]),
        ("nlp:x=1", [("bert", "--base 1 --x 1"), ("teama/bert", " --x 1")]),
        ("teamb/llm:x=1", [("teamb/bert", " --x 1"), ("teamb/gpt", " --x 1")]),
        ("teamb/all:fp16", [("teamb/bert", " --fp16"), ("teamb/gpt", " --fp16")]),
        ("teama/bert:x=1", [("teama/bert", " --x 1")]),
    ],
)
def test_what_follows_a_colon_becomes_arguments(zoo: Path, tag: str, expected: list[tuple[str, str]]) -> None:
    assert select(zoo, tag) == expected


def test_arguments_go_to_all_models_with_all(zoo: Path) -> None:
    assert [args[-6:] for _, args in select(zoo, "all:x=1")] == [" --x 1"] * 5


def test_one_model_with_other_arguments_is_another_selection(zoo: Path) -> None:
    selected = select(zoo, "alex:b=2", "alex", "alex:b=1", "alex:b=2")
    assert selected == [("alex", " --b 2"), ("alex", ""), ("alex", " --b 1")]


def test_a_name_with_a_colon_is_found_whole(root: Path) -> None:
    written(root / "models.json", entry("a:b"), entry("a"))
    assert select(root, "a:b") == [("a:b", "")]
    assert select(root, "a:c") == [("a", " --c")]


@pytest.mark.parametrize(
    "tag", ["bert:url=http://host:8080", "bert:8080", "bert:--x", "bert:a b", "bert:=1", "bert:x;ls"]
)
def test_what_can_be_no_option_is_refused(zoo: Path, tag: str) -> None:
    with pytest.raises(ConfigurationError, match=r"invalid option .*; write NAME:KEY=VALUE:FLAG, without : in a value"):
        select(zoo, tag)


@pytest.mark.parametrize(
    ("tag", "closest"),
    [
        ("brt", "did you mean bert"),
        ("alx:b=1", "did you mean alex"),
        ("teamb/gtp", "did you mean teamb/gpt"),
        ("teama:bert:x=1", "did you mean teama/bert"),
        ("zzzz", "known: alex, all, bert, llm, nlp and 8 more"),
        ("", "known: "),
        (":", "known: "),
    ],
)
def test_an_unknown_tag_names_the_closest_known(zoo: Path, tag: str, closest: str) -> None:
    with pytest.raises(DiscoveryError) as caught:
        select(zoo, "bert", tag)
    assert str(caught.value).startswith(f"no model has the name or tag {tag!r}; {closest}")
    assert caught.value.exit_code == 1


def test_deprecated_models_are_left_out_unless_asked_for(root: Path) -> None:
    written(root / "models.json", entry("new", "t"), entry("old", "t", "past", is_deprecated=True))
    assert select(root) == select(root, "t") == [("new", "")]
    assert select(root, "t", ignore_deprecated=True) == [("new", ""), ("old", "")]
    assert select(root, "old", ignore_deprecated=True) == [("old", "")]


@pytest.mark.parametrize("tag", ["old", "past", "past:x=1"])
def test_a_tag_that_selects_only_deprecated_models_says_so(root: Path, tag: str) -> None:
    written(root / "models.json", entry("new", "t"), entry("old", "t", "past", is_deprecated=True))
    with pytest.raises(DiscoveryError, match=rf"^'{tag}' selects only deprecated models \(old\); --ignore-deprecated "):
        select(root, "new", tag)


@pytest.mark.parametrize(
    ("words", "tags"),
    [(None, ()), ([], ()), (["a", "b,c"], ("a", "b", "c")), (["a, b:x=1 ,", ""], ("a", "b:x=1"))],
)
def test_tags_are_split_at_commas(words: list[str] | None, tags: tuple[str, ...]) -> None:
    assert split_tags(words) == tags


@pytest.mark.parametrize("words", [[""], [","], ["", " "]])
def test_an_empty_tags_option_does_not_mean_all(words: list[str]) -> None:
    with pytest.raises(ConfigurationError, match="--tags is empty"):
        split_tags(words)


# Printing


def test_the_table_has_a_row_per_model_in_columns(zoo: Path) -> None:
    lines = report(DiscoverModels(zoo).select(["bert", "alex:x=1"]), "table").split("\n")
    assert lines == [
        "name  n_gpus  tags     args      dockerfile",
        "alex          vision   --x 1     docker/alex",
        "bert          llm,nlp  --base 1  docker/bert",
    ]


def test_the_json_is_a_models_json_again(zoo: Path) -> None:
    models = DiscoverModels(zoo).models()
    assert [model_of(card, "") for card in json.loads(report(models, "json"))] == list(models)


def test_the_names_are_one_per_line(zoo: Path) -> None:
    assert report(DiscoverModels(zoo).select(["teamb/all"]), "names") == "teamb/bert\nteamb/gpt"


def test_a_name_can_not_break_a_line_or_the_terminal(root: Path) -> None:
    written(root / "models.json", entry("a\nb\x1b[31mé"))
    models = DiscoverModels(root).models()
    assert report(models, "names") == "a\\nb\\x1b[31mé"
    assert report(models, "table").count("\n") == 1
    assert json.loads(report(models, "json"))[0]["name"] == models[0].name


# The command


def test_main_prints_the_selected_models(zoo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--tags", "alex", "nlp,teamb/gpt", "--tags", "bert", "--format", "names"]) == 0
    out, err = capsys.readouterr()
    assert (out.split(), err) == (["alex", "bert", "teama/bert", "teamb/gpt"], "")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--tags", "nope"], 1, "madengine: no model has the name or tag 'nope'; "),
        (["--tags", "bert:1"], 4, "madengine: 'bert:1': invalid option '1'; "),
        (["--tags="], 4, "madengine: --tags is empty; "),
    ],
)
def test_main_says_what_is_wrong_in_one_line_on_stderr(
    zoo: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, message: str
) -> None:
    assert main(arguments) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(message)
    assert err.count("\n") == 1


@pytest.mark.parametrize("arguments", [["--tag", "bert"], ["--format", "xml"], ["--tags"], ["bert"]])
def test_wrong_arguments_exit_4_with_one_line(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    out, err = capsys.readouterr()
    assert (caught.value.code, out, err.count("\n")) == (4, "", 1)


def test_python_m_falls_back_to_the_starters_dummy_and_says_so(root: Path) -> None:
    done = command("--tags", "dummy", "--format", "json", cwd=root)
    assert done.returncode == 0
    assert [card["name"] for card in json.loads(done.stdout)] == ["dummy"]
    assert done.stderr == (
        f"madengine: no models.json in {root}: using the bundled starter package; "
        "`madengine init DIR` writes it for you\n"
    )


def test_python_m_keeps_what_a_program_prints_off_stdout(root: Path) -> None:
    text = """
import os
import re
print("printed")
os.system("echo by a child")
from madengine.tools.discover_models import CustomModel
def list_models():
    print("listed")
    return [CustomModel("m", "d", scripts="s")]
"""
    program(root / "package/scripts/team", text)
    done = command("--format", "names", cwd=root, MODEL_DIR="package")
    assert (done.returncode, done.stdout) == (0, "team/m\n")
    assert sorted(done.stderr.splitlines()) == ["by a child", "listed", "printed"]


def test_python_m_ends_quietly_when_its_reader_has_enough(root: Path) -> None:
    written(root / "models.json", *(entry(f"model_{number}") for number in range(5000)))
    done = subprocess.run(
        ["bash", "-c", 'set -o pipefail; "$0" -m madengine.tools.discover_models | head -n 1', sys.executable],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
        timeout=60,
    )
    assert (done.returncode, done.stdout.split()[0], done.stderr) == (0, "name", "")


@pytest.mark.parametrize("arguments", [[], ["--format", "json"], ["--tags", "llm:x=1"], ["--tags", "modle_77"]])
def test_the_time_for_ten_thousand_models_is_not_their_square(root: Path, arguments: list[str]) -> None:
    count = 10_000
    written(root / "models.json", *(entry(f"model_{number}", "llm", f"t{number % 99}") for number in range(count)))
    # It takes a third of a second; bin/bench holds it to one. Here it only must not take minutes.
    started = time.monotonic()
    done = command(*arguments, cwd=root)
    assert "model_77" in done.stdout + done.stderr
    assert time.monotonic() - started < 20
