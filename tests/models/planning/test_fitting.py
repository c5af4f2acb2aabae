"""What is found out of an LLM service's settings, a model's configuration and this machine before a service is started."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from specgrove.models.decoder.family import read_spec
from specgrove.models.folders.disk_room import DiskFullError
from specgrove.models.planning import fitting
from specgrove.models.planning.demand import ModelDemand
from specgrove.models.planning.fitting import Room, check_before_start, settled
from specgrove.models.planning.memory_plan import plan_memory
from specgrove.settings import SuiteSettings
from tests.models.families import SIZES

GIB = 1 << 30
CONFIG = {"architectures": ["LlamaForCausalLM"], **SIZES}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three layers, six heads, 64 positions; of its weights nothing is needed."""
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    return tmp_path


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A gibibyte is free, and there is no GPU."""
    monkeypatch.setattr(fitting, "may_have_gpu", lambda: False)
    monkeypatch.setattr(fitting, "available_memory_bytes", lambda: GIB)


def demand_of(**given: Any) -> ModelDemand:
    settings = SuiteSettings({("llm", name.replace("_", "-")): value for name, value in given.items()})
    return ModelDemand.of(lambda name: settings["llm", name])


def check(folder: Path, **given: Any) -> None:
    check_before_start(demand_of(**given), folder, folder / "cache")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"pipeline_parallel": (4,)}, "--pipeline-parallel 4: must be 1 to 3, the model's layers"),
        ({"pipeline_parallel": (1, 1)}, "--pipeline-parallel: 2 stages with 2 layers together; the model has 3"),
        ({"tensor_parallel": 7}, "--tensor-parallel 7: so many ranks can't share 6 heads: use at most 6"),
        ({"max_model_len": 65}, "--max-model-len 65 is more than the model's 64 positions"),
        ({"max_model_len": 50, "kv_slots": 40}, "and --kv-slots makes 40 slots: give --max-model-len 40 at most"),
        ({"max_model_len": 50, "kv_memory": 8 * 384}, "and --kv-memory makes 16 slots: give --max-model-len 16 at most"),
        ({"kv_slots": 10**9}, "1.00 GiB available: rank 0: weights 0.00 GiB, 1000000000 KV slots"),
        ({"kv_memory": 900 * GIB}, "900.00 GiB"),
        ({"kv_memory": 1}, "--kv-memory 1 has room for 0 KV slots, and 2 are the least: one takes 192 bytes; give --kv-memory 1MiB"),
        ({"memory_per_gpu": 1024}, "--memory-per-gpu 1KiB has room for 0 KV slots, and 2 are the least: weights take 0.00 GiB"),
        ({"memory_per_gpu": 900 * GIB}, "900.00 GiB are needed and 1.00 GiB available"),
        ({"max_chunk_tokens": 10**9}, "what would fit: --max-chunk-tokens 256 --max-tree-rows 512"),
        ({"max_tree_rows": 10**9}, "what would fit: --max-chunk-tokens 256 --max-tree-rows 512"),
        ({"device": "cuda"}, "--device cuda: this machine has no NVIDIA GPU; use --device cpu"),
        ({"gpu_kernels": "require", "dtype": "float32"}, "--gpu-kernels require: they take bfloat16 and float16, not float32"),
    ],
)  # fmt: skip
def test_what_is_refused(given: dict[str, Any], said: str, folder: Path) -> None:
    check(folder)
    with pytest.raises(ValueError, match=re.escape(said)) as found:
        check(folder, **given)
    assert "\n" not in str(found.value)


def test_what_is_quantised_already_is_not_quantised_anew(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    gptq = {"quantization_config": {"quant_method": "gptq", "bits": 4}}
    (folder / "config.json").write_text(json.dumps(config | gptq))
    check(folder)
    with pytest.raises(ValueError, match=r"is quantised already \(gptq, 4 bits\): leave out --quantization"):
        check(folder, quantization="int8")


def test_offloaded_weights_need_room_on_the_disk(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("specgrove.models.folders.disk_room._free_bytes", lambda _: 1000)
    check(folder)
    with pytest.raises(DiskFullError, match="offloading the weights needs about"):
        check(folder, offload=True, offload_reserve_bytes=1)


def test_of_gpus_only_their_number_is_known(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fitting, "may_have_gpu", lambda: True)
    monkeypatch.setattr(fitting, "most_gpus", lambda: 2)
    for given in (
        {"kv_slots": 10**9},
        {"memory_per_gpu": 1024, "max_model_len": 50},
        {"offload": True},
        {"tensor_parallel": 2},
    ):
        check(folder, **given)
    for given, said in (
        ({"tensor_parallel": 3}, "3 ranks need a GPU each, and this machine has 2: use --device cpu, or fewer"),
        ({"max_model_len": 65}, "--max-model-len 65 is more than the model's 64 positions"),
        ({"max_model_len": 65, "memory_per_gpu": 1024}, "--max-model-len 65 is more than the model's 64 positions"),
        ({"max_model_len": 50, "kv_slots": 40}, "and --kv-slots makes 40 slots"),
        ({"kv_memory": 1}, "--kv-memory 1 has room for 0 KV slots"),
        ({"gpu_kernels": "require"}, "--gpu-kernels require: they take heads of size 64, 80, 96, 128, 256, not 8"),
        ({"device": "cpu", "kv_slots": 10**9}, "1.00 GiB available"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=re.escape(said)):
            check(folder, **given)


def test_no_more_is_left_to_others_than_there_is(folder: Path) -> None:
    check(folder, offload=True, offload_reserve_bytes=GIB // 2)
    with pytest.raises(
        ValueError, match=r"--offload-reserve-bytes 2GiB: no more than 1\.00 GiB are available; give less"
    ):
        check(folder, offload=True, offload_reserve_bytes=2 * GIB)


def test_what_offloading_leaves_is_shared_by_the_ranks(folder: Path) -> None:
    spec, demand = read_spec(folder), demand_of(offload=True, offload_reserve_bytes=GIB, tensor_parallel=2)
    request = settled(spec, demand, folder, Room(2 * GIB, range(2)))
    others = sum(plan.kv_bytes + plan.activation_bytes for plan in plan_memory(spec, request))
    assert request.max_weight_bytes == (GIB - others) // 2
