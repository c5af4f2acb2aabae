"""Speculative inference with several SSMs, whose trees become one, over a list of prompts; and who drafted what."""

import collections

import specgrove.serve as sg

llm = sg.LLM("smollm2-135m-instruct")
ssms = [
    sg.SSM("lookup"),  # continues what was said before
    sg.SSM("demo", name="wide", width=4),
    sg.SSM("demo", name="fixed", expansion=(1, 1, 3)),  # trees of one shape
]
generation_config = sg.GenerationConfig(do_sample=False)
for ssm in ssms:
    ssm.compile(generation_config)
llm.compile(generation_config, ssms=ssms, max_requests_per_batch=8, max_seq_length=512, max_tokens_per_batch=128)

# A conversation gets the model's chat template, a text is continued as it is.
prompts = [
    "Here are some travel tips for Tokyo:\n",
    [{"role": "user", "content": "Count from one to ten, then do it once more."}],
    sg.Request([("user", "Name three primes.")], max_new_tokens=20),
]
with llm:
    results = llm.generate(prompts)

for result in results:
    print(result.output_text)
    drafted_by = collections.Counter(ssm for token in result.tokens for ssm in token.drafted_by)
    print(
        f"-- {len(result.output_tokens)} tokens in {result.statistics.num_verify_steps} steps of the LLM, "
        f"{result.statistics.tokens_per_s:.0f} tokens/s, the first after {result.statistics.first_token_ms:.0f} ms; "
        f"drafted and accepted: {dict(drafted_by) or 'none'}\n"
    )
