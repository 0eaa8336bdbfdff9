"""Templates and values -> text: `[[ value ]]`, `#% statement`, every value written so that YAML reads it back."""

from __future__ import annotations

import functools
import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from madengine.config.package import template
from madengine.errors import ConfigurationError

# What Ansible would look for variables in, also in a user's data.
_TEMPLATED = re.compile(r"\{[{%#]")
# Characters that YAML doesn't print, or folds into a blank, though JSON writes them as they are.
_ESCAPED = re.compile("[\x7f-\x9f\u2028\u2029\ud800-\udfff\ufeff\ufffe\uffff]")

# What some versions of YAML don't read as a string.
_WORDS = frozenset(("y", "n", "yes", "no", "on", "off", "true", "false", "null"))
_NAME = re.compile(r"[A-Za-z](?:[A-Za-z0-9_./@-]|:(?=[A-Za-z0-9]))*", re.ASCII)


class Block(str):
    """Lines of printable ASCII that a template's `NAME: [[ … ]]`, indented by two, writes as a literal block."""


def render(
    name: str,
    values: Mapping[str, Any],
    template_dir: Path | None = None,
    unsafe: bool = False,
    plain: bool = False,
) -> str:
    """Render a template, e.g. `ansible/playbook.yml`; the one of that name below `template_dir` comes first.

    `unsafe` marks strings that Ansible would render once more as `!unsafe`, which keeps them as they are; `plain`
    leaves out the quotes around a string that is a plain name.
    Raises ConfigurationError for a template that can't be read, has an error, or uses an undefined value.
    """
    from jinja2 import ChoiceLoader, Environment, FileSystemLoader, FunctionLoader, StrictUndefined, TemplateError

    if template_dir is not None and not template_dir.is_dir():
        raise ConfigurationError(f"--template-dir {template_dir}: no such folder; name one with {name} in it")
    site = [FileSystemLoader(template_dir)] if template_dir else []
    environment = Environment(
        loader=ChoiceLoader([*site, FunctionLoader(template)]),
        block_start_string="[%",
        block_end_string="%]",
        variable_start_string="[[",
        variable_end_string="]]",
        comment_start_string="[#",
        comment_end_string="#]",
        line_statement_prefix="#%",
        undefined=StrictUndefined,
        finalize=functools.partial(flow, unsafe=unsafe, plain=plain),
        keep_trailing_newline=True,
        trim_blocks=True,
    )
    try:
        return environment.get_template(name).render(values)
    except (TemplateError, OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(_problem(name, template_dir, error)) from error


def flow(value: Any, unsafe: bool = False, plain: bool = False) -> str:
    """Return a value as one line of YAML that is read back as that value; `unsafe` and `plain` as in `render`."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_key(key, plain)}: {flow(item, unsafe, plain)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(flow(item, unsafe, plain) for item in value) + "]"
    if isinstance(value, Block):
        return "|\n" + "\n".join(f"    {line}" if line else "" for line in value.splitlines())
    if isinstance(value, float):
        return _float(value)
    if value is None or isinstance(value, bool | int):
        return json.dumps(value)
    # str() of an undefined value is an error with its name.
    text = str(value)
    if plain and _is_name(text):
        return text
    return f"!unsafe {_quoted(text)}" if unsafe and _TEMPLATED.search(text) else _quoted(text)


def _is_name(text: str) -> bool:
    """Whether every version of YAML reads a string as itself without quotes."""
    return bool(_NAME.fullmatch(text)) and text.lower() not in _WORDS


def _key(key: Any, plain: bool = False) -> str:
    if plain and _is_name(str(key)):
        return str(key)
    # YAML requires this sign before a longer key.
    return f"? {_quoted(str(key))} " if len(str(key)) > 100 else _quoted(str(key))


def _quoted(text: str) -> str:
    return _ESCAPED.sub(lambda match: f"\\u{ord(match[0]):04x}", json.dumps(text, ensure_ascii=False))


def _float(value: float) -> str:
    if math.isnan(value):
        return ".nan"
    if math.isinf(value):
        return ".inf" if value > 0 else "-.inf"
    text = repr(value)
    # Without a point `1e+22` is a string to YAML.
    return text if "." in text else text.replace("e", ".0e")


def _problem(name: str, template_dir: Path | None, error: Exception) -> str:
    where = str(template_dir / name) if template_dir and (template_dir / name).is_file() else name
    line = getattr(error, "lineno", None)
    return f"{where}{f':{line}' if line else ''}: {' '.join(str(error).split())}"
