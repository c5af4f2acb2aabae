"""How often an SSM's first choice is the token that comes: the test that one which reads hidden states is wired as it was trained.

Wrong wiring (other layers, swapped tensors, a norm too few) fails silently: trees come, and nothing of them is right. So the first drafts
that are served are counted, on the LLM's own text. An SSM below its floor is left out, and the log says so. The floor stands beside the
weights; where it doesn't, as with published checkpoints, it is measured once and kept in the cache folder.
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
LEAST_SHARE = 0.1
"""Where no floor is known; a layer that is wired wrongly gets about a twentieth right."""
_KEPT_SHARE = 0.5
"""Of a measured share, to be the floor from then on: other prompts may be harder."""


@dataclass(slots=True)
class FirstChoices:
    """Of one SSM. ``floor`` None: the one in ``path``, and where there is none, it is written there."""

    name: str
    floor: float | None = None
    path: Path | None = None
    num_wanted: int = NUM_TESTED
    num_tested: int = 0
    num_right: int = 0
    is_left_out: bool = False

    def __post_init__(self) -> None:
        if self.floor is None and self.path is not None and self.path.is_file():
            try:
                self.floor = read_json_object(self.path).number("first_choice_floor")
            except (JsonFileError, OSError) as error:
                logger.warning("SSM %s: its floor of first choices is measured anew: %s", self.name, error)

    def add(self, *, is_right: bool) -> None:
        """One more."""
        if self.num_tested == self.num_wanted:
            return
        self.num_tested += 1
        self.num_right += is_right
        if self.num_tested == self.num_wanted:
            self._judge(self.num_right / self.num_wanted)

    def _judge(self, share: float) -> None:
        floor = LEAST_SHARE if self.floor is None else self.floor
        if share < floor:
            self.is_left_out = True
            logger.warning(
                "SSM %s is left out until the service is started again: %.3f of its first choices are right, and at least %.3f should "
                "be. It may be made for another LLM, read other layers than it was trained on, or its prompts are very unlike those it "
                "was measured with.",
                self.name, share, floor,
            )  # fmt: skip
            return
        logger.info("SSM %s: %.3f of its first %d first choices were right", self.name, share, self.num_wanted)
        if self.floor is None and self.path is not None:
            self._keep(self.path, share)

    def _keep(self, path: Path, share: float) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps({"first_choice_floor": share * _KEPT_SHARE, "measured": share}) + "\n")
        except OSError as error:
            logger.warning("SSM %s: its floor of first choices can't be kept: %s", self.name, error)
