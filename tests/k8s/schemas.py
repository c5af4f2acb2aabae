"""Whether API servers of Kubernetes 1.29 to 1.37 take a manifest of a built-in kind: strictly, with no field that they don't know."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Sequence

import kubernetes_validate
import pytest
from kubernetes_validate import utils

from tests.k8s.manifests import Manifest

VERSIONS = tuple(f"1.{minor}" for minor in range(29, 38))
_read = functools.cache(utils.schema_contents)


def errors_of(manifests: Iterable[Manifest], versions: Sequence[str] = VERSIONS) -> list[str]:
    """What is wrong, in words. Equal manifests are looked at once."""
    with pytest.MonkeyPatch.context() as patch:
        # The library reads a version's schemas, several MB, for each manifest anew.
        patch.setattr(utils, "schema_contents", _read)
        texts = {json.dumps(manifest, sort_keys=True) for manifest in manifests}
        return [
            error for text in sorted(texts) for version in versions for error in _errors_of(json.loads(text), version)
        ]


def _errors_of(manifest: Manifest, version: str) -> list[str]:
    try:
        kubernetes_validate.validate(manifest, version, strict=True)
    except (kubernetes_validate.ValidationError, kubernetes_validate.SchemaNotFoundError) as error:
        name = f"{manifest['kind']}/{manifest['metadata']['name']}"
        return [f"{name} on {version}: {getattr(error, 'json_path', '')} {error.message}"]
    return []
