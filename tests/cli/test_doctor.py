"""``doctor``: findings as lines and as JSON, the exit code by them, and a suite that runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from specgrove.cli import doctor, main
from specgrove.doctor.findings import Finding, error, ok, warning
from specgrove.errors import UnavailableError
from tests.addresses import free_address, taken_address
from tests.fake_router import FakeRouter

Router = tuple[FakeRouter, str]


def find(monkeypatch: pytest.MonkeyPatch, *findings: Finding) -> None:
    monkeypatch.setattr(doctor, "_of_this_machine", lambda *_, **__: iter(findings))


def test_the_exit_code_is_that_of_the_worst(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    place = ["--grpc-address", free_address()]
    find(monkeypatch, ok("memory", "much"), warning("GPU", "unused"))
    assert main(["doctor", *place]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == ["ok       memory            much", "warning  GPU               unused"]
    assert lines[2] == f"ok       addresses         free: gRPC at {place[1]}"
    assert main(["doctor", "--quiet", *place]) == 0
    assert capsys.readouterr() == ("warning  GPU               unused\n", "")
    find(monkeypatch, error("LLM", "no such model", model="x"))
    assert main(["doctor", "--json", *place]) == 1
    shown = capsys.readouterr()
    printed = json.loads(shown.out)
    assert shown.err == ""
    assert printed["is_well"] is False
    assert printed["findings"][0] == {"area": "LLM", "level": "error", "text": "no such model", "facts": {"model": "x"}}


def test_addresses_that_are_taken(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    find(monkeypatch)
    with taken_address() as address:
        assert main(["doctor", "--grpc-address", address]) == 1
        assert f"error    settings          --grpc-address: can't listen on {address}" in capsys.readouterr().out
        assert main(["doctor", "--grpc-address", free_address(), "--http-address", address]) == 1
        assert f"--http-address: can't listen on {address}" in capsys.readouterr().out


def test_the_address_of_a_suite_that_runs(
    fake_router: Router, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    find(monkeypatch)
    monkeypatch.setattr("specgrove.doctor.places.is_serving", lambda address: True)
    assert main(["doctor", "--grpc-address", fake_router[1]]) == 1
    assert f"error    addresses         a router serves at {fake_router[1]} already" in capsys.readouterr().out


def test_packages_that_are_missing(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    find(monkeypatch)
    monkeypatch.setattr("specgrove.settings.rules.is_installed", lambda module: False)
    assert main(["doctor", "--grpc-address", free_address(), "--vllm-engine-api"]) == 1
    assert "error    settings          --vllm-engine-api needs the package smg-grpc-proto" in capsys.readouterr().out


def test_a_suite_that_runs(fake_router: Router, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--address", fake_router[1]]) == 0
    shown = capsys.readouterr().out
    assert f"ok       suite             {fake_router[1]} serves fake (), context 200 tokens" in shown
    assert "warning  suite             it is SpecGrove , and this is 0." in shown
    assert "ok       SSMs              lookup, demo" in shown
    assert "ok       answers           4 tokens, the first after 0 ms, 100 tokens/s" in shown


def test_a_suite_that_does_not_answer(fake_router: Router, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fake_router[0].control_failures = [UnavailableError("no LLM service", may_retry=False)] * 20
    assert main(["doctor", "--address", f"unix:{tmp_path}/nobody", "--json"]) == 1
    (finding,) = json.loads(capsys.readouterr().out)["findings"]
    assert (finding["area"], finding["level"]) == ("suite", "error")


@pytest.fixture
def completed(tmp_path: Path) -> Path:
    """A folder with a ``specgrove`` for shells."""
    program = tmp_path / "specgrove"
    program.write_text(f"#!{sys.executable}\nimport sys\nfrom specgrove.cli import main\nsys.exit(main())\n")
    program.chmod(0o755)
    return tmp_path


_BASH = """
eval "$(specgrove completion bash)"
COMP_WORDS=({words}) COMP_CWORD={place} COMP_LINE="{line}" COMP_POINT=${{#COMP_LINE}} COMP_TYPE=9
_python_argcomplete specgrove
printf '%s\\n' "${{COMPREPLY[@]}}"
"""


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["specgrove", "ben"], "bench"),
        (["specgrove", "bench", "--prom"], "--prompts"),
        (["specgrove", "completion", "f"], "fish"),
        (["specgrove", "serve", "--kv-mem"], "--kv-memory"),
    ],
)
def test_bash_completes_commands_options_and_values(words: list[str], expected: str, completed: Path) -> None:
    program = _BASH.format(words=" ".join(words), place=len(words) - 1, line=" ".join(words))
    environment = os.environ | {"PATH": f"{completed}:{os.environ['PATH']}", "PYTHONPATH": str(Path.cwd())}
    ended = subprocess.run(["bash", "-c", program], capture_output=True, text=True, env=environment, check=True)
    assert ended.stdout.split() == [expected]


@pytest.mark.parametrize(("shell", "part"), [("zsh", "#compdef specgrove"), ("fish", "complete --command specgrove")])
def test_other_shells_get_what_they_run(shell: str, part: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    assert part in capsys.readouterr().out
