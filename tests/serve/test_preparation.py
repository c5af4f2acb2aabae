"""From what an LLM was told to the services' command lines; and what is wrong is found before anything starts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import specgrove.serve as sg
from specgrove.serve import preparation
from specgrove.serve.configuration import configuration_of
from specgrove.serve.plan import Plan, ssms_of, with_degrees
from specgrove.suite.processes import SuiteConfig, process_specs


def prepared(model: object, ssms: Any = (), values: dict[str, Any] | None = None, **told: Any) -> SuiteConfig:
    plan = Plan(str(model), configuration_of(values or {}, has_gpu=lambda: True), ssms_of(ssms), **told)
    return preparation.suite_config(plan, lambda message: None)


def command_lines(config: SuiteConfig) -> dict[str, str]:
    names = ("llm_service", "llm_service-2", "ssm_service", "router")
    specs = process_specs(config, {name: f"unix:/{name}" for name in names})
    return {spec.name: f" {' '.join(spec.arguments)} " for spec in specs}


def test_everything_reaches_the_services(model_folder: Path, tmp_path: Path) -> None:
    values = {
        "num_gpus": 4, "memory_per_gpu": 100, "tensor_parallelism_degree": 2, "offload": True, "num_cpus": 1,
        "kv_slots": 77, "tree_policy": "static",
    }  # fmt: skip
    lines = command_lines(
        prepared(
            model_folder, ["lookup"], values, dtype="float16", cache_path=tmp_path,
            max_requests_per_batch=5, max_seq_length=99, max_tokens_per_batch=33,
        )
    )  # fmt: skip
    for flags in (
        f"--model {model_folder}", "--dtype float16", "--threads 1", f"--cache-dir {tmp_path}", "--tensor-parallel 2",
        "--memory-per-gpu 100MiB", "--offload", "--kv-slots 77", "--max-model-len 99", "--max-chunk-tokens 33",
    ):  # fmt: skip
        assert f" {flags} " in lines["llm_service"]
    assert " --device " not in lines["llm_service"]
    assert " --ssm lookup " in lines["ssm_service"]
    assert " --dtype float16 " in lines["ssm_service"]
    for flags in ("--max-requests 5", "--max-requests-per-connection 5", "--tree-policy static"):
        assert f" {flags} " in lines["router"]


def test_without_ssms_there_is_no_ssm_service(model_folder: Path) -> None:
    config = prepared(model_folder, values={"num_gpus": 0})
    assert config.ssms == ()
    assert set(command_lines(config)) == {"llm_service", "router"}
    assert " --device cpu " in command_lines(config)["llm_service"]
    assert " --max-requests 64 " in command_lines(config)["router"]


def test_a_models_own_degrees_come_first(model_folder: Path) -> None:
    configuration = with_degrees(
        configuration_of({"data_parallelism_degree": 3}),
        {"model_specific_data_parallelism_degree": 2, "model_specific_tensor_parallelism_degree": None},
    )
    config = preparation.suite_config(Plan(str(model_folder), configuration), lambda message: None)
    assert config.num_llm_replicas == 2
    with pytest.raises(sg.ConfigurationError, match="model_specific_data_parallelism_degree must be a whole number"):
        with_degrees(configuration, {"model_specific_data_parallelism_degree": 0})


def test_ssms_may_be_computed_in_another_type(model_folder: Path) -> None:
    config = prepared(model_folder, [sg.SSM("lookup", sg.DataType.DT_FLOAT)], dtype="float16")
    lines = command_lines(config)
    assert " --dtype float16 " in lines["llm_service"]
    # The last one counts.
    assert lines["ssm_service"].rpartition("--dtype ")[2].startswith("float32")
    with pytest.raises(sg.ConfigurationError, match="one data_type, got float16 and float32"):
        prepared(
            model_folder, [sg.SSM("lookup", "float32"), sg.SSM(str(model_folder), "float16", name="other")], dtype=None
        )


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda folder: prepared(folder / "none/of/it"), "none/of/it is not there, .*give a model folder"),
        (lambda folder: prepared(folder.parent), "has no config.json"),
        (lambda folder: prepared(folder, ["nope/x/y"]), "SSM nope/x/y: .*is not there"),
        (lambda folder: prepared(folder, ["demo"]), "SSM demo: it can't draft for .*: it was made for another model"),
        (lambda folder: prepared(folder, ["lookup", "lookup"]), r"two SSMs are named lookup.*SSM\('lookup', name="),
        (lambda folder: prepared(folder, "lookup"), r"ssms must be a list, e\.g\. \['lookup'\]"),
        (lambda folder: prepared(folder, [5]), "SSM: give a model folder"),
        (
            lambda folder: prepared(folder, values={"http_allowed_origins": "*"}),
            "http_allowed_origins needs http_address",
        ),
        (lambda folder: prepared(folder, max_seq_length=1), "max_seq_length must be a whole number, 2 or more, got 1"),
        (lambda folder: prepared(folder, max_requests_per_batch=0), "max_requests_per_batch must be a whole number"),
        (lambda folder: prepared(folder, max_tokens_per_batch="all"), "max_tokens_per_batch must be a whole number"),
    ],
)
def test_what_is_wrong_is_told_before_anything_starts(model_folder: Path, make: Any, said: str) -> None:
    with pytest.raises(sg.ConfigurationError, match=said):
        make(model_folder)
