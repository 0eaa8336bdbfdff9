"""What else differs between the two sides of a comparison: images, code, machines, drivers."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from madengine.results.results_json import Run
from madengine.results.rows import Row

#: Columns that may explain a change.
COLUMNS_THAT_MAY_DIFFER = (
    "image_digest", "docker_image", "docker_file", "base_docker", "docker_sha", "git_commit", "environment_id",
    "machine_name", "engine", "deployment_type", "gpus_per_node", "gpus", "dataname", "data_provider_type", "data_size",
    "additional_docker_run_options",
    # Of one series these are the same, unless it is one of two manifests that run in turn.
    "args", "training_precision", "n_gpus", "nnodes", "launcher",
)  # fmt: skip

# What a machine's description has too, beside its id.
_IN_COLUMNS = ("machine_name", "engine")

Environments = Mapping[str, Mapping[str, frozenset[str]]]


class Difference(NamedTuple):
    """A column, or a value of the machine's description, and what each side has there; unknown values are empty."""

    column: str
    base: tuple[str, ...]
    new: tuple[str, ...]
    #: Of the new side, whose description has another value than any of the base; 0 where it is no such value.
    hosts: int = 0


def environments_of(runs: Iterable[Run]) -> Environments:
    """Return the descriptions of the machines in results.json by environment id, each value under a dotted name.

    What can't change a result, such as the clocks of an idle GPU, is left out.
    """
    environments = {}
    for run in runs:
        description = {name: value for name, value in run["environment"].items() if name not in _IN_COLUMNS}
        fields = description.pop("environment_id_fields", None)
        values: dict[str, set[str]] = defaultdict(set)
        for name, value in leaves("", description):
            if not isinstance(fields, list) or name in fields or name == "environment_id":
                values[name].add(value)
        identifier = "".join(values.pop("environment_id", ()))
        environments[identifier] = {name: frozenset(texts) for name, texts in values.items()}
    return environments


def differences(
    base: Sequence[Row], new: Sequence[Row], environments: Environments, without: Collection[str] = ()
) -> list[Difference]:
    """Return the columns in which the sides don't have the same values, then what differs of the machines.

    `without` are columns that are left out: those of the series, and the one that tells the sides apart.

    The machines are compared where the descriptions of all of them are known.
    """
    columns = [_values(column, base, new) for column in COLUMNS_THAT_MAY_DIFFER if column not in without]
    return [one for one in columns if one.base != one.new] + _of_machines(base, new, environments)


def _values(column: str, base: Sequence[Row], new: Sequence[Row]) -> Difference:
    before, after = (tuple(sorted({row.get(column, "") for row in side})) for side in (base, new))
    return Difference(column, before, after)


def _of_machines(base: Sequence[Row], new: Sequence[Row], environments: Environments) -> list[Difference]:
    sides = [{row.get("environment_id", "") for row in side} for side in (base, new)]
    if not (sides[0] | sides[1]).issubset(environments):
        return []
    names = sorted({name for side in sides for identifier in side for name in environments[identifier]})
    base_side, new_side = sides
    every = [
        Difference(name, _texts_of(name, base_side, environments), _texts_of(name, new_side, environments))
        for name in names
    ]
    return [one._replace(hosts=_hosts(one, new, environments)) for one in every if one.base != one.new]


def _hosts(difference: Difference, new: Sequence[Row], environments: Environments) -> int:
    return len(
        {
            row.get("machine_name", "")
            for row in new
            if not set(_texts_of(difference.column, [row.get("environment_id", "")], environments)).issubset(
                difference.base
            )
        }
    )


def _texts_of(name: str, identifiers: Iterable[str], environments: Environments) -> tuple[str, ...]:
    texts = (environments[identifier].get(name, frozenset({""})) for identifier in identifiers)
    return tuple(sorted(frozenset().union(*texts)))


def leaves(name: str, value: Any) -> Iterator[tuple[str, str]]:
    """Yield the single values of a JSON value, each with its dotted name; the items of a list share their name."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from leaves(f"{name}.{key}" if name else str(key), item)
    elif isinstance(value, list):
        for item in value:
            yield from leaves(name, item)
    else:
        yield name, "" if value is None else str(value)
