"""Records a trace for ``benchmarks.async_drafting`` from two real models, greedily.

python -m benchmarks.async_drafting.record --llm MODEL --ssm MODEL --out FILE.npz --num-prompts 8 --max-tokens 96
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

from benchmarks.async_drafting.trace import NUM_CANDIDATES, Output, Trace
from benchmarks.paper.models import Nodes, load_pair
from benchmarks.prompts import code_prompts, load_prompts
from specgrove.kernels.sampling import ChoiceParams
from specgrove.machine.folders import default_cache_dir

_MAX_PROMPT_LEN = 512
_NUM_PLACES = 32  # of a pass of the SSM's


def main() -> int:
    """Exit code 0."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.async_drafting.record", description=__doc__)
    parser.add_argument("--llm", required=True)
    parser.add_argument("--ssm", required=True)
    parser.add_argument("--precisions", nargs=2, default=("bfloat16", "bfloat16"), metavar=("LLM", "SSM"))
    parser.add_argument("--prompts", choices=("chat", "code"), default="chat")
    parser.add_argument("--num-prompts", type=int, default=8)
    parser.add_argument("--max-tokens", type=int, default=96)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    max_len = _MAX_PROMPT_LEN + arguments.max_tokens + 1
    pair = load_pair(
        arguments.llm, arguments.ssm, tuple(arguments.precisions), max_len, _NUM_PLACES, default_cache_dir(), print
    )
    prompts = code_prompts() if arguments.prompts == "code" else load_prompts(arguments.num_prompts, ("alpaca",))
    outputs = []
    for prompt in prompts[: arguments.num_prompts]:
        prompt_ids = pair.prompt_ids(prompt)
        if len(prompt_ids) > _MAX_PROMPT_LEN:
            continue
        token_ids = pair.output(prompt_ids, ChoiceParams(), arguments.max_tokens)
        committed = [*prompt_ids, *token_ids]
        ids, log_probs = [], []
        for start in range(0, len(token_ids), _NUM_PLACES):
            places = range(start, min(start + _NUM_PLACES, len(token_ids)))
            # A tree of its last token alone, below those before it: what follows is the output's token at the place.
            lengths = [len(prompt_ids) + place - 1 for place in places]
            roots = [Nodes([committed[length]], [-1], 0, 1) for length in lengths]
            best = pair.ssm.below(lengths, roots).topk(NUM_CANDIDATES, dim=-1)
            ids.append(best.indices.numpy())
            log_probs.append(best.values.numpy())
        outputs.append(Output(np.array(token_ids), np.concatenate(ids), np.concatenate(log_probs)))
        shares = ", ".join(f"{outputs[-1].right_share(num):.2f} among {num}" for num in (1, 2, 4, 8))
        print(f"{len(token_ids)} tokens: right {shares}", flush=True)
    conditions = {
        "llm": pair.names[0],
        "ssm": pair.names[1],
        "precisions": list(arguments.precisions),
        "prompts": arguments.prompts,
        "choice": "greedy",
    }
    Trace(tuple(outputs), conditions).write(arguments.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
