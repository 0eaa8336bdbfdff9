"""Names, labels, quantities and texts as Kubernetes takes them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Container

from madengine.errors import ConfigurationError

# Hostnames of pods are the Job's name and an index; pods get five random characters more.
JOB_NAME_LIMIT = 52
LABEL_LIMIT = 63

_LABEL_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_LABEL_VALUE = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")
_QUALIFIED = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
_VARIABLE = re.compile(r"[-._a-zA-Z][-._a-zA-Z0-9]*")
_UNITS = {
    "": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "P": 10**15,
    "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40, "Pi": 2**50,
}  # fmt: skip
_BYTES = re.compile(r"([0-9]+(?:\.[0-9]+)?)([kMGTP]i?|Ki)?")
_CPUS = re.compile(r"[0-9]+(\.[0-9]+)?|[0-9]+m")


def job_name(name: str, taken: Container[str] = ()) -> str:
    """`madengine-<name>-job` as a name that Kubernetes takes, with a short hash where it is cut off or taken."""
    plain = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    made = f"madengine-{plain}-job"
    if plain and len(made) <= JOB_NAME_LIMIT and made not in taken:
        return made
    mark = hashlib.sha256(name.encode(errors="surrogatepass")).hexdigest()[:8]
    return "-".join(filter(None, ["madengine", plain[:24].strip("-"), mark, "job"]))


def label(text: str) -> str:
    """A label's value that is as near to the text as it may be."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", text)[:LABEL_LIMIT].strip("_.-")


def literal(text: str) -> str:
    """The text so that a kubelet, which fills in `$(NAME)` in arguments and variables, leaves it as it is."""
    return re.sub(r"\$(?=[$(])", "$$", text)


def half(memory: str) -> str:
    """Half of a quantity of memory, in whole MiB or GiB."""
    mebibytes = max(1, in_bytes(memory) // 2**21)
    return f"{mebibytes}Mi" if mebibytes % 1024 else f"{mebibytes // 1024}Gi"


def of_docker(size: str) -> str:
    """A size as engines write it (`16g`, `512m`, bytes) as a quantity; empty where there is none.

    Raises ConfigurationError for what is no size.
    """
    if not size:
        return ""
    found = re.fullmatch(r"([0-9]+)([bkmgt]?)b?", size.lower())
    if not found or not int(found[1]):
        raise ConfigurationError(f"context: SHM_SIZE: {size!r} is wrong: write a size, such as 16g")
    unit = found[2].replace("b", "")
    return found[1] + (f"{unit.upper()}i" if unit else "")


def in_bytes(quantity: str) -> int:
    """What a quantity of memory or storage means. Raises ConfigurationError where it is none."""
    found = _BYTES.fullmatch(quantity)
    if not found or not float(found[1]):
        raise ConfigurationError(f"{quantity!r} is not an amount of memory or storage, such as 512Mi or 64Gi")
    return int(float(found[1]) * _UNITS[found[2] or ""])


# --- what a user may have mistyped; each raises ConfigurationError that names the option ---


def check_bytes(option: str, quantity: str) -> None:
    try:
        in_bytes(quantity)
    except ConfigurationError as error:
        raise ConfigurationError(f"{option} {error}") from None


def check_cpus(option: str, quantity: str) -> None:
    if not _CPUS.fullmatch(quantity) or not float(quantity.rstrip("m")):
        raise ConfigurationError(f"{option} {quantity!r} is not a number of CPUs, such as 8 or 500m")


def check_namespace(name: str) -> None:
    if not _LABEL_NAME.fullmatch(name):
        raise ConfigurationError(
            f"--namespace {name!r} is not a namespace: lower-case letters, digits and '-', up to 63 characters"
        )


def check_name(option: str, name: str) -> None:
    """The name of an object: a secret, a service account, a claim."""
    if len(name) > 253 or not _SUBDOMAIN.fullmatch(name):
        raise ConfigurationError(f"{option} {name!r} is no object's name: lower-case letters, digits, '-', '.'")


def check_key(option: str, key: str) -> None:
    """The key of a label or taint, or the name of a resource: `amd.com/gpu`."""
    domain, slash, name = key.rpartition("/")
    if not _QUALIFIED.fullmatch(name) or (slash and (len(domain) > 253 or not _SUBDOMAIN.fullmatch(domain))):
        raise ConfigurationError(f"{option} {key!r} is not a name like amd.com/gpu")


def check_label(option: str, value: str) -> None:
    if not _LABEL_VALUE.fullmatch(value):
        raise ConfigurationError(f"{option} {value!r} is not a label's value: letters, digits, '-', '_' and '.'")


def check_variable(name: str, value: str) -> None:
    if not _VARIABLE.fullmatch(name):
        raise ConfigurationError(f"docker_env_vars {name!r}: Kubernetes takes no variable of this name")
    check_text(f"docker_env_vars {name}", value)


def check_text(where: str, text: str) -> None:
    """A text that can be an argument or a variable of a container at all."""
    if "\0" in text or any("\ud800" <= character <= "\udfff" for character in text):
        raise ConfigurationError(f"{where}: a null character, or half of one: no container can be given that")
