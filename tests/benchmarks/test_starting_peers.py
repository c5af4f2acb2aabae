"""Which peers a serving benchmark starts, and with which speculation of their own."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from pathlib import Path

import pytest

from benchmarks import contestants, starting_peers
from benchmarks.prompts import code_prompts
from benchmarks.starting_peers import GGUF_PEERS, Models, add_peer_options, start_peers

_PEER = """
import json, sys
print(json.dumps({"ready": True}), flush=True)
for line in sys.stdin:
    print(json.dumps({"num_tokens": len(sys.argv[-1])}), flush=True)
"""


@pytest.fixture
def peers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Programs in place of the peers', and files in place of the models'. A program puts out as many tokens as its last word is long."""
    for peer in GGUF_PEERS:
        (tmp_path / peer.program).write_text(_PEER)
    (tmp_path / "vllm_peer.py").write_text(_PEER)
    monkeypatch.setattr(contestants, "PEERS", tmp_path)

    def gguf(kind: str, source: Path | None, cache_dir: Path, progress: object) -> Path:
        path = tmp_path / f"{'demo' if source is None else source.stem}-{kind}"
        path.write_bytes(b"0123456789")
        return path

    monkeypatch.setattr(starting_peers, "peer_gguf", gguf)
    return tmp_path


def _started(models: Models, words: list[str]) -> dict[tuple[str, str, str], int]:
    """By name, precision and speculation the tokens put out."""
    parser = argparse.ArgumentParser()
    add_peer_options(parser)
    arguments = parser.parse_args(["--no-transformers", *words])
    arguments.cache_dir = Path("nowhere")
    with contextlib.ExitStack() as running:
        found = start_peers(arguments, models, 5, running, lambda line: None)
        return {(peer.name, peer.precision, peer.speculation): peer.run([[1]], max_tokens=4) for peer, _ in found}


def test_peers_of_the_demo_model_speculate_by_ngrams(peers: Path) -> None:
    words = [
        "--openvino-python",
        sys.executable,
        "--llama-server",
        "a-binary",
        "--peer-kinds",
        "Q8_0",
        "--vllm-python",
        sys.executable,
    ]
    found = _started(Models(peers, None, None, None), words)
    assert found == {
        ("llama.cpp server", "Q8_0", "none"): len("none"), ("llama.cpp server, n-grams", "Q8_0", "n-grams"): len("ngrams"),
        ("OpenVINO GenAI", "Q8_0", "none"): len("none"), ("OpenVINO GenAI, n-grams", "Q8_0", "n-grams"): len("ngrams"),
        ("vLLM CPU", "bfloat16", "none"): len("none"), ("vLLM CPU, n-grams", "bfloat16", "n-grams"): len("ngrams"),
    }  # fmt: skip


def test_peers_of_a_pair_draft_with_its_small_model(peers: Path) -> None:
    models = Models(peers, peers / "big.gguf", peers, peers / "small.gguf")
    words = ["--llama-cpp-python", sys.executable, "--openvino-python", sys.executable, "--vllm-python", sys.executable]
    found = _started(models, [*words, "--peer-kinds", "Q8_0"])
    assert set(found) == {
        ("llama.cpp", "Q8_0", "none"), ("OpenVINO GenAI", "Q8_0", "none"), ("OpenVINO GenAI, draft model", "Q8_0", "draft model"),
    }  # fmt: skip
    drafting = found["OpenVINO GenAI, draft model", "Q8_0", "draft model"]
    assert drafting == len(str(peers / "small-Q4_0"))


def test_a_peer_that_does_not_start_keeps_its_place(peers: Path) -> None:
    (peers / "openvino_peer.py").write_text("raise SystemExit(3)")
    parser = argparse.ArgumentParser()
    add_peer_options(parser)
    arguments = parser.parse_args(["--no-transformers", "--openvino-python", sys.executable, "--peer-kinds", "Q8_0"])
    arguments.cache_dir = Path("nowhere")
    told: list[str] = []
    with contextlib.ExitStack() as running:
        found = list(start_peers(arguments, Models(peers, None, None, None), 5, running, told.append))
    assert [(peer.speculation, num_bytes) for peer, num_bytes in found] == [("none", 10), ("n-grams", 10)]
    assert any("exit code 3" in line for line in told)


def test_the_small_model_is_the_first_ssm_that_is_a_gguf_file(tiny_model: Path, tmp_path: Path) -> None:
    assert Models.of(tiny_model, ("lookup", "demo"), tmp_path, lambda line: None) == Models(
        tiny_model, None, None, None
    )


def test_code_prompts() -> None:
    prompts = code_prompts()
    assert 30 <= len(prompts) <= 60
    assert len(set(prompts)) == len(prompts)
    assert json.dumps(prompts).isascii()
