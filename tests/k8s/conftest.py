"""The container images, for all tests that run them."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from tests.k8s.podman_cluster import CanNotRunError, build


@pytest.fixture(scope="session")
def podman(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, str]:
    """The environment of podman's commands. The images of this checkout are built."""
    try:
        return build(tmp_path_factory.mktemp("podman"))
    except CanNotRunError as error:
        pytest.skip(f"no containers run on this machine: {error}")
