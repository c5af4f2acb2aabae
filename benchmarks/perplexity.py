"""What quantisation costs: perplexity of one fixed text in bfloat16, int8 and int4.

    python -m benchmarks.perplexity --num-tokens 8192

The text is prompts of the prompt sets, one after the other, in windows of 512 tokens. Also prints how often the most likely next token is
bfloat16's. The demo model's file has 4 bits; its dequantised weights are the truth here.
"""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path

import torch

from benchmarks.prompts import load_prompts
from specgrove.kernels.quantized_linear import quantize
from specgrove.machine.folders import default_cache_dir
from specgrove.models.decoder.parameters import Weight
from specgrove.models.folders.hub import DEMO_LLM, resolve_model
from specgrove.program.linears import Linear
from specgrove.program.loading import load_decoder
from specgrove.program.stores import MemoryWeights
from specgrove.runtime.model_runner import ModelRunner
from specgrove.runtime.pass_builder import PassBuilder, TreeRows
from specgrove.tokenizer import Tokenizer

_WINDOW_LEN = 512
_GROUP_SIZE = 32
_HEAD_ROWS = 8192  # linears with more outputs are heads, and keep 8 bits


class QuantizingWeights(MemoryWeights):
    """Quantises every linear as ``--quantization`` does, without a cache."""

    def __init__(self, bits: int) -> None:
        self._bits = bits

    def linear(self, weight: Weight, bias: torch.Tensor | None, dtype: torch.dtype) -> Linear:
        """See ``WeightStore``."""
        assert isinstance(weight, torch.Tensor)
        bits = 8 if weight.shape[0] > _HEAD_ROWS else self._bits
        return super().linear(quantize(weight.float(), bits, None if bits == 8 else _GROUP_SIZE), bias, dtype)


def log_likelihoods(runner: ModelRunner, token_ids: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Of every token but the first given those before it, and the most likely tokens in their places."""
    builder = PassBuilder()
    # A chain is a tree: it has logits for every row.
    builder.add([], (), TreeRows(token_ids, list(range(-1, len(token_ids) - 1)), list(range(len(token_ids)))))
    logits = runner.forward(builder.build())[:-1]
    following = torch.tensor(token_ids[1:])
    return logits.log_softmax(-1)[torch.arange(len(following)), following], logits.argmax(-1)


def main() -> int:
    """0 when int8 is within 0.5 % of bfloat16 and int4 within 5 %."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.perplexity", description=__doc__.splitlines()[0])
    parser.add_argument("--num-tokens", type=int, default=8192)
    parser.add_argument("--llm", default=DEMO_LLM)
    parser.add_argument("--cache-dir", type=Path, default=default_cache_dir())
    arguments = parser.parse_args()
    folder = resolve_model(arguments.llm, cache_dir=arguments.cache_dir, progress=print)
    text = "\n\n".join(load_prompts(400))
    token_ids = Tokenizer.from_folder(folder).encode(text)[: arguments.num_tokens]
    windows = [token_ids[start : start + _WINDOW_LEN] for start in range(0, len(token_ids) - 1, _WINDOW_LEN)]
    truth, choices = 0.0, torch.empty(0)
    is_good = True
    for name, store, most in (
        ("bfloat16", MemoryWeights(), 0.0),
        ("int8", QuantizingWeights(8), 0.005),
        ("int4", QuantizingWeights(4), 0.05),
    ):
        runner = ModelRunner(load_decoder(folder, torch.bfloat16, store=store), _WINDOW_LEN)
        found = [log_likelihoods(runner, window) for window in windows]
        perplexity = math.exp(-torch.cat([likelihoods for likelihoods, _ in found]).mean().item())
        own_choices = torch.cat([tokens for _, tokens in found])
        truth = truth or perplexity
        choices = choices if len(choices) else own_choices
        agreement = (own_choices == choices).float().mean().item()
        excess = perplexity / truth - 1
        is_good = is_good and excess <= most
        print(
            f"{name:9} perplexity {perplexity:.4f} over {len(own_choices)} tokens, {excess:+.2%} of bfloat16's; "
            f"most likely token the same in {agreement:.1%}",
            flush=True,
        )
    return 0 if is_good else 1


if __name__ == "__main__":
    sys.exit(main())
