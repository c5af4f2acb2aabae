"""A recorded trace: outputs of a real LLM, and what a real SSM proposes at each place of them. What acceptance depends on is all there:
on the LLM's path a tree's nodes are the SSM's own; off it no node is ever accepted.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

NUM_CANDIDATES = 8
"""Of each place."""


@dataclass(frozen=True, slots=True)
class Output:
    """One output. ``candidate_ids`` and ``log_probs`` ``[num_tokens, NUM_CANDIDATES]``: what the SSM proposes, best first."""

    token_ids: npt.NDArray[np.int64]
    candidate_ids: npt.NDArray[np.int64]
    log_probs: npt.NDArray[np.float32]

    def right_share(self, num_candidates: int) -> float:
        """How often the token is among so many."""
        is_right = (self.candidate_ids[:, :num_candidates] == self.token_ids[:, None]).any(axis=1)
        return float(is_right.mean())


@dataclass(frozen=True, slots=True)
class Trace:
    """Outputs, and the conditions they were recorded under."""

    outputs: tuple[Output, ...]
    conditions: dict[str, Any]

    @staticmethod
    def read(path: Path) -> Trace:
        """Raises ``OSError``, ``KeyError`` for a file that was not written by ``write``."""
        with np.load(path) as arrays:
            conditions = json.loads(str(arrays["conditions"]))
            ends = np.cumsum(arrays["lengths"])
            outputs = tuple(
                Output(
                    arrays["token_ids"][end - length : end].astype(np.int64),
                    arrays["candidate_ids"][end - length : end].astype(np.int64),
                    arrays["log_probs"][end - length : end].astype(np.float32),
                )
                for end, length in zip(ends, arrays["lengths"], strict=True)
            )
        return Trace(outputs, conditions)

    def write(self, path: Path) -> None:
        """One file."""
        np.savez_compressed(
            path,
            conditions=np.array(json.dumps(self.conditions)),
            lengths=np.array([len(output.token_ids) for output in self.outputs]),
            token_ids=np.concatenate([output.token_ids for output in self.outputs]).astype(np.int32),
            candidate_ids=np.concatenate([output.candidate_ids for output in self.outputs]).astype(np.int32),
            log_probs=np.concatenate([output.log_probs for output in self.outputs]).astype(np.float16),
        )
