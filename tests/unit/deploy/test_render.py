from __future__ import annotations

import string
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from madengine.deploy.render import flow, render
from madengine.errors import ConfigurationError

# What no file can hold is half a character; everything else may turn up in a name.
TEXTS = st.one_of(
    st.text(),
    st.text(alphabet="{}%#[]'\"\\\n\t :!&*-,é\x7f\x85\u2028\U0001f600" + string.ascii_letters),
    st.sampled_from(
        ["no", "2", "1e3", "null", "~", "it's: {odd}", "{{ x }}", "{% if %}", "{#", "a\r\nb", " - x", "=", "<<"]
    ),
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=12,
)


class Marked(str):
    """A text that the YAML marks as `!unsafe`."""


class _Loader(yaml.SafeLoader):
    """PyYAML as Ansible has it."""


_Loader.add_constructor("!unsafe", lambda loader, node: Marked(node.value))


def template(folder: Path, text: str) -> Path:
    (folder / "ansible").mkdir(exist_ok=True)
    (folder / "ansible/x.yml").write_text(text, encoding="utf-8")
    return folder


def texts(value: Any) -> list[str]:
    """The texts in a value, without the keys of its mappings."""
    if isinstance(value, dict):
        return [text for item in value.values() for text in texts(item)]
    if isinstance(value, list):
        return [text for item in value for text in texts(item)]
    return [value] if isinstance(value, str) else []


@given(VALUES)
def test_yaml_reads_every_value_back_as_it_was(value: Any) -> None:
    written = flow(value)
    assert "\n" not in written
    assert yaml.safe_load(f"key: {written}") == {"key": value}


@given(VALUES)
def test_what_ansible_would_fill_in_is_marked_and_nothing_else(value: Any) -> None:
    read = yaml.load(f"key: {flow(value, unsafe=True)}", _Loader)["key"]
    assert read == value
    for text in texts(read):
        assert isinstance(text, Marked) == any(opening in text for opening in ("{{", "{%", "{#"))


def test_infinity_and_what_is_no_number_are_yaml() -> None:
    assert yaml.safe_load(f"[{flow(float('inf'))}, {flow(float('-inf'))}]") == [float("inf"), float("-inf")]
    assert flow(float("nan")) == ".nan"


def test_a_template_has_values_and_statements_and_leaves_ansibles_own_alone(tmp_path: Path) -> None:
    text = "#% for name in names\n- [[ name ]]\n#% endfor\n# {{ theirs }} {% raw %} {# none #}\n"
    rendered = render("ansible/x.yml", {"names": ["a", "it's: {odd}"]}, template(tmp_path, text))
    assert rendered == '- "a"\n- "it\'s: {odd}"\n# {{ theirs }} {% raw %} {# none #}\n'


def test_the_bundled_template_stands_in_for_one_that_the_folder_does_not_have(tmp_path: Path) -> None:
    values = {"registry": "reg.example.com"}
    bundled = render("ansible/gpu_inventory.example", values)
    assert 'registry_url="reg.example.com"' in bundled
    assert render("ansible/gpu_inventory.example", values, template(tmp_path, "other")) == bundled


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("a: [[ images ]]\n", "x.yml: 'images' is undefined"),
        ("a: 1\n#% for x in\nb: 2\n", "x.yml:2: "),
        ("a: [[ values.nope ]]\n", "x.yml: 'dict object' has no attribute 'nope'"),
    ],
)
def test_an_error_in_a_template_is_one_line_with_its_place(tmp_path: Path, text: str, complaint: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        render("ansible/x.yml", {"values": {}}, template(tmp_path, text))
    assert str(raised.value).startswith(f"{tmp_path}/ansible/{complaint}")
    assert "\n" not in str(raised.value)


def test_a_folder_of_templates_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=f"^--template-dir {tmp_path}/gone: no such folder; "):
        render("ansible/playbook.yml", {}, tmp_path / "gone")


def test_a_template_that_nobody_has_is_named() -> None:
    with pytest.raises(ConfigurationError, match=r"^ansible/nope\.yml: "):
        render("ansible/nope.yml", {})
