"""The memory plan against what is really taken, and its advice."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from specgrove.kernels.cuda.backend import num_processors
from specgrove.kernels.device_memory import PassLimits
from specgrove.models.decoder.family import read_spec
from specgrove.models.decoder.parallel_layout import ParallelLayout
from specgrove.models.decoder.sharding import Shard
from specgrove.models.planning.memory_plan import (
    DoesNotFitError,
    MemoryRequest,
    available_memory_bytes,
    check_fits,
    plan_memory,
    slots_in,
)
from specgrove.models.planning.pass_memory import captured_bytes
from specgrove.program.loading import load_decoder
from specgrove.program.ops import Embed
from specgrove.program.pass_numbers import PassBuffers
from specgrove.program.pass_room import PassRoom
from tests.models.families import DEVICE_VARIANTS, VARIANTS, save_tiny
from tests.program.cuda_programs import TakingTurns, on_kernels
from tests.program.programs import NUM_SLOTS

CPU = torch.device("cpu")
REQUEST = MemoryRequest("float32", None, ParallelLayout(), num_slots=100, max_num_rows=256, max_num_asked=64)


@pytest.mark.parametrize("variant", VARIANTS)
def test_planned_weights_are_those_that_are_loaded(variant: str, tmp_path: Path) -> None:
    save_tiny(variant, tmp_path)
    spec = read_spec(tmp_path)
    decoder = load_decoder(tmp_path, torch.float32)
    # Packed linears are padded to 32 outputs; the plan knows sizes only.
    sizes = [(linear.in_features, linear.out_features) for linear in decoder.program.linears()]
    projections = {(spec.embedding_size, spec.hidden_size), (spec.hidden_size, spec.embedding_size)}  # not planned for
    num_bytes = sum(4 * inputs * outputs for inputs, outputs in sizes if (inputs, outputs) not in projections)
    num_bytes += sum(op.table.nbytes for op in decoder.program.ops if isinstance(op, Embed))
    assert plan_memory(spec, REQUEST)[0].weight_bytes == num_bytes


def test_ranks_share_the_weights_and_the_slots(tmp_path: Path) -> None:
    save_tiny("llama", tmp_path)
    spec = read_spec(tmp_path)
    (whole,) = plan_memory(spec, REQUEST)
    parts = plan_memory(spec, replace(REQUEST, layout=ParallelLayout(2, 3)))
    assert sum(plan.weight_bytes for plan in parts) == whole.weight_bytes
    assert sum(plan.kv_bytes for plan in parts) == whole.kv_bytes
    assert whole.slot_bytes == 2 * 3 * 2 * 8 * 4


def test_an_amount_of_memory_becomes_slots(tmp_path: Path) -> None:
    save_tiny("llama", tmp_path)
    spec = read_spec(tmp_path)
    (plan,) = plan_memory(spec, REQUEST)
    assert slots_in(spec, REQUEST, kv_bytes=10 * plan.slot_bytes + 1, rank_bytes=None) == 10
    fixed = plan.weight_bytes + plan.activation_bytes
    assert slots_in(spec, REQUEST, kv_bytes=None, rank_bytes=fixed + 7 * plan.slot_bytes) == 7
    fits = r"--memory-per-gpu \S+ has room for 1 KV slots, and 2 are the least: weights take .* give --memory-per-gpu 2MiB or more"
    with pytest.raises(DoesNotFitError, match=fits):
        slots_in(spec, REQUEST, kv_bytes=None, rank_bytes=fixed + plan.slot_bytes)
    small = f"--kv-memory 10 has room for 0 KV slots, and 2 are the least: one takes {plan.slot_bytes} bytes"
    with pytest.raises(DoesNotFitError, match=small):
        slots_in(spec, REQUEST, kv_bytes=10, rank_bytes=None)


@pytest.mark.parametrize("variant", ["llama", "opt-350m", "falcon-7b", "gemma3", "gpt-bigcode"])
def test_what_is_planned_for_passes_on_a_gpu_is_what_they_take(variant: str, tmp_path: Path) -> None:
    save_tiny(variant, tmp_path, DEVICE_VARIANTS)
    spec, limits = (
        read_spec(tmp_path),
        PassLimits(max_num_rows=6, max_num_asked=4, max_model_len=40, num_slots=NUM_SLOTS),
    )
    shards = [Shard.whole(spec), Shard(0, 1, 1, 2, is_first_stage=False), Shard(0, 1, 0, 1, is_last_stage=False)]
    for shard in (*shards, ParallelLayout(tensor_size=2).shard_of(1, spec)):
        program = on_kernels(tmp_path, CPU, shard, TakingTurns(1)).program
        room = PassRoom(program, limits.max_num_rows, limits.max_num_asked, CPU)
        handed_out = sum(states.nbytes for states in room.kept)
        taken = room.nbytes + PassBuffers(limits, program.heads, CPU).nbytes - handed_out
        assert captured_bytes(spec, shard, limits, program.dtype.itemsize, num_processors(CPU)) == taken


def test_slots_leave_room_for_what_they_make_attention_take(tmp_path: Path) -> None:
    save_tiny("llama", tmp_path, DEVICE_VARIANTS)
    spec = read_spec(tmp_path)
    for num_slots, max_model_len in ((100, 64), (5000, 64), (5000, 2)):
        request = replace(REQUEST, dtype="bfloat16", on_gpu=True, num_slots=num_slots, max_model_len=max_model_len)
        request = replace(request, num_gpu_processors=3)
        (plan,) = plan_memory(spec, request)
        found = slots_in(spec, request, kv_bytes=None, rank_bytes=plan.total_bytes)
        (filled,) = plan_memory(spec, replace(request, num_slots=found))
        assert 0.9 * plan.total_bytes < filled.total_bytes <= plan.total_bytes


def test_what_does_not_fit_is_refused_with_what_would(tmp_path: Path) -> None:
    save_tiny("llama", tmp_path)
    spec = read_spec(tmp_path)
    request = replace(REQUEST, num_slots=100_000)
    (plan,) = plan_memory(spec, request)
    check_fits(spec, request, plan.total_bytes, range(1))
    with pytest.raises(DoesNotFitError, match=r"what would fit: --kv-slots 87040, or --dtype bfloat16, or --dtype"):
        check_fits(spec, request, plan.total_bytes - 1, range(1))
    wide = replace(request, max_num_rows=10**9, max_num_asked=10**9)
    with pytest.raises(DoesNotFitError, match=r"what would fit: --max-chunk-tokens 256 --max-tree-rows 512;?$"):
        check_fits(spec, wide, 2 * plan.total_bytes, range(1))
    with pytest.raises(DoesNotFitError, match="no setting makes it fit"):
        check_fits(spec, request, 1000, range(1))


def test_the_containers_limit_counts(tmp_path: Path) -> None:
    for folder in ("proc", "sys/fs/cgroup"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "proc/meminfo").write_text("MemTotal: 4000 kB\nMemAvailable: 3000 kB\n")
    assert available_memory_bytes(tmp_path) == 3000 * 1024
    cgroup = tmp_path / "sys/fs/cgroup"
    (cgroup / "memory.max").write_text("1000000\n")
    (cgroup / "memory.current").write_text("400000\n")
    (cgroup / "memory.stat").write_text("anon 1\ninactive_file 50000\n")
    assert available_memory_bytes(tmp_path) == 650000
    (cgroup / "memory.max").write_text("max\n")
    assert available_memory_bytes(tmp_path) == 3000 * 1024


def _config(hidden: int, intermediate: int, layers: int, heads: int, kv_heads: int, vocab: int, **more: object) -> str:
    return json.dumps(
        {
            "hidden_size": hidden,
            "intermediate_size": intermediate,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "num_key_value_heads": kv_heads,
            "vocab_size": vocab,
            "rms_norm_eps": 1e-6,
            "hidden_act": "silu",
            "max_position_embeddings": 8192,
            "model_type": "llama",
            "architectures": ["LlamaForCausalLM"],
            **more,
        }
    )


_QWEN = {"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"]}
DOCUMENTED_MODELS = {
    "SmolLM2 135M": _config(576, 1536, 30, 9, 3, 49152, tie_word_embeddings=True),
    "Qwen2.5 1.5B": _config(1536, 8960, 28, 12, 2, 151936, tie_word_embeddings=True, **_QWEN),
    "Qwen2.5 7B": _config(3584, 18944, 28, 28, 4, 152064, tie_word_embeddings=False, **_QWEN),
    "Llama 3 8B": _config(4096, 14336, 32, 32, 8, 128256, tie_word_embeddings=False),
}


@pytest.mark.parametrize("name", DOCUMENTED_MODELS)
def test_the_models_page_tells_what_is_planned(name: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(DOCUMENTED_MODELS[name])
    request = replace(REQUEST, dtype="bfloat16", num_slots=32768)
    plans = [
        plan_memory(read_spec(tmp_path), replace(request, quantization=kind))[0] for kind in (None, "int8", "int4")
    ]
    figures = [f"{num_bytes / 1e9:.1f}" for num_bytes in (*(plan.weight_bytes for plan in plans), plans[0].kv_bytes)]
    assert f"| {name} | {' | '.join(figures)} |" in (Path(__file__).parents[3] / "docs" / "models.md").read_text()


def test_fewer_slots_are_advised_as_many_as_fit(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(DOCUMENTED_MODELS["SmolLM2 135M"])
    spec, asked = read_spec(tmp_path), replace(REQUEST, num_slots=40_000_000)
    needed = plan_memory(spec, replace(asked, num_slots=100 * 1024 * 8 // 7 + 1))[0].total_bytes
    with pytest.raises(DoesNotFitError, match=r"what would fit: --kv-slots 102400\b"):
        check_fits(spec, asked, needed, range(1))
