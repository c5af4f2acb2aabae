"""Trees that are always asked for in one shape, or never: of requests that give it, and of routers that are told to."""

from __future__ import annotations

from router.measurements import SessionTimes
from specgrove.loop.output import Step
from specgrove.loop.works import TreeShape


class StaticTreePolicy:
    """Always the same shape. Others learn from the times of its steps."""

    def __init__(self, shape: TreeShape, times: SessionTimes | None = None) -> None:
        self._shape = shape
        self._times = times

    def shape(self) -> TreeShape:
        """The shape."""
        return self._shape

    def observe(self, step: Step) -> None:
        """Counts the times."""
        if self._times is not None:
            self._times.observe(step)
