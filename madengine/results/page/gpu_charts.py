"""The samples of a run's GPUs, few enough for a chart."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import zip_longest
from typing import Any

#: The charts of a run: the column of gpu_series.csv, its title and unit.
QUANTITIES = (
    ("memory_used_mib", "Memory", "MiB"),
    ("power_w", "Power", "W"),
    ("utilization_percent", "Utilization", "%"),
    ("temperature_c", "Temperature", "°C"),
)
# Of each GPU in a chart, and of all GPUs of a run.
_MOST_POINTS = 500
_MOST_LINES = 2_400
_MOST_GPUS = 64


def chart_data(text: str) -> dict[str, Any] | None:
    """Return the series of each GPU, with times in seconds from the first sample on; None without a sample.

    Of a long series every n-th sample is taken (`every`); lines that are no samples are left out.
    """
    header, *lines = text.splitlines() or [""]
    columns = {name: number for number, name in enumerate(header.split(","))}
    if not {"time", "gpu"} <= columns.keys():
        return None
    count = len({line.split(",", 2)[1] for line in lines[: 8 * _MOST_GPUS] if line.count(",") > 1}) or 1
    every = max(1, -(-len(lines) // max(count, min(_MOST_LINES, _MOST_POINTS * count))))
    columns_of = _columns([line.split(",") for line in _thinned(lines, count, every)], columns)
    places = _places(columns_of)
    if not places:
        return None
    times = columns_of["time"]
    first = min(times[places_of_gpu[0]] for places_of_gpu in places.values())
    shown = []
    for gpu, numbers in places.items():
        quantities = {name: [columns_of[name][number] for number in numbers] for name, _, _ in QUANTITIES}
        shown.append({"gpu": gpu[:20], "t": [round(times[number] - first, 2) for number in numbers], **quantities})
    marks = columns_of["throttled"]
    throttled = {
        round(times[number] - first, 2) for numbers in places.values() for number in numbers if marks[number] == 1
    }
    return {"every": every, "gpus": shown, "throttled": _spans(shown[0]["t"], throttled)}


def _columns(lines: Sequence[Sequence[str]], places: Mapping[str, int]) -> dict[str, Sequence[Any]]:
    """Return the GPUs as text, and every other column as numbers."""
    width = max(map(len, lines), default=0)
    cells = list(zip_longest(*lines, fillvalue="")) or [()] * width
    nothing = [""] * len(lines)
    names = ("time", *(name for name, _, _ in QUANTITIES), "throttled")
    columns = {name: cells[places[name]] if places.get(name, width) < width else nothing for name in (*names, "gpu")}
    return {**{name: _numbers(columns[name]) for name in names}, "gpu": columns["gpu"]}


def _places(columns: Mapping[str, Sequence[Any]]) -> dict[str, list[int]]:
    """Return for each GPU the numbers of its lines, in order."""
    places: dict[str, list[int]] = {}
    for number, (gpu, time) in enumerate(zip(columns["gpu"], columns["time"], strict=True)):
        if time is not None and gpu and (gpu in places or len(places) < _MOST_GPUS):
            places.setdefault(gpu, []).append(number)
    return places


def _thinned(lines: Sequence[str], count: int, every: int) -> Iterator[str]:
    """Yield every n-th sample of all GPUs; their lines follow one another."""
    if every == 1:
        yield from lines
    for start in range(0, len(lines) if every > 1 else 0, count * every):
        yield from lines[start : start + count]


def _spans(times: Iterable[float], throttled: set[float]) -> list[list[float]]:
    """Return from when to when some GPU was throttled."""
    spans: list[list[float]] = []
    is_open = False
    for time in sorted({*times, *throttled}):
        if time in throttled and not is_open:
            spans.append([time, time])
        elif is_open or time in throttled:
            spans[-1][1] = time
        is_open = time in throttled
    return spans


def _numbers(cells: Sequence[str]) -> list[float | None]:
    """Return cells as numbers; None for an empty one, and for what is none."""
    try:
        values = list(map(float, cells))
    except ValueError:
        return [_number(cell) for cell in cells]
    return [*values] if all(map(_is_plausible, values)) else [_number(cell) for cell in cells]


def _number(cell: str) -> float | None:
    try:
        value = float(cell)
    except ValueError:
        return None
    return value if _is_plausible(value) else None


def _is_plausible(value: float) -> bool:
    return -1e15 < value < 1e15
