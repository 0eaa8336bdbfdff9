"""Names for series: as short as they can be without two of them being alike."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

_NAME_COLUMNS = ("model", "variant", "metric")

Key = Mapping[str, str]


def labels(keys: Sequence[Key]) -> list[str]:
    """Return for each key its model and variant, and what else tells it from others of the same metric."""
    groups: dict[tuple[str, ...], list[Key]] = defaultdict(list)
    for key in keys:
        groups[_name(key)].append(key)
    distinctive = {name: _distinctive_columns(group) for name, group in groups.items()}
    return [_label(key, distinctive[_name(key)]) for key in keys]


def _name(key: Key) -> tuple[str, ...]:
    return tuple(key.get(column, "") for column in _NAME_COLUMNS)


def _distinctive_columns(keys: Sequence[Key]) -> list[str]:
    columns = [column for column in keys[0] if column not in _NAME_COLUMNS]
    return [column for column in columns if len({key[column] for key in keys}) > 1]


def _label(key: Key, columns: Sequence[str]) -> str:
    return " ".join(filter(None, [*_name(key)[:2], *(f"{column}={key[column]}" for column in columns)]))
