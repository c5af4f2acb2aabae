"""The services' settings: each is declared once, and all are reachable from `specgrove serve`."""

from __future__ import annotations

import pytest

from llm_service.arguments import parse_arguments as parse_llm
from router.__main__ import config_of as parse_router
from specgrove.cli.arguments import parser
from specgrove.settings import SERVICES, given_arguments, parse_bytes, stages, suite_settings
from ssm_service.__main__ import parse_arguments as parse_ssm_service


def test_every_setting_of_every_service_is_a_flag_of_serve() -> None:
    reachable = {(service, known.name_there) for known in suite_settings() for service in known.services}
    own = {"address", "local-address", "llm", "ssm", "model", "quantization", "threads", "dtype", "drain-timeout-s"}
    flags = {action for name in own - {"model", "local-address"} for action in (f"--{name}",)} | {"--grpc-address"}
    parsed = parser().parse_args(["serve"])
    for service, settings in SERVICES.items():
        for setting in settings:
            assert (service, setting.name) in reachable or setting.name in own
    assert all(hasattr(parsed, flag[2:].replace("-", "_")) for flag in flags - {"--address"})


def test_what_is_given_to_serve_reaches_the_services_that_have_it() -> None:
    words = ["--max-requests", "7", "--kv-memory", "2GiB", "--ssm-kv-slots", "99", "--device", "cpu", "--offload"]
    given = given_arguments(parser().parse_args(["serve", *words, "--pipeline-parallel", "10,12,8"]))
    assert given["router"] == ("--max-requests", "7")
    assert parse_router(["--llm", "a:1", *given["router"]]).max_num_requests == 7
    llm = parse_llm(given["llm_service"])
    assert (llm.kv_memory_bytes, llm.device, llm.num_slots) == (2**31, "cpu", 32768)
    assert llm.offload is not None
    assert llm.layout.stage_sizes == (10, 12, 8)
    ssm = parse_ssm_service(list(given["ssm_service"]))
    assert (ssm.num_slots, ssm.device) == (99, "cpu")


def test_nothing_given_is_nothing_handed_on() -> None:
    assert not any(given_arguments(parser().parse_args(["serve"])).values())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--kv-memory", "2XB"], "--kv-memory: '2XB' is no amount of memory: write 2GiB"),
        (["--max-requests", "0"], "--max-requests: must be a whole number, 1 or more"),
        (["--max-tree-rows", "8"], "--max-tree-rows: must be a whole number, 256 or more"),
        (["--replica-wait-s", "soon"], "--replica-wait-s: must be a number of seconds"),
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


def test_amounts_of_memory_are_read() -> None:
    texts = ("123", "2GiB", "2g", "500 MB", "1.5kb")
    assert [parse_bytes(text) for text in texts] == [123, 2**31, 2**31, 500_000_000, 1500]
    for wrong in ("", "GiB", "2 apples", "-1", "0", "nan", "inf"):
        with pytest.raises(ValueError, match="amount of memory"):
            parse_bytes(wrong)


def test_pipeline_stages_are_a_number_or_their_layers() -> None:
    assert (stages("2"), stages("10,12,8")) == ((2,), (10, 12, 8))
