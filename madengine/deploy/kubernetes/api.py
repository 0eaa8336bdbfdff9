"""A ConfigMap behind the API server, with a pod's rights; needs only the standard library."""

from __future__ import annotations

import json
import ssl
import urllib.error
import urllib.request
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from madengine.errors import MadengineError
from madengine.files import parse_json

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
NOT_FOUND = 404
REFUSALS = frozenset((401, 403, NOT_FOUND))
TOO_LARGE = frozenset((413, 422))


class Refused(MadengineError):
    """The API server refused a request; `code` is the HTTP status, 0 if the server was not reached."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True)
class ConfigMap:
    """A ConfigMap behind the API server, with the rights of a pod's service account."""

    server: str
    namespace: str
    name: str
    account: Path = ACCOUNT

    def read(self) -> dict[str, str]:
        """Return the values of all keys; those of `binaryData` in base64."""
        try:
            configmap = parse_json(self._request("GET").decode())
            values = {**(configmap.get("data") or {}), **(configmap.get("binaryData") or {})}
        except (ValueError, TypeError, AttributeError) as error:
            raise Refused(0, f"GET {self.name}: not a ConfigMap: {error}") from None
        return {key: value for key, value in values.items() if isinstance(value, str)}

    def create(self) -> None:
        """Make it, unless it exists."""
        labels = {"app.kubernetes.io/name": "madengine", "app.kubernetes.io/managed-by": "madengine"}
        meta = {"name": self.name, "labels": {**labels, "app.kubernetes.io/component": "results"}}
        body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta}
        self._request("PATCH", json.dumps(body).encode(), "application/apply-patch+yaml", "?fieldManager=madengine")

    def merge(self, patch: Mapping[str, Any]) -> None:
        """Set the keys of the patch and remove those that are null; others stay."""
        self._request("PATCH", json.dumps(patch).encode())

    def _request(
        self, method: str, body: bytes | None = None, kind: str = "application/merge-patch+json", query: str = ""
    ) -> bytes:
        # Read each time: the kubelet renews the token.
        token = (self.account / "token").read_text().strip()
        request = urllib.request.Request(
            f"{self.server}/api/v1/namespaces/{self.namespace}/configmaps/{self.name}{query}",
            data=body,
            method=method,
            headers={
                "Authorization": f"Bearer {token}",
                "Accept": "application/json",
                "Content-Type": kind,
            },
        )
        trust = ssl.create_default_context(cafile=str(self.account / "ca.crt"))
        # No proxy: the cluster's own address is never behind one.
        opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=trust)
        )
        try:
            with opener.open(request, timeout=20) as response:
                content: bytes = response.read()
                return content
        except urllib.error.HTTPError as error:
            with error:
                message = _message(error.read())
            raise Refused(error.code, f"{method} {self.name}: {error.code}: {message}") from None
        except (OSError, ValueError) as error:
            raise Refused(0, f"{method} {self.name}: {error}") from None


def _message(body: bytes) -> str:
    with suppress(ValueError, AttributeError):
        return str(json.loads(body).get("message", ""))[:300]
    return body[:300].decode(errors="replace").strip()
