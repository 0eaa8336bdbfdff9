"""The entries ("cards") of a models.json <-> Model."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Any, NoReturn

from madengine.errors import ConfigurationError
from madengine.records import Model

# What madengine 2 also reads for n_gpus, in its order.
GPU_ALIASES = ("gpus_per_node", "gpu_count", "num_gpus", "ngpus")

_FIELDS = tuple(field for field in fields(Model) if field.name != "extra")
_KNOWN = frozenset(field.name for field in _FIELDS)
_ALWAYS = frozenset({"name", "dockerfile", "scripts", "args", "tags"})
_NUMBER = re.compile(r"-?[0-9]{1,9}")
_SHOWN_CHARACTERS = 60


def model_of(card: Mapping[str, Any], where: str) -> Model:
    """The Model that an entry of a models.json describes.

    `where` says in errors which entry it is (`models.json: [3] (bert)`). A null is an absent key; a key
    that madengine does not know goes to `extra` as it is. `n_gpus` may be a number, and one of madengine
    2's other names for it stands in where it is absent; `tags` and `artifacts` may be one comma-separated text.

    Raises ConfigurationError naming the entry, the key and its value.
    """
    if not isinstance(card, Mapping):
        _refuse(where, "", card, "a model is a JSON object")
    given = {key: value for key, value in card.items() if value is not None}
    return Model(
        name=_required(given, "name", where),
        dockerfile=_required(given, "dockerfile", where),
        scripts=_required(given, "scripts", where),
        n_gpus=_n_gpus(given, where),
        args=_text(given, "args", where),
        tags=_texts(given, "tags", where, '["llm", "inference"]'),
        owner=_text(given, "owner", where),
        training_precision=_text(given, "training_precision", where),
        url=_text(given, "url", where),
        dockercontext=_text(given, "dockercontext", where),
        data=_text(given, "data", where),
        cred=_text(given, "cred", where),
        timeout=_timeout(given, where),
        multiple_results=_text(given, "multiple_results", where),
        skip_gpu_arch=_text(given, "skip_gpu_arch", where),
        additional_docker_run_options=_text(given, "additional_docker_run_options", where),
        is_deprecated=_flag(given, "is_deprecated", where),
        artifacts=_texts(given, "artifacts", where, '["*.json", "out/**"]'),
        extra={key: value for key, value in card.items() if key not in _KNOWN},
    )


def entry_of(model: Model) -> dict[str, Any]:
    """The JSON form of a model: `model(card(m), …) == m`. Optional fields at their defaults are left out."""
    written: dict[str, Any] = {}
    for field in _FIELDS:
        value = getattr(model, field.name)
        if field.name in _ALWAYS or field.default is MISSING or value != field.default:
            written[field.name] = list(value) if isinstance(value, tuple) else value
    return {**written, **model.extra}


def _required(given: Mapping[str, Any], key: str, where: str) -> str:
    if key not in given:
        raise ConfigurationError(f"{where}: {key} is missing; every model needs name, dockerfile and scripts")
    value = _text(given, key, where)
    if not value.strip():
        _refuse(where, key, value, "it can't be empty")
    return value


def _text(given: Mapping[str, Any], key: str, where: str) -> str:
    value = given.get(key, "")
    if not isinstance(value, str):
        _refuse(where, key, value, "it is a text")
    return value


def _flag(given: Mapping[str, Any], key: str, where: str) -> bool:
    value = given.get(key, False)
    if not isinstance(value, bool):
        _refuse(where, key, value, "it is true or false")
    return value


def _n_gpus(given: Mapping[str, Any], where: str) -> str:
    key = next((name for name in ("n_gpus", *GPU_ALIASES) if name in given), "n_gpus")
    if key not in given:
        return ""
    value = given[key]
    text = value.strip() if isinstance(value, str) else str(value)
    whole = isinstance(value, (str, int)) and _NUMBER.fullmatch(text)
    if isinstance(value, bool) or not whole or int(text) < -1:
        _refuse(where, key, value, "it is a whole number of GPUs, or -1 for all")
    return str(int(text))


def _timeout(given: Mapping[str, Any], where: str) -> int | None:
    value = given.get("timeout", -1)
    if isinstance(value, bool) or not isinstance(value, int) or value < -1:
        _refuse(where, "timeout", value, "it is a whole number of seconds, 0 for no limit")
    return None if value == -1 else value


def _texts(given: Mapping[str, Any], key: str, where: str, example: str) -> tuple[str, ...]:
    value = given.get(key, [])
    if isinstance(value, str):
        return tuple(one for one in map(str.strip, value.split(",")) if one)
    if not isinstance(value, (list, tuple)) or not all(isinstance(one, str) for one in value):
        _refuse(where, key, value, f"it is a list of texts, like {example}")
    return tuple(value)


def _refuse(where: str, key: str, value: Any, expected: str) -> NoReturn:
    shown = json.dumps(value, ensure_ascii=True, default=repr)
    if len(shown) > _SHOWN_CHARACTERS:
        shown = shown[:_SHOWN_CHARACTERS] + "…"
    raise ConfigurationError(f"{where}: {key + ': ' if key else ''}{shown} is wrong: {expected}")
