from __future__ import annotations

import base64
import json
import traceback
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from madengine import programs
from madengine.config.credentials import (
    Credentials,
    Login,
    load_credentials,
    model_secrets,
    registry_image,
    registry_login,
    registry_name,
    secret_values,
)
from madengine.errors import ConfigurationError
from madengine.records import Model

PASSWORD = "pa$$ w/rd'\"&é"
KEY = "-----BEGIN KEY-----\nb3BlbnNzaC1rZXktdjEA\nAAAABG5vbmUAAAAE\n-----END KEY-----\n"


def write(root: Path, entries: Any) -> None:
    path = root / "credential.json"
    path.write_text(json.dumps(entries))
    path.chmod(0o600)


def entry(**values: str) -> Credentials:
    return Credentials({"c": values})


def redact(text: str, credentials: Credentials) -> str:
    """What is shown of a text where these credentials are hidden, and no others."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(programs, "_secrets", set())
        programs.hide(secret_values(credentials))
        return programs.redact(text)


def model(cred: str, owner: str = "") -> Model:
    return Model("dummy", "docker/dummy", "scripts/dummy/run.sh", cred=cred, owner=owner)


def load_error(root: Path, environ: dict[str, str] | None = None) -> str:
    with pytest.raises(ConfigurationError) as caught:
        load_credentials(root, environ or {})
    return str(caught.value)


def test_without_a_file_there_are_no_entries(tmp_path: Path) -> None:
    assert load_credentials(tmp_path, {"HOME": "/root"}) == Credentials()


def test_values_become_text_and_null_is_left_out(tmp_path: Path) -> None:
    write(tmp_path, {"MAD_AWS_S3": {"USERNAME": None, "PASSWORD": 12345, "TLS": True}})
    assert load_credentials(tmp_path, {}).entries == {"MAD_AWS_S3": {"PASSWORD": "12345", "TLS": "true"}}


def test_a_list_of_nodes_becomes_numbered_entries(tmp_path: Path) -> None:
    write(tmp_path, {"NAS_NODES": [{"HOST": "a", "PORT": 22, "PASSWORD": "first"}, {"PASSWORD": "second"}]})
    credentials = load_credentials(tmp_path, {})
    assert credentials.entries["NAS_NODES[0]"] == {"HOST": "a", "PORT": "22", "PASSWORD": "first"}
    assert redact("first second 22", credentials) == "[redacted] [redacted] 22"


def test_a_value_may_come_from_a_file(tmp_path: Path) -> None:
    write(tmp_path, {"reg:5000": {"username": "ann", "password_file": "secret/pw", "token_file": f"{tmp_path}/token"}})
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret/pw").write_text(" from file \n")
    (tmp_path / "token").write_text("abc")
    entries = load_credentials(tmp_path, {}).entries
    assert entries["reg:5000"] == {"username": "ann", "password": " from file ", "token": "abc"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file"),
        (b"", "expected a secret, got an empty file"),
        (b"\n", "expected a secret, got an empty file"),
        (b"a\0b", "expected text, got a null character"),
        (b"\xff", "not UTF-8"),
    ],
)
def test_a_value_file_that_gives_nothing_is_named(tmp_path: Path, content: bytes | None, message: str) -> None:
    write(tmp_path, {"r": {"password_file": "pw"}})
    if content is not None:
        (tmp_path / "pw").write_bytes(content)
    assert f"{tmp_path}/credential.json: r.password_file: {tmp_path}/pw" in load_error(tmp_path)
    assert message in load_error(tmp_path)


def test_an_ssh_key_file_stays_a_path_and_its_content_is_secret(tmp_path: Path) -> None:
    write(tmp_path, {"GIT": {"username": "git", "ssh_key_file": "id"}, "IN": {"ssh_key_file": "/in/container"}})
    (tmp_path / "id").write_text(KEY)
    credentials = load_credentials(tmp_path, {})
    assert credentials.entries["GIT"]["ssh_key_file"] == "id"
    assert credentials.key_files == {"id": KEY}
    assert redact(f"a\n{KEY}b id", credentials) == "a\n[redacted]\nb id"
    assert redact("line: AAAABG5vbmUAAAAE", credentials) == "line: [redacted]"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"r": {"password": "hunter2"\n"x": 1}}', "credential.json:2:1: not JSON: expecting ',' delimiter"),
        ('{"r": {"password": "hunter2\n"}}', "credential.json:1:28: not JSON: invalid control character at"),
        ('{"hunter2": ', "credential.json:1:13: not JSON: expecting value"),
        ('["hunter2"]', "expected an object of named entries"),
        ('{"r": "hunter2"}', "r: expected an object such as"),
        ('{"r": ["hunter2"]}', "r[0]: expected an object such as"),
        ('{"r": {"password": ["hunter2"]}}', "r.password: expected a string, got a list"),
        ('{"r": {"password": "hunter2\\u0000"}}', "r.password: contains a null character or a lone"),
        ('{"r": {"password": "hunter2\\ud800"}}', "r.password: contains a null character or a lone"),
        ("[" * 100_000, "not usable as JSON: "),
    ],
)
def test_a_broken_file_is_named_with_its_place_and_never_a_value(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "credential.json").write_text(text)
    with pytest.raises(ConfigurationError) as caught:
        load_credentials(tmp_path, {})
    assert str(caught.value).startswith(f"{tmp_path}/credential.json:")
    assert message in str(caught.value)
    assert "hunter2" not in "".join(traceback.format_exception(caught.value))


def test_a_file_that_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "credential.json").mkdir()
    assert load_error(tmp_path) == f"{tmp_path}/credential.json: can't be read: is a directory"


@pytest.mark.parametrize(
    ("mode", "warned"), [(0o600, False), (0o400, False), (0o644, True), (0o640, True), (0o604, True)]
)
def test_a_file_that_others_can_read_is_warned_of(tmp_path: Path, mode: int, warned: bool) -> None:
    write(tmp_path, {})
    (tmp_path / "credential.json").chmod(mode)
    line = f"{tmp_path}/credential.json: readable by others (mode {mode:04o}); chmod 600 it"
    assert load_credentials(tmp_path, {}).warnings == ((line,) if warned else ())


def test_user_and_password_of_the_environment_replace_the_docker_hub_entry(tmp_path: Path) -> None:
    write(tmp_path, {"dockerhub": {"username": "old", "password": "old", "repository": "old/old"}})
    environ = {"MAD_DOCKERHUB_USER": "ann", "MAD_DOCKERHUB_PASSWORD": "new"}
    assert load_credentials(tmp_path, environ).entries["dockerhub"] == {"username": "ann", "password": "new"}
    with_repository = load_credentials(tmp_path, {**environ, "MAD_DOCKERHUB_REPO": "org/repo"})
    assert with_repository.entries["dockerhub"] == {"username": "ann", "password": "new", "repository": "org/repo"}


def test_the_environments_repository_alone_is_put_into_the_entry(tmp_path: Path) -> None:
    environ = {"MAD_DOCKERHUB_REPO": "org/repo"}
    assert load_credentials(tmp_path, environ).entries == {"dockerhub": {"repository": "org/repo"}}
    write(tmp_path, {"dockerhub": {"username": "ann", "password": "pw"}})
    expected = {"username": "ann", "password": "pw", "repository": "org/repo"}
    assert load_credentials(tmp_path, environ).entries["dockerhub"] == expected


def test_the_environments_password_may_be_a_file(tmp_path: Path) -> None:
    (tmp_path / "pw").write_text("from file\n")
    environ = {"MAD_DOCKERHUB_USER": "ann", "MAD_DOCKERHUB_PASSWORD_FILE": str(tmp_path / "pw")}
    credentials = load_credentials(tmp_path, environ)
    assert credentials.entries["dockerhub"]["password"] == "from file"
    assert credentials.warnings == ()
    environ["MAD_DOCKERHUB_PASSWORD_FILE"] = "nope"
    assert "MAD_DOCKERHUB_PASSWORD_FILE: " in load_error(tmp_path, environ)


@pytest.mark.parametrize(
    ("environ", "warning"),
    [
        ({"MAD_DOCKERHUB_USER": "ann"}, "MAD_DOCKERHUB_USER: ignored without MAD_DOCKERHUB_PASSWORD; set both"),
        ({"MAD_DOCKERHUB_PASSWORD": "x"}, "MAD_DOCKERHUB_PASSWORD: ignored without MAD_DOCKERHUB_USER; set both"),
    ],
)
def test_half_a_docker_hub_login_in_the_environment_is_ignored_aloud(
    tmp_path: Path, environ: dict[str, str], warning: str
) -> None:
    write(tmp_path, {"dockerhub": {"username": "old", "password": "oldpw"}})
    credentials = load_credentials(tmp_path, environ)
    assert credentials.entries["dockerhub"] == {"username": "old", "password": "oldpw"}
    assert credentials.warnings == (warning,)


def test_every_variable_with_mad_secrets_in_its_name_is_a_secret(tmp_path: Path) -> None:
    credentials = load_credentials(tmp_path, {"MAD_SECRETS_HF": "hf-token", "X_MAD_SECRETS": "other", "PATH": "/bin"})
    assert credentials.secrets == {"MAD_SECRETS_HF": "hf-token", "X_MAD_SECRETS": "other"}
    assert redact("hf-token other /bin", credentials) == "[redacted] [redacted] /bin"


def test_what_is_loaded_is_hidden_from_then_on(tmp_path: Path) -> None:
    write(tmp_path, {"reg": {"username": "ann", "password": "hunter2"}})
    assert programs.redact("hunter2 hunter3 ann") == "hunter2 hunter3 ann"
    load_credentials(tmp_path, {"MAD_SECRETS_A": "hunter3"})
    assert programs.redact("hunter2 hunter3 ann") == "[redacted] [redacted] ann"


def test_the_text_form_shows_names_and_no_value(tmp_path: Path) -> None:
    write(tmp_path, {"reg": {"username": "ann", "password": "hunter2"}, "GIT": {"ssh_key_file": "id"}})
    (tmp_path / "id").write_text(KEY)
    credentials = load_credentials(tmp_path, {"MAD_SECRETS_A": "hunter3"})
    assert repr(credentials) == "Credentials(entries=['GIT', 'reg'], secrets=['MAD_SECRETS_A'])"
    assert str(credentials) == f"{credentials}" == repr(credentials)
    redact("x", credentials)
    assert "hunter" not in repr(credentials)


def test_a_logins_text_form_hides_the_password() -> None:
    assert repr(Login("r", "ann", "hunter2")) == "Login(registry='r', username='ann')"


@pytest.mark.parametrize(
    ("registry", "login"),
    [
        ("docker.io", Login("docker.io", "hub", "p1")),
        ("dockerhub", Login("docker.io", "hub", "p1")),
        ("", Login("docker.io", "hub", "p1")),
        ("docker.io/other", Login("docker.io", "hub", "p1")),
        ("docker.io/org", Login("docker.io", "org", "p2")),
        ("localhost:5000", Login("localhost:5000", "local", "p3")),
        ("localhost:5000/team", Login("localhost:5000", "local", "p3")),
        ("reg.example.com/team", Login("reg.example.com", "team", "p4")),
        ("reg.example.com", None),
        ("localhost:5001", None),
        ("only.repository", None),
    ],
)
def test_a_registrys_login_is_found_by_its_name_or_its_host(registry: str, login: Login | None) -> None:
    credentials = Credentials(
        {
            "dockerhub": {"username": "hub", "password": "p1"},
            "docker.io/org": {"username": "org", "password": "p2"},
            "localhost:5000": {"username": "local", "password": "p3"},
            "reg.example.com/team": {"username": "team", "password": "p4"},
            "only.repository": {"repository": "a/b"},
        }
    )
    assert registry_login(credentials, registry) == login


def test_no_entry_at_all_is_anonymous() -> None:
    assert registry_login(Credentials(), "docker.io") is None


@pytest.mark.parametrize(("half", "missing"), [("username", "password"), ("password", "username")])
def test_half_a_login_is_an_error_without_its_value(half: str, missing: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        registry_login(Credentials({"reg": {half: "hunter2"}}), "reg")
    assert str(caught.value).startswith(f"credential.json: reg: no {missing} to log in with")
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("registry", "entries", "name"),
    [
        ("docker.io", {"dockerhub": {"repository": "org/repo"}}, "org/repo:ci-x"),
        ("dockerhub", {"dockerhub": {"repository": "org/repo"}}, "org/repo:ci-x"),
        ("docker.io", {"dockerhub": {"username": "ann"}}, "ci-x"),
        ("dockerhub", {}, "ci-x"),
        ("localhost:5000", {}, "localhost:5000/ci-x"),
        ("localhost:5000", {"localhost:5000": {"username": "ann"}}, "localhost:5000/ci-x"),
        ("localhost:5000", {"localhost:5000": {"repository": "a/b"}}, "localhost:5000/a/b:ci-x"),
        ("docker.io/org", {"dockerhub": {"repository": "org/repo"}}, "docker.io/org/ci-x"),
        ("reg.example.com/team", {"reg.example.com": {"repository": "a/b"}}, "reg.example.com/team/ci-x"),
        ("[::1]:5000", {}, "[::1]:5000/ci-x"),
    ],
)
def test_an_image_is_named_for_its_registry(registry: str, entries: dict[str, dict[str, str]], name: str) -> None:
    assert registry_image(registry, "ci-x", Credentials(entries)) == name


@pytest.mark.parametrize(
    ("registry", "written"),
    [
        ("https://reg.example.com/", "write reg.example.com"),
        ("http://localhost:5000", "write localhost:5000"),
        ("localhost:5000/", "write localhost:5000"),
        (" localhost:5000", "write localhost:5000"),
        ("reg.example.com/Team/X", "write reg.example.com/team/x"),
        ("docker://reg.example.com", "write reg.example.com"),
        ("myorg", "write docker.io/myorg for Docker Hub, or the host with its port, such as myorg:5000"),
        ("dockerhub/org", "write docker.io/org for Docker Hub"),
        ("", "write it as host[:port][/path]"),
        ("reg example.com", "write it as host[:port][/path]"),
        ("localhost:port", "write it as host[:port][/path]"),
        ("reg.example.com/a//b", "write it as host[:port][/path]"),
        ("reg.example.com\n", "write reg.example.com"),
        ("--help", "write it as host[:port][/path]"),
    ],
)
def test_a_malformed_registry_is_told_how_to_be_written(registry: str, written: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        registry_image(registry, "ci-x", Credentials())
    assert str(caught.value).startswith(f"invalid registry {registry!r}; ")
    assert written in str(caught.value)


def test_a_password_in_a_registry_is_refused_and_not_shown() -> None:
    with pytest.raises(ConfigurationError) as caught:
        registry_name("https://ann:hunter2@reg.example.com")
    assert "hunter2" not in str(caught.value)
    assert "credential.json" in str(caught.value)


@pytest.mark.parametrize("registry", ["docker.io", "dockerhub", "localhost", "registry:5000", "10.0.0.1:5000/a-b/c_d"])
def test_a_good_registry_is_given_back(registry: str) -> None:
    assert registry_name(registry) == registry


def test_a_repository_or_tag_that_no_engine_takes_is_an_error() -> None:
    with pytest.raises(
        ConfigurationError,
        match=r"credential\.json: dockerhub\.repository: expected lower case such as org/repo, got 'Org/Repo'",
    ):
        registry_image("docker.io", "ci-x", Credentials({"dockerhub": {"repository": "Org/Repo"}}))
    with pytest.raises(ConfigurationError, match=r"invalid tag for org/repo, .*shorten the model's name"):
        registry_image("docker.io", "c" * 129, Credentials({"dockerhub": {"repository": "org/repo"}}))


def test_a_models_credentials_are_named_after_entry_and_key() -> None:
    credentials = Credentials({"AMD_GITHUB": {"username": "ann", "password": "x y", "ssh_key_file": "id"}})
    assert model_secrets(credentials, model("AMD_GITHUB")) == {
        "AMD_GITHUB_USERNAME": "ann",
        "AMD_GITHUB_PASSWORD": "x y",
        "AMD_GITHUB_SSH_KEY_FILE": "id",
    }
    assert model_secrets(credentials, model("")) == {}


def test_a_missing_model_credential_names_the_file_and_the_owner() -> None:
    with pytest.raises(ConfigurationError) as caught:
        model_secrets(Credentials(), model("AMD_GITHUB", "ann@example.com"))
    assert str(caught.value) == (
        "credential.json: no entry 'AMD_GITHUB', which model dummy needs; "
        "add it or ask the model's owner, ann@example.com"
    )
    with pytest.raises(ConfigurationError, match=r"which model dummy needs; add it$"):
        model_secrets(Credentials(), model("AMD_GITHUB"))


@pytest.mark.parametrize("key", ["a=b", "a b", "a\0", "\u00e9"])
def test_a_key_that_makes_no_variable_is_an_error(key: str) -> None:
    with pytest.raises(ConfigurationError, match="can't be part of a variable's name"):
        model_secrets(Credentials({"C": {key: "hunter2"}}), model("C"))


def test_no_secret_leaves_a_text_as_it_is() -> None:
    assert redact("performance: 1.5 samples/s", Credentials()) == "performance: 1.5 samples/s"
    assert secret_values(Credentials()) == ()


@pytest.mark.parametrize(
    "form",
    [
        PASSWORD,
        quote(PASSWORD),
        quote(PASSWORD, safe=""),
        quote_plus(PASSWORD),
        base64.b64encode(PASSWORD.encode()).decode(),
        base64.b64encode(f"{PASSWORD}\n".encode()).decode(),
        base64.urlsafe_b64encode(PASSWORD.encode()).decode().rstrip("="),
        base64.b64encode(f"ann:{PASSWORD}".encode()).decode(),
        json.dumps(PASSWORD)[1:-1],
        json.dumps(PASSWORD, ensure_ascii=False)[1:-1],
    ],
)
def test_a_secret_is_replaced_in_each_of_its_forms(form: str) -> None:
    credentials = entry(username="ann", password=PASSWORD)
    assert redact(f"<{form}> and {form}", credentials) == "<[redacted]> and [redacted]"
    assert form in secret_values(credentials)


@pytest.mark.parametrize(
    "key",
    [
        "username",
        "USERNAME",
        "repository",
        "url",
        "MINIO_ENDPOINT",
        "AWS_ENDPOINT_URL_S3",
        "HOST",
        "PORT",
        "ssh_key_file",
    ],
)
def test_what_is_no_secret_is_not_replaced(key: str) -> None:
    assert secret_values(entry(**{key: "a-plain-value"})) == ()


@pytest.mark.parametrize("key", ["password", "PASSWORD", "token", "key", "ssh_key", "secret", "anything"])
def test_every_other_key_is_a_secret(key: str) -> None:
    assert redact("see: a-secret-value", entry(**{key: "a-secret-value"})) == "see: [redacted]"


def test_a_password_inside_a_url_is_replaced_and_the_rest_stays() -> None:
    credentials = entry(url="https://ann:hunter2@git.example.com/x")
    assert redact("https://ann:hunter2@git.example.com/x", credentials) == "https://ann:[redacted]@git.example.com/x"


def test_short_values_are_left_so_that_figures_survive() -> None:
    assert redact("performance: 123", entry(password="123")) == "performance: 123"
    assert redact("x\nno\ntrue", entry(token="a\ntrue\nno")) == "x\nno\ntrue"


def test_the_longer_of_two_secrets_is_replaced_whole() -> None:
    credentials = entry(password="hunter", token="hunter2-long")
    assert redact("hunter2-long hunter", credentials) == "[redacted] [redacted]"


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.text("ab1%+/= \n'\"é", min_size=4), st.text("ab1%+/= \n'\"é"), st.text("ab1%+/= \n'\"é"))
def test_no_text_holds_a_secret_after_redaction(secret: str, before: str, after: str) -> None:
    value = secret.strip().ljust(4, "x")
    assert value not in redact(before + value + after, entry(password=value)).replace("[redacted]", "|")


def test_variables_named_after_an_entry_add_to_it_and_win(tmp_path: Path) -> None:
    (tmp_path / "credential.json").write_text('{"GIT": {"Username": "ann", "password": "from-file", "site": "a"}}')
    (tmp_path / "credential.json").chmod(0o600)
    (tmp_path / "token").write_text("from-a-file\n")
    environ = {"GIT_PASSWORD": "from-variable", "GIT_TOKEN_FILE": "token", "GIT_SITE": "b", "GIT_OTHER": "no"}
    credentials = load_credentials(tmp_path, environ, ["GIT", "NONE"])
    expected = {"Username": "ann", "password": "from-variable", "token": "from-a-file", "site": "b"}
    assert credentials.entries == {"GIT": expected}
    assert redact("from-variable from-a-file", credentials) == "[redacted] [redacted]"
    assert load_credentials(tmp_path, environ).entries["GIT"]["password"] == "from-file"


def test_a_secret_variable_may_name_a_file(tmp_path: Path) -> None:
    (tmp_path / "hf").write_text("hf-token\n")
    environ = {"MAD_SECRETS_HF_FILE": "hf", "MAD_SECRETS_A": "plain", "MAD_SECRETS_A_FILE": "unused"}
    assert load_credentials(tmp_path, environ).secrets == {"MAD_SECRETS_HF": "hf-token", "MAD_SECRETS_A": "plain"}
    with pytest.raises(ConfigurationError, match=r"MAD_SECRETS_B_FILE: .*none: no such file"):
        load_credentials(tmp_path, {"MAD_SECRETS_B_FILE": "none"})


@pytest.mark.parametrize("in_file", [False, True])
def test_endpoints_may_be_variables_in_place_of_the_files_entries(tmp_path: Path, in_file: bool) -> None:
    (tmp_path / "credential.json").write_text('{"NAS_NODES": [{"HOST": "old"}, {"HOST": "old too"}]}')
    (tmp_path / "credential.json").chmod(0o600)
    (tmp_path / "password").write_text("nas-password\n")
    text = '[{"HOST": "new", "PORT": 22, "PASSWORD_FILE": "password"}]'
    (tmp_path / "nodes").write_text(text)
    environ = {"NAS_NODES_FILE": "nodes"} if in_file else {"NAS_NODES": text}
    expected = {"NAS_NODES[0]": {"HOST": "new", "PORT": "22", "PASSWORD": "nas-password"}}
    assert load_credentials(tmp_path, environ).entries == expected


def test_an_endpoint_that_is_no_json_is_named_without_its_text(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load_credentials(tmp_path, {"MAD_MINIO": "{'PASSWORD': 'hunter2'"})
    assert str(caught.value) == "MAD_MINIO: not JSON; write it as the entry 'MAD_MINIO' of credential.json"


def test_the_entries_of_servers_may_be_in_lower_case_and_strays_are_named(tmp_path: Path) -> None:
    content = {"MAD_AWS_S3": {"username": "key", "Password": "secret-key"}, "NAS_NODES": [{"host": "n1", "colour": 1}]}
    (tmp_path / "credential.json").write_text(json.dumps(content))
    (tmp_path / "credential.json").chmod(0o600)
    credentials = load_credentials(tmp_path, {})
    assert credentials.entries["MAD_AWS_S3"] == {"USERNAME": "key", "PASSWORD": "secret-key"}
    assert credentials.entries["NAS_NODES[0]"]["HOST"] == "n1"
    assert credentials.warnings == ("credential.json: NAS_NODES[0]: unknown key 'COLOUR' ignored",)
