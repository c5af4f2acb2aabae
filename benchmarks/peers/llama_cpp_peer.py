"""llama.cpp by llama-cpp-python, as a contestant of ``benchmarks.cpu_peers``. Needs nothing but ``llama_cpp`` and its own interpreter.

    python llama_cpp_peer.py MODEL.gguf THREADS

A line of JSON in (``prompt_ids``, ``max_tokens``), a line of JSON out (``num_tokens``). Greedy, one prompt at a time; the cache is emptied
between prompts.
"""

import json
import sys

from llama_cpp import Llama


def main() -> None:
    path, num_threads = sys.argv[1], int(sys.argv[2])
    model = Llama(path, n_ctx=2048, n_threads=num_threads, n_threads_batch=num_threads, n_batch=512, verbose=False)
    eos = {
        model.token_eos(),
        *(model.tokenize(text.encode(), add_bos=False, special=True)[0] for text in ("<|im_end|>",)),
    }
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        num_tokens = 0
        for prompt_ids in request["prompt_ids"]:
            model.reset()
            for token_id in model.generate(prompt_ids, temp=0.0, top_k=1, repeat_penalty=1.0, reset=True):
                num_tokens += 1
                if token_id in eos or num_tokens % request["max_tokens"] == 0:
                    break
        print(json.dumps({"num_tokens": num_tokens}), flush=True)


main()
