"""A model spread over ranks: rank 0's ``Runner``, which tells the others every pass, and the loop of the others.

Rank 0 sends the rows of each pass to all ranks and computes its own part; hidden states go from stage to stage, logits from the last
stage back to rank 0. What is on a GPU goes from GPU to GPU (NCCL), the rest over the CPU (Gloo). All messages are sent without waiting and
received in order, so as many passes are in flight as there are stages, and each stage works on another one. Nothing here recovers: when a
rank is gone every call fails, all processes end, and the supervisor starts them anew.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import torch
import torch.distributed as dist

from specgrove.kernels.rows import PassRows
from specgrove.models.decoder.parallel_layout import ParallelLayout
from specgrove.program.backend import PassOutput
from specgrove.program.tensor_group import DistributedGroup, OneRank, TensorGroup
from specgrove.runtime.known_tokens import with_log_probs
from specgrove.runtime.model_runner import ModelRunner, RankFailedError
from specgrove.runtime.pass_wire import MESSAGE_DTYPE, from_tensor, to_tensor
from specgrove.runtime.rank_liveness import LivenessMonitor

_STOP = 0  # rows of no numbers


@dataclass(frozen=True, slots=True)
class RankLinks:
    """This process's place among the ranks and the groups it talks in."""

    layout: ParallelLayout
    rank: int
    tensor_group: TensorGroup

    @property
    def stage(self) -> int:
        """This rank's pipeline stage."""
        return self.layout.stage_of(self.rank)

    @property
    def next_rank(self) -> int:
        """Who gets this rank's hidden states."""
        return self.rank + self.layout.tensor_size

    @property
    def previous_rank(self) -> int:
        """Whose hidden states this rank gets."""
        return self.rank - self.layout.tensor_size

    @property
    def is_last_stage(self) -> bool:
        """Whether logits come out here."""
        return self.stage == self.layout.num_stages - 1


def link_ranks(layout: ParallelLayout) -> RankLinks:
    """Makes the groups; every rank must call it. ``torch.distributed`` must be initialised with ``layout.num_ranks`` processes."""
    rank = dist.get_rank()
    own: TensorGroup = OneRank()
    for stage in range(layout.num_stages):
        ranks = layout.ranks_of(stage)
        group = dist.new_group(list(ranks)) if layout.tensor_size > 1 else None
        if group is not None and rank in ranks:
            own = DistributedGroup(group)
    return RankLinks(layout, rank, own)


class _Outbox:
    """Messages on their way; their tensors must live until they have left. The oldest of too many have been received long since."""

    def __init__(self, layout: ParallelLayout) -> None:
        # A pass is two messages to every rank and hidden states; so many passes are in flight at most, and one is being sent.
        self._max_num_sent = (layout.num_stages + 1) * (2 * layout.num_ranks + 1)
        self._sent: deque[tuple[dist.Work, torch.Tensor]] = deque()

    def send(self, message: torch.Tensor, rank: int) -> None:
        """Returns at once."""
        if len(self._sent) == self._max_num_sent:
            self._sent.popleft()[0].wait()
        work = dist.isend(message, rank)
        assert work is not None
        self._sent.append((work, message))


class ParallelRunner:
    """The ``Runner`` of rank 0."""

    choices_are_cheap = False
    max_num_ahead = 0

    def __init__(self, runner: ModelRunner, links: RankLinks, liveness: LivenessMonitor) -> None:
        self._runner = runner
        self._liveness = liveness
        self._links = links
        self.decoder = runner.decoder
        self.spec = runner.spec
        self.num_slots = runner.num_slots
        self.max_num_in_flight = links.layout.num_stages
        self._outbox = _Outbox(links.layout)
        # With what came out; logits that are still to come from the last stage aside, those are hidden states.
        self._in_flight: deque[tuple[PassRows, PassOutput | tuple[torch.Tensor, ...]]] = deque()

    def start(self, rows: PassRows) -> None:
        """See ``Runner``. Raises ``RankFailedError``."""
        try:
            with self._liveness.passing():
                self._start(rows)
        except Exception as error:  # the other ranks have the rows already: nobody knows where they stand
            raise self._failure(error) from error

    def _start(self, rows: PassRows) -> None:
        message = to_tensor(rows)
        self._send_to_all(torch.tensor([message.shape[0]]), message)
        output = self._runner.run(rows)
        if self._links.is_last_stage:
            self._in_flight.append((rows, output))
        else:
            *hidden, handed_on = output.hidden
            self._outbox.send(handed_on, self._links.next_rank)
            self._in_flight.append((rows, tuple(hidden)))

    def finish(self) -> PassOutput:
        """See ``Runner``: no choices. Raises ``RankFailedError``."""
        rows, output = self._in_flight.popleft()
        if not isinstance(output, PassOutput):
            output = PassOutput((), self._received(len(rows.asked_rows)), output)
        return with_log_probs(rows, output)

    def _received(self, num_rows: int) -> torch.Tensor:
        """Logits from the last stage."""
        logits = torch.empty((num_rows, self.spec.vocab_size))
        if num_rows == 0:
            return logits
        try:
            with self._liveness.passing():
                dist.recv(logits, self._links.layout.ranks_of(self._links.layout.num_stages - 1).start)
        except Exception as error:
            raise self._failure(error) from error
        return logits

    def _failure(self, error: Exception) -> RankFailedError:
        reason = self._liveness.reason() or f"{type(error).__name__}: {error}"
        return RankFailedError(f"a pass over the ranks failed: {reason}")

    def discard(self) -> None:
        """See ``Runner``."""
        while self._in_flight:
            self.finish()

    def stop_workers(self) -> None:
        """Ends the other ranks' loops."""
        self._send_to_all(torch.tensor([_STOP]))

    def _send_to_all(self, *messages: torch.Tensor) -> None:
        for rank in range(1, self._links.layout.num_ranks):
            for message in messages:
                self._outbox.send(message, rank)


def run_worker(runner: ModelRunner, links: RankLinks) -> None:
    """The loop of every rank but 0: until rank 0 says stop, or is gone (``RuntimeError``)."""
    outbox = _Outbox(links.layout)
    decoder = runner.decoder
    while True:
        length = torch.zeros(1, dtype=torch.int64)
        dist.recv(length, 0)
        if int(length) == _STOP:
            return
        message = torch.empty(int(length), dtype=MESSAGE_DTYPE)
        dist.recv(message, 0)
        rows = from_tensor(message)
        hidden = None
        if links.stage > 0:
            rows.hidden_layers = ()  # the first stage's, which hands them out
            hidden = torch.empty((rows.num_rows, decoder.spec.hidden_size), device=decoder.device)
            dist.recv(hidden, links.previous_rank)
        output = runner.run(rows, hidden)
        if not links.is_last_stage:
            outbox.send(output.hidden[-1], links.next_rank)
        elif rows.asked_rows and links.tensor_group.rank == 0:
            outbox.send(output.logits, 0)
