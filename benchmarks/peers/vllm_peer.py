"""vLLM's CPU build, as a contestant of ``benchmarks.serving``. Needs nothing but ``vllm`` and its own interpreter.

    python vllm_peer.py MODEL_FOLDER none|ngrams|DRAFT_FOLDER

A line of JSON in (``prompt_ids``, ``max_tokens``), a line of JSON out (``num_tokens``). Greedy, bfloat16, all prompts at once, without a
prefix cache.
"""

import json
import os
import sys

NUM_SPECULATIVE_TOKENS = 4
NGRAM_LEN = 3


def speculative_config(speculation: str) -> dict[str, object] | None:
    if speculation == "none":
        return None
    if speculation == "ngrams":
        how: dict[str, object] = {"method": "ngram", "prompt_lookup_max": NGRAM_LEN}
    else:
        how = {"method": "draft_model", "model": speculation}
    return how | {"num_speculative_tokens": NUM_SPECULATIVE_TOKENS}


def main() -> None:
    # Its own binding of threads to cores fails where cores can't be told apart (virtual machines).
    os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
    # Its share of the memory has to be free: other contestants are loaded too.
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "2")
    from vllm import LLM, SamplingParams

    model = LLM(
        sys.argv[1],
        dtype="bfloat16",
        max_model_len=2048,
        gpu_memory_utilization=0.2,
        enable_prefix_caching=False,
        disable_log_stats=True,
        speculative_config=speculative_config(sys.argv[2]),
    )
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        prompts = [{"prompt_token_ids": ids} for ids in request["prompt_ids"]]
        params = SamplingParams(temperature=0.0, max_tokens=request["max_tokens"])
        outputs = model.generate(prompts, params, use_tqdm=False)
        print(json.dumps({"num_tokens": sum(len(output.outputs[0].token_ids) for output in outputs)}), flush=True)


if __name__ == "__main__":
    main()
