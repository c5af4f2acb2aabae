"""Runs passes of a whole model on a GPU: one copy there, the replay of captured graphs, one small copy back.

What is captured, and where its results lie, is ``CapturedProgram``'s affair. Choices and the most probable tokens are found on the device
behind a pass. Nothing is allocated and nobody waits until ``finish``.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from specgrove.kernels.cuda.choices import choose, top_k_log_probs
from specgrove.kernels.device_memory import MAX_TOP_K, PassLimits
from specgrove.kernels.rows import HAS_LOGITS, PassRows
from specgrove.program.backend import PassOutput
from specgrove.program.captured import BegunPass, CapturedProgram, Progress
from specgrove.program.cuda import CudaProgram
from specgrove.program.decoder import Decoder
from specgrove.program.graphs import Graphs
from specgrove.runtime.device_log_probs import log_probs_on_device
from specgrove.runtime.model_runner import kv_caches
from specgrove.runtime.step_loop import FatalEngineError
from specgrove.runtime.top_k import TopK, top_k_of


def _nothing() -> tuple[torch.Tensor, ...]:
    return ()


@dataclass(frozen=True, slots=True)
class _UnderWay:
    """A pass that was begun."""

    rows: PassRows
    begun: BegunPass
    answers: Callable[[], tuple[torch.Tensor, ...]] = _nothing
    """Waits for what is being copied to the host; nothing where the logits are the answer."""


def captured_whole(decoder: Decoder) -> CudaProgram | None:
    """The program of a decoder whose passes can be captured from token ids to logits; else ``None``."""
    program = decoder.executable
    return program if isinstance(program, CudaProgram) and program.can_be_captured and program.is_whole else None


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
        """Captures all graphs. Raises ``ValueError`` for a decoder that can't be captured whole."""
        if (program := captured_whole(decoder)) is None:
            raise ValueError("only a whole model that runs on the kernels for GPUs can be captured into graphs")
        self.decoder = decoder
        self.spec = decoder.spec
        self.num_slots = limits.num_slots
        # Hidden states that are handed out lie where the next pass puts its own.
        self.max_num_ahead = 0 if program.program.num_kept else limits.max_num_asked
        self._graphs = graphs
        self._in_flight: deque[_UnderWay] = deque()
        device, pinned = decoder.device, decoder.device.type == "cuda"
        if device.type == "cuda":
            torch.cuda.synchronize(device)  # what was loaded was loaded on another stream
        caches = kv_caches(decoder, limits.num_slots)
        with graphs.stream(), torch.inference_mode():
            self._program = CapturedProgram(program, limits, caches, graphs, progress)
            asked = limits.max_num_asked
            self._log_probs = torch.zeros(asked * MAX_TOP_K, device=device)
            self._token_ids = torch.zeros(asked * MAX_TOP_K, dtype=torch.int32, device=device)
            answers = (self._program.chosen, self._log_probs, self._token_ids)
            # A pass may be begun while the one before it is under way: two of each, by turns.
            self._host = deque(
                {part.dtype: torch.zeros_like(part, device="cpu", pin_memory=pinned) for part in answers}
                for _ in range(2)
            )

    def start(self, rows: PassRows) -> None:
        """See ``Runner``."""
        with self._running():
            num_asked = len(rows.asked_rows)
            begun = (
                self._program.begin_other(self._keeping(rows), rows)
                if rows.hidden_layers
                else self._program.begin(rows)
            )
            if num_asked > self._program.limits.max_num_asked:
                self._in_flight.append(_UnderWay(rows, begun))
                return
            chosen = self._program.chosen[:num_asked]
            choose(begun.logits, *begun.numbers.choice_arguments(num_asked), chosen)
            self._in_flight.append(_UnderWay(rows, begun, self._copied(chosen)))

    def finish(self) -> PassOutput:
        """See ``Runner``."""
        with self._running():
            under_way = self._in_flight.popleft()
            rows, begun, chosen = under_way.rows, under_way.begun, under_way.answers()
            has_choices = len(chosen) > 0
            with_logits = [
                place
                for place, choice in enumerate(rows.choices)
                if place not in rows.known and not (has_choices and choice is not None)
            ]
            assert begun.is_apart or not ((with_logits or rows.known or begun.kept) and self._in_flight), (
                "the pass begun since then has taken the place of logits and hidden states"
            )
            # Chosen by an index only where there are others: that makes a copy.
            has_all = len(with_logits) == len(rows.choices)
            wanted = begun.logits if has_all else begun.logits[with_logits or slice(0)]
            choices = [
                HAS_LOGITS if choice is None else token_id
                for token_id, choice in zip(chosen[0].tolist() if has_choices else (), rows.choices, strict=has_choices)
            ]
            hidden = begun.kept if begun.is_apart else tuple(states.clone() for states in begun.kept)
            return PassOutput(choices, wanted.cpu(), hidden, log_probs_on_device(begun.logits, rows.known))

    def _keeping(self, rows: PassRows) -> CudaProgram:
        program = self.decoder.keeping(rows.hidden_layers)
        assert isinstance(program, CudaProgram), "its store is that of the program without"
        return program

    def start_top_k(self, rows: PassRows, k: int) -> None:
        """See ``DraftRunner``."""
        with self._running():
            begun, num_asked = self._program.begin(rows), len(rows.asked_rows)
            if k > MAX_TOP_K or not self._program.fits(rows):
                self._in_flight.append(_UnderWay(rows, begun))
                return
            log_probs = self._log_probs[: num_asked * k].view(num_asked, k)
            token_ids = self._token_ids[: num_asked * k].view(num_asked, k)
            top_k_log_probs(begun.logits, k, log_probs, token_ids)
            self._in_flight.append(_UnderWay(rows, begun, self._copied(log_probs, token_ids)))

    def finish_top_k(self, k: int) -> TopK:
        """See ``DraftRunner``."""
        with self._running():
            under_way = self._in_flight.popleft()
            answers = under_way.answers()
            return TopK(*answers) if answers else top_k_of(under_way.begun.logits.cpu(), k)

    def discard(self) -> None:
        """See ``Runner``."""
        with self._running():
            while self._in_flight:
                self._in_flight.popleft().answers()

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
