from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from madengine.deploy.ansible.generate import generate_ansible
from madengine.deploy.ansible.options import PlaybookOptions
from madengine.distributed_cli import main
from madengine.errors import ConfigurationError, MadengineError

GOLDEN = Path(__file__).parents[3] / "data/ansible/madengine_distributed.yml"
DIGEST = f"sha256:{'0' * 64}"


def write_inputs(
    folder: Path, registry: str = "reg.example.com", timeouts: Mapping[str, int | None] | None = None
) -> None:
    """A manifest with a model for each timeout, and an execution configuration."""
    names = timeouts or {"dummy": None}
    images = {
        f"ci-{name}": {
            "docker_image": f"ci-{name}",
            "self_contained": True,
            **({"registry_image": f"{registry}/ci-{name}", "registry_digest": DIGEST} if registry else {}),
        }
        for name in names
    }
    models = {
        f"ci-{name}": {"name": name, "dockerfile": "docker/x", "scripts": "scripts/x", "timeout": timeout}
        for name, timeout in names.items()
    }
    models = {key: {name: value for name, value in entry.items() if value is not None} for key, entry in models.items()}
    manifest = {"built_images": images, "built_models": models, "registry": registry, "context": {}}
    (folder / "build_manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    write_config(folder, {"docker_env_vars": {"NOTE": "{{ it's }}"}, "docker_mounts": {}, "gpu_vendor": ""})


def write_config(folder: Path, context: Mapping[str, Any]) -> None:
    config = {"models": [], "context": context, "credentials_required": []}
    (folder / "execution_config.json").write_text(json.dumps(config), encoding="utf-8")


@pytest.fixture
def here(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a manifest and an execution configuration."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp()))
    write_inputs(tmp_path)
    return tmp_path


def variables(playbook: Path) -> dict[str, Any]:
    """The data of a playbook."""
    loader = type("Loader", (yaml.SafeLoader,), {})
    loader.add_constructor("!unsafe", lambda loader, node: node.value)  # type: ignore[attr-defined]
    first: dict[str, Any] = yaml.load(playbook.read_text(encoding="utf-8"), loader)[0]
    values: dict[str, Any] = first["vars"]
    return values


def test_without_arguments_it_writes_the_documents_files(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", "ansible"]) == 0
    output = capsys.readouterr()
    assert output.out.split() == ["madengine_distributed.yml", "madengine.pyz", "gpu_inventory.example"]
    assert output.err == (
        "to run it: copy gpu_inventory.example to gpu_inventory and name your nodes in it; then\n"
        "ansible-playbook -i gpu_inventory madengine_distributed.yml\n"
    )
    assert zipfile.is_zipfile(here / "madengine.pyz")


@pytest.mark.parametrize(
    ("words", "options", "count"),
    [
        ([], [], 1),
        (["--repeat=8", "--warmup=2", "--keep-going"], ["--repeat=8", "--warmup=2", "--keep-going"], 10),
        (["--until-stable=2"], ["--until-stable=2.0"], 30),
    ],
)
def test_the_nodes_repeat_their_runs_and_have_the_time_for_it(
    here: Path, words: list[str], options: list[str], count: int
) -> None:
    assert main(["generate", "ansible", *words]) == 0
    values = variables(here / "madengine_distributed.yml")
    assert (values["madengine_repeats"], values["madengine_rounds"]) == (options, count)
    assert "madengine_repeats + madengine_options" in (here / "madengine_distributed.yml").read_text()


def test_repeats_that_contradict_one_another_are_refused(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", "ansible", "--max-repeats=9"]) == 4
    assert "--max-repeats: only with --until-stable" in capsys.readouterr().err


def test_the_playbook_is_the_golden_one(here: Path) -> None:
    main(["generate", "ansible"])
    written = (here / "madengine_distributed.yml").read_text(encoding="utf-8")
    if os.environ.get("MADENGINE_WRITE_GOLDEN"):
        GOLDEN.write_text(written, encoding="utf-8")
    assert written == GOLDEN.read_text(encoding="utf-8")


def test_a_file_of_variables_goes_along_beside_the_manifest(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "in").mkdir()
    manifest = json.loads((here / "build_manifest.json").read_text())
    manifest["deployment_config"] = {"env_file": "../site/all.sh"}
    (here / "in/m.json").write_text(json.dumps(manifest))
    words = ["generate", "ansible", "--manifest-file=in/m.json", "--output=out/playbook.yml"]
    assert main(words) == 4
    assert "env_file in/../site/all.sh: no such file" in capsys.readouterr().err
    assert not (here / "out").exists()
    (here / "site").mkdir()
    (here / "site/all.sh").write_text("TOKEN=hf_1234\n")
    assert main(words) == 0
    playbook = here / "out/playbook.yml"
    values = variables(playbook)
    assert (here / "out" / values["madengine_env_file"]).resolve() == here / "site/all.sh"
    assert values["madengine_context"]["env_file"] == "env_file.sh"
    text = playbook.read_text()
    assert 'dest: "{{ madengine_folder }}/env_file.sh"' in text
    assert "hf_1234" not in text


def test_the_options_of_the_document_name_the_files(here: Path) -> None:
    (here / "in").mkdir()
    (here / "build_manifest.json").rename(here / "in/dummy_build_manifest.json")
    (here / "execution_config.json").rename(here / "in/dummy_execution_config.json")
    words = [
        "--manifest-file=in/dummy_build_manifest.json",
        "--execution-config=in/dummy_execution_config.json",
        "--output=out/dummy_ansible_playbook.yml",
    ]
    assert main(["generate", "ansible", *words]) == 0
    assert sorted(path.name for path in (here / "out").iterdir()) == [
        "dummy_ansible_playbook.yml",
        "gpu_inventory.example",
        "madengine.pyz",
    ]
    manifest = variables(here / "out/dummy_ansible_playbook.yml")["madengine_manifest"]
    assert (here / "out" / manifest).resolve() == here / "in/dummy_build_manifest.json"


def test_the_same_inputs_give_the_same_playbook(here: Path) -> None:
    main(["generate", "ansible"])
    first = (here / "madengine_distributed.yml").read_bytes()
    main(["generate", "ansible"])
    assert (here / "madengine_distributed.yml").read_bytes() == first


def test_an_inventory_that_is_there_stays(here: Path) -> None:
    (here / "gpu_inventory.example").write_text("mine\n", encoding="utf-8")
    main(["generate", "ansible"])
    assert (here / "gpu_inventory.example").read_text(encoding="utf-8") == "mine\n"


@pytest.mark.parametrize(
    ("missing", "complaint"),
    [
        ("execution_config.json", "execution_config.json: no such execution configuration; `madengine export-config`"),
        ("build_manifest.json", "build_manifest.json: no such manifest; `madengine build` writes one"),
    ],
)
def test_a_missing_input_is_named(here: Path, capsys: pytest.CaptureFixture[str], missing: str, complaint: str) -> None:
    (here / missing).unlink()
    assert main(["generate", "ansible"]) == 4
    assert complaint in capsys.readouterr().err
    assert not (here / "madengine_distributed.yml").exists()


@pytest.mark.parametrize("text", ["[]", '{"context": []}', '"x"'])
def test_another_file_than_an_execution_configuration_is_refused(here: Path, text: str) -> None:
    (here / "execution_config.json").write_text(text, encoding="utf-8")
    with pytest.raises(ConfigurationError, match=r"^execution_config\.json: not an execution configuration; "):
        generate_ansible(PlaybookOptions(playbook=Path("out.yml")))


def test_what_the_configuration_leaves_empty_is_for_the_nodes_to_find_out(here: Path) -> None:
    write_config(here, {"docker_env_vars": {}, "docker_mounts": {"/a": "/b"}, "gpu_vendor": "", "docker_gpus": "0,1"})
    main(["generate", "ansible"])
    context = variables(here / "madengine_distributed.yml")["madengine_context"]
    assert context == {"docker_mounts": {"/a": "/b"}, "docker_gpus": "0,1"}


@pytest.mark.parametrize(
    ("timeouts", "seconds"),
    [({"a": 100, "b": None}, 100 + 7200 + 2 * 900), ({"a": 0}, 7 * 24 * 3600 + 900)],
)
def test_ansibles_limit_is_longer_than_all_the_models_own(
    here: Path, timeouts: dict[str, int | None], seconds: int
) -> None:
    write_inputs(here, timeouts=timeouts)
    main(["generate", "ansible"])
    values = variables(here / "madengine_distributed.yml")
    assert (values["madengine_seconds"], values["madengine_runs"]) == (seconds, len(timeouts))


def test_ansibles_limit_includes_the_manifests_hooks(here: Path) -> None:
    write_inputs(here, timeouts={"a": 100})
    file = here / "build_manifest.json"
    context = {"pre_scripts": [{"path": "a.sh"}], "tools": ["mine"]}
    tools = {"mine": {"post_scripts": [{"path": "b.sh"}]}}
    file.write_text(json.dumps({**json.loads(file.read_text()), "context": context, "tools": tools}), encoding="utf-8")
    main(["generate", "ansible"])
    assert variables(here / "madengine_distributed.yml")["madengine_seconds"] == 100 + 2 * 600 + 900


@pytest.mark.parametrize(
    ("registry", "warning"),
    [
        ("localhost:5000", "on a node localhost:5000 is the node itself; set registry_url in the inventory"),
        ("", "no registry: nodes can only run images that they have already"),
    ],
)
def test_a_registry_that_nodes_do_not_reach_is_warned_about(
    here: Path, capsys: pytest.CaptureFixture[str], registry: str, warning: str
) -> None:
    write_inputs(here, registry)
    assert main(["generate", "ansible"]) == 0
    assert warning in capsys.readouterr().err


def test_a_sites_own_template_comes_first(here: Path) -> None:
    (here / "mine/ansible").mkdir(parents=True)
    (here / "mine/ansible/playbook.yml").write_text("- hosts: all # [[ manifest ]]\n", encoding="utf-8")
    assert main(["generate", "ansible", "--template-dir", "mine"]) == 0
    assert (here / "madengine_distributed.yml").read_text(encoding="utf-8") == '- hosts: all # "build_manifest.json"\n'


def test_a_playbook_that_can_not_be_written_is_one_line(here: Path) -> None:
    (here / "file").write_text("", encoding="utf-8")
    with pytest.raises(MadengineError, match=r"^file/out\.yml: can't be written: "):
        generate_ansible(PlaybookOptions(playbook=Path("file/out.yml")))
