"""Every overlay is what the API servers of Kubernetes 1.29 to 1.37 take: strictly, no field that they don't know."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator

import kubernetes_validate
import pytest
from kubernetes_validate import utils

from tests.k8s import crds
from tests.k8s.manifests import OVERLAYS, Manifest, rendered

VERSIONS = tuple(f"1.{minor}" for minor in range(29, 38))


def is_built_in(manifest: Manifest) -> bool:
    """Or else a kind that others define, whose schema is kept in tests/k8s/crds."""
    return (manifest["apiVersion"], manifest["kind"]) not in crds.kinds()


@pytest.fixture(autouse=True, scope="module")
def read_once() -> Iterator[None]:
    """The library reads a version's schemas, several MB, for each manifest anew."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(utils, "schema_contents", functools.cache(utils.schema_contents))
        yield


def errors_of(manifests: list[Manifest], versions: tuple[str, ...] = VERSIONS) -> list[str]:
    """What is wrong, in words. Equal manifests are looked at once."""
    found = []
    for text in {json.dumps(manifest, sort_keys=True) for manifest in manifests if is_built_in(manifest)}:
        manifest = json.loads(text)
        for version in versions:
            try:
                kubernetes_validate.validate(manifest, version, strict=True)
            except (kubernetes_validate.ValidationError, kubernetes_validate.SchemaNotFoundError) as error:
                name = f"{manifest['kind']}/{manifest['metadata']['name']}"
                found.append(f"{name} on {version}: {getattr(error, 'json_path', '')} {error.message}")
    return found


def test_all_versions_take_all_overlays() -> None:
    assert not errors_of([manifest for overlay in OVERLAYS for manifest in rendered(overlay).objects])


def test_kinds_of_others_are_as_these_define_them() -> None:
    of_others = [found for overlay in OVERLAYS for found in rendered(overlay).objects if not is_built_in(found)]
    assert not [error for manifest in of_others for error in crds.errors_of(manifest)]


def test_a_field_that_there_is_not_is_found() -> None:
    probe = {"grpc": {"port": 50050, "servise": "liveness"}}
    container = {"name": "a", "image": "a", "livenessProbe": probe}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}, "spec": {"containers": [container]}}
    assert len(errors_of([pod])) == len(VERSIONS)
