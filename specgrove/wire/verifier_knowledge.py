"""What a drafter may know of the verifier as messages, and back. Used by ``specgrove.wire.works``, whose messages carry it.

What comes in is checked for form: counts, layers that rise, as many bytes as the counts say. Whether the layers and the hidden size are
those of a model is checked by who knows the model.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import Protocol

from specgrove.config import MAX_HIDDEN_WINDOW, MAX_NUM_HIDDEN_LAYERS, MAX_NUM_ROW_TOP_K
from specgrove.errors import InvalidRequestError
from specgrove.loop.verifier_knowledge import DraftSampling, HiddenStates, RowTopK
from specgrove.ranges import MIN_TEMPERATURE, SAMPLING_RANGES
from specgrove.v1 import ssm_pb2, token_tree_pb2

# A tree has fewer; several steps share a message.
_MAX_NUM_ROWS = 4096


class _WithHiddenStates(Protocol):
    @property
    def hidden_states(self) -> token_tree_pb2.HiddenStates: ...

    def HasField(self, field_name: str) -> bool: ...  # noqa: N802


def draft_sampling_to_proto(sampling: DraftSampling | None) -> ssm_pb2.DraftSampling | None:
    """All fields."""
    if sampling is None:
        return None
    return ssm_pb2.DraftSampling(
        temperature=sampling.temperature, seed=sampling.seed, top_k=sampling.top_k, top_p=sampling.top_p
    )


def draft_sampling_from_proto(proto: ssm_pb2.DraftSampling) -> DraftSampling | None:
    """``None``: a temperature of 0. Raises ``InvalidRequestError``."""
    top_p = proto.top_p if proto.HasField("top_p") else 1.0
    for name, value in (("temperature", proto.temperature), ("top_p", top_p)):
        if problem := SAMPLING_RANGES[name].problem(value):
            raise InvalidRequestError.of(f"sampling.{name}", problem)
    return (
        DraftSampling(proto.temperature, proto.seed, proto.top_k, top_p)
        if proto.temperature >= MIN_TEMPERATURE
        else None
    )


def hidden_states_to_proto(states: HiddenStates | None) -> token_tree_pb2.HiddenStates | None:
    """All fields."""
    if states is None:
        return None
    return token_tree_pb2.HiddenStates(
        first_position=states.first_position,
        num_tokens=states.num_tokens,
        layers=states.layers,
        values=states.values,
    )


def hidden_states_in(message: _WithHiddenStates) -> HiddenStates | None:
    """Those of a message. Raises ``InvalidRequestError`` where counts, layers and bytes don't agree."""
    if not message.HasField("hidden_states"):
        return None
    proto = message.hidden_states
    layers = hidden_layers_from_proto("hidden_states.layers", proto.layers)
    states = HiddenStates(proto.first_position, proto.num_tokens, layers, proto.values)
    try:
        states.check()
    except ValueError as error:
        raise InvalidRequestError.of("hidden_states", str(error)) from None
    return states


def hidden_layers_from_proto(field: str, layers: Sequence[int]) -> tuple[int, ...]:
    """Layers by name. Raises ``InvalidRequestError`` unless they rise and are few."""
    if len(layers) > MAX_NUM_HIDDEN_LAYERS:
        raise InvalidRequestError.of(field, f"has {len(layers)} elements; at most {MAX_NUM_HIDDEN_LAYERS}")
    if any(after <= before for before, after in itertools.pairwise(layers)):
        raise InvalidRequestError.of(field, f"layers must rise, got {list(layers)}")
    return tuple(layers)


def hidden_window_from_proto(field: str, num_rows: int) -> int:
    """Raises ``InvalidRequestError`` for a window that is too long."""
    if num_rows > MAX_HIDDEN_WINDOW:
        raise InvalidRequestError.of(field, f"must be from 0 to {MAX_HIDDEN_WINDOW}, got {num_rows}")
    return num_rows


def num_row_top_k_from_proto(field: str, count: int) -> int:
    """Raises ``InvalidRequestError`` for too many."""
    if count > MAX_NUM_ROW_TOP_K:
        raise InvalidRequestError.of(field, f"must be from 0 to {MAX_NUM_ROW_TOP_K}, got {count}")
    return count


def row_top_k_to_proto(rows: Iterable[RowTopK]) -> list[token_tree_pb2.RowTopK]:
    """All fields."""
    return [
        token_tree_pb2.RowTopK(
            position=row.position,
            token_id=row.token_id,
            top_token_ids=[token_id for token_id, _ in row.top],
            top_log_probs=[log_prob for _, log_prob in row.top],
        )
        for row in rows
    ]


def row_top_k_from_proto(protos: Sequence[token_tree_pb2.RowTopK]) -> tuple[RowTopK, ...]:
    """Raises ``InvalidRequestError`` for too many rows or tokens, and for lists of different lengths."""
    if not protos:  # as in most messages
        return ()
    if len(protos) > _MAX_NUM_ROWS:
        raise InvalidRequestError.of("row_top_k", f"has {len(protos)} elements; at most {_MAX_NUM_ROWS}")
    for proto in protos:
        num_ids, num_log_probs = len(proto.top_token_ids), len(proto.top_log_probs)
        if num_ids != num_log_probs or num_ids > MAX_NUM_ROW_TOP_K:
            raise InvalidRequestError.of(
                "row_top_k",
                f"a row has {num_ids} top_token_ids and {num_log_probs} top_log_probs; "
                f"as many of both are needed, {MAX_NUM_ROW_TOP_K} at most",
            )
    return tuple(
        RowTopK(proto.position, proto.token_id, tuple(zip(proto.top_token_ids, proto.top_log_probs, strict=True)))
        for proto in protos
    )
