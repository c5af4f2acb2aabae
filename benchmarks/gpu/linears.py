"""The linears of one layer of a model of Llama 7B's shape: each precision against the time to read its weights once, and against torch.

No targets of their own: the verify step has them. Contestants take turns, and see the same inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from rich.progress import track
from torch.nn import functional

from benchmarks.gpu.card import Card
from benchmarks.gpu.models import LLAMA_7B, PRECISIONS, TINY_LLM
from benchmarks.gpu.rows import Row, by_turns, skipped
from specgrove.kernels.cuda.linear import LinearWorkspace, PackedDeviceLinear
from specgrove.kernels.quantized_linear import quantize
from specgrove.models.weights.quantization import INT4_GROUP_SIZE

PART = "linears of one 7B layer"
NUM_ROWS, TINY_NUM_ROWS = (1, 8, 16, 32, 64), (3,)
_DTYPE = torch.float16


class Linears:
    """The layer's linears, in each precision and torch's own."""

    def __init__(self, shapes: Sequence[tuple[int, int]], device: torch.device) -> None:
        weights = [torch.randn(shape, dtype=_DTYPE) * 0.02 for shape in shapes]
        workspace = LinearWorkspace(device)

        def packed(weight: torch.Tensor, bits: int) -> PackedDeviceLinear:
            values = weight if bits == 16 else quantize(weight, bits, INT4_GROUP_SIZE if bits == 4 else None)
            return PackedDeviceLinear(values, None, _DTYPE, device, workspace)

        self._device = device
        self._packed = {
            f"SpecGrove {name}": [packed(weight, bits) for weight in weights] for bits, name in PRECISIONS.items()
        }
        self._torchs = [weight.to(device) for weight in weights]

    def contestants(self, num_rows: int) -> dict[str, tuple[Callable[[], object], int]]:
        """A pass of so many rows through all of them, and the bytes of the weights."""
        sizes = {weight.shape[1] for weight in self._torchs}
        inputs = {size: torch.randn(num_rows, size, dtype=_DTYPE, device=self._device) for size in sizes}

        def ours(linears: list[PackedDeviceLinear]) -> Callable[[], object]:
            return lambda: [linear(inputs[linear.in_features]) for linear in linears]

        found: dict[str, tuple[Callable[[], object], int]] = {
            name: (ours(linears), sum(linear.nbytes for linear in linears)) for name, linears in self._packed.items()
        }
        found["torch float16"] = (
            lambda: [functional.linear(inputs[weight.shape[1]], weight) for weight in self._torchs],
            sum(weight.nbytes for weight in self._torchs),
        )
        return found


def rows(card: Card) -> Iterator[Row]:
    """A row for each number of rows and contestant: its time over the time to read its weights."""
    shapes = (LLAMA_7B if card.is_full else TINY_LLM).linear_shapes()
    linears = Linears(shapes, card.device)
    for num_rows in track(NUM_ROWS if card.is_full else TINY_NUM_ROWS, "linears", transient=True):
        contestants = linears.contestants(num_rows)
        times = by_turns({name: run for name, (run, _) in contestants.items()}, card.clock, card.num_turns)
        for name, own in times.items():
            what = f"{num_rows} rows, {name}"
            if isinstance(own, str):
                yield skipped(PART, what, "x reading weights", None, own)
                continue
            limit = own.median_ms / card.copy_ms(contestants[name][1])
            yield Row(PART, what, limit, "x reading weights", None, own.median_ms, own.spread_ms, times_limit=limit)
