"""The entries of a models.json <-> Model."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import MISSING
from pathlib import PurePosixPath
from typing import Any

from madengine.config.entry_keys import ENTRY_KEYS, FIELDS, GPU_ALIASES
from madengine.config.values import check_value, expected, place
from madengine.errors import ConfigurationError
from madengine.records import Model

_FIELD_NAMES = frozenset(field.name for field in FIELDS)
_ALWAYS = frozenset({"name", "dockerfile", "scripts", "args", "tags"})
_NO_CACHES = (PurePosixPath("/"), PurePosixPath("/myworkspace"))
_NUMBER = re.compile(r"-?[0-9]{1,9}")
_SECONDS_LIMIT = 10**9


def model_of(entry: Mapping[str, Any], where: str) -> Model:
    """Return the Model that an entry of a models.json describes.

    `where` says in errors which entry it is (`models.json: [3] (bert)`). A null is an absent key; a key unknown to
    madengine goes to `extra` as it is. `n_gpus` may be a number, and one of madengine 2's other names for it counts
    if it is absent; `tags`, `artifacts` and `caches` may be one comma-separated string.

    Raise ConfigurationError naming the entry, the key and its value.
    """
    if not isinstance(entry, Mapping):
        raise expected(where, "an object", entry)
    check_value(entry, where)
    for key in ENTRY_KEYS.keys() & entry.keys():
        ENTRY_KEYS[key].check(entry[key], place(where, key))
    values = {key: value for key, value in entry.items() if value is not None}
    return Model(
        name=_required(values, "name", where),
        dockerfile=_required(values, "dockerfile", where),
        scripts=_required(values, "scripts", where),
        n_gpus=_n_gpus(values, where),
        args=_text(values, "args", where),
        tags=_texts(values, "tags", where, '["llm", "inference"]'),
        owner=_text(values, "owner", where),
        training_precision=_text(values, "training_precision", where),
        url=_text(values, "url", where),
        dockercontext=_text(values, "dockercontext", where),
        data=_text(values, "data", where),
        cred=_text(values, "cred", where),
        timeout=_timeout(values, where),
        multiple_results=_text(values, "multiple_results", where),
        skip_gpu_arch=_text(values, "skip_gpu_arch", where),
        additional_docker_run_options=_text(values, "additional_docker_run_options", where),
        is_deprecated=_flag(values, "is_deprecated", where),
        artifacts=_texts(values, "artifacts", where, '["*.json", "out/**"]'),
        caches=_caches(values, where),
        extra={key: value for key, value in entry.items() if key not in _FIELD_NAMES},
    )


def entry_of(model: Model) -> dict[str, Any]:
    """Return the JSON form of a model: `model_of(entry_of(m), …) == m`, without optional fields at their defaults."""
    entry: dict[str, Any] = {}
    for field in FIELDS:
        value = getattr(model, field.name)
        if field.name in _ALWAYS or field.default is MISSING or value != field.default:
            entry[field.name] = list(value) if isinstance(value, tuple) else value
    return {**entry, **model.extra}


def _required(values: Mapping[str, Any], key: str, where: str) -> str:
    if key not in values:
        raise ConfigurationError(f"{where}: {key} is missing; every model needs name, dockerfile and scripts")
    value = _text(values, key, where)
    if not value.strip():
        raise expected(place(where, key), "a non-empty string", value)
    return value


def _text(values: Mapping[str, Any], key: str, where: str) -> str:
    value = values.get(key, "")
    if not isinstance(value, str):
        raise expected(place(where, key), "a string", value)
    return value


def _flag(values: Mapping[str, Any], key: str, where: str) -> bool:
    value = values.get(key, False)
    if not isinstance(value, bool):
        raise expected(place(where, key), "true or false", value)
    return value


def _n_gpus(values: Mapping[str, Any], where: str) -> str:
    key = next((name for name in ("n_gpus", *GPU_ALIASES) if name in values), "n_gpus")
    if key not in values:
        return ""
    value = values[key]
    is_number = isinstance(value, int) and not isinstance(value, bool) and abs(value) < 10**9
    text = value.strip() if isinstance(value, str) else str(value) if is_number else ""
    if not _NUMBER.fullmatch(text) or int(text) < -1:
        raise expected(place(where, key), "a whole number of GPUs, or -1 for all", value)
    return str(int(text))


def _timeout(values: Mapping[str, Any], where: str) -> int | None:
    value = values.get("timeout", -1)
    if isinstance(value, bool) or not isinstance(value, int) or not -1 <= value <= _SECONDS_LIMIT:
        raise expected(place(where, "timeout"), "a whole number of seconds, 0 for no limit", value)
    return None if value == -1 else value


def _caches(values: Mapping[str, Any], where: str) -> tuple[str, ...]:
    caches = _texts(values, "caches", where, '["/root/.cache/huggingface"]')
    for cache in caches:
        path = PurePosixPath("/myworkspace", cache)
        if ".." in path.parts or "\0" in cache or path in _NO_CACHES:
            raise expected(place(where, "caches"), "a folder of the container such as /root/.cache/huggingface", cache)
    return caches


def _texts(values: Mapping[str, Any], key: str, where: str, example: str) -> tuple[str, ...]:
    value = values.get(key, [])
    if isinstance(value, str):
        return tuple(text for text in map(str.strip, value.split(",")) if text)
    if not isinstance(value, (list, tuple)) or not all(isinstance(text, str) for text in value):
        raise expected(place(where, key), f"a list of strings such as {example}", value)
    return tuple(value)
