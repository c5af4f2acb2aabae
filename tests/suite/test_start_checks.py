"""What is wrong with a suite's settings is told before a model is fetched, converted or loaded, and before a process starts."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from specgrove.cli import main
from specgrove.machine import cpus
from specgrove.machine.gpus import may_have_gpu
from specgrove.models.planning import fitting, ssm_fitting
from specgrove.settings import SuiteSettings, rules
from specgrove.suite import start_checks
from specgrove.suite.start_checks import check_model, check_settings, check_ssms, crowding_of
from tests.addresses import free_address
from tests.conftest import save_tiny_llama
from tests.router.toy_language import EOS, VOCAB_SIZE, toy_tokenizer_json
from tests.waiting import LIMIT_S


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model without a chat template."""
    folder = save_tiny_llama(tmp_path_factory.mktemp("model"), seed=0, vocab_size=VOCAB_SIZE, eos_token_id=EOS)
    (folder / "tokenizer.json").write_bytes(toy_tokenizer_json())
    return folder


@pytest.fixture
def unknown_folder(model_folder: Path, tmp_path: Path) -> Path:
    """A model of a family that isn't served."""
    folder = tmp_path / "unknown"
    folder.mkdir()
    for path in model_folder.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    config = json.loads((folder / "config.json").read_text()) | {"architectures": ["PhiForCausalLM"]}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({("llm", "model"): "/no/such/model"}, "/no/such/model is not there"),
        ({("ssm", "ssm"): ["lookup", "/no/such/ssm,width=2"]}, "--ssm /no/such/ssm,width=2: /no/such/ssm is not there"),
        ({("ssm", "ssm"): ["lookup", "lookup"]}, "two SSMs are named lookup"),
        ({("ssm", "ssm"): ["none", "lookup"]}, "--ssm none: no SSM at all"),
        ({("llm", "cache-dir"): Path("/dev/null/x")}, "--cache-dir /dev/null/x: /dev/null is no folder"),
        ({("llm", "device"): "cuda"}, "--device cuda: this machine has no NVIDIA GPU; use --device cpu"),
        (
            {("ssm", "gpu-kernels"): "require"},
            "--gpu-kernels require: this machine has no NVIDIA GPU; use --gpu-kernels auto",
        ),
        (
            {("ssm", "device"): "cpu", ("ssm", "gpu-kernels"): "require"},
            "--gpu-kernels require: the models run on the CPU; give --device cuda",
        ),
        (
            {("router", "http-address"): "unix:/x", ("router", "local-address"): "unix:/x"},
            "are the same, unix:/x; give two",
        ),
        (
            {("router", "http-address"): "127.0.0.1:0"},
            "--http-address 127.0.0.1:0: nobody would know which port it is; give one from 1 to 65535",
        ),
        (
            {("router", "max-requests"): 5, ("router", "max-requests-per-connection"): 6},
            "--max-requests-per-connection 6 is more than --max-requests 5: give 5 at most",
        ),
    ],
)
def test_what_settings_alone_tell(given: dict[Any, Any], said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules, "may_have_gpu", lambda: False)
    with pytest.raises(ValueError, match=re.escape(said)):
        check_settings(SuiteSettings(given), None)
    check_settings(SuiteSettings(), None)


@pytest.mark.parametrize(
    ("place", "value", "said"),
    [
        (("router", "vllm-engine-api"), True, "--vllm-engine-api needs the package smg-grpc-proto: pip install"),
        (("router", "otlp-endpoint"), "http://127.0.0.1:4317", "--otlp-endpoint needs OpenTelemetry's packages: pip"),
        (("ssm", "otlp-endpoint"), "http://127.0.0.1:4317", "--otlp-endpoint needs OpenTelemetry's packages: pip"),
    ],
)
def test_packages_that_are_not_installed(place: Any, value: object, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = SuiteSettings({place: value})
    monkeypatch.setattr(rules, "is_installed", lambda module: True)
    check_settings(settings, None)
    monkeypatch.setattr(rules, "is_installed", lambda module: False)
    with pytest.raises(ValueError, match=re.escape(said)):
        check_settings(settings, None)
    check_settings(SuiteSettings(), None)


def test_a_package_inside_one_that_is_missing() -> None:
    assert rules.is_installed("json.decoder")
    assert not rules.is_installed("no_such_package.inner")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, None),
        ({("llm", "tensor-parallel"): 2}, None),
        ({("llm", "tensor-parallel"): 7}, "7 ranks on 2 CPUs"),
        ({("llm", "pipeline-parallel"): (10, 10, 10), ("", "llm-replicas"): 2}, "2 LLM replicas of 3 ranks on 2 CPUs"),
        ({("", "llm-replicas"): 3}, "3 LLM replicas on 2 CPUs"),
        ({("llm", "threads"): 8}, "8 threads on 2 CPUs"),
        ({("llm", "threads"): 8, ("llm", "pipeline-parallel"): (2,)}, "2 ranks with 4 threads each on 2 CPUs"),
        ({("llm", "tensor-parallel"): 7, ("llm", "device"): "cuda"}, None),
    ],
)
def test_more_threads_than_cpus_are_told(
    given: dict[Any, Any], said: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpus, "available_cpus", lambda: 2)
    monkeypatch.setattr(start_checks, "may_have_gpu", lambda: False)
    crowding = crowding_of(SuiteSettings({("llm", "threads"): 2} | given))
    assert crowding is None if said is None else (crowding or "").startswith(f"{said}: threads wait")


def test_a_gpu_is_told_by_the_files_of_its_driver(tmp_path: Path) -> None:
    (tmp_path / "nvidiactl").touch()
    assert not may_have_gpu(tmp_path)
    (tmp_path / "nvidia0").touch()
    assert may_have_gpu(tmp_path)


def test_a_model_is_of_a_family_and_takes_conversations(model_folder: Path, unknown_folder: Path) -> None:
    settings = SuiteSettings({("llm", "kv-slots"): 64})
    check_model(settings, model_folder)
    with pytest.raises(ValueError, match="architecture PhiForCausalLM is not supported, only LlamaForCausalLM"):
        check_model(settings, unknown_folder)
    with pytest.raises(ValueError, match="takes no conversations: this model has no chat template"):
        check_model(settings, model_folder, needs_chat=True)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--pipeline-parallel", "99"], "--pipeline-parallel 99: must be 1 to 3, the model's layers"),
        (["--llm.pipeline-parallel", "1,1"], "--pipeline-parallel: 2 stages with 2 layers together; the model has 3"),
        (["--tensor-parallel", "99"], "--tensor-parallel 99: so many ranks can't share 6 heads: use at most 6"),
        (["--max-model-len", "99999"], "--max-model-len 99999 is more than the model's 256 positions"),
        (
            ["--max-model-len", "200", "--kv-slots", "64"],
            "--max-model-len 200 takes a KV slot for each token, and --kv-slots",
        ),
        (["--kv-slots", "1"], "--kv-slots: must be a whole number, 2 or more, got '1'"),
        (["--kv-memory", "9000TiB"], "available: rank 0: weights"),
        (["--ssm.gpu-kernels", "require"], "--gpu-kernels require: this machine has no NVIDIA GPU"),
    ],
)
def test_what_the_model_and_the_machine_tell(
    words: list[str], said: str, model_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """By the command alone: no process is started, and its own hasn't imported torch."""
    for module in (rules, start_checks, fitting):
        monkeypatch.setattr(module, "may_have_gpu", lambda: False)
    monkeypatch.setattr("specgrove.cli.suites.Suite", None)
    with contextlib.suppress(SystemExit):  # of a value that is wrong by itself
        assert (
            main(["serve", "--llm", str(model_folder), "--ssm", "none", "--grpc-address", free_address(), *words]) == 1
        )
    assert said in capsys.readouterr().err.splitlines()[-1]


def test_ssms_have_to_fit(model_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ssm_fitting, "available_memory_bytes", lambda: 1 << 30)
    ssms = [f"{model_folder},name=a", f"{model_folder},name=b", "lookup"]
    check_ssms(SuiteSettings({("ssm", "kv-slots"): 1000}), ssms, model_folder)
    check_ssms(SuiteSettings({("ssm", "kv-slots"): 2**40}), ["lookup"], model_folder)
    with pytest.raises(
        ValueError, match=r"1\.00 GiB available: a: weights .*; b: weights .*; give --ssm\.kv-slots \d+ at most"
    ) as found:
        check_ssms(SuiteSettings({("ssm", "kv-slots"): 2**40}), ssms, model_folder)
    fewer = int(str(found.value).split()[-3])
    check_ssms(SuiteSettings({("ssm", "kv-slots"): fewer}), ssms, model_folder)
    with pytest.raises(ValueError, match=r"available"):
        check_ssms(SuiteSettings({("ssm", "kv-slots"): fewer + 1}), ssms, model_folder)


def test_llm_replicas_share_the_memory(model_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fitting, "available_memory_bytes", lambda: 100 << 20)
    given = {("llm", "device"): "cpu", ("llm", "kv-slots"): 64}
    check_model(SuiteSettings(given), model_folder)
    with pytest.raises(ValueError, match=r"each of 200 LLM services: .* are needed .*; or fewer --llm-replicas"):
        check_model(SuiteSettings({**given, ("", "llm-replicas"): 200}), model_folder)


@pytest.mark.parametrize(("service", "flag"), [("llm_service", "--model"), ("ssm_service", "--ssm")])
def test_services_by_hand_import_no_torch_before_all_is_checked(service: str, flag: str, model_folder: Path) -> None:
    words = [flag, str(model_folder), "--kv-slots", str(10**12), "--address", "127.0.0.1:0", "--device", "cpu"]
    program = (
        f"import sys; from {service}.__main__ import main; sys.argv[0] = 'service'; code = main(); "
        "sys.exit(9 if 'torch' in sys.modules else code)"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program, *words], capture_output=True, text=True, timeout=LIMIT_S, check=False
    )
    assert (ended.returncode, "GiB available" in ended.stderr) == (1, True), ended.stderr


def test_a_start_that_is_refused_imports_no_torch(model_folder: Path) -> None:
    words = ["serve", "--llm", str(model_folder), "--grpc-address", free_address(), "--pipeline-parallel", "99"]
    program = "import sys; from specgrove.cli import main; code = main(sys.argv[1:]); sys.exit(9 if 'torch' in sys.modules else code)"
    ended = subprocess.run(
        [sys.executable, "-c", program, *words], capture_output=True, text=True, timeout=LIMIT_S, check=False
    )
    assert (ended.returncode, "--pipeline-parallel 99: must be 1 to 3" in ended.stderr) == (1, True), ended.stderr


def test_commands_start_nothing_for_what_is_wrong(
    model_folder: Path,
    unknown_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("specgrove.cli.suites.Suite", None)
    llm = ["--llm", str(model_folder)]
    stops = [word for number in range(17) for word in ("--stop", str(number))]
    for words, said in (
        (["generate", "hi", *llm], "takes no conversations"),
        (["chat", *llm], "takes no conversations"),
        (["demo", *llm], "takes no conversations"),
        (["generate", "hi", "--raw", "--llm", str(unknown_folder)], "architecture PhiForCausalLM is not supported"),
        (["generate", "hi", "--raw", *llm, "--ssm", str(unknown_folder)], f"--ssm {unknown_folder}: "),
        (["generate", "hi", "--raw", *llm, "--ssm", "demo"], "--ssm demo: it can't draft for"),
        (["generate", "hi", *llm, *stops], "--stop: 17 texts; at most 16"),
        (["chat", *llm, *stops], "--stop: 17 texts; at most 16"),
        (["chat", *llm, "--system", "caf\udce9"], "--system is not UTF-8 text"),
        (["demo", "caf\udce9"], "the question is not UTF-8 text"),
        (
            ["quantize", "nope/nope", "--bits", "8", "--group-size", "32", "--out", "x"],
            "--group-size goes with --bits 4",
        ),
        (["quantize", "nope/nope", "--bits", "8", "--out", str(model_folder)], "exists already: name a new folder"),
        (["models", "convert", "nope", "--out", str(model_folder)], "exists already: name a new folder"),
    ):
        assert main([*words]) == 1, words
        assert said in capsys.readouterr().err.splitlines()[-1], words
    with pytest.raises(SystemExit):
        main(["quantize", "m", "--bits", "4", "--group-size", "7", "--out", "x"])
    assert "--group-size: must be a multiple of 4 from 4 to 4096, got '7'" in capsys.readouterr().err


def test_nothing_is_quantised_for_an_ssm_that_does_not_fit(
    model_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def ensure_quantized(folder: Path, quantization: str, *_: object) -> Path:
        assert quantization == "none"
        return folder

    monkeypatch.setattr("specgrove.cli.suites.ensure_quantized", ensure_quantized)
    words = ["generate", "hi", "--raw", "--llm", str(model_folder), "--quantization", "int4", "--ssm", "demo"]
    assert main(words) == 1
    assert "--ssm demo: it can't draft for" in capsys.readouterr().err
