"""What ``init`` takes, and what becomes of it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import specgrove.serve as sg
from specgrove.machine.cpus import available_cpus
from specgrove.serve.configuration import INIT_SETTINGS, configuration_of, current_configuration
from specgrove.settings import SuiteSettings

# The sample of FlexFlow Serve's own scripts, which give all of it to init.
SCRIPT_CONFIG = {
    "num_gpus": 4, "memory_per_gpu": 14000, "zero_copy_memory_per_node": 40000, "num_cpus": 4,
    "legion_utility_processors": 4, "data_parallelism_degree": 1, "tensor_parallelism_degree": 2,
    "pipeline_parallelism_degree": 2, "offload": False, "offload_reserve_space_size": 1024**2,
    "use_4bit_quantization": False, "use_8bit_quantization": False, "profiling": False, "inference_debugging": False,
    "fusion": True, "llm_model": "m", "cache_path": "", "refresh_cache": False, "full_precision": False,
    "ssms": [{"ssm_model": "s"}], "prompt": "", "output_file": "",
}  # fmt: skip


def on(gpus: int, **values: Any) -> SuiteSettings:
    """On a machine with so many."""
    return configuration_of(values, has_gpu=lambda: gpus > 0)


CPU = {("llm", "device"): "cpu", ("ssm", "device"): "cpu"}


def threads(number: int) -> dict[tuple[str, str], int]:
    return {("llm", "threads"): number, ("ssm", "threads"): number}


def test_nothing_need_be_said() -> None:
    assert on(0) == SuiteSettings() == on(1, num_gpus=None, offload=None)


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
    assert found.given == threads(1) | {
        ("llm", "memory-per-gpu"): 14000 * 2**20,
        ("", "llm-replicas"): 3,
        ("llm", "tensor-parallel"): 2,
        ("llm", "pipeline-parallel"): (2,),
        ("llm", "offload"): True,
        ("llm", "quantization"): "int8",
    }
    assert on(1, use_4bit_quantization=True)["llm", "quantization"] == "int4"


def test_a_script_for_gpus_runs_on_a_machine_without() -> None:
    given = {name: SCRIPT_CONFIG[name] for name in INIT_SETTINGS}
    assert on(0, **given).given == CPU | threads(min(4, available_cpus()))
    assert on(4, **given)["llm", "tensor-parallel"] == 2
    # Who asks for the CPU means what is said of it.
    assert on(0, num_gpus=0, tensor_parallelism_degree=2, memory_per_gpu=100).given == CPU | {
        ("llm", "tensor-parallel"): 2,
        ("llm", "memory-per-gpu"): 100 * 2**20,
    }


def test_threads_are_as_many_as_there_are_processors_at_most() -> None:
    assert on(0, num_cpus=10_000).given == threads(available_cpus())


def test_the_services_own_settings_are_taken_in_python() -> None:
    found = on(
        0, kv_slots=np.int64(4096), max_requests=8, router_tree_policy="static", ssm_kv_slots=100, log_level="DEBUG", ssm_log_level="INFO",
        kv_memory="2GiB", pipeline_parallel=[3, 4], num_gpus=0, device="auto",
    )  # fmt: skip
    debug = {(section, "log-level"): "DEBUG" for section in ("router", "llm")}
    assert found.given == debug | {
        ("llm", "kv-slots"): 4096, ("router", "max-requests"): 8, ("router", "tree-policy"): "static", ("ssm", "kv-slots"): 100,
        ("ssm", "log-level"): "INFO", ("llm", "kv-memory"): 2**31, ("llm", "pipeline-parallel"): (3, 4),
        ("llm", "device"): "auto", ("ssm", "device"): "auto",
    }  # fmt: skip


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
        ({"kv_slots": 0}, "kv_slots must be a whole number, 2 or more, got '0'"),
        ({"dtype": "float16"}, r"dtype is no setting of init: it is for LLM\(data_type\)"),
        ({"ssm_kv_slot": 5}, r"did you mean ssm_kv_slots\?"),
        ({"tree_policy": "wild"}, "tree_policy must be one of adaptive, static, got 'wild'"),
    ],
)
def test_wrong_settings_are_told_with_what_would_be_right(values: dict[str, Any], said: str) -> None:
    with pytest.raises(sg.ConfigurationError, match=said):
        sg.init(**values)
    assert current_configuration() == SuiteSettings()


def test_a_file_holds_settings_which_what_is_said_goes_before(tmp_path: Path) -> None:
    path = tmp_path / "suite.yaml"
    path.write_text("threads: 1\nllm: {kv-slots: 7, max-model-len: 50}\nllm-replicas: 2\n")
    found = on(4, config=path, kv_slots=8, data_parallelism_degree=3)
    assert found.given == threads(1) | {("llm", "kv-slots"): 8, ("llm", "max-model-len"): 50, ("", "llm-replicas"): 3}
    path.write_text("llm: {kv-slot: 7}\n")
    with pytest.raises(
        sg.ConfigurationError, match=r"suite\.yaml:1: there is no setting llm\.kv-slot; did you mean llm\.kv-slots\?"
    ):
        sg.init(config=str(path))
    with pytest.raises(sg.ConfigurationError, match="config must be the path of a YAML file, got 5"):
        sg.init(config=5)
    with pytest.raises(sg.ConfigurationError, match=r"none\.yaml"):
        sg.init(config=tmp_path / "none.yaml")


def test_init_takes_a_dictionary_or_keywords() -> None:
    sg.init({"num_cpus": 1})
    assert current_configuration()["llm", "threads"] == 1
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
