"""Two manifests that run in turn: what differs between them, and the verdict on what they measured."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

from madengine import programs
from madengine.config.models_json import entry_of
from madengine.errors import EXIT_WORSE, ConfigurationError
from madengine.records import Image, Model
from madengine.results.compare_options import CompareOptions, VerdictOptions
from madengine.results.comparison import Comparison, compare_sides
from madengine.results.differences import Difference, leaves
from madengine.results.results_json import Run
from madengine.results.rows import Row
from madengine.results.series import Sides, shorten

logger = logging.getLogger(__name__)

BASE, NEW = "base", "new"

#: Everything else may be what is compared; a model with several images or arguments is a series for each.
_COLUMNS = ("model", "variant", "metric")
_COLUMNS_OF_SEVERAL = (*_COLUMNS, "docker_file", "args")
_SECRET = re.compile(r"(key|token|secret|password|passwd)$|(^|[_.])(secrets?|cred|auth|pass)([_.]|$)", re.IGNORECASE)

Runnable = tuple[Model, Image]


class Pair(NamedTuple):
    """A model of both manifests."""

    base: Runnable
    new: Runnable

    @property
    def name(self) -> str:
        return self.new[0].name


@dataclass(frozen=True)
class InTurn:
    """A base manifest and a new one, whose models run in turn."""

    #: What the two are called.
    names: tuple[str, str]
    pairs: Sequence[Pair]
    #: What differs, for each pair.
    differences: Sequence[Sequence[Difference]]

    @classmethod
    def of(
        cls,
        names: tuple[str, str],
        runnable: tuple[Sequence[Runnable], Sequence[Runnable]],
        contexts: tuple[Mapping[str, Any], Mapping[str, Any]],
    ) -> InTurn:
        """Match the models of both sides. Raises ConfigurationError if they have none in common."""
        pairs = pairs_of_models(*runnable)
        if not pairs:
            raise ConfigurationError(
                f"--against {names[0]}: none of its models is in {names[1]} too with an image that can run"
            )
        return cls(names, pairs, [manifest_differences(pair, *contexts) for pair in pairs])

    def lines(self, seed: int | None) -> Iterator[str]:
        """Yield how they are run, and every difference, as lines for a person."""
        yield f"base: {self.names[0]}; new: {self.names[1]}; in random order, which --seed {seed} repeats"
        for pair, differences in zip(self.pairs, self.differences, strict=True):
            if not differences:
                yield f"{pair.name}: nothing differs: base and new are the same"
            for one in differences:
                yield f"{pair.name}: {one.column}: {_joined(one.base)} -> {_joined(one.new)}"

    def comparison(self, rows: Sequence[Row], runs: Sequence[Run], options: VerdictOptions) -> Comparison:
        """Compare the rows of both sides, paired by their repeats."""
        base, new = ([row for row in rows if row.get("side") == side] for side in (BASE, NEW))
        verdict = {one.name: getattr(options, one.name) for one in fields(VerdictOptions)}
        return compare_sides(
            Sides(self.names, (base, new), runs, (), columns=_columns(rows)),
            CompareOptions(sources=self.names, paired=True, **verdict),
            self._of_model,
        )

    def _of_model(self, row_model: str) -> Sequence[Difference]:
        """What differs for a model, by its name in rows; of several pairs of that name, what differs in all."""
        name = _model_name(row_model, [pair.name for pair in self.pairs])
        every = [one for pair, one in zip(self.pairs, self.differences, strict=True) if pair.name == name]
        return [one for one in every[0] if all(one in other for other in every)] if every else ()


def verdict_code(comparison: Comparison, code: int) -> int:
    """Return the exit code of runs that ended with `code`, and of the verdict on them: 5 counts more than a failure."""
    for problem in comparison.problems:
        logger.warning(problem)
    verdict = comparison.exit_code()
    return verdict if verdict == EXIT_WORSE else code or verdict


def pairs_of_models(base: Sequence[Runnable], new: Sequence[Runnable]) -> list[Pair]:
    """Return the models that both sides have: by the image's key, else by a name that only one of each side has."""
    partners = {image.key: (model, image) for model, image in base}
    pairs = []
    for model, image in new:
        others = [one for one in base if one[0].name == model.name]
        is_only = len(others) == 1 and sum(one.name == model.name for one, _ in new) == 1
        same_key = partners.get(image.key)
        if same_key and same_key[0].name == model.name:
            pairs.append(Pair(same_key, (model, image)))
        elif is_only:
            pairs.append(Pair(others[0], (model, image)))
    return pairs


def manifest_differences(
    pair: Pair, base_context: Mapping[str, Any], new_context: Mapping[str, Any]
) -> list[Difference]:
    """Return in what the manifests differ for a model: its image, its model entry, and the context.

    Values that may be secret are not in it, only that they differ.
    """
    sides = [
        {**_image_values(image), **_entry_values(model), **_context_values(context)}
        for (model, image), context in ((pair.base, base_context), (pair.new, new_context))
    ]
    names = dict.fromkeys(name for side in sides for name in side)
    return [
        _difference(name, *(side.get(name, ()) for side in sides))
        for name in names
        if sides[0].get(name) != sides[1].get(name)
    ]


def _columns(rows: Sequence[Row]) -> Sequence[str]:
    kinds = {(row.get("side"), row.get("model"), row.get("docker_file"), row.get("args")) for row in rows}
    models = {kind[:2] for kind in kinds}
    return _COLUMNS if len(kinds) == len(models) else _COLUMNS_OF_SEVERAL


def _model_name(row_model: str, names: Sequence[str]) -> str:
    """The model of a row; one of several results has its own name as a suffix."""
    matches = [name for name in names if row_model == name or row_model.startswith(f"{name}_")]
    return max(matches, key=len, default=row_model)


def _image_values(image: Image) -> dict[str, tuple[str, ...]]:
    values = {
        "image_digest": image.registry_digest or image.image_id,
        "docker_image": image.registry_image or image.docker_image,
        "docker_file": image.dockerfile,
        "base_docker": image.base_docker,
        "docker_sha": image.docker_sha,
        "git_commit": image.git_commit,
    }
    return {name: (value,) for name, value in values.items() if value}


def _entry_values(model: Model) -> dict[str, tuple[str, ...]]:
    # The Dockerfile that was built is the image's.
    return _grouped({name: value for name, value in entry_of(model).items() if name != "dockerfile"}, "")


def _context_values(context: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    return _grouped(dict(context), "context")


def _grouped(value: Any, prefix: str) -> dict[str, tuple[str, ...]]:
    values: dict[str, tuple[str, ...]] = {}
    for name, text in leaves(prefix, value):
        values[name] = (*values.get(name, ()), text)
    return values


def _difference(name: str, base: Sequence[str], new: Sequence[str]) -> Difference:
    """A difference to be printed; a value whose name is that of a secret is left out."""
    if _SECRET.search(name):
        base, new = ["(hidden)"] if base else [], ["(another)" if base else "(hidden)"] if new else []
    return Difference(name, tuple(map(programs.redact, base)), tuple(map(programs.redact, new)))


def _joined(values: Sequence[str]) -> str:
    return shorten(", ".join(values)) or "none"
