"""A stand-in for a Kubernetes API server: HTTPS on loopback, as much of it as kubectl and a pod's sidecar use.

It holds objects, merges patches, counts resource versions, asks for tokens, and refuses as the real one does: what has
no namespace, a name that is taken or invalid, fields that no schema knows, an immutable or too large ConfigMap, a
changed pod template, and what the roles it holds do not allow. On demand it fails.
"""

from __future__ import annotations

import copy
import json
import re
import socket
import ssl
import struct
import subprocess
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import kubernetes_validate

from tests.k8s import exec_stream, jobset_schema

Object = dict[str, Any]

ADMIN = "admin-token"
SIZE_LIMIT = 1024 * 1024
QUEUE = "kueue.x-k8s.io/queue-name"
APPLY = "application/apply-patch+yaml"
# Group and version, plural, kind, whether it lives in a namespace.
KINDS = (
    ("v1", "namespaces", "Namespace", False),
    ("v1", "configmaps", "ConfigMap", True),
    ("v1", "serviceaccounts", "ServiceAccount", True),
    ("v1", "services", "Service", True),
    ("v1", "pods", "Pod", True),
    ("v1", "events", "Event", True),
    ("batch/v1", "jobs", "Job", True),
    ("jobset.x-k8s.io/v1alpha2", "jobsets", "JobSet", True),
    ("rbac.authorization.k8s.io/v1", "roles", "Role", True),
    ("rbac.authorization.k8s.io/v1", "rolebindings", "RoleBinding", True),
)
_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")


class Refusal(Exception):
    """An answer other than success."""

    def __init__(self, code: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.body = {
            "kind": "Status",
            "apiVersion": "v1",
            "status": "Failure",
            "code": code,
            "reason": reason,
            "message": message,
        }
        self.code = code


@dataclass
class Cluster:
    """The objects of a cluster, by (plural, namespace, name), and what is to go wrong."""

    objects: dict[tuple[str, str, str], Object] = field(default_factory=dict)
    failures: list[int | str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    lock: threading.RLock = field(default_factory=threading.RLock)
    created: Callable[[Object], None] | None = None
    # The words that run a command in a pod's container; whether users may.
    exec_words: Callable[[str, str], list[str]] = lambda pod, container: []
    may_exec: bool = True
    _version: int = 0

    def token(self, namespace: str, account: str) -> str:
        """The token of a service account."""
        return f"sa:{namespace}:{account}"

    def get(self, plural: str, namespace: str, name: str) -> Object:
        with self.lock:
            if (plural, namespace, name) not in self.objects:
                raise Refusal(404, "NotFound", f'{plural} "{name}" not found')
            return self.objects[plural, namespace, name]

    def create(self, plural: str, namespace: str, one: Object) -> Object:
        name = one["metadata"]["name"]
        if plural != "namespaces" and ("namespaces", "", namespace) not in self.objects:
            raise Refusal(404, "NotFound", f'namespaces "{namespace}" not found')
        if not _NAME.fullmatch(name) or (plural == "jobs" and len(name) > 63):
            raise Refusal(422, "Invalid", f'{plural} "{name}" is invalid: metadata.name')
        with self.lock:
            if (plural, namespace, name) in self.objects:
                raise Refusal(409, "AlreadyExists", f'{plural} "{name}" already exists')
            one = copy.deepcopy(one)
            one["metadata"] |= {"uid": str(uuid.uuid4()), "creationTimestamp": now()}
            if plural != "namespaces":
                one["metadata"]["namespace"] = namespace
            if QUEUE in one["metadata"].get("labels", {}):  # Kueue's webhook
                one["spec"]["suspend"] = True
            self._check(one)
            _as_stored(one)
            self._store(plural, namespace, name, one)
        if self.created:
            self.created(one)
        return one

    def patch(self, plural: str, namespace: str, name: str, patch: Any) -> Object:
        with self.lock:
            old = self.get(plural, namespace, name)
            new: Object = merged(old, patch)
            if (patch.get("metadata") or {}).get("resourceVersion", old["metadata"]["resourceVersion"]) != old[
                "metadata"
            ]["resourceVersion"]:
                raise Refusal(409, "Conflict", f'{plural} "{name}": the object has been modified')
            if old.get("immutable") and new.get("data") != old.get("data"):
                raise Refusal(422, "Invalid", f'ConfigMap "{name}" is invalid: field is immutable')
            is_suspended = bool(old.get("spec", {}).get("suspend"))
            if old["kind"] == "Job" and _fixed(new, is_suspended) != _fixed(old, is_suspended):
                raise Refusal(422, "Invalid", f'Job "{name}" is invalid: spec.template: field is immutable')
            self._check(new)
            self._store(plural, namespace, name, new)
            return new

    def delete(self, plural: str, namespace: str, name: str) -> Object:
        with self.lock:
            deleted = self.get(plural, namespace, name)
            del self.objects[plural, namespace, name]
            uid = deleted["metadata"]["uid"]
            for key, one in list(self.objects.items()):
                if any(owner.get("uid") == uid for owner in one["metadata"].get("ownerReferences", ())):
                    del self.objects[key]
            return deleted

    def set_status(self, plural: str, namespace: str, name: str, status: Mapping[str, Any]) -> None:
        """What a controller or a kubelet says of an object."""
        with self.lock:
            self._store(plural, namespace, name, {**self.get(plural, namespace, name), "status": dict(status)})

    def allows(self, token: str, verb: str, group: str, plural: str, namespace: str, name: str) -> bool:
        """Whether the roles in this cluster let a token do that."""
        if token == ADMIN:
            return True
        kind, _, account = token.partition(":")
        home, _, account = account.partition(":")
        if kind != "sa":
            return False
        for (what, where, _), binding in list(self.objects.items()):
            subject = {"kind": "ServiceAccount", "name": account, "namespace": home}
            if what == "rolebindings" and where == namespace and subject in binding["subjects"]:
                role = self.objects.get(("roles", namespace, binding["roleRef"]["name"]), {})
                for rule in role.get("rules", ()):
                    named = rule.get("resourceNames")
                    if (
                        group in rule["apiGroups"]
                        and plural in rule["resources"]
                        and verb in rule["verbs"]
                        and (not named or name in named)
                    ):
                        return True
        return False

    def _store(self, plural: str, namespace: str, name: str, one: Object) -> None:
        self._version += 1
        one["metadata"]["resourceVersion"] = str(self._version)
        self.objects[plural, namespace, name] = one

    def _check(self, one: Object) -> None:
        """Schema, and the size of a ConfigMap."""
        if one["kind"] == "JobSet":
            for job in jobset_schema.check(one):
                self._check(job)
            return
        try:
            kubernetes_validate.validate(one, "1.37", strict=True)
        except kubernetes_validate.ValidationError as error:
            raise Refusal(422, "Invalid", f"{one['kind']} is invalid: {list(error.path)}: {error.message}") from None
        if one["kind"] == "ConfigMap":
            values = [*(one.get("data") or {}).values(), *(one.get("binaryData") or {}).values()]
            if sum(len(value.encode()) for value in values) > SIZE_LIMIT:
                raise Refusal(422, "Invalid", f"ConfigMap is invalid: Too long: must have at most {SIZE_LIMIT} bytes")
            for key in (*(one.get("data") or {}), *(one.get("binaryData") or {})):
                if not re.fullmatch(r"[-._a-zA-Z0-9]{1,253}", key):
                    raise Refusal(422, "Invalid", f"ConfigMap is invalid: data[{key}]")


def _fixed(job: Object, is_suspended: bool) -> Object:
    """What of a Job never changes; whether it is suspended may, and while it is, where its pods may be."""
    spec = {**job["spec"], "suspend": False, "template": copy.deepcopy(job["spec"]["template"])}
    if is_suspended:
        spec["template"]["spec"].pop("nodeSelector", None)
    return spec


def _as_stored(one: Object) -> None:
    """A server keeps the amounts of resources as strings."""
    pod = ((one.get("spec") or {}).get("template") or {}).get("spec") or {}
    for container in (*pod.get("initContainers", ()), *pod.get("containers", ())):
        for amounts in (container.get("resources") or {}).values():
            amounts.update({name: str(amount) for name, amount in amounts.items()})


def merged(old: Any, patch: Any) -> Any:
    """RFC 7396; for the maps of the objects here a strategic merge does the same."""
    if not isinstance(patch, dict):
        return patch
    result = dict(old) if isinstance(old, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        elif not key.startswith("$"):
            result[key] = merged(result.get(key), value)
    return result


def now() -> str:
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    cluster: Cluster

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def _answer(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length) if length else b""
        path = urlsplit(self.path).path
        if path.endswith("/exec"):
            return self._exec(path)
        try:
            if path.startswith("/api") and path.count("/") > 3:
                self.cluster.requests.append(f"{self.command} {path}")
                self._fail()
            self._send(200, self._carry_out(path, body))
        except Refusal as refusal:
            self._send(refusal.code, refusal.body)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            self._send(500, Refusal(500, "InternalError", f"the stand-in: {error!r}").body)

    def _exec(self, path: str) -> None:
        """Run a command in a pod's container, if the user may."""
        _, rest = _split(path)
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        query = parse_qs(urlsplit(self.path).query)
        if token != ADMIN or self.cluster.may_exec is False:
            return self._send(403, Refusal(403, "Forbidden", "pods/exec is forbidden").body)
        self.send_response(101)
        for name, value in (
            ("Upgrade", "websocket"),
            ("Connection", "Upgrade"),
            ("Sec-WebSocket-Accept", exec_stream.accepted(self.headers["Sec-WebSocket-Key"])),
            ("Sec-WebSocket-Protocol", exec_stream.PROTOCOL),
        ):
            self.send_header(name, value)
        self.end_headers()
        line = [*self.cluster.exec_words(rest[3], query["container"][0]), *query["command"]]
        exec_stream.run(line, self.wfile)
        self.close_connection = True
        return None

    do_GET = do_POST = do_PATCH = do_DELETE = _answer

    def _fail(self) -> None:
        """Fail as the next entry of `failures` says."""
        with self.cluster.lock:
            failure = self.cluster.failures.pop(0) if self.cluster.failures else None
        if failure == "reset":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
            raise ConnectionResetError
        if isinstance(failure, int):
            raise Refusal(failure, "OnDemand", f"asked to answer {failure}")

    def _carry_out(self, path: str, body: bytes) -> Any:
        if path == "/version":
            return {"major": "1", "minor": "34", "gitVersion": "v1.34.0"}
        if path == "/api":
            return {"kind": "APIVersions", "versions": ["v1"]}
        if path == "/apis":
            groups = sorted({version for version, *_ in KINDS if "/" in version})
            return {"kind": "APIGroupList", "apiVersion": "v1", "groups": [_group(version) for version in groups]}
        if path == "/openapi/v3":
            versions = {version for version, *_ in KINDS}
            names = ["api/v1" if version == "v1" else f"apis/{version}" for version in versions]
            return {"paths": {name: {"serverRelativeURL": f"/openapi/v3/{name}"} for name in names}}
        if path.startswith("/openapi/v3/"):
            return _openapi(path.removeprefix("/openapi/v3/"))
        version, rest = _split(path)
        if not rest:
            return _resources(version)
        return self._on_object(version, rest, body)

    def _on_object(self, version: str, rest: list[str], body: bytes) -> Any:
        namespace = ""
        if rest[0] == "namespaces" and len(rest) > 2:
            namespace, rest = rest[1], rest[2:]
        plural, name = rest[0], rest[1] if len(rest) > 1 else ""
        known = {(at, what): kind for at, what, kind, _ in KINDS}
        if (version, plural) not in known:
            raise Refusal(404, "NotFound", "the server could not find the requested resource")
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        verb = {"GET": "get" if name else "list", "POST": "create", "PATCH": "patch", "DELETE": "delete"}[self.command]
        if not token:
            raise Refusal(401, "Unauthorized", "Unauthorized")
        group = version.rpartition("/")[0]
        if not self.cluster.allows(token, verb, group, plural, namespace, name):
            raise Refusal(403, "Forbidden", f'{plural} "{name}" is forbidden: {token} cannot {verb} it')
        if verb == "create":
            return self.cluster.create(
                plural, namespace, _namespace(body) if plural == "namespaces" else json.loads(body)
            )
        if verb == "patch":
            self._check_patch(body)
            patch = json.loads(body)
            if self.headers["Content-Type"] == APPLY and (plural, namespace, name) not in self.cluster.objects:
                # The real one asks for this right with the object's name, as a role may restrict it.
                if not self.cluster.allows(token, "create", group, plural, namespace, name):
                    raise Refusal(403, "Forbidden", f'{plural} "{name}" is forbidden: {token} cannot create it')
                return self.cluster.create(plural, namespace, patch)
            return self.cluster.patch(plural, namespace, name, patch)
        if verb == "delete":
            return self.cluster.delete(plural, namespace, name)
        if verb == "get":
            return self._log(namespace, name) if rest[2:] == ["log"] else self.cluster.get(plural, namespace, name)
        return self._listed(version, plural, namespace, known[version, plural])

    def _check_patch(self, body: bytes) -> None:
        kind = self.headers.get("Content-Type")
        if kind not in ("application/merge-patch+json", "application/strategic-merge-patch+json", APPLY):
            raise Refusal(415, "UnsupportedMediaType", f"{kind} is no patch")
        if len(body) > 3 * 1024 * 1024:
            raise Refusal(413, "RequestEntityTooLarge", "Request entity too large: limit is 3145728")

    def _log(self, namespace: str, name: str) -> bytes:
        pod = self.cluster.get("pods", namespace, name)
        container = parse_qs(urlsplit(self.path).query).get("container", ["model"])[0]
        path = pod["metadata"].get("annotations", {}).get(f"log/{container}", "")
        if not path:
            raise Refusal(400, "BadRequest", "no log")
        return Path(path).read_bytes()

    def _listed(self, version: str, plural: str, namespace: str, kind: str) -> Any:
        query = parse_qs(urlsplit(self.path).query)
        labels, fields = (_pairs(query.get(name, [])) for name in ("labelSelector", "fieldSelector"))
        with self.cluster.lock:
            items = [
                one
                for (what, where, _), one in sorted(self.cluster.objects.items())
                if what == plural
                and where == namespace
                and labels.items() <= (one["metadata"].get("labels") or {}).items()
                and all(_field(one, path) == value for path, value in fields.items())
            ]
        return {"kind": f"{kind}List", "apiVersion": version, "metadata": {"resourceVersion": "1"}, "items": items}

    def _send(self, code: int, value: Any) -> None:
        body = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(code)
        self.send_header("Content-Type", "text/plain" if isinstance(value, bytes) else "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def _pairs(selectors: list[str]) -> dict[str, str]:
    return dict(pair.split("=") for pair in ",".join(selectors).split(",") if "=" in pair)


def _field(one: Object, path: str) -> Any:
    value: Any = one
    for name in path.split("."):
        value = value.get(name, "")
    return value


def _namespace(body: bytes) -> Object:
    """`kubectl create namespace` sends it as protobuf: an envelope, in it metadata, in it the name."""
    if not body.startswith(b"k8s\0"):
        namespace: Object = json.loads(body)
        return namespace
    name = _part(_part(_part(body[4:], 2), 1), 1).decode()
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}


def _part(message: bytes, field: int) -> bytes:
    """A field of a protobuf message of nothing but short texts and messages."""
    at = 0
    while at < len(message):
        number, size = message[at] >> 3, message[at + 1]
        if number == field:
            return message[at + 2 : at + 2 + size]
        at += 2 + size
    raise ValueError("no such field")


def _split(path: str) -> tuple[str, list[str]]:
    parts = [part for part in path.split("/") if part]
    return (parts[1], parts[2:]) if parts[0] == "api" else ("/".join(parts[1:3]), parts[3:])


def _group(version: str) -> Object:
    name, _, number = version.partition("/")
    entry = {"groupVersion": version, "version": number}
    return {"name": name, "versions": [entry], "preferredVersion": entry}


def _resources(version: str) -> Object:
    verbs = ["create", "delete", "get", "list", "patch"]
    return {
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": version,
        "resources": [
            {"name": plural, "singularName": kind.lower(), "namespaced": inside, "kind": kind, "verbs": verbs}
            for at, plural, kind, inside in KINDS
            if at == version
        ],
    }


def _openapi(name: str) -> Object:
    """That the server checks fields itself, which is all that kubectl wants to know."""
    version = name.removeprefix("apis/").removeprefix("api/")
    group, _, number = version.rpartition("/")
    paths = {}
    for at, plural, kind, inside in KINDS:
        if at == version:
            where = f"/{name}/{'namespaces/{namespace}/' if inside else ''}{plural}/{{name}}"
            paths[where] = {
                "patch": {
                    "parameters": [{"name": "fieldValidation", "in": "query", "schema": {"type": "string"}}],
                    "x-kubernetes-group-version-kind": {"group": group, "version": number, "kind": kind},
                    "responses": {},
                }
            }
    return {"openapi": "3.0.0", "info": {"title": "stand-in", "version": "1"}, "paths": paths}


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # a connection that was reset on demand


@dataclass(frozen=True)
class ApiServer:
    """A running server: its cluster, address and certificate, and the files of its clients."""

    cluster: Cluster
    port: int
    folder: Path

    @property
    def kubeconfig(self) -> Path:
        return self.folder / "kubeconfig"

    @property
    def certificate(self) -> Path:
        return self.folder / "ca.crt"

    def account(self, namespace: str, name: str = "madengine") -> Path:
        """A folder with what a pod finds at its service account's mount."""
        folder = self.folder / f"account-{namespace}-{name}"
        folder.mkdir(exist_ok=True)
        (folder / "token").write_text(self.cluster.token(namespace, name))
        (folder / "ca.crt").write_bytes(self.certificate.read_bytes())
        folder.chmod(0o755)
        return folder


@contextmanager
def serving(folder: Path, cluster: Cluster | None = None) -> Iterator[ApiServer]:
    """An API server with TLS on a free port of loopback, until the block ends."""
    cluster = cluster or Cluster()
    key = folder / "key.pem"
    subprocess.run(
        [
            "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
            "-days", "3", "-subj", "/CN=stand-in", "-addext", "subjectAltName=IP:127.0.0.1",
            "-keyout", str(key), "-out", str(folder / "ca.crt"),
        ],
        check=True,
        capture_output=True,
    )  # fmt: skip
    handler = type("Handler", (_Handler,), {"cluster": cluster})
    server = _Server(("127.0.0.1", 0), handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "ca.crt", key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    port = server.server_address[1]
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "it",
        "clusters": [
            {
                "name": "it",
                "cluster": {"server": f"https://127.0.0.1:{port}", "certificate-authority": str(folder / "ca.crt")},
            }
        ],
        "users": [{"name": "it", "user": {"token": ADMIN}}],
        "contexts": [{"name": "it", "context": {"cluster": "it", "user": "it"}}],
    }
    (folder / "kubeconfig").write_text(json.dumps(config))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield ApiServer(cluster, port, folder)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
