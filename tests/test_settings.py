"""The services' settings: each is declared once, and all are reachable from `specgrove serve`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from llm_service.arguments import parse_arguments as parse_llm
from llm_service.config import VerifierConfig
from router.__main__ import config_of as parse_router
from router.config import RouterConfig
from specgrove.cli.arguments import parser
from specgrove.settings import SECTIONS, SuiteSettings, in_suite_flags, parse_bytes, settings_of, stages, suite_flags
from specgrove.suite.processes import config_of, process_specs
from ssm_service.__main__ import parse_arguments as parse_ssm_service
from ssm_service.config import PoolConfig

NAMES = ("router", "llm_service", "ssm_service")
TLS = ("tls-certificate", "tls-private-key", "tls-client-ca")


def given(*words: str) -> SuiteSettings:
    return settings_of(parser().parse_args(["serve", *words]))


def test_every_setting_of_every_service_is_a_flag_of_serve_by_the_services_name() -> None:
    flags = {flag.name: flag for flag in suite_flags()}
    of_suite = {
        ("router", "llm"),
        ("router", "ssm"),
        ("router", "resolve-interval-s"),
        ("router", "local-address"),
        ("ssm", "llm-model"),
        ("llm", "address"),
        ("ssm", "address"),
        ("router", "metrics-address"),
        ("llm", "metrics-address"),
        ("ssm", "metrics-address"),
        *((section, name) for section in ("llm", "ssm") for name in ("health-address", *TLS)),
        *(("router", f"services-tls-{name}") for name in ("ca", "certificate", "private-key")),
    }
    for section, settings in SECTIONS.items():
        for setting in settings:
            assert ((section, setting.name) in of_suite) == (f"{section}.{setting.name}" not in flags)
    assert {"grpc-address", "llm", "ssm", "threads", "llm-replicas", "max-requests", "kv-slots"} <= set(flags)
    assert "ssm-kv-slots" not in flags


def test_what_is_given_to_serve_reaches_the_services_that_have_it() -> None:
    words = ("--max-requests", "7", "--kv-memory", "2GiB", "--ssm.kv-slots", "99", "--device", "cpu", "--offload")
    settings = given(*words, "--pipeline-parallel", "10,12,8")
    assert settings.arguments("router") == ("--max-requests", "7")
    assert parse_router(["--llm", "a:1", *settings.arguments("router")]).max_num_requests == 7
    llm = parse_llm(settings.arguments("llm"))
    assert (llm.demand.kv_memory_bytes, llm.demand.device, llm.demand.num_slots) == (2**31, "cpu", 32768)
    assert llm.demand.offload is not None
    assert llm.demand.layout.stage_sizes == (10, 12, 8)
    ssm = parse_ssm_service(list(settings.arguments("ssm")))
    assert (ssm.demand.num_slots, ssm.demand.device) == (99, "cpu")


def test_a_services_own_value_goes_before_the_shared_one() -> None:
    for words in (("--ssm.threads", "1", "--threads", "2"), ("--threads", "2", "--ssm.threads", "1")):
        config = config_of(given(*words, "--llm.dtype", "float32"), Path("/model"), ("lookup",))
        lines = {spec.name: spec.arguments for spec in process_specs(config, dict.fromkeys(NAMES, "unix:/x"))}
        assert parse_llm(lines["llm_service"]).num_threads == 2
        assert parse_llm(lines["llm_service"]).demand.dtype == "float32"
        ssm = parse_ssm_service(list(lines["ssm_service"]))
        assert (ssm.num_threads, ssm.demand.dtype) == (1, "bfloat16")


def test_a_switch_can_be_turned_off_again() -> None:
    assert given("--offload").arguments("llm") == ("--offload",)
    assert given("--no-llm.offload").arguments("llm") == ("--no-offload",)
    assert parse_llm(["--offload", "--no-offload"]).demand.offload is None


def test_nothing_given_is_nothing_handed_on() -> None:
    assert given() == SuiteSettings()
    assert not any(given().arguments(section) for section in SECTIONS)
    assert given()["llm", "kv-slots"] == 32768


def test_a_services_advice_names_the_flags_of_serve() -> None:
    text = "what would fit: --kv-slots 7, or --dtype bfloat16; --tls-certificate"
    assert in_suite_flags(text, "llm") == text
    assert in_suite_flags(text, "ssm") == "what would fit: --ssm.kv-slots 7, or --dtype bfloat16; --tls-certificate"
    assert in_suite_flags("--model x: --address", "llm") == "--llm x: --address"
    assert in_suite_flags("can't listen at --address", "router") == "can't listen at --grpc-address"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--kv-memory", "2XB"], "--kv-memory: '2XB' is no amount of memory: write 2GiB"),
        (["--max-requests", "0"], "--max-requests: must be a whole number from 1 to 1000000, got '0'"),
        (["--max-tree-rows", "8"], "--max-tree-rows: must be a whole number, 256 or more"),
        (["--beam-width", "65"], "--beam-width: must be a whole number from 1 to 64, got '65'"),
        (["--max-request-bytes", "3GiB"], "--max-request-bytes: must be at most 1GiB, got 3GiB"),
        (["--threads", "100000"], "--threads: must be a whole number from 1 to 1024"),
        (["--llm.kv-memory", "2XB"], "--llm.kv-memory: '2XB' is no amount of memory"),
        (["--replica-wait-s", "soon"], "--replica-wait-s: must be a number of seconds"),
        (
            ["--replica-wait-s", "1e12"],
            "--replica-wait-s: must be a number of seconds, 0 or more and below 1000000000, got",
        ),
        (["--grpc-address", "nowhere"], "HOST:PORT or unix:/path"),
        (["--pipeline-parallel", "2,0"], "--pipeline-parallel: must be a number of stages"),
    ],
)
def test_wrong_values_are_named_before_anything_starts(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        parser().parse_args(["serve", *words])
    assert message in capsys.readouterr().err


def test_the_defaults_of_configurations_are_those_of_the_settings() -> None:
    assert parse_router(["--llm", "a:1"]) == RouterConfig(llm_addresses=("a:1",))
    ssm, llm = parse_ssm_service([]), parse_llm([])
    assert PoolConfig().session_ttl_s == ssm.session_ttl_s
    verifier = VerifierConfig(max_model_len=9)
    assert (verifier.max_num_chunk_tokens, verifier.max_num_tree_rows) == (
        llm.demand.max_num_chunk_tokens,
        llm.demand.max_num_tree_rows,
    )
    assert verifier.session_ttl_s == llm.session_ttl_s


def test_amounts_of_memory_are_read() -> None:
    texts = ("123", "2GiB", "2g", "500 MB", "1.5kb")
    assert [parse_bytes(text) for text in texts] == [123, 2**31, 2**31, 500_000_000, 1500]
    for wrong in ("", "GiB", "2 apples", "-1", "0", "nan", "inf"):
        with pytest.raises(ValueError, match="amount of memory"):
            parse_bytes(wrong)


def test_pipeline_stages_are_a_number_or_their_layers() -> None:
    assert (stages("2"), stages("10,12,8")) == ((2,), (10, 12, 8))


@pytest.mark.parametrize(
    ("parse", "name"), [(parse_router, "router"), (parse_llm, "llm_service"), (parse_ssm_service, "ssm_service")]
)
def test_services_by_hand_say_what_is_wrong_in_one_line_below_a_short_usage(
    parse: Callable[[list[str]], object], name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    usage = f"usage: python -m {name} [OPTION ...]\npython -m {name}: error: "
    for words, said in (
        (
            ["--drain-timeout-s", "soon"],
            "argument --drain-timeout-s: must be a number of seconds, 0 or more, got 'soon'",
        ),
        (["--config", f"{tmp_path}/none.yaml"], f"--config: {tmp_path}/none.yaml: No such file or directory"),
    ):
        with pytest.raises(SystemExit):
            parse(words)
        assert capsys.readouterr().err == f"{usage}{said}\n"
