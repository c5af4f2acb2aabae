"""Ranks as threads of one process: their network, a stage of a model that counts, and a watch of their lives."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import torch

from specgrove.kernels.rows import PassRows
from specgrove.models.decoder.parallel_layout import ParallelLayout
from specgrove.program.backend import PassOutput

VOCAB_SIZE = 4
WAIT_S = 60.0  # ends a test that hangs


class Gone:
    """In a queue after all that a rank has sent, once it has ended."""


class Network:
    """Stands for ``torch.distributed``: each thread is the rank that it was started as; this test's own thread is rank 0."""

    def __init__(self, num_ranks: int) -> None:
        pairs = [(source, target) for source in range(num_ranks) for target in range(num_ranks)]
        self._queues: dict[tuple[int, int], queue.Queue[Any]] = {pair: queue.Queue() for pair in pairs}
        self._threads = threading.local()

    def become(self, rank: int) -> None:
        self._threads.rank = rank

    @property
    def rank(self) -> int:
        return getattr(self._threads, "rank", 0)

    def leave(self) -> None:
        for (source, _), messages in self._queues.items():
            if source == self.rank:
                messages.put(Gone)

    def isend(self, message: torch.Tensor, rank: int) -> SimpleNamespace:
        self._queues[self.rank, rank].put(message)
        return SimpleNamespace(wait=lambda: None)

    def recv(self, into: torch.Tensor, rank: int) -> None:
        message = self._queues[rank, self.rank].get(timeout=WAIT_S)
        if message is Gone:
            raise RuntimeError(f"Connection closed by peer {rank}")
        assert (message.shape, message.dtype) == (into.shape, into.dtype)
        into.copy_(message)

    @property
    def num_unread(self) -> int:
        return sum(message is not Gone for messages in self._queues.values() for message in messages.queue)


class Stage:
    """One rank's ``ModelRunner`` and ``Decoder``: hidden states are token ids, to which each stage adds a digit; logits tell them.

    A stage fails at the token ids in ``fails_at``.
    """

    def __init__(self, layout: ParallelLayout, rank: int) -> None:
        self.decoder = self
        self.spec = SimpleNamespace(vocab_size=VOCAB_SIZE, hidden_size=1)
        self.num_slots = 100
        self.device = torch.device("cpu")
        self.fails_at: set[int] = set()
        self.seen: list[list[int]] = []
        """Token ids of each pass that this rank ran, in its order."""
        self._stage, self._is_last = layout.stage_of(rank), layout.stage_of(rank) == layout.num_stages - 1

    def run(self, rows: PassRows, hidden: torch.Tensor | None = None) -> PassOutput:
        token_ids = rows.token_ids.tolist()
        self.seen.append(token_ids)
        if self.fails_at & set(token_ids):
            raise ArithmeticError(f"token {token_ids[0]} is too much")
        assert (hidden is None) == (self._stage == 0)
        states = torch.tensor(token_ids).float()[:, None] * 1000 if hidden is None else hidden
        states = states + 10**self._stage
        told = tuple(states - layer for layer in rows.hidden_layers)
        if not self._is_last:
            return PassOutput((), torch.empty(0, 0), (*told, states))
        return PassOutput((), states[rows.asked_rows.tolist()].expand(-1, VOCAB_SIZE).contiguous(), told)


class Watch:
    """A ``LivenessMonitor`` that counts."""

    def __init__(self) -> None:
        self.num_passes = 0
        self.is_in_pass = False
        self.lost: str | None = None

    def reason(self) -> str | None:
        return self.lost

    @contextlib.contextmanager
    def passing(self) -> Iterator[None]:
        assert not self.is_in_pass
        self.is_in_pass = True
        try:
            yield
        finally:
            self.is_in_pass = False
            self.num_passes += 1
