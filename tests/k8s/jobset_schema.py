"""JobSet v1alpha2 as far as the generated files use it, strictly; its Jobs are checked by Kubernetes' own schema."""

from __future__ import annotations

from typing import Any

import jsonschema

_TEXT = {"type": "string"}
_TEXTS = {"type": "object", "additionalProperties": _TEXT}


def _object(required: tuple[str, ...] = (), **properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(required), "additionalProperties": False}


_MEMBER = _object(
    ("name", "template"),
    name={"type": "string", "maxLength": 63, "pattern": "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"},
    replicas={"type": "integer", "minimum": 0},
    template=_object(("spec",), metadata=_object(labels=_TEXTS, annotations=_TEXTS), spec={"type": "object"}),
)
_SPEC = _object(
    ("replicatedJobs",),
    network=_object(
        enableDNSHostnames={"type": "boolean"}, publishNotReadyAddresses={"type": "boolean"}, subdomain=_TEXT
    ),
    failurePolicy=_object(maxRestarts={"type": "integer"}),
    suspend={"type": "boolean"},
    replicatedJobs={"type": "array", "items": _MEMBER, "minItems": 1},
)
_SCHEMA = _object(
    ("apiVersion", "kind", "metadata", "spec"),
    apiVersion={"const": "jobset.x-k8s.io/v1alpha2"},
    kind={"const": "JobSet"},
    metadata={"type": "object"},
    spec=_SPEC,
    status={"type": "object"},
)


def check(jobset: Any) -> list[dict[str, Any]]:
    """Return the Jobs that its controller makes; raise jsonschema's error for what its schema doesn't allow."""
    jsonschema.validate(jobset, _SCHEMA, jsonschema.validators.Draft202012Validator)
    meta = jobset["metadata"]
    return [
        {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": {
                "name": f"{meta['name']}-{member['name']}-{number}",
                "namespace": meta.get("namespace", ""),
                **{name: dict(member["template"]["metadata"][name]) for name in ("labels", "annotations")},
            },
            "spec": member["template"]["spec"],
        }
        for member in jobset["spec"]["replicatedJobs"]
        for number in range(member.get("replicas", 1))
    ]
