"""The decoder against transformers: whole prompts, chunks, single tokens and trees give the same logits."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from specgrove.models.decoder.family import read_spec
from specgrove.models.errors import UnsupportedModelError
from specgrove.program.loading import load_decoder
from specgrove.runtime.model_runner import ModelRunner
from specgrove.runtime.pass_builder import PassBuilder, TreeRows
from tests.conftest import save_tiny_llama

PROMPTS = ([5, 1, 44, 90, 3, 3, 17, 60, 2, 8, 31], [7], [96, 0, 12, 13])


def transformers_logits(folder: Path, token_ids: list[int]) -> torch.Tensor:
    from transformers import LlamaForCausalLM

    model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.inference_mode():
        return model(torch.tensor([token_ids])).logits[0]


def chunked_logits(runner: ModelRunner, token_ids: list[int], chunk_len: int) -> torch.Tensor:
    """Logits of every position, computed ``chunk_len`` rows at a time."""
    slots = list(range(3, 3 + len(token_ids)))
    rows = []
    for start in range(0, len(token_ids), chunk_len):
        for end in range(start + 1, min(start + chunk_len, len(token_ids)) + 1):
            builder = PassBuilder()
            builder.add(slots[:end], token_ids[start:end], chunk_logits=True)
            rows.append(runner.forward(builder.build()))
    return torch.cat(rows)


@pytest.mark.parametrize("overrides", [{}, {"tie_word_embeddings": True}, {"attention_bias": True, "mlp_bias": True}])
def test_logits_equal_transformers(tmp_path: Path, overrides: dict[str, object]) -> None:
    folder = save_tiny_llama(tmp_path, seed=3, **overrides)
    for prompt in PROMPTS:
        expected = transformers_logits(folder, prompt)
        runner = ModelRunner(load_decoder(folder, torch.float32), num_slots=64)
        for chunk_len in (1, 3, len(prompt)):
            assert (chunked_logits(runner, prompt, chunk_len) - expected).abs().max() <= 1e-4


def test_chunking_changes_no_bit(tiny_llama: Path) -> None:
    prompt = PROMPTS[0]
    runner = ModelRunner(load_decoder(tiny_llama, torch.bfloat16), num_slots=64)
    one_by_one = chunked_logits(runner, prompt, 1)
    assert torch.equal(one_by_one, chunked_logits(runner, prompt, 4))
    assert torch.equal(one_by_one, chunked_logits(runner, prompt, len(prompt)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_tree_nodes_equal_their_sequences_bit_for_bit(tiny_llama: Path, dtype: torch.dtype) -> None:
    runner = ModelRunner(load_decoder(tiny_llama, dtype), num_slots=64)
    context, tree_ids, parents = [5, 1, 44, 90], [3, 10, 11, 12, 13, 14], [-1, 0, 0, 1, 3, 2]
    chunked_logits(runner, context, len(context))
    builder = PassBuilder()
    # A second sequence in the batch must change nothing, nor must slots that are out of order.
    builder.add([60, 61], [1, 2], chunk_logits=True)
    rows = builder.add([3, 4, 5, 6], (), TreeRows(tree_ids, parents, [30, 22, 25, 21, 40, 20]))
    logits = runner.forward(builder.build())[rows.start : rows.stop]
    for node in range(len(tree_ids)):
        path, ancestor = [], node
        while ancestor >= 0:
            path.insert(0, tree_ids[ancestor])
            ancestor = parents[ancestor]
        fresh = ModelRunner(runner.decoder, num_slots=64)
        assert torch.equal(logits[node], chunked_logits(fresh, context + path, 1)[-1])


def test_unsupported_models_are_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"architectures": ["BertModel"]}')
    with pytest.raises(UnsupportedModelError, match=r"BertModel.*only.*LlamaForCausalLM"):
        read_spec(tmp_path)
