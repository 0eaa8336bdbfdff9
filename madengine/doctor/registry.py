"""Checks the registry, and this machine's clock against the registry's."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime, timezone

from madengine import programs
from madengine.doctor.check import FAILED, OK, Check, Subject
from madengine.programs.engine_errors import explain_engine_error
from madengine.programs.image_references import is_loopback

CLOCK_SECONDS = 60.0
REGISTRY_SECONDS = 30.0
# An engine's error for an image that the registry doesn't have (not for an unknown authority, or any page).
_IS_UNKNOWN = re.compile(r"(manifest|name) unknown|manifest for .* not found|no such manifest|: not found$")


def check_registry(subject: Subject) -> Iterator[Check]:
    """Pull an image that can't exist: a registry that is reachable and grants access answers that it is unknown."""
    registry = _registry_of(subject)
    if not registry or not subject.engine:
        return
    engine = subject.engine
    answer = programs.attempt(engine.pull(f"{registry}/madengine/doctor:none"), seconds=REGISTRY_SECONDS)
    reason = explain_engine_error(answer.err or answer.out)
    if answer.code is None:
        yield Check("registry", FAILED, f"{registry}: no answer", _reach(registry))
    elif answer.code == 0 or _IS_UNKNOWN.search(reason):
        yield Check("registry", OK, f"{registry} answers and grants access")
    elif any(word in reason.lower() for word in ("unauthorized", "denied", "authentication", "no basic auth")):
        yield Check("registry", FAILED, f"{registry}: {reason}", f"{engine.name} login {registry}")
    else:
        yield Check("registry", FAILED, f"{registry}: {reason}", _reach(registry))


def _registry_of(subject: Subject) -> str:
    """Return the registry that the user named, else that of the manifest's images."""
    name = next((image.registry_image for image in subject.images if image.registry_image), "")
    host = name.partition("/")[0]
    return subject.registry or (host if "." in host or ":" in host or host == "localhost" else "")


def _reach(registry: str) -> str:
    return f"curl -v {_url(registry)}_catalog; check that it runs, and that its port is open (ufw status)"


def _url(registry: str) -> str:
    return f"{'http' if is_loopback(registry) else 'https'}://{registry}/v2/"


def check_clock(subject: Subject) -> Iterator[Check]:
    """Compare the clocks: logins and certificates fail if they differ much."""
    registry = _registry_of(subject)
    moment = _moment_of(registry) if registry else None
    if moment is None:
        return
    seconds = abs((datetime.now(timezone.utc) - moment).total_seconds())
    if seconds > CLOCK_SECONDS:
        yield Check("clock", FAILED, f"{seconds:.0f} s off the registry's clock", "timedatectl set-ntp true")
    else:
        yield Check("clock", OK, f"within {max(1, round(seconds))} s of the registry's clock")


def _moment_of(registry: str) -> datetime | None:
    """Return the registry's time; None if it doesn't answer, or its answer has none."""
    from email.utils import parsedate_to_datetime
    from http.client import HTTPException
    from urllib.error import HTTPError
    from urllib.request import urlopen

    try:
        with urlopen(_url(registry), timeout=10) as answer:
            date = answer.headers.get("Date")
    except HTTPError as error:
        with error:
            date = error.headers.get("Date")
    except (HTTPException, OSError):
        return None
    try:
        moment = parsedate_to_datetime(date)
    except (ValueError, TypeError):
        return None
    return moment if moment.tzinfo else None
