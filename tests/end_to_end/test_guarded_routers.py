"""Several routers that want certificates and keys: all get ready, and clients of this machine need neither."""

from __future__ import annotations

from pathlib import Path

from specgrove.client import Client
from specgrove.suite.processes import Suite, SuiteConfig
from specgrove.suite.readiness import is_serving
from tests.certificates import make_certificates
from tests.waiting import LIMIT_S

PROMPT = tuple(range(40, 50))


def test_all_routers_get_ready_and_answer(tiny_model: Path, tmp_path: Path) -> None:
    server = make_certificates(tmp_path).server
    (tmp_path / "keys").write_text("a-key-of-this-test-alone\n")
    guards = (
        *("--tls-certificate", str(server.certificate), "--tls-private-key", str(server.private_key)),
        *("--api-key-file", str(tmp_path / "keys")),
    )
    config = SuiteConfig(
        llm_folder=tiny_model,
        ssms=(),
        dtype="float32",
        num_threads=1,
        num_routers=2,
        start_timeout_s=LIMIT_S,
        router_arguments=guards,
    )
    with Suite(config) as suite:
        outputs = []
        for address in suite.local_addresses:
            with Client(address) as client:
                outputs.append(
                    [token.token_id for token in client.complete(PROMPT, max_tokens=8, temperature=0).tokens]
                )
        assert outputs[0] == outputs[1]
        assert len(outputs[0]) == 8
        # Their other addresses are not for who has none.
        assert not any(map(is_serving, suite.router_addresses))
