"""The schemas of others' kinds: they are whole, and what their API servers would refuse is an error."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.k8s.crds import FOLDER, errors_of, kinds
from tests.k8s.crds.keep import kept_of

SCALED = {
    "apiVersion": "keda.sh/v1alpha1",
    "kind": "ScaledObject",
    "metadata": {"name": "llm"},
    "spec": {"scaleTargetRef": {"name": "llm"}, "triggers": [{"type": "cron", "metadata": {"start": "0 8 * * *"}}]},
}


def with_spec(**changed: Any) -> dict[str, Any]:
    return SCALED | {"spec": SCALED["spec"] | changed}  # type: ignore[operator]


def test_each_says_where_it_is_from() -> None:
    assert len(kinds()) == len(list(FOLDER.glob("*.json"))) == 10
    for path in FOLDER.glob("*.json"):
        kept = json.loads(path.read_text())
        assert kept["source"].startswith("https://github.com/")
        assert kept["licence"] == "Apache-2.0"
        assert "spec" in kept["openAPIV3Schema"]["properties"]


@pytest.mark.parametrize(
    ("manifest", "error"),
    [
        (with_spec(scaleTargetRef={"nam": "llm"}), "'nam' was unexpected"),
        (with_spec(scaleTargetRef={}), "'name' is a required property"),
        (with_spec(minReplicaCount="1"), "'1' is not of type 'integer'"),
        (with_spec(triggers=[{"type": "cron", "metadata": {"start": 8}}]), "8 is not of type 'string'"),
        (with_spec(fallback={"behavior": "hope", "failureThreshold": 1, "replicas": 1}), "'hope' is not one of"),
        (SCALED | {"spce": {}}, "'spce' was unexpected"),
    ],
)
def test_what_the_kind_does_not_take_is_an_error(manifest: dict[str, Any], error: str) -> None:
    assert errors_of(SCALED) == []
    (found,) = [found for found in errors_of(manifest) if error in found]
    assert found.startswith("$")


def test_what_is_kept_of_a_definition() -> None:
    """Names of fields are no keywords: one that is called ``default`` stays."""
    schema = {
        "description": "long",
        "type": "object",
        "properties": {
            "spec": {"type": "object", "properties": {"default": {"type": "string", "default": "x"}}},
            "status": {"type": "object"},
        },
    }
    versions = [{"name": "v1alpha1", "schema": {}}, {"name": "v1", "schema": {"openAPIV3Schema": schema}}]
    crd = {"spec": {"group": "g.example", "names": {"kind": "Thing"}, "versions": versions}}
    kept = kept_of(crd, "v1", "https://g.example/thing.yaml")
    assert (kept["apiVersion"], kept["kind"]) == ("g.example/v1", "Thing")
    spec = {"type": "object", "properties": {"default": {"type": "string"}}}
    assert kept["openAPIV3Schema"] == {"type": "object", "properties": {"spec": spec}}
