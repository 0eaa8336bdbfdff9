"""Names, labels, quantities and texts in the form that Kubernetes accepts, and identifiers that a cluster returns."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Container

from madengine.errors import ConfigurationError, MadengineError

# Hostnames of pods are the Job's name and an index; pods get five random characters more.
JOB_NAME_LIMIT = 52
LABEL_LIMIT = 63

_LABEL_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_LABEL_VALUE = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")
_QUALIFIED = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
_VARIABLE = re.compile(r"[-._a-zA-Z][-._a-zA-Z0-9]*")
_IDENTIFIER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_UNITS = {
    "": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "P": 10**15,
    "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40, "Pi": 2**50,
}  # fmt: skip
_BYTES = re.compile(r"([0-9]{1,18}(?:\.[0-9]{1,18})?)([kMGTP]i?|Ki)?")
_CPUS = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?|[0-9]{1,9}m")
_SHOWN_CHARACTERS = 80


def job_name(name: str, taken: Container[str] = ()) -> str:
    """Return `madengine-<name>-job` as a valid name, with a short hash if it is too long or taken."""
    plain = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    full = f"madengine-{plain}-job"
    if plain and len(full) <= JOB_NAME_LIMIT and full not in taken:
        return full
    digest = hashlib.sha256(name.encode(errors="surrogatepass")).hexdigest()[:8]
    return "-".join(filter(None, ["madengine", plain[:24].strip("-"), digest, "job"]))


def label(text: str) -> str:
    """Return the valid label value that is closest to the text."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", text)[:LABEL_LIMIT].strip("_.-")


def literal(text: str) -> str:
    """Escape `$(NAME)`, which the kubelet would expand in arguments and variables."""
    return re.sub(r"\$(?=[$(])", "$$", text)


def one_line(text: str, limit: int = 2000) -> str:
    """Return the text without line breaks and control characters, cut to `limit` characters."""
    line = " ".join("".join(character if character.isprintable() else " " for character in text).split())
    return line if len(line) <= limit else f"{line[: limit - 1]}…"


def half(memory: str) -> str:
    """Return half of a quantity of memory, in whole MiB or GiB."""
    mebibytes = max(1, in_bytes(memory) // 2**21)
    return f"{mebibytes}Mi" if mebibytes % 1024 else f"{mebibytes // 1024}Gi"


def of_docker(size: str) -> str:
    """Return a size as engines write it (`16g`, `512m`, bytes) as a quantity; empty stays empty.

    Raises ConfigurationError for anything else.
    """
    if not size:
        return ""
    match = re.fullmatch(r"([0-9]{1,18})([bkmgt]?)b?", size.lower())
    if not match or not int(match[1]):
        raise ConfigurationError(f"context: SHM_SIZE: expected a size such as 16g, got {_shown(size)}")
    unit = match[2].replace("b", "")
    return match[1] + (f"{unit.upper()}i" if unit else "")


def in_bytes(quantity: str) -> int:
    """Return a quantity of memory or storage in bytes. Raises ValueError if it is none."""
    match = _BYTES.fullmatch(quantity)
    if not match or not float(match[1]):
        raise ValueError(f"expected an amount of memory or storage such as 512Mi or 64Gi, got {_shown(quantity)}")
    return int(float(match[1]) * _UNITS[match[2] or ""])


# --- what a user may have mistyped; each raises ConfigurationError that names the option ---


def check_bytes(option: str, quantity: str) -> None:
    try:
        in_bytes(quantity)
    except ValueError as error:
        raise ConfigurationError(f"{option}: {error}") from None


def check_cpus(option: str, quantity: str) -> None:
    if not _CPUS.fullmatch(quantity) or not float(quantity.rstrip("m")):
        raise ConfigurationError(f"{option}: expected a number of CPUs such as 8 or 500m, got {_shown(quantity)}")


def check_namespace(name: str) -> None:
    if not _LABEL_NAME.fullmatch(name):
        raise ConfigurationError(
            f"--namespace: expected up to 63 lower-case letters, digits and '-', got {_shown(name)}"
        )


def check_name(option: str, name: str) -> None:
    """Check the name of an object: a secret, a service account, a claim."""
    if len(name) > 253 or not _SUBDOMAIN.fullmatch(name):
        raise ConfigurationError(
            f"{option}: expected an object's name (lower-case letters, digits, '-', '.'), got {_shown(name)}"
        )


def check_key(option: str, key: str) -> None:
    """Check the key of a label or taint, or the name of a resource: `amd.com/gpu`."""
    domain, slash, name = key.rpartition("/")
    if not _QUALIFIED.fullmatch(name) or (slash and (len(domain) > 253 or not _SUBDOMAIN.fullmatch(domain))):
        raise ConfigurationError(f"{option}: expected a name such as amd.com/gpu, got {_shown(key)}")


def check_label(option: str, value: str) -> None:
    if not _LABEL_VALUE.fullmatch(value):
        raise ConfigurationError(
            f"{option}: expected a label's value (letters, digits, '-', '_', '.'), got {_shown(value)}"
        )


def check_variable(name: str, value: str) -> None:
    if not _VARIABLE.fullmatch(name):
        raise ConfigurationError(f"docker_env_vars: Kubernetes accepts no variable named {_shown(name)}")
    check_text(f"docker_env_vars {name}", value)


def check_text(where: str, text: str) -> None:
    """Check that the text can be an argument or a variable of a container."""
    if "\0" in text or any("\ud800" <= character <= "\udfff" for character in text):
        raise ConfigurationError(f"{where}: contains a null character or a lone surrogate, which no container accepts")


# --- what a cluster returns ---


def check_identifier(what: str, text: object) -> str:
    """Return the text if it is safe as one part of a path and as an argument. Raises MadengineError otherwise."""
    if not isinstance(text, str) or not _IDENTIFIER.fullmatch(text):
        raise MadengineError(f"invalid {what} {_shown(str(text))}")
    return text


def _shown(text: str) -> str:
    return repr(text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}…")
