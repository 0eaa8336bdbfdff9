"""Whatever a package's or a user's file holds, its reader accepts it or raises one line, and never hangs."""

from __future__ import annotations

import json
import os
import socket
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from madengine.config.context import Context, load_context, parse_header
from madengine.config.credentials import load_credentials, model_secrets
from madengine.config.hooks import hook_definitions, resolve_hooks, tool_catalogue
from madengine.config.ignored_keys import log_ignored_keys
from madengine.config.manifest import load_manifest
from madengine.config.validation import validated_hooks
from madengine.data_sets.data_file import data_sets
from madengine.errors import ConfigurationError, MadengineError
from madengine.files import SIZE_LIMIT
from madengine.records import Model
from madengine.tools.discover_models import DiscoverModels
from tests.strategies import altered


def read_context(path: Path) -> None:
    context = load_context({}, {}, path, None)
    log_ignored_keys(context, ())
    validated_hooks(context, (), {})
    json.dumps(context.for_manifest, allow_nan=False).encode()
    _read_all(context)


def _read_all(context: Context) -> None:
    for name, attribute in vars(Context).items():
        if isinstance(attribute, property):
            getattr(context, name)


def read_manifest(path: Path) -> None:
    manifest = load_manifest(path)
    context = load_context({}, manifest.context, None, None)
    models = list(manifest.models.values())
    log_ignored_keys(context, models)
    validated_hooks(context, models, manifest.extra.get("tools") or {})
    for image in manifest.images:
        os.fsencode(f"{image.reference} {image.vendor}")


def read_models(path: Path) -> None:
    for model in DiscoverModels(path.parent).models():
        os.fsencode(f"{model.name} {model.args} {model.time_limit()}")
        log_ignored_keys(Context(), [model])


def read_credentials(path: Path) -> None:
    credentials = load_credentials(path.parent, {})
    for name in credentials.entries:
        secrets = model_secrets(credentials, Model("m", "d", "s", cred=name))
        os.fsencode("".join(secrets.values()))


def read_tools(path: Path) -> None:
    tools = hook_definitions(path, None)
    for name in tools:
        resolve_hooks(Context({"tools": [name]}), tool_catalogue(tools))


def read_data(path: Path) -> None:
    data_sets(path)


#: by the file's name: its reader, and a valid content
READERS: dict[str, tuple[Callable[[Path], None], Any]] = {
    "context.json": (read_context, {"docker_env_vars": {"A": "b"}, "multi_node_args": {"NNODES": 2}}),
    "build_manifest.json": (
        read_manifest,
        {
            "built_images": {"k": {"docker_image": "k", "build_duration": 3, "size_bytes": 4}},
            "built_models": {"k": {"name": "m", "dockerfile": "d", "scripts": "s", "timeout": 9}},
            "context": {"docker_gpus": "0-3", "tools": ["mine"]},
            "tools": {"mine": {"cmd": "time"}},
        },
    ),
    "models.json": (read_models, [{"name": "m", "dockerfile": "d", "scripts": "s", "n_gpus": "1", "tags": ["t"]}]),
    "credential.json": (read_credentials, {"GIT": {"username": "u", "password": "p"}, "NAS_NODES": [{"PORT": 22}]}),
    "tools.json": (read_tools, {"tools": {"mine": {"cmd": "time", "pre_scripts": [{"path": "a", "args": "b"}]}}}),
    "data.json": (read_data, {"set": {"local": {"path": "/data", "home": "/x"}}}),
}


@pytest.fixture(params=READERS)
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return tmp_path / str(request.param)


def read(path: Path) -> None:
    READERS[path.name][0](path)


def refusal(path: Path) -> str:
    with pytest.raises(MadengineError) as caught:
        read(path)
    return checked(caught.value)


def checked(error: MadengineError) -> str:
    """Return an error's message, which is a line for a terminal."""
    message = str(error)
    assert not {unicodedata.category(char) for char in message} & {"Cc", "Cs", "Zl", "Zp"}, repr(message)
    return message


def test_each_valid_file_is_read(path: Path) -> None:
    path.write_text(json.dumps(READERS[path.name][1]))
    read(path)


# --- what is no file ---


def fifo(path: Path) -> None:
    os.mkfifo(path)


def directory(path: Path) -> None:
    path.mkdir()


def device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def unix_socket(path: Path) -> None:
    here = Path.cwd()
    os.chdir(path.parent)  # a socket's path is short
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path.name)
    os.chdir(here)


def dangling_link(path: Path) -> None:
    path.symlink_to("nowhere")


def link_to_itself(path: Path) -> None:
    path.symlink_to(path.name)


def too_large(path: Path) -> None:
    path.touch()
    os.truncate(path, SIZE_LIMIT + 1)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (fifo, "is a FIFO, expected a file"),
        (directory, "is a directory"),
        (device, "is a device, expected a file"),
        (unix_socket, "is a socket, expected a file"),
        (dangling_link, "a link to a missing file"),
        (link_to_itself, "too many levels of symbolic links"),
        (too_large, "it is larger than 67.1MB"),
    ],
)
def test_what_is_no_file_or_too_large_is_one_line(path: Path, make: Callable[[Path], None], reason: str) -> None:
    make(path)
    assert refusal(path).startswith(f"{path}: ")
    assert reason in refusal(path)


# --- what is no JSON that we could use ---


@pytest.mark.parametrize(
    "text",
    [
        "[" * 200_000,
        '{"a":' * 200_000,
        '{"a":' * 800 + "1" + "}" * 800,
        "[" * 51 + "]" * 51,
        '{"a": NaN}',
        '{"a": -Infinity}',
        '{"a": 1e999}',
        '{"a": %s}' % ("9" * 5000),
        "9" * 5000,
        '"\\ud800"',
        "\x00",
        "\xff" * 100,
        "{}}",
        "",
        "\ufeff",
    ],
    ids=range(15),
)
def test_json_that_can_not_be_used_is_one_line(path: Path, text: str) -> None:
    path.write_text(text)
    assert len(refusal(path)) < len(str(path)) + 150


def test_bytes_that_are_no_text_are_one_line(path: Path) -> None:
    path.write_bytes(b'{"a": "\xff"}')
    assert refusal(path) == f"{path}: byte 7 is not UTF-8; save the file as UTF-8"


BAD_TEXTS = ["\0", "a\0b", "\ud800", "a\udfffb"]
ODD: list[Any] = [
    *BAD_TEXTS,
    *(None, True, 0, -1, 10**299, -(10**299), 1e308, 0.1, "", " ", "\n", "\x1b[31m", "x" * 5000, "\u202e", "é" * 300),
    *([], {}, [[]], {"": ""}, {"x" * 5000: 1}, {"\0": 1}, {"\ud800": 1}, {"a\nb": "c"}, [None], ["\0"], [1] * 1000),
    *("../../etc/passwd", "--privileged", "9" * 5000, "$(id)", "'", '"', "\\", "0-999999999", "a" * 300_000),
]


def everywhere(value: Any, odd: Any) -> Iterator[Any]:
    """The value with the odd one in each place once, as a value and as a key."""
    yield odd
    if isinstance(value, dict):
        for key, item in value.items():
            if isinstance(odd, str):
                yield {**value, odd: item}
            for changed in everywhere(item, odd):
                yield {**value, key: changed}
    elif isinstance(value, list):
        yield [*value, odd]
        for index, item in enumerate(value):
            for changed in everywhere(item, odd):
                yield [*value[:index], changed, *value[index + 1 :]]


@pytest.mark.parametrize("index", range(len(ODD)))
def test_an_odd_value_in_any_place_is_read_or_one_line(path: Path, index: int) -> None:
    odd = ODD[index]
    for content in everywhere(READERS[path.name][1], odd):
        path.write_text(json.dumps(content))
        try:
            read(path)
        except MadengineError as error:
            message = checked(error).replace(str(path), "")
            assert "x" * 61 not in message
            assert "a" * 61 not in message
            assert "9" * 61 not in message
            assert len(message) < 600, message


@pytest.mark.parametrize("text", BAD_TEXTS)
@pytest.mark.parametrize("place", ["name", "dockerfile", "scripts", "tags", "args", "url", "owner", "unknown"])
def test_a_model_that_no_program_can_be_passed_is_refused(tmp_path: Path, place: str, text: str) -> None:
    entry = {"name": "m", "dockerfile": "d", "scripts": "s", place: [text] if place == "tags" else text}
    (tmp_path / "models.json").write_text(json.dumps([entry]))
    assert "contains a null character or a lone surrogate; remove it" in refusal(tmp_path / "models.json")


# --- anything at all ---

patient = settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@pytest.mark.parametrize("name", READERS)
@given(data=st.data())
@patient
def test_an_altered_file_is_read_or_one_line(
    tmp_path_factory: pytest.TempPathFactory, name: str, data: st.DataObject
) -> None:
    path = tmp_path_factory.getbasetemp() / "altered" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(data.draw(altered(READERS[name][1]))))
    path.chmod(0o600)
    try:
        read(path)
    except MadengineError as error:
        checked(error)
    finally:
        path.unlink()


@pytest.mark.parametrize("name", READERS)
@given(content=st.binary(max_size=40) | st.text("[]{}\":,'0e9-.\\tun \n\0", max_size=40).map(str.encode))
@patient
def test_any_bytes_are_read_or_one_line(tmp_path_factory: pytest.TempPathFactory, name: str, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "bytes" / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    path.chmod(0o600)
    try:
        read(path)
    except MadengineError as error:
        checked(error)
    finally:
        path.unlink()


@given(text=st.text(st.characters(), max_size=60) | st.text("[](){}:,'\"0_xej+-*#\\\n buf", max_size=60))
@patient
def test_any_context_of_the_command_line_is_read_or_one_line(text: str) -> None:
    try:
        _read_all(load_context({}, {}, None, text))
    except ConfigurationError as error:
        checked(error)


@given(text=st.text(st.characters(), max_size=60) | st.text("[](){}:,'\"0_xej+-*#\\ ", max_size=60))
@patient
def test_any_header_is_read_or_one_line(text: str) -> None:
    try:
        parse_header(f"# CONTEXT {text}\nFROM x\n", "d.Dockerfile")
    except ConfigurationError as error:
        checked(error)
