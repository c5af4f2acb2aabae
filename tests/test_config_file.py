"""The YAML file of ``--config``: what it may hold, what is said of wrong ones, and that what is printed can be read back."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema_rs
import pytest
import yaml

from llm_service.arguments import parse_arguments as parse_llm
from router.__main__ import config_of as parse_router
from specgrove.cli import main
from specgrove.cli.arguments import parser
from specgrove.cli.suites import given_settings
from specgrove.settings import SECTIONS, SUITE, SuiteSettings, suite_flags
from specgrove.settings.config_file import read_config_file
from specgrove.settings.printed import config_schema, config_text

WHOLE = """
# a suite
llm-replicas: 2
device: cpu
router:
  max-requests: 256
  http-address: 127.0.0.1:0
  http-allowed-origins: [https://a.example, https://b.example]
llm:
  kv-memory: 2GiB
  gpu-kernels: off
  pipeline-parallel: [10, 12, 8]
  offload: true
  max-model-len:
ssm:
  ssm: [lookup, "demo,width=2"]
  threads: 1
  device: cuda
"""
GIVEN = {
    ("", "llm-replicas"): 2,
    ("llm", "device"): "cpu",
    ("router", "max-requests"): 256,
    ("router", "http-address"): "127.0.0.1:0",
    ("router", "http-allowed-origins"): ("https://a.example", "https://b.example"),
    ("llm", "kv-memory"): 2**31,
    ("llm", "gpu-kernels"): "off",
    ("llm", "pipeline-parallel"): (10, 12, 8),
    ("llm", "offload"): True,
    ("ssm", "ssm"): ["lookup", "demo,width=2"],
    ("ssm", "threads"): 1,
    ("ssm", "device"): "cuda",
}


def written(folder: Path, text: str) -> Path:
    path = folder / "suite.yaml"
    path.write_text(text)
    return path


def test_a_file_has_sections_and_shared_settings(tmp_path: Path) -> None:
    assert read_config_file(written(tmp_path, WHOLE), is_for_suite=True).given == GIVEN
    assert read_config_file(written(tmp_path, "# nothing\n"), is_for_suite=True) == SuiteSettings()
    assert read_config_file(written(tmp_path, "llm:\nthreads: ~\n"), is_for_suite=True) == SuiteSettings()
    # One value where several may be.
    assert read_config_file(written(tmp_path, "ssm: {ssm: lookup}"), is_for_suite=True).given == {
        ("ssm", "ssm"): ["lookup"]
    }


def test_the_command_line_goes_before_the_file(tmp_path: Path) -> None:
    words = ["serve", "--config", str(written(tmp_path, WHOLE)), "--device", "auto", "--no-offload", "--ssm", "lookup"]
    settings = given_settings(parser().parse_args(words))
    assert (settings["llm", "device"], settings["ssm", "device"]) == ("auto", "auto")
    assert settings["llm", "offload"] is False
    assert settings["ssm", "ssm"] == ["lookup"]
    assert (settings["ssm", "threads"], settings["router", "max-requests"]) == (1, 256)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("kv-slots: 3", "1: there is no setting kv-slots; did you mean llm.kv-slots?"),
        ("llm:\n  kv-slot: 3", "2: there is no setting llm.kv-slot; did you mean llm.kv-slots?"),
        ("ssm:\n  kv_slots: 3", "2: there is no setting ssm.kv_slots; did you mean ssm.kv-slots?"),
        ("llm.kv-slots: 3", "1: there is no setting llm.kv-slots at the top: write kv-slots below llm:"),
        ("routr: {}", "1: there is no setting routr; did you mean router?"),
        (
            "zzz: 1",
            "1: there is no setting zzz; `specgrove serve --print-config` lists all: at the top, and below router, llm, ssm",
        ),
        ("llm: ./model", "1: llm (settings of the LLM service) must hold lines of NAME: VALUE, got './model'"),
        ("llm:\n  kv-slots: 0", "2: llm.kv-slots: must be a whole number, 2 or more, got '0'"),
        ("llm:\n  kv-slots: many", "2: llm.kv-slots: must be a whole number, 2 or more, got 'many'"),
        ("llm:\n  kv-slots: [1]", "2: llm.kv-slots: must be a whole number, 2 or more, got a list"),
        ("\n\ndevice: gpu", "3: device: must be one of auto, cpu, cuda, got 'gpu'"),
        ("llm:\n  offload: maybe", "2: llm.offload: must be true or false, got 'maybe'"),
        ("llm:\n  offload: !!bool maybe", "2: llm.offload: must be true or false, got 'maybe'"),
        ("llm:\n  offload: !!bool [on]", "2: llm.offload: must be true or false, got a list"),
        (
            "ssm:\n  ssm:\n  - lookup\n  -",
            "4: ssm.ssm: an element of the list has no value: write it, or leave its line out",
        ),
        (
            "router:\n  http-allowed-origins: [http://a, null]",
            "2: router.http-allowed-origins: an element of the list has no value: write 'null' in quotes if it is meant so",
        ),
        ("a: " + 2000 * "[" + 2000 * "]", " is nested too deeply for a file of settings"),
        ("llm:\n  address: a:1", "2: llm.address is set by `specgrove serve` itself; leave it out"),
        (
            "router:\n  metrics-address: a:1",
            "2: router.metrics-address is set by `specgrove serve` itself; write metrics-address at the top of the file",
        ),
        ("log-level: INFO\nlog-level: INFO", "2: log-level is there twice, first in line 1"),
        ("- 1", "1: the file must hold lines of NAME: VALUE, got a list"),
        ("? [a]\n: 1", "1: a name is expected, got a list"),
        ("llm:\n  kv-slots: [", "2: is no YAML: expected the node content, but found '<stream end>'"),
    ],
)
def test_what_is_wrong_is_told_with_its_line_and_what_is_right(tmp_path: Path, text: str, said: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(ValueError, match=":") as raised:
        read_config_file(path, is_for_suite=True)
    assert str(raised.value) == f"{path}:{said}"


def test_a_wrong_file_is_one_line_of_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "--config", str(tmp_path / "none.yaml")]) == 1
    assert capsys.readouterr().err == f"specgrove: error: {tmp_path}/none.yaml: No such file or directory\n"
    for command in (["serve"], ["demo"], ["generate", "hi"], ["chat"]):
        path = written(tmp_path, "llm:\n  kv-slot: 3")
        assert main([*command, "--config", str(path)]) == 1
        assert capsys.readouterr().err.startswith(f"specgrove: error: {path}:2: there is no setting llm.kv-slot; did")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    assert main(["serve", "--config", str(tmp_path / "binary.yaml")]) == 1
    assert "binary.yaml: is no YAML" in capsys.readouterr().err


def test_what_is_printed_is_the_whole_configuration_and_can_be_read_back(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["serve", "--config", str(written(tmp_path, WHOLE)), "--kv-memory", "3GiB", "--print-config"]) == 0
    printed = capsys.readouterr().out
    settings = read_config_file(written(tmp_path, printed), is_for_suite=True)
    expected = SuiteSettings(GIVEN | {("llm", "kv-memory"): 3 * 2**30})
    for flag in suite_flags():
        for section in flag.sections:
            assert settings[section, flag.setting.name] == expected[section, flag.setting.name], flag
    assert config_text(settings) == printed
    # What the services share stands at the top, unless they differ.
    assert (yaml.safe_load(printed)["dtype"], yaml.safe_load(printed)["ssm"]["device"]) == ("bfloat16", "cuda")
    assert "# one-token KV slots, shared by all sessions (a whole number, 2 or more)\n  kv-slots: 32768\n" in printed


@pytest.mark.parametrize("words", [[], ["--log-level", "DEBUG"], ["--llm.log-level", "ERROR"], ["--verbose"]])
def test_serve_does_the_same_with_the_file_that_it_printed(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    started: list[SuiteSettings] = []

    def started_suite(settings: SuiteSettings, *_: object, **__: object) -> None:
        started.append(settings)
        raise ValueError

    monkeypatch.setattr("specgrove.cli.serve.started_suite", started_suite)
    shown = [word for word in words if word == "--verbose"]
    assert main(["serve", *words, "--print-config"]) == 0
    printed = str(written(tmp_path, capsys.readouterr().out))
    for given in (words, ["--config", printed, *shown]):
        assert main(["serve", *given]) == 1
    plain, from_file = started
    for section, settings in SECTIONS.items():
        for setting in settings:
            assert plain[section, setting.name] == from_file[section, setting.name], setting
    levels = {section: plain[section, "log-level"] for section in SECTIONS}
    warnings = dict.fromkeys(SECTIONS, "WARNING")
    assert (
        levels
        == {
            "": warnings,
            "--verbose": dict.fromkeys(SECTIONS, "INFO"),
            "--log-level DEBUG": dict.fromkeys(SECTIONS, "DEBUG"),
            "--llm.log-level ERROR": warnings | {"llm": "ERROR"},
        }[" ".join(words)]
    )


def test_editors_get_a_schema_that_takes_what_is_right_and_nothing_else(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["serve", "--print-config-schema"]) == 0
    schema = json.loads(capsys.readouterr().out)
    jsonschema_rs.meta.validate(schema)
    validator = jsonschema_rs.validator_for(schema)
    right = yaml.safe_load(WHOLE.replace(": off", ": 'off'"))
    for value in (right, yaml.safe_load(config_text(SuiteSettings(GIVEN))), {"router": None}):
        validator.validate(value)
    for wrong in ({"llm": {"kv-slots": 0}}, {"llm": {"kv-slot": 1}}, {"device": "gpu"}, {"kv-slots": 1}, {"llm": "x"}):
        assert not validator.is_valid(wrong)
    assert config_schema() == schema


def test_the_pages_example_is_a_file_that_can_be_read(tmp_path: Path) -> None:
    page = (Path(__file__).parents[1] / "docs" / "settings.md").read_text()
    example = page.partition("```yaml\n")[2].partition("```")[0]
    settings = read_config_file(written(tmp_path, example), is_for_suite=True)
    assert settings["llm", "kv-memory"] == 2**31
    assert settings["ssm", "ssm"] == ["lookup", "./small,width=4"]


def test_every_setting_says_what_it_is_and_may_be() -> None:
    for setting in (*SUITE, *(setting for settings in SECTIONS.values() for setting in settings)):
        assert setting.help
        assert setting.allowed
        if setting.default_value is not None and not setting.is_switch:
            assert setting.value_of(setting.in_words(setting.default_value)) == setting.default_value, setting.name


def test_services_that_are_started_by_hand_take_the_same_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = WHOLE + "  address: 127.0.0.1:7\nlog-level: DEBUG\n"
    path = written(tmp_path, text.replace("router:", "router:\n  llm: [unix:/llm]\n  max-queued: 9"))
    router = parse_router(["--config", str(path), "--max-queued", "3"])
    assert (router.llm_addresses, router.max_num_requests, router.max_num_queued) == (("unix:/llm",), 256, 3)
    llm = parse_llm(["--config", str(path)])
    assert (llm.demand.kv_memory_bytes, llm.demand.device, llm.log_level, llm.demand.num_slots) == (
        2**31,
        "cpu",
        "DEBUG",
        32768,
    )
    with pytest.raises(SystemExit):
        parse_llm(["--config", str(written(tmp_path, "llm: {kv-slots: x}"))])
    assert "error: --config: " in capsys.readouterr().err
