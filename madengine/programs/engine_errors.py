"""What the error texts of engines and registries mean."""

from __future__ import annotations

import re

from madengine import programs

# A registry that is unreachable or breaks off: worth a retry. A refusal (denied, unauthorized, unknown) is not.
_TRANSPORT = re.compile(
    r"connection (refused|reset)|i/o timeout|timeout exceeded|deadline exceeded|timed out|\bEOF\b|broken pipe"
    r"|no such host|network is unreachable|no route to host|TLS handshake timeout|temporary failure|server misbehaving"
    r"|use of closed network|http2: |\b(429|50[0234])\b.? [A-Z]|toomanyrequests|received unexpected HTTP status: 5",
    re.IGNORECASE,
)

_STORE_RACE = re.compile(r"layer not known|locating image with ID .*: image not known|locating item named \"manifest\"")
# Two pushes of one layer to one repository at once: a registry may forget what the other is still writing.
_PUSH_RACE = re.compile(r"blob unknown to registry|blob upload (unknown|invalid)|digest invalid", re.IGNORECASE)


def is_transport(message: str) -> bool:
    """Whether a registry's error is a network error, which is worth a retry, and not a refusal."""
    return bool(_TRANSPORT.search(message))


def is_push_race(message: str) -> bool:
    """Whether a registry lost a layer that another push sends too: a retry will do."""
    return bool(_PUSH_RACE.search(message))


def is_unreachable(message: str) -> bool:
    """Whether an engine's client could not reach the engine."""
    return bool(re.search(r"cannot connect to|error during connect|connection refused", message, re.IGNORECASE))


def is_store_race(message: str) -> bool:
    """Whether podman met an image in its store, any image, that was just being removed: a retry will do."""
    return bool(_STORE_RACE.search(message))


def is_limit_refused(message: str) -> bool:
    """Whether a container didn't start because its limits can't be raised."""
    return bool(re.search(r"rlimit|ulimit", message, re.IGNORECASE))


def is_init_missing(message: str) -> bool:
    """Whether a container didn't start because the engine's init (catatonit, docker-init, tini) is not installed."""
    return bool(re.search(r"container-init binary|init binary|catatonit|docker-init|\"tini\"", message))


def explain_engine_error(message: str) -> str:
    """Return the line of an engine's error text that says what is wrong, without its prefixes and advice."""
    lines = [line.strip() for line in message.splitlines()]
    lines = [line for line in lines if line and not re.match(r"Run '|See '|Usage:|time=", line)]
    errors = [line for line in lines if re.match(r"(docker|Error|error|ERROR)\b.*: ", line)]
    line = (errors or lines or [programs.NO_OUTPUT])[-1]
    return re.sub(r"^(docker: |Error response from daemon: |Error: )+", "", line)
