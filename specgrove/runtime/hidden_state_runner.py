"""Runs passes through a hidden-state SSM and owns its KV cache. Decides nothing: the SSM plans, as with ``DraftRunner``."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import torch

from specgrove.kernels.rows import PassRows
from specgrove.program.backend import Candidates, PassOutput
from specgrove.program.hidden_state import HiddenStateModel
from specgrove.program.level_draft import DraftedLevels, LevelDraft
from specgrove.runtime.model_runner import kv_caches
from specgrove.runtime.step_loop import FatalEngineError


@dataclass(frozen=True, slots=True)
class HiddenStatePass:
    """What a pass gives, of its asked rows in order; on the CPU."""

    states: torch.Tensor
    """float32 ``[num_asked, hidden_size]``: what ``start_level`` takes for the rows' children."""
    candidates: Candidates


class HiddenStateRunner:
    """One model with a cache of ``num_slots`` one-token slots in its dtype. A pass is begun, and ended before the next begins."""

    def __init__(self, model: HiddenStateModel, num_slots: int) -> None:
        self.model = model
        self.num_slots = num_slots
        self._caches = kv_caches(model, num_slots)
        self._finished: deque[HiddenStatePass] = deque()
        self._is_on_cpu = model.device.type == "cpu"

    def start_extend(self, rows: PassRows, hidden: torch.Tensor) -> None:
        """Begins a pass over tokens that are committed. ``hidden`` is float32 ``[num_rows, num_taps * target_hidden_size]``.

        A row's are the LLM's hidden states of the token before its own, the taps in rising order of layers.
        """
        self._finished.append(self._run(rows, hidden, is_level=False))

    def start_level(self, rows: PassRows, hidden: torch.Tensor) -> None:
        """Begins a pass over drafted tokens. ``hidden`` is float32 ``[num_rows, hidden_size]``: the states of the rows' parents."""
        self._finished.append(self._run(rows, hidden, is_level=True))

    @property
    def drafts_levels(self) -> bool:
        """Whether ``draft_levels`` is there: on the CPU alone."""
        return self.model.drafts_levels

    def draft_levels(self, draft: LevelDraft) -> DraftedLevels:
        """All levels of one draft, in one call, and before them the pass over tokens that are unread. Their ``hidden`` is as for
        ``start_extend``, in bfloat16."""
        return self.model.draft_levels(draft, self._caches)

    def finish(self) -> HiddenStatePass:
        """Waits for the pass."""
        return self._finished.popleft()

    def discard(self) -> None:
        """Forgets what was begun."""
        self._finished.clear()

    def _run(self, rows: PassRows, hidden: torch.Tensor, *, is_level: bool) -> HiddenStatePass:
        run = self.model.level if is_level else self.model.extend
        try:
            output = run(rows, self._caches, hidden if self._is_on_cpu else hidden.to(self.model.device))
        except torch.AcceleratorError as error:  # the device is lost to this process: the supervisor starts another
            raise FatalEngineError(f"{self.model.device}: {error}") from error
        return _pass_of(output)


def _pass_of(output: PassOutput) -> HiddenStatePass:
    (states,) = output.hidden
    assert output.candidates is not None, "the model's programs hand them out"
    return HiddenStatePass(states.cpu(), output.candidates)
