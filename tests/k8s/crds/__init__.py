"""The schemas of the kinds that others define and the manifests here use, and strict validation against them.

``keep.py`` made the JSON files beside this one; each says which project's release it is of. What the API server would refuse is an error
here, and so is a field that the kind doesn't have. Rules in CEL are not kept.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema

FOLDER = Path(__file__).parent
Manifest = dict[str, Any]


@cache
def _validators() -> dict[tuple[str, str], jsonschema.Draft202012Validator]:
    validators = {}
    for path in sorted(FOLDER.glob("*.json")):
        kept = json.loads(path.read_text())
        validators[kept["apiVersion"], kept["kind"]] = jsonschema.Draft202012Validator(_strict(kept["openAPIV3Schema"]))
    return validators


def definitions() -> Iterator[Manifest]:
    """CustomResourceDefinitions of all kinds whose schemas are kept."""
    for path in sorted(FOLDER.glob("*.json")):
        kept = json.loads(path.read_text())
        group, _, version = kept["apiVersion"].partition("/")
        singular = kept["kind"].lower()
        served = {
            "name": version,
            "served": True,
            "storage": True,
            "schema": {"openAPIV3Schema": kept["openAPIV3Schema"]},
        }
        names = {"kind": kept["kind"], "plural": f"{singular}s", "singular": singular}
        yield {
            "apiVersion": "apiextensions.k8s.io/v1",
            "kind": "CustomResourceDefinition",
            # Groups of Kubernetes' own are of whose who have asked for them.
            "metadata": {
                "name": f"{singular}s.{group}",
                "annotations": {"api-approved.kubernetes.io": "unapproved, for tests"},
            },
            "spec": {"group": group, "scope": "Namespaced", "names": names, "versions": [served]},
        }


def kinds() -> set[tuple[str, str]]:
    """``apiVersion`` and ``kind`` of all whose schemas are kept."""
    return set(_validators())


def errors_of(manifest: Manifest) -> list[str]:
    """What is wrong with a manifest of one of ``kinds``, each with its place."""
    validator = _validators()[manifest["apiVersion"], manifest["kind"]]
    return [f"{error.json_path}: {error.message}" for error in validator.iter_errors(manifest)]


def _strict(schema: Manifest) -> Manifest:
    """Of a structural schema, one in JSON Schema in which an object has no other fields than those it names."""
    strict = dict(schema)
    if strict.pop("x-kubernetes-int-or-string", False):
        strict["type"] = ["integer", "string"]
        strict.pop("anyOf", None)
    if strict.pop("nullable", False) and isinstance(strict.get("type"), str):
        strict["type"] = [strict["type"], "null"]
    if "properties" in schema:
        strict["properties"] = {name: _strict(below) for name, below in schema["properties"].items()}
        if not schema.get("x-kubernetes-preserve-unknown-fields") and "additionalProperties" not in schema:
            strict["additionalProperties"] = False
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), dict):
            strict[key] = _strict(schema[key])
    return strict
