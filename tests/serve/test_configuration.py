"""What ``init`` takes, and what becomes of it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import specgrove.serve as sg
from specgrove.cpus import available_cpus
from specgrove.serve.configuration import INIT_SETTINGS, Configuration, configuration_of, current_configuration

# The sample of FlexFlow Serve's own scripts, which give all of it to init.
SCRIPT_CONFIG = {
    "num_gpus": 4, "memory_per_gpu": 14000, "zero_copy_memory_per_node": 40000, "num_cpus": 4,
    "legion_utility_processors": 4, "data_parallelism_degree": 1, "tensor_parallelism_degree": 2,
    "pipeline_parallelism_degree": 2, "offload": False, "offload_reserve_space_size": 1024**2,
    "use_4bit_quantization": False, "use_8bit_quantization": False, "profiling": False, "inference_debugging": False,
    "fusion": True, "llm_model": "m", "cache_path": "", "refresh_cache": False, "full_precision": False,
    "ssms": [{"ssm_model": "s"}], "prompt": "", "output_file": "",
}  # fmt: skip


def on(gpus: int, **values: Any) -> Configuration:
    """On a machine with so many."""
    return configuration_of(values, has_gpu=lambda: gpus > 0)


def flags(words: tuple[str, ...]) -> set[tuple[str, str]]:
    return set(zip(words[::2], words[1::2], strict=True))


def test_nothing_need_be_said() -> None:
    assert on(0) == Configuration() == on(1, num_gpus=None, offload=None)


def test_flexflows_names_become_ours() -> None:
    found = on(
        4,
        num_gpus=4,
        memory_per_gpu=14000,
        tensor_parallelism_degree=2,
        pipeline_parallelism_degree=2,
        data_parallelism_degree=3,
        offload=True,
        use_8bit_quantization=True,
        num_cpus=1,
    )
    assert found == Configuration(
        memory_per_rank_bytes=14000 * 2**20,
        num_threads=1,
        num_llm_replicas=3,
        tensor_parallel=2,
        pipeline_parallel=2,
        has_offload=True,
        quantization="int8",
    )
    assert on(1, use_4bit_quantization=True).quantization == "int4"


def test_a_script_for_gpus_runs_on_a_machine_without() -> None:
    expected = Configuration(device="cpu", num_threads=min(4, available_cpus()))
    given = {name: SCRIPT_CONFIG[name] for name in INIT_SETTINGS}
    assert on(0, **given) == expected
    assert on(4, **given).tensor_parallel == 2
    # Who asks for the CPU means what is said of it.
    assert on(0, num_gpus=0, tensor_parallelism_degree=2, memory_per_gpu=100) == Configuration(
        device="cpu", tensor_parallel=2, memory_per_rank_bytes=100 * 2**20
    )


def test_threads_are_as_many_as_there_are_processors_at_most() -> None:
    assert on(0, num_cpus=10_000).num_threads == available_cpus()


def test_the_services_own_settings_are_taken_in_python() -> None:
    found = on(0, kv_slots=np.int64(4096), max_requests=8, tree_policy="static", ssm_kv_slots=100, log_level="DEBUG")
    assert found.max_num_requests == 8
    both = ("--log-level", "DEBUG")
    assert flags(found.arguments["llm_service"]) == {("--kv-slots", "4096"), both}
    assert flags(found.arguments["ssm_service"]) == {("--kv-slots", "100"), both}
    assert flags(found.arguments["router"]) == {("--max-requests", "8"), ("--tree-policy", "static"), both}


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"num_gpu": 1}, r"init has no setting 'num_gpu'; did you mean num_gpus\?"),
        ({"tensor_parallelism_degre": 2}, r"did you mean tensor_parallelism_degree\?"),
        ({"kv_slot": 2}, r"did you mean kv_slots\?"),
        ({"zzz": 2}, r"init has no setting 'zzz'$"),
        ({"ssms": []}, r"ssms is no setting of init: it is for LLM\.compile\(ssms\)"),
        ({"num_gpus": -1}, "num_gpus must be a whole number, 0 or more, got -1"),
        ({"num_gpus": True}, "num_gpus must be a whole number"),
        ({"memory_per_gpu": "much"}, "memory_per_gpu must be a whole number, 1 or more, got 'much'"),
        ({"tensor_parallelism_degree": 0}, "tensor_parallelism_degree must be a whole number, 1 or more"),
        ({"zero_copy_memory_per_node": 0}, "zero_copy_memory_per_node must be a whole number"),
        ({"offload": 1}, "offload must be True or False, got 1"),
        ({"fusion": "yes"}, "fusion must be True or False"),
        ({"use_4bit_quantization": True, "use_8bit_quantization": True}, "can't both be true"),
        ({"kv_slots": 0}, "kv_slots must be a whole number, 1 or more, got '0'"),
        ({"tree_policy": "wild"}, "tree_policy must be one of adaptive, static, got 'wild'"),
    ],
)
def test_wrong_settings_are_told_with_what_would_be_right(values: dict[str, Any], said: str) -> None:
    with pytest.raises(sg.ConfigurationError, match=said):
        sg.init(**values)
    assert current_configuration() == Configuration()


def test_init_takes_a_dictionary_or_keywords() -> None:
    sg.init({"num_cpus": 1})
    assert current_configuration().num_threads == 1
    sg.init(SCRIPT_CONFIG)
    with pytest.raises(sg.ConfigurationError, match="not both"):
        sg.init({"num_gpus": 1}, num_cpus=1)
    with pytest.raises(sg.ConfigurationError, match="a dictionary or keywords, got a str"):
        sg.init("config.json")  # type: ignore[arg-type]


def test_the_page_names_every_setting_and_which_have_no_effect() -> None:
    page = (Path(__file__).parents[2] / "docs" / "python.md").read_text()
    rows = dict(re.findall(r"^\| `([a-z_0-9]+)`[^|]*\|[^|]*\| (.*) \|$", page, re.MULTILINE))
    for name, setting in INIT_SETTINGS.items():
        assert rows[name].startswith("nothing") is not setting.has_effect, name
