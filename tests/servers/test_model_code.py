"""The code that a card's url names, from real git servers: over TLS with a password, over ssh with a key."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
from plumbum import local

from madengine.building import payload
from madengine.building.model_code import ModelCode
from madengine.credentials import Credentials
from madengine.data_sets.fetch import Client
from madengine.errors import CommandError
from madengine.records import Model
from tests.servers.conftest import Nas
from tests.servers.programs import CANARIES, GitServer

ENTRY = {"username": "ann", "password": CANARIES["cred"]}


def model(url: str, cred: str = "GIT") -> Model:
    return Model("m", "docker/m", "scripts/m", url=url, cred=cred)


def code(folder: Path, client: Client, entry: Mapping[str, str]) -> ModelCode:
    return ModelCode(folder / "code", folder, Credentials({"GIT": entry}), client)


def test_private_code_with_a_submodule_comes_over_tls(
    git_over_tls: tuple[GitServer, Path], tmp_path: Path, client: Client, said: list[str]
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
    assert len([line for line in said if "cloning" in line]) == 1


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
    assert answers.asked_by == "git.example.com'"
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
    other = tmp_path / "other"
    other.mkdir()
    with pytest.raises(CommandError, match="Permission denied"):
        code(other, client, {"username": "root", "ssh_key_file": "/nowhere/id"}).checkout(model(url))
