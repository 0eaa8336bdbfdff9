"""models.json files and tags -> Models: what a package holds, and what the tags select."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import shlex
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from posixpath import normpath
from typing import Any, NoReturn

from madengine.config.models_json import entry_of, model_of
from madengine.config.package import package_root
from madengine.errors import EXIT_CONFIGURATION, EXIT_DONE, ConfigurationError, DiscoveryError, MadengineError
from madengine.files import read_json
from madengine.records import Model
from madengine.tools.custom_models import custom_entries

FORMATS = ("table", "json", "names", "words")


@dataclass
class CustomModel:
    """What the `list_models()` of a get_models_json.py returns; a subclass may add fields, as keys of the entry."""

    name: str
    dockerfile: str = ""
    dockercontext: str = ""
    scripts: str = ""
    url: str = ""
    cred: str = ""
    owner: str = ""
    data: str = ""
    n_gpus: str = "-1"
    timeout: int = 7200
    training_precision: str = ""
    tags: list[str] = field(default_factory=list)
    args: str = ""
    multiple_results: str = ""
    skip_gpu_arch: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return the model as a models.json entry."""
        return dataclasses.asdict(self)

    def update_model(self) -> None:
        """Set what takes work to find out: a hook that is called once, after discovery; name and tags stay."""


class DiscoverModels:
    """The models of the package at `root`, read once, at first use."""

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()

    def models(self) -> tuple[Model, ...]:
        """Return every model of the package, sorted by name.

        Raises DiscoveryError (a file that can't be read or run, a duplicate name) or ConfigurationError
        (a wrong entry), with the file and the line or key.
        """
        return self._models

    def select(self, tags: Sequence[str], ignore_deprecated: bool = False) -> tuple[Model, ...]:
        """Return the models that the tags select, sorted by name, each name and arguments once; no tags are all.

        A tag is a model's name, one of its tags or `all`; `dir/…` selects among the models of scripts/dir.
        `:key=value` and `:flag` after it append ` --key value` and ` --flag` to the model's args. Unlike
        in older madengine a value keeps its own `=`, and is quoted as args are split with shlex.

        Raises DiscoveryError where a tag selects nothing, or nothing but deprecated models (without
        `ignore_deprecated`), ConfigurationError where what follows a `:` is no option.
        """
        if not self._models:
            raise DiscoveryError(f"{_shown(self.root)}: the package lists no models; add one to its models.json")
        models: dict[tuple[str, str], Model] = {}
        for tag in tags or ("all",):
            matches = self._matches(tag.strip())
            current = [model for model in matches if ignore_deprecated or not model.is_deprecated]
            if not current:
                raise DiscoveryError(
                    f"{tag!r} selects only deprecated models ({_some(model.name for model in matches)});"
                    " --ignore-deprecated includes them"
                )
            for model in current:
                models.setdefault((model.name, model.args), model)
        return tuple(sorted(models.values(), key=lambda model: model.name))

    @cached_property
    def _models(self) -> tuple[Model, ...]:
        places: dict[str, str] = {}
        models = []
        for where, model in _located_models(self.root):
            if model.name in places:
                raise DiscoveryError(f"{where} and {places[model.name]} have the same name; rename one")
            places[model.name] = where
            models.append(model)
        return tuple(sorted(models, key=lambda model: model.name))

    @cached_property
    def _index(self) -> dict[str, list[Model]]:
        index: dict[str, list[Model]] = {}
        for model in self._models:
            words = ("all", *model.tags)
            scope, slash, _ = model.name.partition("/")
            scoped = [f"{scope}/{word}" for word in words] if slash else []
            for key in {model.name, *words, *scoped}:
                index.setdefault(key, []).append(model)
        return index

    def _matches(self, tag: str) -> list[Model]:
        if tag in self._index:
            return self._index[tag]
        pieces = [piece for piece in map(str.strip, tag.split(":")) if piece]
        if not pieces or pieces[0] not in self._index:
            raise DiscoveryError(f"no model has the name or tag {tag!r}; {self._closest(pieces)}")
        args = "".join(_option(piece, tag) for piece in pieces[1:])
        return [replace(model, args=model.args + args) for model in self._index[pieces[0]]]

    def _closest(self, pieces: Sequence[str]) -> str:
        from difflib import get_close_matches

        # The documents of older madengine write `dir:model` for `dir/model`.
        path = "/".join(pieces[:2])
        words = [path] if path in self._index else get_close_matches(pieces[0] if pieces else "", self._index)
        if words:
            return f"did you mean {', '.join(map(_printable, words))}?"
        return f"known: {_some(sorted(self._index))}"


def report(models: Sequence[Model], format: str) -> str:
    """Return the models as a `table`, as `json` (a models.json) or as `names`, one a line; no final newline."""
    if format == "json":
        return json.dumps([entry_of(model) for model in models], indent=2)
    if format == "words":
        words = (word for model in models for word in (model.name, *model.tags))
        return "\n".join(dict.fromkeys(map(_printable, words)))
    if format == "names":
        return "\n".join(_printable(model.name) for model in models)
    rows = [["name", "n_gpus", "tags", "args", "dockerfile"]]
    for model in models:
        cells = (model.name, model.n_gpus, ",".join(model.tags), model.args.strip(), model.dockerfile)
        rows.append([_printable(cell) for cell in cells])
    # Without tabulate, which takes twice as long for ten thousand models.
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


def split_tags(words: Sequence[str] | None) -> tuple[str, ...]:
    """Return the tags in the words of `--tags`, each of which may hold several separated by commas.

    Raises ConfigurationError for words without a tag: that would mean all models.
    """
    tags = tuple(tag for word in words or () for tag in map(str.strip, word.split(",")) if tag)
    if words and not tags:
        raise ConfigurationError("--tags is empty; name a tag, or leave --tags out for all models")
    return tags


def main(argv: Sequence[str] | None = None) -> int:
    """Print the models that the tags select, and return the exit code."""
    options = _parser().parse_args(argv)
    try:
        root, message = package_root(os.environ, Path.cwd())
        if message:
            sys.stderr.write(f"madengine: {message}\n")
        models = DiscoverModels(root).select(split_tags(options.tags), options.ignore_deprecated)
        _write(report(models, options.format) + "\n")
    except MadengineError as error:
        sys.stderr.write(f"madengine: {error}\n")
        return error.exit_code
    return EXIT_DONE


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(EXIT_CONFIGURATION, f"{self.prog}: {message}; --help lists the options\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="discover_models", description="List the models of a package.", allow_abbrev=False)
    parser.add_argument("--tags", nargs="+", action="extend", metavar="TAG", help="names or tags (default: all models)")
    parser.add_argument("--format", choices=FORMATS, default="table", help="how to print them (default: table)")
    parser.add_argument("--ignore-deprecated", action="store_true", help="list deprecated models too")
    return parser


def _write(text: str) -> None:
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader (`| head`) has closed the pipe; without this the interpreter complains at its own flush.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _located_models(root: Path) -> Iterator[tuple[str, Model]]:
    """Yield each model with the location of its entry."""
    listing = root / "models.json"
    directories = sorted({path.parent for path in _directory_files(root)})
    if not os.path.lexists(listing) and not directories:
        raise DiscoveryError(f"{_shown(root)}: no models.json there or in scripts/*; `madengine init` writes one")
    if os.path.lexists(listing):
        yield from _models(_shown(listing), _json_list(listing))
    for directory in directories:
        for where, model in _directory_models(directory, root):
            yield where, _prefixed(model, directory.name)


def _directory_files(root: Path) -> Iterator[Path]:
    for name in ("models.json", "get_models_json.py"):
        yield from (root / "scripts").glob(f"*/{name}")


def _directory_models(directory: Path, root: Path) -> Iterator[tuple[str, Model]]:
    listing, program = directory / "models.json", directory / "get_models_json.py"
    if os.path.lexists(listing) and os.path.lexists(program):
        raise DiscoveryError(f"{_shown(directory)} has both models.json and get_models_json.py; remove one of them")
    if os.path.lexists(listing):
        return _models(_shown(listing), _json_list(listing))
    return _models(_shown(program), custom_entries(program, root, _shown(program)))


def _models(file: str, entries: Iterable[Any]) -> Iterator[tuple[str, Model]]:
    for position, entry in enumerate(entries):
        name = entry.get("name") if isinstance(entry, dict) else None
        where = f"{file}: [{position}]" + (f" ({_printable(name)})" if isinstance(name, str) else "")
        yield where, model_of(entry, where)


def _prefixed(model: Model, directory: str) -> Model:
    return replace(
        model,
        name=f"{directory}/{model.name}",
        dockerfile=normpath(f"scripts/{directory}/{model.dockerfile}"),
        scripts=normpath(f"scripts/{directory}/{model.scripts}"),
    )


def _json_list(path: Path) -> list[Any]:
    shown = _shown(path)
    value = read_json(Path(shown), DiscoveryError)
    if not isinstance(value, list):
        kind = "an object" if isinstance(value, dict) else json.dumps(value)[:60]
        raise DiscoveryError(f"{shown}: expected a list of models, got {kind}; put [ ] around the models")
    return value


def _option(piece: str, tag: str) -> str:
    """Return ` --key value` for `key=value`, ` --flag` for `flag`."""
    key, equals, value = (part.strip() for part in piece.partition("="))
    # Mostly a value with a colon in it (`url=http://…`), which would arrive in pieces.
    if not key.isascii() or not key[:1].isalpha() or not key.replace("-", "_").replace(".", "_").isidentifier():
        raise ConfigurationError(f"{tag!r}: invalid option {piece!r}; write NAME:KEY=VALUE:FLAG, without : in a value")
    return f" --{key} {shlex.quote(value)}" if equals else f" --{key}"


def _shown(path: Path) -> str:
    """Return the path as the user would type it from here."""
    path, here = path.absolute(), Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)


def _printable(text: str) -> str:
    """Return the text in one line and without control characters or lone surrogates."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def _some(names: Iterable[str]) -> str:
    first = [_printable(name) for name in names]
    return ", ".join(first[:5]) + (f" and {len(first) - 5} more" if len(first) > 5 else "")


if __name__ == "__main__":
    # Under its own name: a get_models_json.py must import the CustomModel class that is checked for here.
    from madengine.tools import discover_models

    sys.exit(discover_models.main())
