"""How much the results of a host differ without a reason."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import NamedTuple

from madengine.results.rows import Row

# Rows that agree in these columns are repeats of one another.
_REPEATED = ("image_digest", "docker_image", "git_commit", "environment_id")
# Fewer differences don't tell a spread.
_LEAST_FREEDOM = 3


class HostNoise(NamedTuple):
    """The standard deviation of a host's results in percent; None where they are too few."""

    machine_name: str
    n: int
    percent: float | None
    #: Whether it is that of repeats of one image, or else of all runs between two changes.
    is_of_repeats: bool


def noise_of_hosts(rows: Sequence[Row], stretches: Sequence[int] | None) -> list[HostNoise]:
    """Return the noise of each host: by its repeats, or where these are few by its runs between two changes.

    `stretches` has for each row the number of changes before it; None where that is unknown.
    """
    numbers = stretches or [0] * len(rows)
    hosts: dict[str, list[tuple[int, Row]]] = defaultdict(list)
    for number, row in zip(numbers, rows, strict=True):
        hosts[row.get("machine_name", "")].append((number, row))
    return [_host_noise(host, hosts[host], stretches is not None) for host in sorted(hosts)]


def _host_noise(host: str, rows: Sequence[tuple[int, Row]], knows_changes: bool) -> HostNoise:
    repeats = _grouped((number, *(row.get(column, "") for column in _REPEATED)) for number, row in rows)
    percent = _spread(rows, repeats)
    if percent is None and knows_changes:
        return HostNoise(host, len(rows), _spread(rows, _grouped(number for number, _ in rows)), False)
    return HostNoise(host, len(rows), percent, True)


def _grouped(keys: Iterable[Hashable]) -> Mapping[Hashable, list[int]]:
    groups: dict[Hashable, list[int]] = defaultdict(list)
    for place, key in enumerate(keys):
        groups[key].append(place)
    return groups


def _spread(rows: Sequence[tuple[int, Row]], groups: Mapping[Hashable, list[int]]) -> float | None:
    """The standard deviation within groups, in percent of their means."""
    squares, freedom = 0.0, 0
    for places in groups.values():
        values = [float(rows[place][1]["performance"]) for place in places]
        mean = math.fsum(values) / len(values)
        if len(values) > 1 and mean:
            squares += sum((value / mean - 1) ** 2 for value in values)
            freedom += len(values) - 1
    percent = 100 * math.sqrt(squares / freedom) if freedom >= _LEAST_FREEDOM else math.nan
    return percent if math.isfinite(percent) else None
