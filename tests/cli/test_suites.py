"""From a command line to the services' own."""

from __future__ import annotations

import contextlib
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
import rich.console

from specgrove.cli import progress, suites
from specgrove.cli.arguments import parser
from specgrove.suite.processes import SuiteConfig, process_specs
from tests.addresses import taken_address
from tests.models.gguf_writing import save_tiny_gguf


class NoSuite:
    """Remembers what it was made of."""

    config: SuiteConfig

    def __init__(self, config: SuiteConfig, **_: object) -> None:
        NoSuite.config = config

    def start(self) -> None:
        pass

    def stop(self) -> None:
        pass


def started(*words: str, address: str | None = None) -> contextlib.AbstractContextManager[object]:
    arguments = parser().parse_args(["serve", *words])
    return suites.started_suite(suites.given_settings(arguments), address, arguments)


def test_what_is_made_of_gguf_files_is_said_of_the_llm_and_the_ssms(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(suites, "Suite", NoSuite)
    save_tiny_gguf(tmp_path / "big.gguf", "Q8_0", family="qwen2")
    save_tiny_gguf(tmp_path / "small.gguf", "Q4_K", family="qwen2")
    ssms = ("--ssm", "lookup", "--ssm", f"{tmp_path}/small.gguf,quantization=int4,width=2")
    words = ["--llm", f"{tmp_path}/big.gguf", "--cache-dir", str(tmp_path / "cache")]
    with started(*words, *ssms):
        pass
    said = capsys.readouterr().err
    assert "big.gguf: weights: Q8_0 in a GGUF file, kept at their size" in said
    assert "small.gguf: weights: Q4_K of a GGUF file, re-quantised to 4 bits" in said


def test_where_models_run_is_said_to_both_services(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suites, "Suite", NoSuite)
    monkeypatch.setattr(suites, "model_folder", lambda *_: Path("/model"))
    monkeypatch.setattr(suites, "check_model", lambda *_, **__: None)
    monkeypatch.setattr(suites, "chosen_ssms", lambda *_, **__: ("lookup",))
    flags = ("--device", "cpu", "--gpu-kernels", "off")
    with started(*flags, "--kv-memory", "1GiB"):
        pass
    addresses = {name: f"unix:/{name}" for name in ("llm_service", "ssm_service", "router")}
    llm, ssm, router = process_specs(NoSuite.config, addresses)
    assert ("--kv-memory", "1GiB", *flags) == llm.arguments[-6:]
    assert flags == ssm.arguments[-4:]
    assert not set(flags) & set(router.arguments)


def test_the_llm_that_is_served_is_the_quantised_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suites, "Suite", NoSuite)
    monkeypatch.setattr(suites, "resolve_model", lambda model, **_: Path(f"/models/{model}"))

    def made(folder: Path, quantization: str, *_: object) -> Path:
        return folder if quantization == "none" else Path(f"{folder}-{quantization}")

    monkeypatch.setattr(suites, "ensure_quantized", made)
    monkeypatch.setattr(suites, "say_weights", lambda *_: None)
    monkeypatch.setattr(suites, "check_model", lambda *_, **__: None)
    monkeypatch.setattr(suites, "chosen_ssms", lambda asked, *_, **__: ("lookup",))
    for words, folder in ((["--quantization", "int8"], "/models/m-int8"), ([], "/models/m")):
        with started("--llm", "m", *words):
            pass
        assert NoSuite.config.llm_folder == Path(folder)


@pytest.mark.parametrize("name", ["ssms", "llm_arguments", "ssm_arguments", "router_arguments"])
def test_a_text_is_not_taken_for_its_letters(name: str) -> None:
    arguments: dict[str, Any] = {name: "lookup"}
    with pytest.raises(ValueError, match=rf"{name} must be several texts, e.g. \('lookup',\)"):
        SuiteConfig(llm_folder=Path("/model"), **arguments)


def test_a_taken_address_is_told_before_models_are_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suites, "model_folder", None)
    with taken_address() as address:
        said = f"can't listen on {address}: another server does; give another port, or stop it"
        with pytest.raises(OSError, match=said), started(address=address):
            pass


def test_work_that_gets_on_is_a_line_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "SAME_WORK_INTERVAL_S", 10.0)
    now_s, shown = 0.0, io.StringIO()
    with progress.showing(rich.console.Console(file=shown), "quantising", clock=lambda: now_s) as show:
        for layer in range(1, 31):
            show(f"layer {layer} of 30")
            now_s += 1.0
        show("quantising the head")
    assert shown.getvalue().splitlines() == [
        "quantising ...", "layer 1 of 30", "layer 11 of 30", "layer 21 of 30", "quantising the head",
    ]  # fmt: skip


def printed(log_format: str | None, *lines: str) -> list[str]:
    shown = io.StringIO()
    log_line = suites.log_to(rich.console.Console(file=shown, soft_wrap=True), log_format)
    for line in lines:
        log_line("llm_service-2", line)
    return shown.getvalue().splitlines()


def test_each_line_of_the_log_names_its_service_once() -> None:
    own = "12:00:00.123 INFO llm_service-2: loaded"
    other = "12:00:00.123 INFO llm_service: loaded"
    assert printed(None, own, other, "Traceback", "listening on unix:/x") == [
        own,
        f"llm_service-2: {other}",
        "llm_service-2: Traceback",
    ]


def test_the_log_names_the_flags_of_serve() -> None:
    shown = io.StringIO()
    suites.log_to(rich.console.Console(file=shown, soft_wrap=True))(
        "ssm_service", "give --kv-slots 9, or --dtype float16"
    )
    assert shown.getvalue() == "ssm_service: give --ssm.kv-slots 9, or --dtype float16\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--kv-memory", "1GiB", "--memory-per-gpu", "1GiB"],
            "--kv-memory and --memory-per-gpu both set the number of KV slots",
        ),
        (["--tls-certificate", "x"], "--tls-certificate and --tls-private-key go together"),
        (["--http-allowed-origins", "*"], "needs --http-address"),
        (
            ["--http-address", "unix:/x", "--grpc-address", "unix:/x"],
            "--grpc-address and --http-address are the same, unix:/x",
        ),
        (["--ssm", "lookup", "--ssm", "none"], "none: no SSM at all"),
        (["--ssm", "x,width=0"], "'0' must be a number from 1 to 64"),
    ],
)
def test_what_does_not_go_together_is_told_before_models_are_looked_for(
    words: list[str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(suites, "model_folder", None)
    address = words[3] if "--grpc-address" in words else None
    with pytest.raises(ValueError, match=re.escape(message)), started(*words, address=address):
        pass


def test_every_line_of_a_json_log_is_json() -> None:
    log = '{"time": "2026-01-31T12:00:00.123Z", "level": "INFO", "service": "llm_service", "message": "loaded"}'
    text = "12:00:00.123 INFO rank: a process of its own that was not told the format"
    lines = [json.loads(line) for line in printed("json", log, "Traceback", text)]
    assert lines == [
        json.loads(log) | {"service": "llm_service-2"},
        {"service": "llm_service-2", "message": "Traceback"},
        {"service": "llm_service-2", "message": text},
    ]


def test_a_default_ssm_that_is_left_out_is_a_warning_where_nothing_else_is_shown(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(suites, "Suite", NoSuite)
    save_tiny_gguf(tmp_path / "big.gguf", "Q8_0", family="qwen2")
    arguments = parser().parse_args(["serve", "--llm", f"{tmp_path}/big.gguf", "--cache-dir", str(tmp_path / "cache")])
    with suites.started_suite(suites.given_settings(arguments), None, arguments, is_for_others=True):
        pass
    assert capsys.readouterr() == (
        "",
        "warning: SSM demo is left out: it was made for another model\n",
    )
    assert NoSuite.config.ssms == ("lookup",)


@pytest.mark.parametrize(
    ("words", "is_for_others", "said"),
    [
        (["--tensor-parallel", "2000"], False, "warning: 2000 ranks on "),
        (["--tensor-parallel", "2000"], True, ""),  # the service says it, and its log is shown
        (["--llm-replicas", "200"], True, "warning: 200 LLM replicas on "),
    ],
)
def test_too_many_ranks_are_told_once(
    words: list[str],
    is_for_others: bool,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(suites, "Suite", NoSuite)
    monkeypatch.setattr(suites, "model_folder", lambda *_: Path("/model"))
    monkeypatch.setattr(suites, "check_model", lambda *_, **__: None)
    monkeypatch.setattr(suites, "chosen_ssms", lambda *_, **__: ("lookup",))
    monkeypatch.setattr(suites, "ensure_quantized", lambda folder, *_: folder)
    arguments = parser().parse_args(["serve", *words, "--device", "cpu"])
    with suites.started_suite(suites.given_settings(arguments), None, arguments, is_for_others=is_for_others):
        pass
    warnings = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning")]
    assert len(warnings) == bool(said)
    assert "".join(warnings).startswith(said)
