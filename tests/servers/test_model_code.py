"""The code that a card's url names, from real git servers: over TLS with a password, over ssh with a key."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path

import pytest
from plumbum import local

from madengine.build import payload
from madengine.build.source_code import ModelCode
from madengine.config.credentials import Credentials
from madengine.data_sets.fetch import Client
from madengine.errors import CommandError
from madengine.records import Model
from tests.bed.components import Engine, Registry, outcome
from tests.engine.packages import Package, images
from tests.servers.conftest import CHECKOUT, Nas
from tests.servers.programs import CANARIES, GitServer, command

ENTRY = {"username": "ann", "password": CANARIES["cred"]}


def model(url: str, cred: str = "GIT") -> Model:
    return Model("m", "docker/m", "scripts/m", url=url, cred=cred)


def code(folder: Path, client: Client, entry: Mapping[str, str]) -> ModelCode:
    return ModelCode(folder / "code", folder, Credentials({"GIT": entry}), client)


def test_private_code_with_a_submodule_comes_over_tls(
    git_over_tls: tuple[GitServer, Path], tmp_path: Path, client: Client, messages: list[str]
) -> None:
    server, certificate = git_over_tls
    server.repository("part", {"inner.txt": "inner\n"})
    commit = server.repository("whole", {"tool.sh": "echo tool\n"}, submodule="part")
    url = f"https://{server.address}/whole.git"
    with local.env(GIT_SSL_CAINFO=str(certificate)):
        found = code(tmp_path, client, ENTRY)
        checkout = found.checkout(model(url))
        assert found.checkout(model(url)) is checkout
    assert checkout is not None
    assert checkout.commit == commit
    assert (checkout.folder / "tool.sh").read_text() == "echo tool\n"
    assert (checkout.folder / "part/inner.txt").read_text() == "inner\n"
    assert (checkout.folder / ".git/shallow").is_file()
    assert CANARIES["cred"] not in (checkout.folder / ".git/config").read_text()
    target = tmp_path / "payload"
    target.mkdir()
    (checkout.folder / "link").symlink_to("nowhere")
    payload.write(payload.Payload({}, {}, checkout.folder), target)
    assert (target / "code/link").is_symlink()
    assert (target / "code/part/inner.txt").is_file()
    assert payload.model_directory(model(url)) == "whole.git"
    assert len([line for line in messages if "cloning" in line]) == 1


def laid_out(folder: Path) -> dict[str, tuple[int, str]]:
    """Mode and content of every file."""
    return {
        str(path.relative_to(folder)): (path.lstat().st_mode, path.read_bytes().hex() if path.is_file() else "")
        for path in folder.rglob("*")
    }


def test_the_same_commit_is_the_same_payload_and_still_a_repository(
    git_over_tls: tuple[GitServer, Path], tmp_path: Path, client: Client
) -> None:
    server, certificate = git_over_tls
    lines = "".join(f"line {number}\n" for number in range(5000))
    server.repository("moving", {"inner.txt": "inner\n"})
    files = {f"file{number}": lines.replace("7", str(number)) for number in range(9)}
    commit = server.repository("steady", files, submodule="moving")

    def target(name: str) -> Path:
        folder = tmp_path / name
        (folder / "payload").mkdir(parents=True)
        with local.env(GIT_SSL_CAINFO=str(certificate)):
            checkout = code(folder, client, ENTRY).checkout(model(f"https://{server.address}/steady.git"))
        assert checkout is not None
        payload.write(payload.Payload({}, {}, checkout.folder), folder / "payload")
        return folder / "payload/code"

    first = target("first")
    server.go_on("moving")
    server.pack_anew("steady", 20)
    time.sleep(1.1)  # for times in whole seconds
    second = target("second")
    assert laid_out(first) == laid_out(second)
    assert [name for name in laid_out(first) if name.endswith(("logs", "FETCH_HEAD", "hooks"))] == []
    workspace = tmp_path / "workspace"
    outcome(["cp", "-RP", str(second), str(workspace)], {})
    for folder in (workspace, workspace / "part"):
        git = ["git", "-C", str(folder)]
        assert outcome([*git, "status", "--porcelain"], {}).stdout == ""
        assert len(outcome([*git, "log", "--oneline"], {}).stdout.splitlines()) == 1
        outcome([*git, "fsck", "--strict"], {})
    assert outcome(["git", "-C", str(workspace), "rev-parse", "HEAD"], {}).stdout.strip() == commit
    (workspace / "file3").write_text("changed\n")
    assert outcome(["git", "-C", str(workspace), "status", "--porcelain"], {}).stdout == " M file3\n"


def test_a_rebuild_of_the_same_commit_pushes_the_same_digest(
    git_over_tls: tuple[GitServer, Path], engine: Engine, base_image: str, registry: Registry, tmp_path: Path
) -> None:
    server, certificate = git_over_tls
    server.repository(f"again-{engine.name}", {"tool.sh": "echo tool\n"})
    package = Package(tmp_path / "package", base_image)
    package.add(f"again-{engine.name}", cred="GIT", url=f"https://{server.address}/again-{engine.name}.git")
    (package.folder / "credential.json").write_text(json.dumps({"GIT": ENTRY}))
    environment = {
        **engine.environment,
        "MADENGINE_ENGINE": engine.name,
        "PYTHONPATH": str(CHECKOUT),
        "GIT_SSL_CAINFO": str(certificate),
    }
    digests = []
    for _ in range(2):
        outcome(command("build", "--registry", registry.address), environment, cwd=package.folder)
        (image,) = images(package.folder).values()
        digests.append(image["registry_digest"])
    assert digests[0].startswith("sha256:")
    assert digests[0] == digests[1]


def test_a_wrong_password_and_a_missing_repository_are_reasons(
    git_over_tls: tuple[GitServer, Path], tmp_path: Path, client: Client
) -> None:
    server, certificate = git_over_tls
    url = f"https://{server.address}/nothing.git"
    with local.env(GIT_SSL_CAINFO=str(certificate)):
        with pytest.raises(CommandError, match="Authentication failed") as caught:
            code(tmp_path, client, {**ENTRY, "password": "wrong-password"}).checkout(model(url))
        assert "wrong-password" not in str(caught.value)
        with pytest.raises(CommandError, match="not found"):
            code(tmp_path, client, ENTRY).checkout(model(url))
        with pytest.raises(CommandError, match=r"nothing\.git: fatal: could not read Username"):
            code(tmp_path, client, ENTRY).checkout(model(url, cred=""))


def test_the_password_is_for_its_own_server_only(
    git_over_tls: tuple[GitServer, Path], tmp_path: Path, client: Client
) -> None:
    server, certificate = git_over_tls
    server.repository("elsewhere", {"a": "a\n"})
    found = code(tmp_path, client, ENTRY)
    answers = found._answers(model("https://git.example.com/x"))
    assert answers.prompt_end == "git.example.com'"
    from madengine.programs import git, secret_files

    with local.env(GIT_SSL_CAINFO=str(certificate)), secret_files.unattended(answers) as environment:
        url = f"https://{server.address}/elsewhere.git"
        with pytest.raises(CommandError, match="could not read Username"):
            client.run(git.clone(url, tmp_path / "stolen", environment))


@pytest.mark.usefixtures("known_hosts")
def test_code_comes_over_ssh_with_a_key(nas: Nas, tmp_path: Path, client: Client) -> None:
    entry = {"username": "root", "ssh_key_file": str(nas.folder / "id")}
    url = f"ssh://{nas.host}/srv/code.git"
    checkout = code(tmp_path, client, entry).checkout(model(url))
    assert checkout is not None
    assert (checkout.folder / "tool.sh").read_text() == "echo from ssh\n"
    assert checkout.commit == nas.sh("git -C /srv/code.git rev-parse HEAD").strip()
    # The key of credential.json counts, also where the user's settings name an ssh.
    useless = "ssh -o BatchMode=yes -o IdentitiesOnly=yes -o IdentityFile=none"
    config = {"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "core.sshCommand", "GIT_CONFIG_VALUE_0": useless}
    for number, environ in enumerate(({"GIT_SSH_COMMAND": useless}, config)):
        (tmp_path / str(number)).mkdir()
        with local.env(**environ):
            again = code(tmp_path / str(number), client, entry).checkout(model(url))
        assert again is not None
        assert again.commit == checkout.commit
    other = tmp_path / "other"
    other.mkdir()
    with pytest.raises(CommandError, match="Permission denied"):
        code(other, client, {"username": "root", "ssh_key_file": "/nowhere/id"}).checkout(model(url))
