"""Weights in a mapped file: the same bits, and no more memory than was allowed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from specgrove.kernels.quantized_linear import quantize
from specgrove.program.loading import load_decoder
from specgrove.program.stores import MappedWeights, MemoryWeights
from specgrove.runtime.model_runner import ModelRunner
from tests.models.families import save_tiny
from tests.models.test_decoder import PROMPTS, chunked_logits
from tests.waiting import LIMIT_S


@pytest.mark.parametrize("variant", ["llama", "opt-350m", "gemma3", "gpt-bigcode"])
@pytest.mark.parametrize("max_bytes", [0, 40_000, 1 << 30])
def test_mapped_weights_change_no_bit(variant: str, max_bytes: int, tmp_path: Path) -> None:
    save_tiny(variant, tmp_path / "model")
    store = MappedWeights(tmp_path / "cache", max_bytes)
    for dtype in (torch.float32, torch.bfloat16):
        mapped = load_decoder(tmp_path / "model", dtype, store=MappedWeights(tmp_path / "cache", max_bytes))
        in_memory = load_decoder(tmp_path / "model", dtype)
        for chunk_len in (1, 5):
            logits = [
                chunked_logits(ModelRunner(decoder, 64), PROMPTS[0], chunk_len) for decoder in (mapped, in_memory)
            ]
            assert torch.equal(*logits)
    assert list((tmp_path / "cache").iterdir()) == []  # the file has no name: nothing is left behind
    assert store.num_bytes == 0


@pytest.mark.parametrize(("bits", "group_size"), [(8, None), (4, 32)])
def test_quantised_linears_are_mapped_in_chunks(bits: int, group_size: int | None, tmp_path: Path) -> None:
    torch.manual_seed(0)
    weight = quantize(torch.randn(70_001, 128), bits, group_size)
    mapped = MappedWeights(tmp_path, 0).linear(weight, torch.randn(70_001), torch.bfloat16)
    torch.manual_seed(0)
    torch.randn(70_001, 128)
    in_memory = MemoryWeights().linear(weight, torch.randn(70_001), torch.bfloat16)
    x = torch.randn(3, 128)
    assert torch.equal(mapped(x), in_memory(x))


_SEES_PEAK = """
import gc, sys, torch
from pathlib import Path
from specgrove.models.decoder.family import read_spec
from specgrove.models.decoder.parallel_layout import ParallelLayout
from specgrove.models.planning.memory_plan import MemoryRequest, plan_memory
from specgrove.program.decoder import DTYPES
from specgrove.program.loading import load_decoder
from specgrove.program.stores import MappedWeights
from specgrove.runtime.model_runner import ModelRunner
from tests.models.test_decoder import chunked_logits

def peak_bytes():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))

def answers(decoder):
    chunked_logits(ModelRunner(decoder, 64), [1, 2, 3, 4, 5, 6, 7, 8], 4)

answers(load_decoder(Path(sys.argv[1]), torch.float32))  # a tiny one: code and buffers that every process has
before = peak_bytes()
"""

_MAPPED_THEN_IN_MEMORY = """
store = MappedWeights(Path(sys.argv[3]), int(sys.argv[4]))
answers(load_decoder(Path(sys.argv[2]), torch.float32, store=store))
print(peak_bytes() - before, store.num_bytes, store.resident_bytes)
del store
gc.collect()
answers(load_decoder(Path(sys.argv[2]), torch.float32))
print(peak_bytes() - before)
"""

_SHARES = """
layout = ParallelLayout(2, 2)

class Group:
    size = 2

    def __init__(self, rank):
        self.rank = rank

for folder, rank, dtype in zip(sys.argv[2:], (3, 0), ("bfloat16", "float32")):  # the larger share comes last: peaks only grow
    spec = read_spec(Path(folder))
    load_decoder(Path(folder), DTYPES[dtype], shard=layout.shard_of(rank, spec), group=Group(rank % 2))
    print(peak_bytes() - before, plan_memory(spec, MemoryRequest(dtype, None, layout, 1, 1, 1))[rank].weight_bytes)
    gc.collect()
"""


def _numbers(program: str, *arguments: Path | int) -> list[list[int]]:
    """Of the lines that the program prints, in a process of its own: what the tests before have used is none of its memory."""
    result = subprocess.run(
        [sys.executable, "-c", _SEES_PEAK + program, *map(str, arguments)],
        capture_output=True, text=True, check=True, timeout=LIMIT_S,
    )  # fmt: skip
    return [[int(number) for number in line.split()] for line in result.stdout.splitlines()]


def _save_of_zeros(folder: Path, dtype: torch.dtype = torch.float32, **sizes: int) -> Path:
    """Memory is the same whatever the weights are, and random ones take long to make."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(vocab_size=97, **sizes)
    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in LlamaForCausalLM(config).state_dict().items()}
    config.save_pretrained(folder)
    save_file({name: torch.zeros(shape, dtype=dtype) for name, shape in shapes.items()}, folder / "model.safetensors")
    return folder


def test_the_peak_stays_under_the_cap(tmp_path: Path, tiny_llama: Path) -> None:
    # 12 layers of 12.6 MB each.
    folder = _save_of_zeros(
        tmp_path / "model", hidden_size=512, intermediate_size=1536, num_hidden_layers=12, num_attention_heads=8
    )
    max_bytes = 64 << 20
    (peak, num_bytes, resident), (in_memory,) = _numbers(
        _MAPPED_THEN_IN_MEMORY, tiny_llama, folder, tmp_path / "cache", max_bytes
    )
    assert num_bytes > 1.8 * max_bytes
    assert in_memory > num_bytes  # the measure sees the weights
    assert 0 < resident < max_bytes
    assert peak <= max_bytes


@pytest.mark.slow
def test_a_rank_reads_its_share_only(tmp_path: Path, tiny_llama: Path) -> None:
    # A share is 64 MB in bfloat16: reading the other half of these layers would take that once more, converting a matrix far less.
    folders = [
        _save_of_zeros(
            tmp_path / name, dtype, hidden_size=768, intermediate_size=2304, num_hidden_layers=18, num_attention_heads=12,
            num_key_value_heads=6,
        )
        for name, dtype in (("bfloat16", torch.bfloat16), ("float32", torch.float32))
    ]  # fmt: skip
    for peak, share in _numbers(_SHARES, tiny_llama, *folders):
        assert peak <= share + (36 << 20)
