"""Every family's decoder on the kernels for GPUs, in the emulator and on a GPU: as exact as transformers at that precision; rows keep
their bits."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from specgrove.kernels.cuda.linear import PackedDeviceLinear
from specgrove.models.decoder.device_limits import why_not
from specgrove.models.decoder.family import read_spec
from specgrove.models.decoder.parallel_layout import ParallelLayout
from specgrove.models.weights.quantization import quantize_folder
from specgrove.program.cuda import CudaProgram
from specgrove.program.device_weights import DeviceWeights, StreamedWeights
from specgrove.program.loading import load_decoder
from specgrove.runtime.model_runner import ModelRunner
from specgrove.runtime.pass_builder import PassBuilder, TreeRows
from tests.devices import DEVICES
from tests.kernels.cuda.conftest import assert_as_exact_as_torch
from tests.models.families import DEVICE_VARIANTS, VARIANTS, save_tiny
from tests.models.test_decoder import PROMPTS, chunked_logits
from tests.models.test_device_weights import copies_on
from tests.program.cuda_programs import TakingTurns, of_ranks

PROMPT = PROMPTS[0]
TREE = ([3, 10, 11, 12, 13, 14], [-1, 0, 0, 1, 3, 2])
# Between them they have all that attention and positions are: `make test` tries the bits of trees on these.
DIFFERENT = ("llama", "opt", "mpt-clip", "gemma3")


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> torch.device:
    return torch.device(request.param)


def runner_of(folder: Path, dtype: torch.dtype, device: torch.device) -> ModelRunner:
    decoder = load_decoder(folder, dtype, store=DeviceWeights(device, has_kernels=True))
    assert isinstance(decoder.executable, CudaProgram)
    return ModelRunner(decoder, num_slots=64)


def tree_logits(runner: ModelRunner) -> torch.Tensor:
    """Of a tree's nodes after a context of five tokens; others' rows are in the same pass."""
    context = list(range(40, 45))
    builder = PassBuilder()
    builder.add(context, PROMPT[:5])
    runner.forward(builder.build())
    builder = PassBuilder()
    builder.add(list(range(50, 53)), PROMPT[:3])
    rows = builder.add(context, (), TreeRows(*TREE, [30, 22, 25, 21, 27, 29]))
    builder.add([60], [7], chunk_logits=True)
    return runner.forward(builder.build())[rows.start : rows.stop]


def last_logits(runner: ModelRunner, token_ids: list[int], chunk_lens: list[int]) -> torch.Tensor:
    """After all tokens, computed in chunks of these lengths."""
    start = 0
    for chunk_len in chunk_lens:
        builder = PassBuilder()
        end = start + chunk_len
        builder.add(list(range(3, 3 + end)), token_ids[start:end], chunk_logits=True)
        logits = runner.forward(builder.build())
        start = end
    return logits[0]


def tree_paths() -> list[list[int]]:
    token_ids, parents = TREE
    paths: list[list[int]] = []
    for token_id, parent in zip(token_ids, parents, strict=True):
        paths.append([*(paths[parent] if parent >= 0 else PROMPT[:5]), token_id])
    return paths


# The kernels' own tests have both dtypes; a decoder is the same in both.
@pytest.mark.parametrize(
    ("variant", "dtype"),
    [*((variant, torch.bfloat16) for variant in DEVICE_VARIANTS), ("llama", torch.float16), ("gemma3", torch.float16)],
)
def test_is_as_exact_as_transformers(variant: str, dtype: torch.dtype, device: torch.device, tmp_path: Path) -> None:
    model = save_tiny(variant, tmp_path, DEVICE_VARIANTS)
    found = chunked_logits(runner_of(tmp_path, dtype, device), PROMPT, 4)
    with torch.inference_mode():
        at_same_precision = model.to(dtype)(torch.tensor([PROMPT])).logits[0].float()
        exact = model.double()(torch.tensor([PROMPT])).logits[0]  # of the same rounded weights
    assert_as_exact_as_torch(found, at_same_precision, exact)


@pytest.mark.parametrize(
    "variant",
    [pytest.param(name, marks=() if name in DIFFERENT else pytest.mark.slow) for name in DEVICE_VARIANTS],
)
def test_chunks_and_trees_have_the_bits_of_single_tokens(variant: str, device: torch.device, tmp_path: Path) -> None:
    save_tiny(variant, tmp_path, DEVICE_VARIANTS)
    runner = runner_of(tmp_path, torch.bfloat16, device)
    one_by_one = last_logits(runner, PROMPT, [1] * len(PROMPT))
    for chunk_lens in ([4, 4, 3], [len(PROMPT)]):
        assert torch.equal(one_by_one, last_logits(runner, PROMPT, chunk_lens))
    for node, path in zip(tree_logits(runner), tree_paths(), strict=True):
        assert torch.equal(node, last_logits(runner, path, [len(path) - 1, 1]))


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("variant", ["llama", "llama-80-odd", "gpt-bigcode"])
def test_quantised_weights(variant: str, bits: int, device: torch.device, tmp_path: Path) -> None:
    save_tiny(variant, tmp_path / "source", DEVICE_VARIANTS)
    quantize_folder(tmp_path / "source", tmp_path / "quantised", bits)
    runner = runner_of(tmp_path / "quantised", torch.bfloat16, device)
    found = chunked_logits(runner, PROMPT, 4)
    composed = ModelRunner(load_decoder(tmp_path / "quantised", torch.float32, store=DeviceWeights(device)), 64)
    exact = chunked_logits(composed, PROMPT, 4)
    rounded = ModelRunner(load_decoder(tmp_path / "quantised", torch.bfloat16, store=DeviceWeights(device)), 64)
    assert_as_exact_as_torch(found, chunked_logits(rounded, PROMPT, 4), exact.double())
    assert torch.equal(found, chunked_logits(runner, PROMPT, 1))


@pytest.mark.parametrize("max_bytes", [0, 1 << 30])
def test_streamed_weights_change_no_bit(max_bytes: int, device: torch.device, tmp_path: Path) -> None:
    save_tiny("llama", tmp_path, DEVICE_VARIANTS)
    expected = chunked_logits(runner_of(tmp_path, torch.bfloat16, device), PROMPT, 4)
    for make_copies in copies_on(device):
        store = StreamedWeights(device, max_bytes, make_copies(), has_kernels=True)
        decoder = load_decoder(tmp_path, torch.bfloat16, store=store)
        assert all(isinstance(linear, PackedDeviceLinear) for linear in decoder.program.linears())
        runner = ModelRunner(decoder, 64)
        for _ in range(2):
            assert torch.equal(chunked_logits(runner, PROMPT, 4), expected)


def test_what_the_kernels_can_not_run_is_named(tmp_path: Path) -> None:
    save_tiny("llama", tmp_path)
    spec = read_spec(tmp_path)
    assert why_not(spec, "bfloat16") == "they take heads of size 64, 80, 96, 128, 256, not 8"
    assert "not float32" in str(why_not(spec, "float32"))
    with pytest.raises(ValueError, match="not 8"):
        load_decoder(tmp_path, torch.bfloat16, store=DeviceWeights(torch.device("cpu"), has_kernels=True))
    assert set(DEVICE_VARIANTS) - set(VARIANTS) == {"llama-96-biases", "llama-80-odd"}


@pytest.mark.parametrize("variant", ["llama", "falcon-7b", "gemma3"])
def test_tensor_ranks_on_kernels(variant: str, tmp_path: Path) -> None:
    model = save_tiny(variant, tmp_path, DEVICE_VARIANTS)
    spec, layout = read_spec(tmp_path), ParallelLayout(tensor_size=2)
    groups = TakingTurns.pair()
    runners = [
        ModelRunner(
            load_decoder(
                tmp_path,
                torch.bfloat16,
                shard=layout.shard_of(rank, spec),
                group=group,
                store=DeviceWeights(torch.device("cpu"), has_kernels=True),
            ),
            num_slots=64,
        )
        for rank, group in enumerate(groups)
    ]

    def logits(chunk_lens: list[int]) -> torch.Tensor:
        found = of_ranks(groups, lambda rank: last_logits(runners[rank], PROMPT, chunk_lens))
        assert torch.equal(*found)
        return found[0]

    found = logits([4, 4, 3])
    assert torch.equal(found, logits([1] * len(PROMPT)))
    with torch.inference_mode():
        at_same_precision = model.to(torch.bfloat16)(torch.tensor([PROMPT])).logits[0, -1].float()
        exact = model.double()(torch.tensor([PROMPT])).logits[0, -1]
    assert_as_exact_as_torch(found, at_same_precision, exact)
