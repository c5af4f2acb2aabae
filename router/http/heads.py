"""What all chunks of an answer begin with. Used by the formats."""

from __future__ import annotations

import time
from dataclasses import dataclass

from router.request_ids import ids_under_way
from specgrove.v1 import router_pb2

_NUM_DIGITS = 8


@dataclass(frozen=True, slots=True)
class Head:
    """``fingerprint`` tells builds and settings apart whose outputs may differ."""

    id: str
    created_s: int
    model: str
    fingerprint: str

    def fields(self, kind: str) -> dict[str, object]:
        """For an object of a kind, e.g. ``chat.completion``."""
        return {
            "id": self.id,
            "object": kind,
            "created": self.created_s,
            "model": self.model,
            "system_fingerprint": self.fingerprint,
        }


def new_head(prefix: str, info: router_pb2.GetModelInfoResponse, numerics_digest: str) -> Head:
    """For a new answer, with the id that its request has in logs and traces."""
    fingerprint = f"specgrove-{info.version}-{info.dtype}-{numerics_digest[:_NUM_DIGITS]}"
    return Head(f"{prefix}-{ids_under_way().ours}", int(time.time()), info.model, fingerprint)
