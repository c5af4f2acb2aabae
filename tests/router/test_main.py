"""The router's command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from router.__main__ import config_of


def test_flags() -> None:
    config = config_of(
        [
            "--llm", "a:1", "--llm", "unix:/b", "--llm", "dns:llm:4", "--resolve-interval-s", "0.5",
            "--ssm", "c:2", "--max-requests", "3", "--tree-policy", "static",
        ]
    )  # fmt: skip
    assert config.llm_addresses == ("a:1", "unix:/b", "dns:llm:4")
    assert config.resolve_interval_s == 0.5
    assert (config.ssm_addresses, config.max_num_requests, config.trees.is_adaptive) == (("c:2",), 3, False)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "at least one --llm"),
        (["--llm", "nowhere"], "HOST:PORT, dns:NAME:PORT or unix:/path"),
        (["--llm", "dns:llm"], "must be dns:NAME:PORT"),
        (["--llm", "a:1", "--resolve-interval-s", "0"], "must be a number of seconds above 0"),
        (["--llm", "a:1", "--max-requests", "0"], "must be a whole number from 1 to 1000000"),
        (["--llm", "a:1", "--drain-timeout-s", "nan"], "must be a number of seconds"),
        (["--llm", "a:1", "--tls-certificate", "x"], "go together"),
    ],
)
def test_wrong_flags_are_explained(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        config_of(arguments)
    assert message in capsys.readouterr().err


def test_tls_files_are_checked_before_anything_starts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "server.pem").write_text("no certificate")
    files = ["--tls-certificate", str(tmp_path / "server.pem"), "--tls-private-key", str(tmp_path / "nope.pem")]
    with pytest.raises(SystemExit):
        config_of(["--llm", "a:1", *files])
    said = "server.pem is no PEM file: it should hold a part that begins with -----BEGIN CERTIFICATE-----"
    assert said in capsys.readouterr().err
    (tmp_path / "server.pem").write_text("-----BEGIN CERTIFICATE-----")
    with pytest.raises(SystemExit):
        config_of(["--llm", "a:1", *files])
    assert f"--tls-private-key {tmp_path / 'nope.pem'}: No such file or directory" in capsys.readouterr().err
