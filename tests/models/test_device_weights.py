"""The way of a decoder on a device: its ops, its weights there, and those that are copied a unit ahead. On a GPU by the same tests.

On the CPU copies are made at once or as late as may be.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from specgrove.kernels.quantized_linear import QuantizedWeight, quantize
from specgrove.models.decoder.family import read_spec
from specgrove.models.decoder.parallel_layout import ParallelLayout
from specgrove.models.decoder.parameters import Weight
from specgrove.models.planning.memory_plan import MemoryRequest, plan_memory
from specgrove.program.device_weights import Copies, DeviceWeights, StreamCopies, StreamedWeights
from specgrove.program.loading import load_decoder
from specgrove.program.stores import Linear
from specgrove.runtime.model_runner import ModelRunner
from specgrove.runtime.pass_builder import PassBuilder, TreeRows
from tests.devices import DEVICES
from tests.models.families import VARIANTS, save_tiny
from tests.models.test_decoder import PROMPTS, chunked_logits
from tests.pairs import pairs


class CopiesAtOnce:
    """The earliest that a stream can be."""

    def host_buffer(self, num_bytes: int) -> torch.Tensor:
        return torch.empty(num_bytes, dtype=torch.uint8)

    def copy(self, source: torch.Tensor, target: torch.Tensor, ticket: int) -> None:
        target.copy_(source)

    def wait(self, ticket: int) -> None:
        pass


class LateCopies(CopiesAtOnce):
    """The latest: when the copy is waited for."""

    def __init__(self) -> None:
        self.begun: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        self.num_copies = 0

    def copy(self, source: torch.Tensor, target: torch.Tensor, ticket: int) -> None:
        target.fill_(255)  # whoever reads it now finds nothing of use
        self.begun[ticket] = (target, source)

    def wait(self, ticket: int) -> None:
        if ticket in self.begun:
            target, source = self.begun.pop(ticket)
            target.copy_(source)
            self.num_copies += 1


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> torch.device:
    return torch.device(request.param)


def copies_on(device: torch.device) -> list[Callable[[], Copies]]:
    return [CopiesAtOnce, LateCopies] if device.type == "cpu" else [lambda: StreamCopies(device)]


@pytest.mark.parametrize("variant", VARIANTS)
def test_logits_equal_transformers(variant: str, device: torch.device, tmp_path: Path) -> None:
    model = save_tiny(variant, tmp_path)
    runner = ModelRunner(load_decoder(tmp_path, torch.float32, store=DeviceWeights(device)), num_slots=64)
    with torch.inference_mode():
        expected = model(torch.tensor([PROMPTS[0]])).logits[0]
    for chunk_len in (1, len(PROMPTS[0])):
        assert (chunked_logits(runner, PROMPTS[0], chunk_len) - expected).abs().max() <= 1e-4
    builder = PassBuilder()
    context = PROMPTS[0][:7]
    chunked_logits(runner, context, len(context))
    builder.add(list(range(3, 10)), (), TreeRows([3, 10, 11, 12], [-1, 0, 0, 2], [30, 22, 25, 21]))
    with torch.inference_mode():
        expected = model(torch.tensor([[*context, 3, 11, 12]])).logits[0, -1]
    assert (runner.forward(builder.build())[3] - expected).abs().max() <= 1e-4


class QuantisingWeights(StreamedWeights):
    """Four bits for the linears whose inputs are whole groups of 16."""

    def linear(self, weight: Weight, bias: torch.Tensor | None, dtype: torch.dtype) -> Linear:
        if isinstance(weight, torch.Tensor) and weight.shape[1] % 16 == 0:
            weight = quantize(weight, 4, 16)
        return super().linear(weight, bias, dtype)


@pytest.mark.parametrize(
    ("max_bytes", "variant", "store_type"),
    [
        *pairs(
            [0, 20_000, 60_000],
            ["llama", "opt-350m", "gemma3", "gpt-bigcode"],
            [StreamedWeights, QuantisingWeights],
        ),
        (1 << 30, "llama", StreamedWeights),  # nothing is copied, as in what is expected
    ],
)
def test_streamed_weights_change_no_bit(
    variant: str, max_bytes: int, store_type: type[StreamedWeights], device: torch.device, tmp_path: Path
) -> None:
    save_tiny(variant, tmp_path)
    whole = load_decoder(tmp_path, torch.float32, store=store_type(device, 1 << 30, copies_on(device)[0]()))
    expected = chunked_logits(ModelRunner(whole, 64), PROMPTS[0], 4)
    for make_copies in copies_on(device):
        store = store_type(device, max_bytes, make_copies())
        runner = ModelRunner(load_decoder(tmp_path, torch.float32, store=store), 64)
        for _ in range(2):  # the second pass finds the buffers as the first has left them
            assert torch.equal(chunked_logits(runner, PROMPTS[0], 4), expected)
        least = store._table_bytes + 2 * max(unit.num_bytes for unit in store._units)
        assert store._table_bytes < store.device_bytes <= max(max_bytes, least)


def num_copies_by_pass(folder: Path, max_bytes: int) -> list[int]:
    copies = LateCopies()
    store = StreamedWeights(torch.device("cpu"), max_bytes, copies)
    runner = ModelRunner(load_decoder(folder, torch.float32, store=store), 64)
    nums = []
    for position in range(3):
        builder = PassBuilder()
        builder.add(list(range(position + 1)), [5], chunk_logits=True)
        runner.forward(builder.build())
        nums.append(copies.num_copies)
    return nums


def test_only_what_does_not_fit_is_copied(tmp_path: Path) -> None:
    save_tiny("llama", tmp_path)
    assert num_copies_by_pass(tmp_path, 0) == [4, 8, 12]  # three layers and the head
    layer_bytes, table_bytes = 4 * 48 * (80 + 48 + 3 * 80), 4 * 48 * read_spec(tmp_path).vocab_size
    assert num_copies_by_pass(tmp_path, table_bytes + 3 * layer_bytes) == [3, 5, 7]  # one layer stays, one has a buffer
    assert num_copies_by_pass(tmp_path, 1 << 30) == [0, 0, 0]


def test_quantised_weights_travel_compressed() -> None:
    store = StreamedWeights(torch.device("cpu"), 0, CopiesAtOnce())
    weight = quantize(torch.randn(64, 128), 4, 32)
    assert isinstance(weight, QuantizedWeight)
    linear = store.linear(weight, None, torch.bfloat16)
    store.end_unit()
    assert store.num_bytes == 64 * 128 // 2 + 2 * 64 * 4 * 4
    assert linear.nbytes == store.num_bytes


@pytest.mark.parametrize("max_bytes", [0, 1 << 30])
@pytest.mark.parametrize("variant", ["llama", "falcon-7b", "gemma3"])
def test_a_plan_for_a_gpu_is_what_is_taken(variant: str, max_bytes: int, tmp_path: Path) -> None:
    save_tiny(variant, tmp_path)
    store = StreamedWeights(torch.device("cpu"), max_bytes, CopiesAtOnce())
    load_decoder(tmp_path, torch.float32, store=store)
    request = MemoryRequest(
        "float32", None, ParallelLayout(), num_slots=1, max_num_rows=8, max_num_asked=8,
        max_weight_bytes=max_bytes, on_gpu=True,
    )  # fmt: skip
    (plan,) = plan_memory(read_spec(tmp_path), request)
    assert store.device_bytes == pytest.approx(plan.weight_bytes, abs=1024)  # tensors begin at multiples of 256
