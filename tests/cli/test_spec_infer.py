"""FlexFlow Serve's command lines: what is made of their flags, told of those without effect, and written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Self

import pytest

from specgrove.cli import main, spec_infer
from specgrove.client.output import OutputToken
from specgrove.errors import UnavailableError
from specgrove.serve import SSM, GenerationConfig, GenerationResult, Request
from specgrove.serve.configuration import configuration_of
from tests.measuring.made import usage


class MadeUpLLM:
    """Remembers what it was made with, and answers all prompts but "bad"."""

    made: dict[str, Any]
    compiled: dict[str, Any]
    requests: list[Request]

    def __init__(self, model_name: str, **options: Any) -> None:
        MadeUpLLM.made = {"model_name": model_name, **options}

    def compile(self, generation_config: GenerationConfig, **options: Any) -> None:
        MadeUpLLM.compiled = {"generation_config": generation_config, **options}

    def generate(self, requests: list[Request], **_: object) -> list[GenerationResult]:
        MadeUpLLM.requests = requests
        return [_result(request) for request in requests]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None: ...


def _result(request: Request) -> GenerationResult:
    if request.prompt == "bad":
        return GenerationResult("", error=UnavailableError("the router is gone"))
    tokens = (OutputToken(1, "a"), OutputToken(2, "b"))
    return GenerationResult("ab", [1, 2], "length", usage(2, 1, first_token_ms=2.0, decode_ms=3.5), tokens)


@pytest.fixture
def init_values(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What ``sg.init`` was told, checked as it does."""
    values: list[dict[str, Any]] = []

    def init(**settings: Any) -> None:
        configuration_of(settings)
        values.append({name: value for name, value in settings.items() if value is not None})

    monkeypatch.setattr(spec_infer.sg, "LLM", MadeUpLLM)
    monkeypatch.setattr(spec_infer.sg, "init", init)
    monkeypatch.setattr(spec_infer, "may_have_gpu", lambda: False)
    return values


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.json"
    path.write_text('["one", "two"]')
    return path


def test_a_script_of_flexflow_runs_as_it_is(
    init_values: list[dict[str, Any]], prompts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "out.json"
    line = (
        f"spec-infer -ll:gpu 4 -ll:cpu 4 -ll:util 4 -ll:fsize 14000 -ll:zsize 30000 -llm-model big -ssm-model small "
        f"-ssm-model lookup -prompt {prompts} -output-file {target} --use-full-precision --fusion "
        "-tensor-parallelism-degree 2 -pipeline-parallelism-degree 2 --max-requests-per-batch 8 --max-tokens-per-batch 64 "
        "--max-sequence-length 512 --max-length 128 --expansion-degree 3 -offload --8bit-quantization"
    )
    assert main(line.split()) == 0
    assert init_values == [
        {
            "num_gpus": 4, "num_cpus": 4, "memory_per_gpu": 14000, "tensor_parallelism_degree": 2,
            "pipeline_parallelism_degree": 2, "offload": True, "use_8bit_quantization": True,
        }
    ]  # fmt: skip
    assert MadeUpLLM.made["model_name"] == "big"
    assert MadeUpLLM.made["data_type"].value == "float32"
    compiled = MadeUpLLM.compiled
    assert [ssm.spec for ssm in compiled["ssms"]] == [SSM("small", expansion=(1, 1, 3)).spec, "lookup"]
    assert (compiled["max_requests_per_batch"], compiled["max_tokens_per_batch"], compiled["max_seq_length"]) == (
        8,
        64,
        512,
    )
    assert not compiled["generation_config"].do_sample
    assert [(request.prompt, request.max_length) for request in MadeUpLLM.requests] == [("one", 128), ("two", 128)]
    written = json.loads(target.read_text())
    assert [element["prompt"] for element in written] == ["one", "two"]
    assert (written[0]["output_text"], written[0]["output_tokens"], written[0]["latency_ms"]) == ("ab", [1, 2], 5.5)
    said = capsys.readouterr()
    assert said.out == ""
    assert "ignored, since they mean nothing here: -ll:util, -ll:zsize, --fusion\n" in said.err
    assert (
        "no GPU is here: the models run on the CPU, without -ll:gpu, -ll:fsize, -tensor-parallelism-degree, "
        in said.err
    )
    assert "starting the services ...\nanswering 2 prompts ...\n" in said.err
    assert "2 prompts, 4 tokens in " in said.err
    assert "2.00 tokens per step of the LLM" in said.err


def test_incremental_decoding_and_sampling(
    init_values: list[dict[str, Any]], prompts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = f"incr-decoding -llm-model big -prompt {prompts} --do-sample --temperature 0.7 --topp 0.9 --num-kv-cache-slots 999"
    assert main(line.split()) == 0
    assert MadeUpLLM.compiled["ssms"] == []
    assert MadeUpLLM.compiled["generation_config"] == GenerationConfig(do_sample=True, temperature=0.7, topp=0.9)
    assert init_values == [{"kv_slots": 999}]
    assert capsys.readouterr().out == "[0] one\nab\n\n[1] two\nab\n\n"


@pytest.mark.parametrize(("degree", "spec"), [("-1", "small,mode=beam,width=1"), ("2", "small,expansion=1-1-2")])
def test_the_form_of_the_trees(degree: str, spec: str, init_values: list[dict[str, Any]], prompts: Path) -> None:
    words = ["-llm-model", "big", "-ssm-model", "small", "-prompt", str(prompts), "--expansion-degree", degree]
    assert main(["spec-infer", *words]) == 0
    assert [ssm.spec for ssm in MadeUpLLM.compiled["ssms"]] == [spec]


def test_a_prompt_that_fails_leaves_the_others(
    init_values: list[dict[str, Any]], prompts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts.write_text('["bad", "two"]')
    target = tmp_path / "out.json"
    words = ["-llm-model", "big", "-prompt", str(prompts), "-output-file", str(target)]
    assert main(["incr-decoding", *words]) == 1
    assert [element["error"] for element in json.loads(target.read_text())] == ["the router is gone", None]
    assert "1 of 2 prompts failed, the first, number 0, with: the router is gone" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("spec-infer -llm-model big -prompt {prompts}", "-ssm-model is missing: name a small model, or lookup"),
        (
            "incr-decoding -llm-model big -ssm-model s -prompt {prompts}",
            "-ssm-model: incr-decoding decodes without SSMs",
        ),
        ("incr-decoding -llm-model big -prompt /no.json", "/no.json: No such file or directory"),
        ("incr-decoding -llm-model big -prompt {prompts} -temperature 1", "-temperature needs -do-sample"),
        ("incr-decoding -llm-model big -prompt {prompts} -output-file /no/out", "-output-file: there is no folder /no"),
        ("incr-decoding -llm-model big -prompt {prompts} -output-file /tmp", "-output-file: /tmp is a folder"),
        (
            "incr-decoding -llm-model big -prompt {prompts} -output-file {prompts}",
            "is the file of the prompts: give another",
        ),
    ],
)
def test_what_can_not_be_is_told_before_anything_starts(
    line: str, said: str, prompts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(line.format(prompts=prompts).split()) == 1
    error = capsys.readouterr().err
    assert error.startswith("specgrove: error: ")
    assert said in error


def test_settings_are_called_as_they_are_typed_here(
    init_values: list[dict[str, Any]],
    prompts: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise spec_infer.sg.ConfigurationError(
            "max_seq_length 9 takes a KV slot for each token, and kv_slots makes 8 slots"
        )

    monkeypatch.setattr(MadeUpLLM, "compile", refuse)
    assert main(["incr-decoding", "-llm-model", "big", "-prompt", str(prompts)]) == 1
    told = "-max-sequence-length 9 takes a KV slot for each token, and -num-kv-cache-slots makes 8 slots"
    assert capsys.readouterr().err.splitlines()[-1] == f"specgrove: error: {told}"


@pytest.mark.parametrize(
    ("flag", "said"),
    [
        ("--qps 2", "--qps: requests all come at once here"),
        ("-peft-model x", "-peft-model: adapters are not supported"),
        ("-max-length 0", "must be a whole number, 1 or more, got '0'"),
        ("-lm-model x", "unrecognized arguments: -lm-model x (did you mean -llm-model?)"),
    ],
)
def test_flags_that_are_refused(flag: str, said: str, prompts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["incr-decoding", "-llm-model", "big", "-prompt", str(prompts), *flag.split()])
    assert said in capsys.readouterr().err


def test_a_file_that_cannot_be_written_is_told_before_hours_of_answers(
    init_values: list[dict[str, Any]], prompts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "out.json"
    target.symlink_to(tmp_path / "absent" / "out.json")
    assert main(f"incr-decoding -llm-model big -prompt {prompts} -output-file {target}".split()) == 1
    assert "No such file or directory" in capsys.readouterr().err
    assert init_values == []


def test_answers_are_not_lost_with_their_file(
    init_values: list[dict[str, Any]], prompts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = f"incr-decoding -llm-model big -prompt {prompts} -output-file /dev/full"
    assert main(command.split()) == 1
    out, err = capsys.readouterr()
    assert [answer["output_text"] for answer in json.loads(out)] == ["ab", "ab"]
    assert "-output-file: /dev/full: No space left on device; what it was to hold is on standard output" in " ".join(
        err.split()
    )
