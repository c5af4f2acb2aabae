"""Shows that the LLM service's model is the one transformers runs: greedy outputs and logits on the same fp32 weights.

    python -m benchmarks.transformers_equality --num-prompts 50 --max-tokens 64

An output may differ only at a tie: both tokens' logits within 1e-4 of each other in transformers' own logits. Exits with 1
where fewer than 98 % are identical, a difference is no tie, or a logit differs by more than 1e-3.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from pathlib import Path
from typing import Any

import torch

from benchmarks.prompts import load_prompts
from benchmarks.transformers_models import transformers_model
from llm_service.config import VerifierConfig
from llm_service.verifier import VerifierEngine
from router.static_tree_policy import StaticTreePolicy
from specgrove.loop.request import GenerationRequest, SamplingParams
from specgrove.loop.speculation import Session
from specgrove.loop.works import TreeShape
from specgrove.machine.folders import default_cache_dir
from specgrove.models.decoder.ends import ends_of
from specgrove.models.folders.hub import DEMO_LLM, resolve_model
from specgrove.program.loading import load_decoder
from specgrove.runtime.in_process import InProcessVerifier
from specgrove.runtime.model_runner import ModelRunner
from specgrove.runtime.pass_builder import PassBuilder, TreeRows
from specgrove.runtime.step_loop import StepLoop
from specgrove.tokenizer import Tokenizer

MAX_TIE_GAP = 1e-4
MAX_LOGIT_DIFFERENCE = 1e-3


async def our_output(
    loop: StepLoop[Any, Any], prompt_ids: list[int], max_tokens: int, eos: tuple[int, ...]
) -> list[int]:
    """Greedy, without speculation."""
    request = GenerationRequest("s", tuple(prompt_ids), max_tokens, SamplingParams(stop_token_ids=eos))
    policy = StaticTreePolicy(TreeShape(0, 0))
    verifier = InProcessVerifier(loop)
    async with Session(request, (), verifier, policy, vocab_size=1 << 30, max_model_len=2048) as session:
        return [token.token_id async for step in session for token in step.tokens]


def our_logits(runner: ModelRunner, token_ids: list[int]) -> torch.Tensor:
    """Float32 ``[len(token_ids), vocab_size]``: the sequence as a tree that is a chain gives all rows."""
    builder = PassBuilder()
    builder.add([], tree=TreeRows(token_ids, range(-1, len(token_ids) - 1), range(len(token_ids))))
    return runner.forward(builder.build())


def main() -> int:
    """0 when the claims of the module's text hold."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.transformers_equality", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--num-prompts", type=int, default=50)
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--llm", default=DEMO_LLM)
    parser.add_argument("--prompts", type=Path, help="a file with a prompt in each line, instead of our own")
    parser.add_argument("--cache-dir", type=Path, default=default_cache_dir())
    arguments = parser.parse_args()
    folder = resolve_model(arguments.llm, cache_dir=arguments.cache_dir, progress=print)
    tokenizer = Tokenizer.from_folder(folder)
    decoder = load_decoder(folder, torch.float32)
    eos = ends_of(folder, tokenizer, decoder.spec.vocab_size).text
    engine = VerifierEngine(ModelRunner(decoder, 4096), VerifierConfig(max_model_len=2048, has_prefix_cache=False))
    loop: StepLoop[Any, Any] = StepLoop(engine, "verifier")
    reference = transformers_model(folder, torch.float32)

    num_identical, num_ties, max_difference = 0, 0, 0.0
    prompts = load_prompts(arguments.num_prompts)
    if arguments.prompts is not None:
        prompts = arguments.prompts.read_text(encoding="utf-8").splitlines()[: arguments.num_prompts]
    for number, prompt in enumerate(prompts, start=1):
        is_chat = tokenizer.has_chat_template
        prompt_ids = tokenizer.encode_chat([("user", prompt)]) if is_chat else tokenizer.encode(prompt)
        ours = asyncio.run(our_output(loop, prompt_ids, arguments.max_tokens, eos))
        inputs = torch.tensor([prompt_ids])
        with torch.inference_mode():
            generated = reference.generate(
                inputs, attention_mask=torch.ones_like(inputs), do_sample=False, max_new_tokens=arguments.max_tokens,
                eos_token_id=list(eos), pad_token_id=eos[0],
            )  # fmt: skip
            theirs = generated[0, len(prompt_ids) :].tolist()
            logits = reference(torch.tensor([prompt_ids + ours])).logits[0].float()
        difference = (our_logits(ModelRunner(decoder, 4096), prompt_ids + ours) - logits).abs().max().item()
        max_difference = max(max_difference, difference)
        if ours == theirs:
            num_identical += 1
        else:
            place = next(i for i, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b)
            row = logits[len(prompt_ids) + place - 1]
            gap = (row[ours[place]] - row[theirs[place]]).abs().item()
            num_ties += gap < MAX_TIE_GAP
            print(f"prompt {number} differs at token {place}: logit gap {gap:.2e}")
        print(f"{num_identical} of {number} identical, max |logit difference| {max_difference:.1e}", flush=True)
    loop.stop()
    is_shown = (
        num_identical >= 0.98 * len(prompts)
        and num_identical + num_ties == len(prompts)
        and max_difference <= MAX_LOGIT_DIFFERENCE
    )
    return 0 if is_shown else 1


if __name__ == "__main__":
    sys.exit(main())
