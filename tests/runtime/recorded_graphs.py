"""What captures into graphs do, on the CPU: what was launched is recorded, and a replay repeats just that.

So what a pass decides in Python, and where its tensors lie, is as it was at the capture: as on a GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from specgrove.kernels.cuda import backend
from specgrove.program.graphs import NoGraphs

_NOT_CAPTURABLE = ("aten::_local_scalar_dense", "aten::nonzero", "aten::is_pinned")
_WITHOUT_WORK = ("aten::empty", "aten::new_empty")

Work = Callable[[], None]


class _RecordedModule:
    """The emulator, whose calls are recorded while something is captured."""

    def __init__(self, module: Any, graphs: RecordedGraphs) -> None:
        self._module = module
        self._graphs = graphs

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._module, name)
        if not callable(found) or isinstance(found, type):
            return found

        def call(*arguments: Any, **named: Any) -> Any:
            if self._graphs.recording is not None:
                self._graphs.recording.append(lambda: found(*arguments, **named))
            return found(*arguments, **named)

        return call


class _RecordedOps(TorchDispatchMode):
    def __init__(self, recording: list[Work]) -> None:
        super().__init__()
        self._recording = recording
        self.kept: list[Any] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func.name().split(".")[0]
        assert name not in _NOT_CAPTURABLE, f"{name} waits for the device"
        out = func(*args, **kwargs)
        self.kept.append(out)  # as the memory of a graph
        if name in _WITHOUT_WORK:
            return out
        storages = {arg.untyped_storage().data_ptr() for arg in args if isinstance(arg, torch.Tensor)}
        assert isinstance(out, torch.Tensor), name
        is_alias = out.untyped_storage().data_ptr() in storages
        if not is_alias:
            self._recording.append(lambda: out.copy_(func(*args, **kwargs)))  # type: ignore[arg-type,return-value]
        elif func._schema.is_mutable:
            self._recording.append(lambda: func(*args, **kwargs))
        return out


class RecordedGraphs(NoGraphs):
    """See ``Graphs``."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.recording: list[Work] | None = None
        self.num_captured = 0
        self._kept: list[list[Any]] = []
        real = backend._module
        monkeypatch.setattr(backend, "_module", lambda device_type: _RecordedModule(real(device_type), self))

    def capture(self, run: Callable[[], None]) -> Callable[[], None]:
        """See ``Graphs``."""
        run()
        with self._recorded() as recording, _RecordedOps(recording) as ops:
            run()
        self._kept.append(ops.kept)
        assert recording
        self.num_captured += 1

        def replay() -> None:
            for work in recording:
                work()

        return replay

    @contextmanager
    def _recorded(self) -> Iterator[list[Work]]:
        self.recording = recording = []
        yield recording
        self.recording = None
