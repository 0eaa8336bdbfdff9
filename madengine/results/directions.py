"""Whether a lower or a higher value of a metric is better."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from madengine.errors import ConfigurationError
from madengine.results.compare_options import DirectionOptions
from madengine.results.results_json import Run
from madengine.results.series import shorten
from madengine.results.statistics import lower_is_better

LOWER, HIGHER = "lower", "higher"


class Directions:
    """Decides by the command line, else by the `better` of a model entry in results.json, else by the metric's name."""

    def __init__(self, options: DirectionOptions, runs: Iterable[Run]) -> None:
        self._by_metric = {
            **dict.fromkeys(options.lower_is_better, LOWER),
            **dict.fromkeys(options.higher_is_better, HIGHER),
        }
        self._by_model: dict[str, set[str]] = {}
        #: One line for each `better` that is neither.
        self.problems: list[str] = []
        for run in runs:
            for result in run["results"]:
                self._add(result)
        self.problems = list(dict.fromkeys(self.problems))

    def _add(self, result: Any) -> None:
        """Note the `better` of a result's model entry; what is broken in it was reported when it was read."""
        model = result.get("model") if isinstance(result, dict) else None
        if not isinstance(model, dict) or model.get("better") is None:
            return
        name, better = str(model.get("name")), model["better"]
        if better in (LOWER, HIGHER):
            for row_name in (name, *(f"{name}_{suffix}" for suffix in _suffixes(result.get("metrics")))):
                self._by_model.setdefault(row_name, set()).add(better)
        else:
            self.problems.append(f"{shorten(name)}: ignored: better: expected 'lower' or 'higher', got {better!r:.60}")

    def is_lower_better(self, model: str, metric: str) -> bool:
        """Return whether a lower value is better.

        Raises ConfigurationError where the model entries of the two sides contradict each other.
        """
        if metric in self._by_metric:
            return self._by_metric[metric] == LOWER
        entries = self._by_model.get(model, set())
        if len(entries) > 1:
            raise ConfigurationError(
                f"{model}: better is both lower and higher in its model entries; "
                f"name {metric or 'its metric'} with --lower-is-better or --higher-is-better"
            )
        return LOWER in entries if entries else lower_is_better(metric)

    def unused(self, metrics: Iterable[str]) -> list[str]:
        """Return the metrics of the command line that are none of these."""
        return sorted(set(self._by_metric).difference(metrics))


def _suffixes(metrics: Any) -> list[str]:
    """What the rows of several results have behind the model's name."""
    if not isinstance(metrics, list):
        return []
    return [str(metric["model"]) for metric in metrics if isinstance(metric, dict) and metric.get("model")]
