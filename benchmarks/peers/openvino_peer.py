"""OpenVINO GenAI, as a contestant of ``benchmarks.serving``. Needs nothing but ``openvino_genai`` and its own interpreter.

    python openvino_peer.py MODEL.gguf THREADS none|ngrams|DRAFT.gguf

A line of JSON in (``prompt_ids``, ``max_tokens``), a line of JSON out (``num_tokens``). Greedy, all prompts at once, without a cache of
prefixes.
"""

import json
import sys
from pathlib import Path

import numpy as np
from openvino import Tensor
from openvino_genai import ContinuousBatchingPipeline, GenerationConfig, LLMPipeline, SchedulerConfig, draft_model

NUM_ASSISTANT_TOKENS = 4
NGRAM_LEN = 3


def converted(gguf: Path) -> Path:
    """A folder of the same model in OpenVINO's own format, made once: as a draft model it reads no GGUF file."""
    folder = gguf.with_suffix(".openvino")
    if not (folder / "openvino_model.xml").exists():
        folder.mkdir(exist_ok=True)
        source = folder / gguf.name
        source.unlink(missing_ok=True)
        source.symlink_to(gguf.absolute())
        LLMPipeline(source, "CPU", enable_save_ov_model=True)
    return folder


def main() -> None:
    path, num_threads, speculation = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    scheduler = SchedulerConfig()
    scheduler.enable_prefix_caching = False
    scheduler.cache_size = 2  # GiB
    properties: dict[str, object] = {"INFERENCE_NUM_THREADS": num_threads}
    if speculation == "ngrams":
        properties["prompt_lookup"] = True
    elif speculation != "none":
        properties["draft_model"] = draft_model(converted(Path(speculation)), "CPU", INFERENCE_NUM_THREADS=num_threads)
    model = ContinuousBatchingPipeline(path, scheduler, "CPU", properties)
    ends = {model.get_tokenizer().get_eos_token_id()}
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        config = GenerationConfig(max_new_tokens=request["max_tokens"], do_sample=False, stop_token_ids=ends)
        if speculation != "none":
            config.num_assistant_tokens = NUM_ASSISTANT_TOKENS
        if speculation == "ngrams":
            config.max_ngram_size = NGRAM_LEN
        prompts = [Tensor(np.array([ids], dtype=np.int64)) for ids in request["prompt_ids"]]
        results = model.generate(prompts, [config] * len(prompts))
        print(json.dumps({"num_tokens": sum(len(result.m_generation_ids[0]) for result in results)}), flush=True)


main()
