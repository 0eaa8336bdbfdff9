"""Which run of the new side belongs to which run of the base."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from madengine.results.rows import Row

#: Columns that say which runs belong together, the strongest first.
PAIR_COLUMNS = ("pair", "repeat")


def pairs_of(base: Sequence[Row], new: Sequence[Row]) -> list[tuple[Row, Row]]:
    """Return the pairs of rows with the same `pair`, else the same `repeat`, else the same place in their order.

    On several hosts these count per host, if both sides have the same hosts. A row without a partner is in no pair.
    """
    hosts = [{row.get("machine_name", "") for row in side} for side in (base, new)]
    host_column = ("machine_name",) if hosts[0] == hosts[1] else ()
    for column in PAIR_COLUMNS:
        keys = [_keys(side, (column, *host_column)) for side in (base, new)]
        if all(_tell_apart(side, column, key) for side, key in zip((base, new), keys, strict=True)):
            break
    else:
        keys = [_places(side, host_column) for side in (base, new)]
    partners = dict(zip(keys[1], new, strict=True))
    return [(row, partners[key]) for key, row in zip(keys[0], base, strict=True) if key in partners]


def _keys(rows: Sequence[Row], columns: Sequence[str]) -> list[tuple[str, ...]]:
    return [tuple(row.get(column, "") for column in columns) for row in rows]


def _tell_apart(rows: Sequence[Row], column: str, keys: Sequence[tuple[str, ...]]) -> bool:
    return all(row.get(column) for row in rows) and len(set(keys)) == len(keys)


def _places(rows: Sequence[Row], columns: Sequence[str]) -> list[tuple[str, ...]]:
    """Each row's number among those of its host."""
    numbers: Counter[tuple[str, ...]] = Counter()
    places = []
    for key in _keys(rows, columns):
        numbers[key] += 1
        places.append((str(numbers[key]), *key))
    return places
