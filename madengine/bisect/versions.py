"""The versions between good and bad."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from madengine.bisect.options import BisectOptions
from madengine.bisect.state import Version
from madengine.build.source_code import ModelCode
from madengine.data_sets.fetch import Client
from madengine.errors import ConfigurationError
from madengine.process import private_folder
from madengine.programs import git
from madengine.records import Model
from madengine.session import Session
from madengine.tools.discover_models import DiscoverModels


def selected_model(session: Session, tags: Sequence[str], ignore_deprecated: bool) -> Model:
    """Return the model; raise ConfigurationError where the tags select several."""
    models = DiscoverModels(session.root).select(tags, ignore_deprecated)
    if len(models) != 1:
        names = ", ".join(sorted(model.name for model in models)[:5])
        raise ConfigurationError(f"bisect: expected one model, got {len(models)} ({names}); name it with --tags")
    return models[0]


def versions_between(session: Session, model: Model, options: BisectOptions) -> tuple[Version, ...]:
    """Return the versions from good to bad: of the list of values, or the commits of the model's main line.

    Raises ConfigurationError where a name is no version, or bad does not come after good.
    """
    if options.values:
        first, last = options.values.index(options.good), options.values.index(options.bad)
        return tuple(Version(value) for value in options.values[first : last + 1])
    if not model.url:
        raise ConfigurationError(f"bisect: {model.name} has no url; name a --build-arg and its --values")
    with private_folder() as folder:
        code = ModelCode(folder, session.root, session.credentials({model.cred}), Client())
        return _commits(code, model, options)


def _commits(code: ModelCode, model: Model, options: BisectOptions) -> tuple[Version, ...]:
    clone = code.history(model)
    good, bad = (_commit(clone, name, model) for name in (options.good, options.bad))
    line = git.main_line(clone, good, bad)
    if not line:
        raise ConfigurationError(
            f"{model.url}: {options.bad} does not come after {options.good}; bisect from an ancestor to a later commit"
        )
    return (Version(good, git.subject_of(clone, good)), *(Version(*one) for one in line))


def _commit(clone: Path, name: str, model: Model) -> str:
    commit = git.commit_of(clone, name)
    if not commit:
        raise ConfigurationError(f"{model.url}: no commit, tag or branch {name} in its default branch")
    return commit
