"""What an SSM wants to be told of the LLM's passes, and whether the LLM service can tell it. Asked when an SSM service connects.

Invariant: an SSM that can't have what it needs is left out, and the log names it and the LLM.
"""

from __future__ import annotations

from collections.abc import Iterator

from router.served_model import ServedModel
from specgrove.config import MAX_HIDDEN_BYTES, MAX_HIDDEN_BYTES_OF_ALL, MAX_HIDDEN_WINDOW
from specgrove.errors import InvalidRequestError
from specgrove.loop.told import HiddenRoom
from specgrove.loop.verifier_knowledge import BYTES_OF_NUMBER, DrafterWishes
from specgrove.telemetry.metrics import Kind, Metric, Reading
from specgrove.v1 import ssm_pb2
from specgrove.wire.verifier_knowledge import hidden_layers_from_proto

HIDDEN_BYTES = Metric(
    "specgrove_router_hidden_state_bytes",
    Kind.GAUGE,
    f"Hidden states kept for SSMs that read them, of all requests; at most {MAX_HIDDEN_BYTES_OF_ALL >> 20} MiB.",
)


def readings_of(room: HiddenRoom) -> Iterator[Reading]:
    """For metrics."""
    yield Reading(HIDDEN_BYTES, room.num_bytes)


class UnmetWishError(Exception):
    """An SSM can't have what it needs; says what, and why."""


def wishes_in(ssm: ssm_pb2.SsmInfo, model: ServedModel) -> DrafterWishes:
    """Raises ``UnmetWishError``."""
    try:
        layers = hidden_layers_from_proto("hidden_layers", ssm.hidden_layers)
    except InvalidRequestError as error:
        raise UnmetWishError(f"what it says of itself contradicts itself: {error}") from error
    if layers:
        _check_layers(ssm, model)
    if ssm.num_row_top_k > model.max_num_row_top_k:
        can = f"can tell {model.max_num_row_top_k}" if model.max_num_row_top_k else "is older and can't tell any"
        raise UnmetWishError(
            f"it needs the {ssm.num_row_top_k} most probable tokens of every row, and the LLM service of {model.name} {can}"
        )
    return DrafterWishes(layers, _hidden_window(ssm) if layers else 0, ssm.num_row_top_k)


def _hidden_window(ssm: ssm_pb2.SsmInfo) -> int:
    """Rows that are asked of the LLM service: not more than the router can keep and send on."""
    row_bytes = len(ssm.hidden_layers) * ssm.hidden_size * BYTES_OF_NUMBER
    return min(ssm.hidden_window, MAX_HIDDEN_WINDOW, max(MAX_HIDDEN_BYTES // row_bytes, 1))


def _check_layers(ssm: ssm_pb2.SsmInfo, model: ServedModel) -> None:
    needs = f"it needs hidden states of layers {list(ssm.hidden_layers)}, {ssm.hidden_size} numbers each"
    if not model.hidden_layers:
        raise UnmetWishError(f"{needs}, and the LLM service of {model.name} is older and can't give any")
    if not set(ssm.hidden_layers).issubset(model.hidden_layers):
        given = f"{model.hidden_layers[0]} to {model.hidden_layers[-1]}"
        raise UnmetWishError(f"{needs}, and the LLM service of {model.name} can give those of layers {given} only")
    if ssm.hidden_size != model.hidden_size:
        raise UnmetWishError(
            f"{needs}, and those of {model.name} have {model.hidden_size}: it was made for another model"
        )
