"""The context's `k8s` object, as madengine 2 has it, as values of this version's options."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from madengine.config.context import Context
from madengine.config.option import changed
from madengine.config.validation import refuse_unsupported
from madengine.config.values import expected, shown
from madengine.deploy.kubernetes.options import Options
from madengine.errors import ConfigurationError

SECTIONS = ("k8s", "kubernetes")


def with_section(values: Mapping[str, Any], context: Context) -> dict[str, Any]:
    """Return the values of a command line over those of the context's `k8s` object.

    Raises ConfigurationError for a key or a value that this version can't honour.
    """
    refuse_unsupported(context.here)
    section: Any = next((context.values[key] for key in SECTIONS if context.values.get(key)), {})
    if not isinstance(section, Mapping):
        raise expected("context: k8s", "an object", section)
    settings: dict[str, Any] = {}
    for key, value in section.items():
        if value is None or key.startswith("_"):
            continue
        where = f"context: k8s.{key}"
        if key in _OPTIONS:
            name, parse = _OPTIONS[key]
            settings[name] = parse(value, where)
            settings.pop("", None)
        elif value not in _NEUTRAL.get(key, ()):
            raise ConfigurationError(f"{where}: {shown(value)} is unsupported; expected some of {', '.join(_OPTIONS)}")
    return {**values, **settings, **{name: values[name] for name in changed((Options,), values)}}


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


_OPTIONS: Mapping[str, tuple[str, Callable[[Any, str], Any]]] = {
    "namespace": ("namespace", _text),
    "gpu_resource_name": ("gpu_resource", _text),
    "cpu": ("cpu", _text),
    "cpu_limit": ("cpu_limit", _text),
    "memory": ("memory", _text),
    # Request and limit are the same here, so that no pod is killed for what it was promised.
    "memory_limit": ("memory", _text),
    # GPU_COUNTS: in place of the model entries' n_gpus.
    "gpu_count": ("", _count),
    "node_selector": ("node_selector", _labels),
    "tolerations": ("toleration", _tolerations),
    "host_ipc": ("host_ipc", _flag),
    "backoff_limit": ("retries", _count),
    "ttl_seconds_after_finished": ("ttl", _count),
    "service_account": ("service_account", _text),
    "secrets": ("image_pull_secret", _pull_secrets),
}
# Keys that ask for nothing that this version leaves out, by the values that do so.
_NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    # Images are pinned by digest: pulling one again gives the same.
    "image_pull_policy": ("Always", "IfNotPresent"),
    "kubeconfig": ("~/.kube/config",),
    "allow_privileged_profiling": (False,),
    "recreate_shared_data_pvc": (False,),
    "output_dir": ("./k8s_manifests",),
}
