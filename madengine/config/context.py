"""Host facts and additional context become the Context of a build or a run."""

from __future__ import annotations

import ast
import copy
import difflib
import json
import re
import shutil
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from madengine.errors import ConfigurationError

GPU_VENDORS = ("AMD", "NVIDIA", "NONE")
HEADER_MARK = "# CONTEXT "
HEADER_LINES = 5

_OBJECTS = ("docker_env_vars", "docker_build_arg", "docker_mounts", "data", "multi_node_args")
_LISTS = ("tools", "pre_scripts", "post_scripts")
_TEXTS = (
    "gpu_vendor",
    "guest_os",
    "docker_gpus",
    "docker_cpus",
    "encapsulate_script",
    "model_args",
    "MAD_CONTAINER_IMAGE",
    "SHM_SIZE",
)
# What else is read: by a run, or by the CONTEXT header of Dockerfiles.
_OTHERS = (
    *("artifacts", "log_error_patterns", "log_error_benign_patterns", "log_error_pattern_scan", "rocenv_mode"),
    *("gen_sys_env_details", "generate_sys_env_details", "ctx_test", "host_os"),
)
# What madengine 2 read for deployments of its own.
UNSUPPORTED_KEYS = (
    *("distributed", "slurm", "k8s", "kubernetes", "vllm", "launcher", "shared_data", "skip_perf_collection"),
    *("monitor", "cleanup_on_failure", "env_vars", "MAD_ROCM_PATH"),
)
_CASELESS = ("gpu_vendor", "guest_os")
_PACKAGE_MANAGERS = {"apt": "HOST_UBUNTU", "yum": "HOST_CENTOS", "zypper": "HOST_SLES", "tdnf": "HOST_AZURE"}
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_NUMBERS = re.compile(r"\d{1,9}(-\d{1,9})?", re.ASCII)
_DEEPEST = 50
# what older madengine writes into a manifest on a machine without a GPU
_UNDETECTED = "UNABLE TO DETECT GPU VENDOR"


@dataclass(frozen=True)
class Context:
    """What is known and wanted for a build or a run; `values` holds every key, known to madengine or not."""

    values: Mapping[str, Any] = field(default_factory=dict)

    @property
    def gpu_vendor(self) -> str:
        """AMD, NVIDIA or NONE; empty where it is not given."""
        vendor = self._text("gpu_vendor").strip().upper()
        return "" if vendor == _UNDETECTED else vendor

    @property
    def guest_os(self) -> str:
        """The image's operating system in upper case, such as UBUNTU; empty where it is not given."""
        return self._text("guest_os").strip().upper()

    @property
    def docker_env_vars(self) -> dict[str, str]:
        """Environment variables of the container."""
        return {name: _as_text(value) for name, value in self.values.get("docker_env_vars", {}).items()}

    @property
    def docker_build_arg(self) -> dict[str, str]:
        """Build arguments of the image."""
        return {name: _as_text(value) for name, value in self.values.get("docker_build_arg", {}).items()}

    @property
    def docker_mounts(self) -> dict[str, str]:
        """Host paths by the container path they appear at."""
        return dict(self.values.get("docker_mounts", {}))

    @property
    def model_args(self) -> str | None:
        """Arguments that replace those of every model; None keeps the models' own."""
        given = self.values.get("model_args")
        return None if given is None else str(given)

    @property
    def docker_cpus(self) -> str:
        """CPUs of the container as a list with ranges, such as 0-7,16; empty is all."""
        return self._text("docker_cpus")

    @property
    def docker_gpus(self) -> str:
        """GPUs to choose from as a list with ranges, such as 0,2-4; empty is all."""
        return self._text("docker_gpus")

    @property
    def container_image(self) -> str:
        """The image to run in place of a built one (key MAD_CONTAINER_IMAGE); empty for none."""
        return self._text("MAD_CONTAINER_IMAGE")

    @property
    def multi_node_args(self) -> dict[str, Any]:
        """How a model's processes are started on this node, and on how many nodes."""
        return dict(self.values.get("multi_node_args", {}))

    @property
    def shm_size(self) -> str:
        """The size of the container's shared memory (key SHM_SIZE), such as 16g; empty where it is not given."""
        return self._text("SHM_SIZE").strip()

    @property
    def describes_environment(self) -> bool | None:
        """Whether runs describe what they find in their container; None where the context doesn't say."""
        for key in ("gen_sys_env_details", "generate_sys_env_details"):
            if key in self.values:
                return str(self.values[key]).strip().lower() in ("1", "true", "yes", "on")
        return None

    @property
    def ignored_keys(self) -> tuple[str, ...]:
        """The given keys of madengine 2 that a run on one machine does not act on."""
        return tuple(key for key in UNSUPPORTED_KEYS if self.values.get(key))

    @property
    def mistyped(self) -> tuple[tuple[str, str], ...]:
        """The keys that nobody here reads though they look like one that is read, each with that one."""
        known = (*_OBJECTS, *_LISTS, *_TEXTS, *UNSUPPORTED_KEYS, *_OTHERS)
        strange = [key for key in self.values if key not in known]
        found = ((key, difflib.get_close_matches(key, known, n=1, cutoff=0.8)) for key in strange)
        return tuple((key, close[0]) for key, close in found if close)

    @property
    def header(self) -> dict[str, Any]:
        """What CONTEXT headers are compared with: all values, gpu_vendor and guest_os in upper case or absent."""
        caseless = {"gpu_vendor": self.gpu_vendor, "guest_os": self.guest_os}
        others = {key: value for key, value in self.values.items() if key not in caseless}
        return {**others, **{key: value for key, value in caseless.items() if value}}

    def _text(self, key: str) -> str:
        return str(self.values.get(key) or "")


def load_context(
    detected: Mapping[str, Any], manifest: Mapping[str, Any], file: Path | None, text: str | None
) -> Context:
    """Merge what was detected, the manifest's context, the context file and the command line's; the later wins.

    Raises ConfigurationError, naming the source and the key, for a layer that can't be read or has a wrong type.
    """
    layers: dict[str, Mapping[str, Any]] = {
        "detected context": _plain(detected, "detected context"),
        "the manifest's context": _plain(manifest, "the manifest's context"),
    }
    if file is not None:
        layers[str(file)] = parse(_contents(file), str(file))
    if text:
        layers["--additional-context"] = parse(text, "--additional-context")
    for where, layer in layers.items():
        _check(layer, where)
    return Context(merge(*layers.values()))


def merge(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """Merge layers into a new dict: objects key by key, everything else replaced by the later layer's value."""
    merged: dict[str, Any] = {}
    for layer in layers:
        for key, value in layer.items():
            below = merged.get(key)
            if isinstance(value, Mapping):
                merged[key] = merge(below, value) if isinstance(below, Mapping) else merge(value)
            else:
                merged[key] = copy.deepcopy(value)
    return merged


def parse(text: str, where: str) -> dict[str, Any]:
    """Read an object written as JSON or as a Python literal; `where` names its source in errors.

    Raises ConfigurationError, with the position, where it is neither.
    """
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as json_error:
        try:
            value = _literal(text)
        except _LITERAL_ERRORS as literal_error:
            raise ConfigurationError(_neither(text, where, json_error, literal_error)) from None
    if not isinstance(value, dict):
        raise ConfigurationError(f"{where}: {_kind(value)}, expected an object such as {{'docker_env_vars': {{}}}}")
    plain: dict[str, Any] = _plain(value, where)
    return plain


def host_facts(environ: Mapping[str, str]) -> dict[str, Any]:
    """Ask this machine what a CONTEXT header may name: host_os, numa_balancing, and ctx_test if ./ctx_test exists."""
    facts: dict[str, Any] = {"host_os": _host_os(environ), "numa_balancing": _numa_balancing()}
    if Path("ctx_test").is_file():
        facts["ctx_test"] = _contents(Path("ctx_test")).strip()
    return facts


def parse_header(text: str, where: str) -> dict[str, Any] | None:
    """Read the CONTEXT header out of a Dockerfile's text: the first such line of its first five; None without one.

    Raises ConfigurationError, naming `where` and the line, for a header that is no literal dict.
    """
    for number, line in enumerate(text.split("\n")[:HEADER_LINES], start=1):
        if HEADER_MARK in line:
            return _header(line.replace(HEADER_MARK, "").strip(), f"{where}:{number}")
    return None


def matches(header: Mapping[str, Any], context: Context) -> bool:
    """Whether every key of the header that the context has too has the context's value."""
    return not _differing(header, context)


def mismatch(header: Mapping[str, Any], context: Context) -> str:
    """Say why a header does not match, as in "gpu_vendor is 'AMD', the context says 'NVIDIA'"; empty if it does."""
    said = context.header
    return "; ".join(f"{key} is {header[key]!r}, the context says {said[key]!r}" for key in _differing(header, context))


def ranges(text: str) -> list[range]:
    """The numbers of a list with ranges, such as `0,2-4,7`; none of an empty one. Raises ValueError for others."""
    parts = [part.strip() for part in text.split(",")] if text.strip() else []
    for part in parts:
        if not _NUMBERS.fullmatch(part):
            raise ValueError(f"{part!r} is neither a number nor a range")
    ends = (part.partition("-") for part in parts)
    return [range(int(first), int(last or first) + 1) for first, _, last in ends]


def _differing(header: Mapping[str, Any], context: Context) -> list[str]:
    said = context.header
    return [key for key in header if key in said and _comparable(key, header[key]) != said[key]]


def _comparable(key: str, value: Any) -> Any:
    return value.strip().upper() if key in _CASELESS and isinstance(value, str) else value


def _header(text: str, where: str) -> dict[str, Any]:
    try:
        value = _literal(text)
    except _LITERAL_ERRORS:
        value = None
    if not isinstance(value, dict):
        raise ConfigurationError(
            f"{where}: the CONTEXT header {_shortened(text)} is no dict of literals; "
            "write it as # CONTEXT {'gpu_vendor': 'AMD', 'guest_os': 'UBUNTU'}"
        )
    plain: dict[str, Any] = _plain(value, where)
    return plain


_LITERAL_ERRORS = (ValueError, SyntaxError, TypeError, MemoryError, RecursionError)


def _literal(text: str) -> Any:
    with warnings.catch_warnings():
        # an odd backslash in the user's text is no concern of the terminal
        warnings.simplefilter("ignore")
        return ast.literal_eval(text.strip())


def _neither(text: str, where: str, json_error: Exception, literal_error: BaseException) -> str:
    """Say where the reading stopped: the position of the reader that came further."""
    if not text.strip():
        return f"{where}: empty, expected an object"
    line, column, problem = 1, 1, "nested too deeply" if isinstance(json_error, RecursionError) else str(json_error)
    if isinstance(json_error, json.JSONDecodeError):
        line, column, problem = json_error.lineno, json_error.colno, json_error.msg[:1].lower() + json_error.msg[1:]
    if isinstance(literal_error, SyntaxError):
        skipped = text[: len(text) - len(text.lstrip())].count("\n")
        position = (skipped + (literal_error.lineno or 0), literal_error.offset or 0)
        if position > (line, column):
            (line, column), problem = position, str(literal_error.msg)
    shown = _shortened(text) + " is " if where.startswith("--") else ""
    return f"{where}: {shown}neither JSON nor a Python literal: line {line} column {column}: {problem}"


def _plain(value: Any, where: str, path: tuple[str, ...] = ()) -> Any:
    """The value in JSON's types (a tuple becomes a list); refuse what a manifest could not hold."""
    if len(path) > _DEEPEST:
        raise ConfigurationError(f"{where}: nested more than {_DEEPEST} levels deep")
    if isinstance(value, Mapping):
        return {_key(key, where, path): _plain(item, where, (*path, str(key))) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, where, (*path, str(index))) for index, item in enumerate(value)]
    if isinstance(value, str) and not _passable(value):
        raise ConfigurationError(f"{_at(where, path)}: holds a null character or half a Unicode character; remove it")
    if value is None or isinstance(value, str | bool | int) or (isinstance(value, float) and abs(value) < float("inf")):
        return value
    raise ConfigurationError(f"{_at(where, path)}: {_kind(value)}, expected what JSON can hold")


def _key(key: Any, where: str, path: tuple[str, ...]) -> str:
    if isinstance(key, str) and _passable(key):
        return key
    raise ConfigurationError(f"{_at(where, path)}: the key {key!r} is no text; put it in quotes")


def _passable(text: str) -> bool:
    """Whether the text can become an argument or a variable of a program."""
    try:
        text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return False
    return "\0" not in text


def _check(layer: Mapping[str, Any], where: str) -> None:
    for key in _OBJECTS:
        _check_object(layer, key, where)
    for key in _LISTS:
        if not isinstance(layer.get(key), list | tuple | None):
            raise ConfigurationError(f"{where}: {key}: {_shown(layer[key])}, expected a list")
    for key in _TEXTS:
        if not isinstance(layer.get(key), str | None):
            raise ConfigurationError(f"{where}: {key}: {_shown(layer[key])}, expected text in quotes")
    _check_vendor(Context(layer), where)
    _check_gpus(Context(layer).docker_gpus, where)


def _check_vendor(context: Context, where: str) -> None:
    vendor = context.gpu_vendor
    if vendor == "INTEL":
        raise ConfigurationError(f"{where}: gpu_vendor: Intel GPUs are not supported; use {', '.join(GPU_VENDORS)}")
    if vendor and vendor not in GPU_VENDORS:
        raise ConfigurationError(
            f"{where}: gpu_vendor: {_shown(context.values['gpu_vendor'])}, expected one of {', '.join(GPU_VENDORS)}"
        )


def _check_gpus(listed: str, where: str) -> None:
    try:
        ranges(listed)
    except ValueError:
        raise ConfigurationError(
            f"{where}: docker_gpus: {_shown(listed)}, expected numbers and ranges, such as '0,2-4,7'"
        ) from None


def _check_object(layer: Mapping[str, Any], key: str, where: str) -> None:
    section = layer.get(key, {})
    if not isinstance(section, Mapping):
        raise ConfigurationError(f"{where}: {key}: {_kind(section)}, expected an object")
    for name, value in section.items():
        if key == "docker_mounts":
            _check_mount(name, value, where)
        elif key != "data":
            _check_variable(name, value, f"{where}: {key}.{name}")


def _check_variable(name: str, value: Any, where: str) -> None:
    if not _VARIABLE.fullmatch(name):
        raise ConfigurationError(f"{where}: {name!r} is no variable name; use letters, digits and _")
    if not isinstance(value, str | bool | int | float):
        # the kind, not the value: a token may be in it
        raise ConfigurationError(f"{where}: {_kind(value)}, expected text, a number or true/false")


def _check_mount(container: str, host: Any, where: str) -> None:
    if not container.startswith("/"):
        raise ConfigurationError(
            f"{where}: docker_mounts.{container}: {container!r} is no absolute path in the container; "
            "write {'/container/path': '/host/path'}"
        )
    if not isinstance(host, str) or not host:
        raise ConfigurationError(f"{where}: docker_mounts.{container}: {_shown(host)}, expected a path on the host")


def _as_text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _shown(value: Any) -> str:
    return _shortened(value) if isinstance(value, str | int | float) else _kind(value)


def _shortened(value: str | float) -> str:
    """The start of a value: enough to recognise it, too little to carry a token into a log."""
    text = repr(value)
    return text if len(text) <= 40 else text[:30] + "…" + text[0]


def _kind(value: Any) -> str:
    kinds = ((Mapping, "an object"), (list | tuple, "a list"), (str, "text"), (bool, "true/false"))
    if value is None:
        return "null"
    named = next((name for kind, name in kinds if isinstance(value, kind)), None)
    return named or ("a number" if isinstance(value, int | float) else f"a Python {type(value).__name__}")


def _at(where: str, path: tuple[str, ...]) -> str:
    return f"{where}: {'.'.join(path)}" if path else where


def _contents(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ConfigurationError(f"{file}: can't be read: {(error.strerror or str(error)).lower()}") from error
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{file}: byte {error.start} is not UTF-8; save it as UTF-8") from error


def _host_os(environ: Mapping[str, str]) -> str:
    found = (name for name in _PACKAGE_MANAGERS if shutil.which(name, path=environ.get("PATH", "")))
    return _PACKAGE_MANAGERS.get(next(found, ""), "Unable to detect Host OS")


def _numa_balancing() -> str | bool:
    try:
        return Path("/proc/sys/kernel/numa_balancing").read_text(encoding="ascii").strip()
    except OSError:
        return False
