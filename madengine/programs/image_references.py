"""Names of images, as engines write and mean them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from madengine.records import repository

_LOOPBACK = re.compile(r"^(localhost|127(\.\d+){3}|\[::1\])(:\d+)?$")


def is_loopback(name: str) -> bool:
    """Whether an image name, or a registry's address, is of a registry on this machine."""
    return bool(_LOOPBACK.match(name.partition("/")[0]))


def repo_digest(digests: Sequence[str], name: str) -> str:
    """Return the digest of `name` out of an image's RepoDigests; empty if there is none."""
    return next(iter(repo_digests(digests, name)), "")


def repo_digests(digests: Sequence[str], name: str) -> list[str]:
    """Return all of them: podman also lists the digest of its own copy, which the registry may not know."""
    own = _canonical(repository(name))
    pairs = (entry.partition("@") for entry in digests)
    return [digest for repo, _, digest in pairs if _canonical(repo) == own]


def digests_in(image: Mapping[str, Any], name: str) -> list[str]:
    """Return the digests of `name` in an image's record."""
    return repo_digests([str(digest) for digest in image.get("RepoDigests") or ()], name)


def canonical_name(name: str) -> str:
    """Return an image name as Docker Hub's short names mean it: without its registry, with a tag."""
    bare = name.partition("@")[0]
    tag = bare.removeprefix(repository(bare)).removeprefix(":")
    return f"{_canonical(repository(bare))}:{tag or 'latest'}"


def with_hub(name: str) -> str:
    """Return a name such as `org/image` with the registry that it means, docker.io."""
    host = name.partition("/")[0]
    has_registry = "/" not in name or "." in host or ":" in host or host == "localhost"
    return name if has_registry else f"docker.io/{name}"


def _canonical(repo: str) -> str:
    return repo.removeprefix("docker.io/").removeprefix("library/")
