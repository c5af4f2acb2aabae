"""How often an SSM's first choice is the token that comes: the test that one which reads hidden states is wired as it was trained.

Wrong wiring (other layers, swapped tensors, a norm too few) fails silently: trees come, and nothing of them is right. So the first drafts
that are served are counted, on the LLM's own text, a few of each session: what one user asks for must not decide for all. An SSM below
its floor is left out for many drafts, then tested again, and the log says so. The floor stands beside the weights; where it doesn't, as
with published checkpoints, it is measured once and kept in the cache folder.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path

from specgrove.files.json_files import JsonFileError, read_json_object

logger = logging.getLogger(__name__)

NUM_TESTED = 256
"""First choices that are counted before anything is said."""
NUM_OF_SESSION = 16
"""Of these, how many of one session."""
LEAST_SHARE = 0.1
"""Where no floor is known; a layer that is wired wrongly gets about a twentieth right."""
_KEPT_SHARE = 0.5
"""Of a measured share, to be the floor from then on: other prompts may be harder."""
_FIRST_NUM_LEFT_OUT = 4096
"""Drafts without an SSM that has failed, before it is tested again; twice as many after each further failure."""
_MAX_NUM_LEFT_OUT = 65_536


@dataclass(slots=True)
class FirstChoices:
    """Of one SSM. ``floor`` None: the one in ``path``, and where there is none, it is written there."""

    name: str
    floor: float | None = None
    path: Path | None = None
    num_wanted: int = NUM_TESTED
    num_tested: int = 0
    num_right: int = 0
    num_left_out: int = 0
    """Drafts that are still to be made without it."""
    num_failures: int = 0

    def __post_init__(self) -> None:
        if self.floor is None and self.path is not None and self.path.is_file():
            try:
                record = read_json_object(self.path)
                floor = record.number("first_choice_floor")
                if not 0 <= floor <= 1:
                    raise record.error("first_choice_floor", "a share from 0 to 1")
                self.floor = floor
            except (JsonFileError, OSError) as error:
                logger.warning("SSM %s: its floor of first choices is measured anew: %s", self.name, error)

    @property
    def is_left_out(self) -> bool:
        """Whether it has failed, and its next test is still to come."""
        return self.num_left_out > 0

    def takes_part(self) -> bool:
        """Asked once for each draft: False while it is left out."""
        if self.num_left_out == 0:
            return True
        self.num_left_out -= 1
        if self.num_left_out == 0:
            self.num_tested = self.num_right = 0
            logger.info("SSM %s is tested again", self.name)
        return False

    def add(self, *, is_right: bool) -> None:
        """One more; callers add at most ``NUM_OF_SESSION`` of one session."""
        if self.num_tested == self.num_wanted:
            return
        self.num_tested += 1
        self.num_right += is_right
        if self.num_tested == self.num_wanted:
            self._judge(self.num_right / self.num_wanted)

    def _judge(self, share: float) -> None:
        floor = LEAST_SHARE if self.floor is None else self.floor
        if share < floor:
            self.num_left_out = min(_FIRST_NUM_LEFT_OUT << self.num_failures, _MAX_NUM_LEFT_OUT)
            self.num_failures += 1
            logger.warning(
                "SSM %s is left out for %d drafts, then tested again: %.3f of its first choices are right, and at least %.3f should "
                "be. It may be made for another LLM, read other layers than it was trained on, or its prompts are very unlike those it "
                "was measured with.",
                self.name, self.num_left_out, share, floor,
            )  # fmt: skip
            return
        self.num_failures = 0
        logger.info("SSM %s: %.3f of its first %d first choices were right", self.name, share, self.num_wanted)
        if self.floor is None and self.path is not None:
            self._keep(self.path, share)

    def _keep(self, path: Path, share: float) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps({"first_choice_floor": share * _KEPT_SHARE, "measured": share}) + "\n")
        except OSError as error:
            logger.warning("SSM %s: its floor of first choices can't be kept: %s", self.name, error)
