"""The `k8s` objects of the context and of model entries, of madengine 2, as values of this version's options."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from madengine.config.context import Context
from madengine.config.context_keys import is_off
from madengine.config.option import changed
from madengine.config.validation import refuse_unsupported
from madengine.config.values import expected, shown
from madengine.deploy.kubernetes.options import Options
from madengine.errors import ConfigurationError
from madengine.records import Model

SECTIONS = ("k8s", "kubernetes")


def with_section(values: Mapping[str, Any], context: Context) -> dict[str, Any]:
    """Return the values of a command line over those of the context's `k8s` object.

    Raises ConfigurationError for a key or a value that this version can't honour.
    """
    refuse_unsupported(context.here)
    if is_off(context.values.get("monitor")):
        raise ConfigurationError(
            "context: monitor: false is unsupported on Kubernetes: `madengine generate k8s` and `kubectl apply` start "
            "Jobs, `madengine collect --kubernetes` brings their rows"
        )
    settings = _settings(_section(context.values, "context"), "context")
    settings.pop(_GPUS, None)
    return {**values, **settings, **{name: values[name] for name in changed((Options,), values)}}


def with_entry(options: Options, model: Model) -> Options:
    """Return the options of a model's Job: those of the run, over those of its entry's `k8s` object.

    Raises ConfigurationError for a key or a value that this version can't honour.
    """
    section = _section(model.extra, model.name)
    if strays := [key for key in section if key in _OF_RUN]:
        raise ConfigurationError(f"{model.name}: k8s.{strays[0]} is one for all Jobs; set it in the context")
    settings = _settings(section, model.name)
    settings.pop(_GPUS, None)
    of_run = changed((Options,), vars(options))
    try:
        return replace(options, **{name: value for name, value in settings.items() if name not in of_run})
    except ConfigurationError as error:
        raise ConfigurationError(f"{model.name}: k8s: {error}") from None


def asks_for_own(model: Model) -> bool:
    """Whether a model's entry asks for something of its own on Kubernetes."""
    return bool(_section(model.extra, model.name))


def with_entry_gpus(model: Model) -> Model:
    """Return a model with its entry's `k8s.gpu_count` as its number of GPUs."""
    count = _settings(_section(model.extra, model.name), model.name).get(_GPUS)
    return model if count is None else replace(model, n_gpus=str(count))


def _section(values: Mapping[str, Any], where: str) -> Mapping[str, Any]:
    section: Any = next((values[key] for key in SECTIONS if values.get(key)), {})
    if not isinstance(section, Mapping):
        raise expected(f"{where}: k8s", "an object", section)
    return section


def _settings(section: Mapping[str, Any], where: str) -> dict[str, Any]:
    settings: dict[str, Any] = {}
    for key, value in section.items():
        if value is None or key.startswith("_"):
            continue
        place = f"{where}: k8s.{key}"
        if key in _OPTIONS:
            name, parse = _OPTIONS[key]
            settings[name] = parse(value, place)
        elif value not in _NEUTRAL.get(key, ()):
            raise ConfigurationError(f"{place}: {shown(value)} is unsupported; expected some of {', '.join(_OPTIONS)}")
    return settings


def _text(value: Any, where: str) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise expected(where, "a string or a number", value)
    return str(value)


def _count(value: Any, where: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise expected(where, "a whole number", value)
    return value


def _flag(value: Any, where: str) -> bool:
    if not isinstance(value, bool):
        raise expected(where, "true or false", value)
    return value


def _labels(value: Any, where: str) -> tuple[str, ...]:
    if not isinstance(value, Mapping):
        raise expected(where, "an object of labels", value)
    return tuple(f"{key}={_text(item, where)}" for key, item in value.items())


def _tolerations(value: Any, where: str) -> tuple[str, ...]:
    """Return Kubernetes' own objects as `--toleration` has them."""
    if not isinstance(value, list) or not all(isinstance(item, Mapping) and item.get("key") for item in value):
        raise expected(where, "a list of tolerations with a key", value)
    return tuple(_toleration(item) for item in value)


def _toleration(item: Mapping[str, Any]) -> str:
    value, effect = item.get("value"), item.get("effect")
    return f"{item['key']}{f'={value}' if value else ''}{f':{effect}' if effect else ''}"


def _pull_secrets(value: Any, where: str) -> tuple[str, ...]:
    names = value.get("image_pull_secret_names") or [] if isinstance(value, Mapping) else None
    others = set(value) - {"image_pull_secret_names", "strategy"} if isinstance(value, Mapping) else set()
    if not isinstance(names, list) or others or value.get("strategy") not in (None, "existing", "omit"):
        raise expected(where, "image_pull_secret_names, with the strategy 'existing' or 'omit'", value)
    return tuple(_text(name, where) for name in names)


# In place of model entries' n_gpus; of the context's object, the context itself knows it.
_GPUS = "gpu_count"
_OPTIONS: Mapping[str, tuple[str, Callable[[Any, str], Any]]] = {
    "namespace": ("namespace", _text),
    "gpu_resource_name": ("gpu_resource", _text),
    "cpu": ("cpu", _text),
    "cpu_limit": ("cpu_limit", _text),
    "memory": ("memory", _text),
    # Request and limit are the same here, so that no pod is killed for what it was promised.
    "memory_limit": ("memory", _text),
    "gpu_count": (_GPUS, _count),
    "node_selector": ("node_selector", _labels),
    "tolerations": ("toleration", _tolerations),
    "host_ipc": ("host_ipc", _flag),
    "backoff_limit": ("retries", _count),
    "ttl_seconds_after_finished": ("ttl", _count),
    "service_account": ("service_account", _text),
    "secrets": ("image_pull_secret", _pull_secrets),
}
# What all Jobs of a run share: their namespace, and the account whose rights the sidecars have.
_OF_RUN = frozenset(("namespace", "service_account"))
# Keys that ask for nothing that this version leaves out, by the values that do so.
_NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    # Images are pinned by digest: pulling one again gives the same.
    "image_pull_policy": ("Always", "IfNotPresent"),
    "kubeconfig": ("~/.kube/config",),
    "allow_privileged_profiling": (False,),
    "recreate_shared_data_pvc": (False,),
    "output_dir": ("./k8s_manifests",),
}
