"""Runs forward passes of a whole model on a GPU: one copy there, the replay of captured graphs, one small copy back.

A pass is filled up to the next of a few numbers of rows, its *bucket*, and so are the rows that are asked for something. For each there is
a graph of the layers, for each number of asked rows one of the head, and where both are the same, as in passes of trees alone, one of
all. Graphs are captured at warm-up, and leave hidden states and logits at fixed places. Nothing is allocated and nobody waits until
``finish``. Passes that are larger than every bucket run without a graph: the same kernels, the same bits.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch

from specgrove.kernels.cuda.choices import choose, take_choices, top_k_log_probs
from specgrove.kernels.device_memory import MAX_TOP_K, PassLimits
from specgrove.kernels.rows import HAS_LOGITS, PassRows
from specgrove.program.backend import PassOutput
from specgrove.program.captured import Progress, bucket_for, buckets
from specgrove.program.decoder import Decoder
from specgrove.program.device_ops import DeviceOps
from specgrove.program.forward_batch import ForwardBatch
from specgrove.program.graphs import Graphs
from specgrove.runtime.device_log_probs import log_probs_on_device
from specgrove.runtime.model_runner import kv_caches
from specgrove.runtime.pass_buffers import PassBuffers
from specgrove.runtime.step_loop import FatalEngineError
from specgrove.runtime.top_k import TopK, top_k_of


def _nothing() -> tuple[torch.Tensor, ...]:
    return ()


@dataclass(frozen=True, slots=True)
class _UnderWay:
    """A pass that was begun."""

    rows: PassRows
    logits: torch.Tensor
    """float32 ``[num_asked, vocab_size]`` on the device."""
    answers: Callable[[], tuple[torch.Tensor, ...]] = _nothing
    """Waits for what is being copied to the host; nothing where the logits are the answer."""


class GraphRunner:
    """The ``Runner`` of one process with a GPU, for models that its kernels can run whole."""

    max_num_in_flight = 1
    choices_are_cheap = True

    def __init__(
        self,
        decoder: Decoder,
        limits: PassLimits,
        graphs: Graphs,
        progress: Progress = lambda done, total: None,
    ) -> None:
        """Captures all graphs. Raises ``ValueError`` for a decoder whose ops are not those of the kernels."""
        if not decoder.can_be_captured:
            raise ValueError("only a whole model that runs on the kernels for GPUs can be captured into graphs")
        assert isinstance(decoder.ops, DeviceOps)
        self.decoder = decoder
        self.spec = decoder.spec
        self.num_slots = limits.num_slots
        self.max_num_ahead = limits.max_num_asked
        self._graphs = graphs
        self._in_flight: deque[_UnderWay] = deque()
        device, pinned = decoder.device, decoder.device.type == "cuda"
        if device.type == "cuda":
            torch.cuda.synchronize(device)  # what was loaded was loaded on another stream
        self._caches = kv_caches(decoder, limits.num_slots)
        with graphs.stream(), torch.inference_mode():
            self._buffers = PassBuffers(limits, decoder.ops.heads, device)
            rows, asked, vocab_size = limits.max_num_rows, limits.max_num_asked, decoder.spec.vocab_size
            self._hidden = torch.zeros(rows, decoder.spec.hidden_size, device=device)
            self._logits = torch.zeros(asked, vocab_size, device=device)
            self._chosen = torch.zeros(asked, dtype=torch.int64, device=device)
            self._log_probs = torch.zeros(asked * MAX_TOP_K, device=device)
            self._token_ids = torch.zeros(asked * MAX_TOP_K, dtype=torch.int32, device=device)
            answers = (self._chosen, self._log_probs, self._token_ids)
            # A pass may be begun while the one before it is under way: two of each, by turns.
            self._host = deque(
                {part.dtype: torch.zeros_like(part, device="cpu", pin_memory=pinned) for part in answers}
                for _ in range(2)
            )
            self._row_buckets, self._asked_buckets = buckets(rows), buckets(asked)
            self._capture_all(progress)

    def _capture_all(self, progress: Progress) -> None:
        """The largest first: the others then find their memory in its."""
        sizes = [(num_rows, 0) for num_rows in reversed(self._row_buckets)]
        sizes += [(0, num_asked) for num_asked in reversed(self._asked_buckets)]
        sizes += [(size, size) for size in reversed(self._asked_buckets) if size in self._row_buckets]
        self._replays: dict[tuple[int, int], Callable[[], None]] = {}
        for num_rows, num_asked in sizes:
            self._replays[num_rows, num_asked] = self._graphs.capture(partial(self._run, num_rows, num_asked))
            progress(len(self._replays), len(sizes))

    def _run(self, num_rows: int, num_asked: int) -> None:
        if num_rows:
            self._run_layers(num_rows)
        if num_asked:
            self._run_head(num_asked)

    def _run_layers(self, num_rows: int) -> None:
        rows = self._buffers.rows(num_rows)
        take_choices(rows.token_ids, self._chosen)
        hidden = self.decoder.run_layers(self.decoder.embed(rows), rows, *self._caches)
        self._hidden[:num_rows].copy_(hidden)

    def _run_head(self, num_asked: int) -> None:
        rows = self._buffers.asked_rows(num_asked)
        self._logits[:num_asked].copy_(self.decoder.logits_of(self._hidden, rows))

    def start(self, batch: PassRows) -> None:
        """See ``Runner``."""
        with self._running():
            num_asked = len(batch.asked_rows)
            if num_asked > self._buffers.limits.max_num_asked:
                self._in_flight.append(_UnderWay(batch, self._logits_without_graph(batch)))
                return
            if self._fits(batch):
                logits = self._replay(batch)
            else:
                self._buffers.load_choices(batch)
                logits = self._logits_without_graph(batch)
            choose(logits, *self._buffers.choice_arguments(num_asked), self._chosen[:num_asked])
            self._in_flight.append(_UnderWay(batch, logits, self._copied(self._chosen[:num_asked])))

    def finish(self) -> PassOutput:
        """See ``Runner``."""
        with self._running():
            under_way = self._in_flight.popleft()
            rows, chosen = under_way.rows, under_way.answers()
            has_choices = len(chosen) > 0
            with_logits = [
                place
                for place, choice in enumerate(rows.choices)
                if place not in rows.known and not (has_choices and choice is not None)
            ]
            assert not ((with_logits or rows.known) and self._in_flight), (
                "the pass begun since then has taken the logits' place"
            )
            # Chosen by an index only where there are others: that makes a copy.
            has_all = len(with_logits) == len(rows.choices)
            wanted = under_way.logits if has_all else under_way.logits[with_logits or slice(0)]
            choices = [
                HAS_LOGITS if choice is None else token_id
                for token_id, choice in zip(chosen[0].tolist() if has_choices else (), rows.choices, strict=has_choices)
            ]
            return PassOutput(choices, wanted.cpu(), log_probs=log_probs_on_device(under_way.logits, rows.known))

    def start_top_k(self, batch: PassRows, k: int) -> None:
        """See ``DraftRunner``."""
        with self._running():
            if k > MAX_TOP_K or not self._fits(batch):
                self._in_flight.append(_UnderWay(batch, self._logits_without_graph(batch)))
                return
            logits = self._replay(batch)
            num_asked = len(logits)
            log_probs = self._log_probs[: num_asked * k].view(num_asked, k)
            token_ids = self._token_ids[: num_asked * k].view(num_asked, k)
            top_k_log_probs(logits, k, log_probs, token_ids)
            self._in_flight.append(_UnderWay(batch, logits, self._copied(log_probs, token_ids)))

    def finish_top_k(self, k: int) -> TopK:
        """See ``DraftRunner``."""
        with self._running():
            under_way = self._in_flight.popleft()
            answers = under_way.answers()
            return TopK(*answers) if answers else top_k_of(under_way.logits.cpu(), k)

    def discard(self) -> None:
        """See ``Runner``."""
        with self._running():
            while self._in_flight:
                self._in_flight.popleft().answers()

    def _fits(self, batch: PassRows) -> bool:
        limits = self._buffers.limits
        return batch.num_rows <= limits.max_num_rows and len(batch.asked_rows) <= limits.max_num_asked

    def _replay(self, batch: PassRows) -> torch.Tensor:
        """Begins a pass; the logits of its asked rows, on the device."""
        num_asked = len(batch.asked_rows)
        row_bucket = bucket_for(batch.num_rows, self._row_buckets)
        asked_bucket = bucket_for(num_asked, self._asked_buckets) if num_asked else 0
        self._buffers.load(batch, row_bucket, asked_bucket)
        if (row_bucket, asked_bucket) in self._replays:
            self._replays[row_bucket, asked_bucket]()
        else:
            self._replays[row_bucket, 0]()
            self._replays[0, asked_bucket]()
        return self._logits[:num_asked]

    def _logits_without_graph(self, batch: PassRows) -> torch.Tensor:
        rows = self.decoder.ops.rows(ForwardBatch(batch))
        take_choices(rows.token_ids, self._chosen)
        hidden = self.decoder.run_layers(self.decoder.embed(rows), rows, *self._caches)
        return self.decoder.logits(hidden, rows)

    def _copied(self, *parts: torch.Tensor) -> Callable[[], tuple[torch.Tensor, ...]]:
        """Begins copies to the host; what waits for them."""
        self._host.rotate()
        there = tuple(self._host_place(part) for part in parts)
        waits = [self._graphs.copied(part, place) for part, place in zip(parts, there, strict=True)]

        def wait() -> tuple[torch.Tensor, ...]:
            waits[-1]()  # one stream: the last comes last
            return there

        return wait

    def _host_place(self, part: torch.Tensor) -> torch.Tensor:
        return self._host[0][part.dtype][: part.numel()].view(part.shape)

    @contextmanager
    def _running(self) -> Iterator[None]:
        """On the runner's stream. What the device fails with ends the process: the supervisor starts another.

        Memory that is short fails the pass only: one without a graph takes more than was planned for.
        """
        try:
            with self._graphs.stream(), torch.inference_mode():
                yield
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            raise FatalEngineError(f"{self.decoder.device}: {error}") from error
