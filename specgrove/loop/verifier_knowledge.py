"""What a drafter may know of the verifier: how it chooses, hidden states of its verified rows, and what it thought likely there.

Made by the LLM service and the router, passed on by the loop, read by SSMs; ``specgrove.wire`` turns it into protobuf and back. All are
frozen and torch-free: hidden states are bytes. Invariant: none of it changes an output.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

BYTES_OF_NUMBER = 2
"""Of a hidden state: bfloat16, little endian."""


@dataclass(frozen=True, slots=True)
class DraftSampling:
    """How the verifier chooses at a temperature above 0: ``argmax(log_probs / temperature + noise)``, the noise by seed, position, token.

    ``top_k`` 0 and ``top_p`` 1 are off. A greedy session has none.
    """

    temperature: float
    seed: int
    top_k: int = 0
    top_p: float = 1.0


@dataclass(frozen=True, slots=True)
class RowTopK:
    """The most probable tokens after one verified row, which may be one of a tree's that was not accepted.

    ``position`` and ``token_id`` are the row's own; ``top`` has token ids with their log-probabilities, most probable first.
    """

    position: int
    token_id: int
    top: tuple[tuple[int, float], ...]


@dataclass(frozen=True, slots=True)
class HiddenStates:
    """Of rows ``first_position`` and those after it, at some layers, rising. Row i is the one of token i.

    Layer X is the residual stream at the input of decoder layer X, before any norm; the number of layers stands for what comes out of the
    last one. ``values`` is bfloat16, little endian, ``[num_tokens, num_layers, hidden_size]``.
    """

    first_position: int
    num_tokens: int
    layers: tuple[int, ...]
    values: bytes

    @property
    def end_position(self) -> int:
        """That of the row after the last."""
        return self.first_position + self.num_tokens

    @property
    def row_bytes(self) -> int:
        """Of all its layers."""
        return len(self.values) // self.num_tokens

    def check(self) -> None:
        """Raises ``ValueError`` unless its parts agree."""
        if self.num_tokens < 1:
            raise ValueError("it must have a row")
        if not self.layers or any(after <= before for before, after in itertools.pairwise(self.layers)):
            raise ValueError(f"its layers must be named, in rising order, got {list(self.layers)}")
        numbers = self.num_tokens * len(self.layers) * BYTES_OF_NUMBER
        if not self.values or len(self.values) % numbers:
            raise ValueError(
                f"{len(self.values)} bytes can't be {self.num_tokens} rows of {len(self.layers)} layers: "
                f"a multiple of {numbers} is needed"
            )

    @property
    def hidden_size(self) -> int:
        """Numbers of one hidden state."""
        return self.row_bytes // (len(self.layers) * BYTES_OF_NUMBER)

    def newest(self, max_num_tokens: int) -> HiddenStates:
        """The last rows, at least one."""
        num_left_out = self.num_tokens - max(max_num_tokens, 1)
        return self if num_left_out <= 0 else self.from_position(self.first_position + num_left_out)

    def from_position(self, position: int) -> HiddenStates:
        """Without the rows before it; there must be one at least that is not."""
        num_left_out = position - self.first_position
        if num_left_out <= 0:
            return self
        values = self.values[num_left_out * self.row_bytes :]
        return HiddenStates(position, self.num_tokens - num_left_out, self.layers, values)

    def before(self, position: int) -> HiddenStates | None:
        """The rows before it; ``None`` where there are none."""
        num_tokens = min(position - self.first_position, self.num_tokens)
        if num_tokens <= 0:
            return None
        if num_tokens == self.num_tokens:
            return self
        return HiddenStates(self.first_position, num_tokens, self.layers, self.values[: num_tokens * self.row_bytes])

    def of_layers(self, layers: tuple[int, ...]) -> HiddenStates:
        """At these layers only, rising. Raises ``ValueError`` for one that it hasn't."""
        if layers == self.layers:
            return self
        places = [self.layers.index(layer) for layer in layers]
        size = self.row_bytes // len(self.layers)
        starts = range(0, len(self.values), self.row_bytes)
        parts = [self.values[start + place * size : start + (place + 1) * size] for start in starts for place in places]
        return HiddenStates(self.first_position, self.num_tokens, layers, b"".join(parts))


@dataclass(frozen=True, slots=True)
class DrafterWishes:
    """What the SSMs of a request want of the verifier: hidden states at these layers, rising, of so many rows before a session's last
    token and of all that follow; and so many of the most probable tokens after every verified row.
    """

    hidden_layers: tuple[int, ...] = ()
    hidden_window: int = 0
    num_row_top_k: int = 0

    def with_those_of(self, other: DrafterWishes) -> DrafterWishes:
        """What serves both."""
        return DrafterWishes(
            tuple(sorted({*self.hidden_layers, *other.hidden_layers})),
            max(self.hidden_window, other.hidden_window),
            max(self.num_row_top_k, other.num_row_top_k),
        )


NO_WISHES = DrafterWishes()


def joined(parts: Sequence[HiddenStates | None]) -> HiddenStates | None:
    """Rows that follow one another as one, those that are there: of a row that is in several parts the last one's.

    A part begins anew where rows before it are missing, or the layers are others. Each row is copied once, however many parts there are.
    """
    kept: list[HiddenStates] = []
    for part in parts:
        if part is None:
            continue
        if kept and (part.layers != kept[-1].layers or part.first_position > kept[-1].end_position):
            kept.clear()
        while kept and kept[-1].first_position >= part.first_position:
            kept.pop()
        if kept and (head := kept[-1].before(part.first_position)) is not None:
            kept[-1] = head
        kept.append(part)
    if len(kept) <= 1:
        return kept[0] if kept else None
    first, last = kept[0], kept[-1]
    values = b"".join(part.values for part in kept)
    return HiddenStates(first.first_position, last.end_position - first.first_position, first.layers, values)
