"""Weights in a mapped file: the same bits, and no more memory than was allowed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from specgrove.kernels.quantized_linear import quantize
from specgrove.program.loading import load_decoder
from specgrove.program.stores import MappedWeights, MemoryWeights
from specgrove.runtime.model_runner import ModelRunner
from tests.conftest import save_tiny_llama
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


_PEAK = """
import sys, torch
from pathlib import Path
from specgrove.program.loading import load_decoder
from specgrove.program.stores import MappedWeights
from specgrove.runtime.model_runner import ModelRunner
from tests.models.test_decoder import chunked_logits

def peak_bytes():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))

folder, cache, max_bytes = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
torch.randn(64, 64) @ torch.randn(64, 64)
before = peak_bytes()
store = MappedWeights(cache, max_bytes) if max_bytes else None
runner = ModelRunner(load_decoder(folder, torch.float32, store=store), 64)
chunked_logits(runner, [1, 2, 3, 4, 5, 6, 7, 8], 4)
print(peak_bytes() - before, store.num_bytes if store else 0, store.resident_bytes if store else 0)
"""


def _peak(*arguments: str) -> list[int]:
    result = subprocess.run(
        [sys.executable, "-c", _PEAK, *arguments], capture_output=True, text=True, check=True, timeout=LIMIT_S
    )
    return [int(number) for number in result.stdout.split()]


def test_the_peak_stays_under_the_cap(tmp_path: Path) -> None:
    # 12 layers of 12.6 MB each.
    folder = save_tiny_llama(
        tmp_path / "model", seed=0, hidden_size=512, intermediate_size=1536, num_hidden_layers=12, num_attention_heads=8,
        num_key_value_heads=8, head_dim=64,
    )  # fmt: skip
    (in_memory, _, _) = _peak(str(folder), str(tmp_path / "cache"), "0")
    max_bytes = 64 << 20
    peak, num_bytes, resident = _peak(str(folder), str(tmp_path / "cache"), str(max_bytes))
    assert num_bytes > 1.8 * max_bytes
    assert in_memory > num_bytes  # the measure sees the weights
    assert 0 < resident < max_bytes
    assert peak <= max_bytes


_SHARE = """
import sys
from pathlib import Path
from specgrove.models.decoder.family import read_spec
from specgrove.program.loading import load_decoder
from specgrove.models.planning.memory_plan import MemoryRequest, plan_memory
from specgrove.models.decoder.parallel_layout import ParallelLayout
from specgrove.program.decoder import DTYPES

class Group:
    rank, size = int(sys.argv[4]) % 2, 2

def peak_bytes():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))

load_decoder(Path(sys.argv[1]), DTYPES[sys.argv[3]])  # a tiny one: code and buffers that every process has
folder, rank, layout = Path(sys.argv[2]), int(sys.argv[4]), ParallelLayout(2, 2)
spec = read_spec(folder)
before = peak_bytes()
decoder = load_decoder(folder, DTYPES[sys.argv[3]], shard=layout.shard_of(rank, spec), group=Group())
plan = plan_memory(spec, MemoryRequest(sys.argv[3], None, layout, 1, 1, 1))[rank]
print(peak_bytes() - before, plan.weight_bytes)
"""


@pytest.mark.parametrize(("rank", "dtype"), [(0, "float32"), (3, "bfloat16")])
def test_a_rank_reads_its_share_only(rank: int, dtype: str, tmp_path: Path, tiny_llama: Path) -> None:
    # Its weights stand out of what a process has anyway.
    folder = save_tiny_llama(
        tmp_path / "large", seed=0, hidden_size=768, intermediate_size=3072, num_hidden_layers=36,
        num_attention_heads=12, num_key_value_heads=6, head_dim=64, dtype=getattr(torch, dtype),
    )  # fmt: skip
    result = subprocess.run(
        [sys.executable, "-c", _SHARE, str(tiny_llama), str(folder), dtype, str(rank)],
        capture_output=True, text=True, check=True, timeout=LIMIT_S,
    )  # fmt: skip
    peak, share = (int(number) for number in result.stdout.split())
    assert peak <= 1.15 * share
