"""Every overlay is what the API servers of Kubernetes 1.29 to 1.37 take, and of others' kinds what these define."""

from __future__ import annotations

from tests.k8s import crds
from tests.k8s.manifests import OVERLAYS, Manifest, rendered
from tests.k8s.schemas import VERSIONS, errors_of


def is_of_others(manifest: Manifest) -> bool:
    """Whether it is of a kind whose schema is kept in tests/k8s/crds."""
    return (manifest["apiVersion"], manifest["kind"]) in crds.kinds()


def test_all_versions_take_all_overlays() -> None:
    assert not errors_of(found for name in OVERLAYS for found in rendered(name).objects if not is_of_others(found))


def test_kinds_of_others_are_as_these_define_them() -> None:
    of_others = [found for name in OVERLAYS for found in rendered(name).objects if is_of_others(found)]
    assert not [error for manifest in of_others for error in crds.errors_of(manifest)]


def test_a_field_that_there_is_not_is_found() -> None:
    probe = {"grpc": {"port": 50050, "servise": "liveness"}}
    container = {"name": "a", "image": "a", "livenessProbe": probe}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}, "spec": {"containers": [container]}}
    assert len(errors_of([pod])) == len(VERSIONS)
