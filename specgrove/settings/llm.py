"""The LLM service's settings."""

from __future__ import annotations

from specgrove.config import (
    DEFAULT_LLM,
    DEFAULT_MAX_CHUNK_TOKENS,
    DEFAULT_MAX_TREE_ROWS,
    INSTRUCTION_SETS,
    MAX_NUM_TREE_NODES,
    MIN_NUM_SLOTS,
    QUANTIZATIONS,
)
from specgrove.settings.setting import Setting
from specgrove.settings.shared import MODEL_SERVICE, VLLM_NAMES
from specgrove.settings.values import address, at_least, milliseconds, parse_bytes, stages

LLM = (
    Setting(
        "address",
        "HOST:PORT or unix:/path to listen on",
        "127.0.0.1:50052",
        address,
        "ADDRESS",
        is_of_suite=True,
    ),
    Setting(
        "model",
        "the large model: a Hugging Face id, folder or .gguf file",
        DEFAULT_LLM,
        metavar="MODEL",
        short="llm",
        is_common=True,
    ),
    Setting(
        "quantization",
        "of the LLM's weights: made once and kept in --cache-dir",
        "none",
        choices=QUANTIZATIONS,
        is_common=True,
    ),
    Setting(
        "instruction-set",
        "what the kernels for CPUs are to use; auto: the best that the processor has; another one: for replicas on processors of "
        "different kinds, since outputs stay the same only where all replicas use the same",
        "auto",
        choices=INSTRUCTION_SETS,
    ),
    Setting("tensor-parallel", "ranks that share every layer", 1, at_least(1), metavar="N"),
    Setting(
        "pipeline-parallel",
        "stages that the layers are divided over: their number, or each stage's number of layers",
        (1,),
        stages,
        metavar="N|L,L,...",
    ),
    Setting("kv-slots", "one-token KV slots, shared by all sessions", 32768, at_least(MIN_NUM_SLOTS), metavar="N"),
    Setting(
        "kv-memory", "memory of each rank's KV slots (2GiB), instead of --kv-slots", None, parse_bytes, metavar="BYTES"
    ),
    Setting(
        "memory-per-gpu",
        "all the memory that a rank may take, on a CPU too: KV slots get what is left; instead of --kv-slots",
        None,
        parse_bytes,
        metavar="BYTES",
    ),
    Setting(
        "offload",
        "weights that don't fit: on a GPU in the host's pinned memory, on a CPU in a file; fetched a layer ahead",
        False,
        is_switch=True,
    ),
    Setting(
        "max-weight-memory",
        "with --offload, and implies it: memory of each rank's weights; unset: what is available",
        None,
        parse_bytes,
        metavar="BYTES",
    ),
    Setting("offload-reserve-bytes", "with --offload: memory left to others", 1 << 30, parse_bytes, metavar="BYTES"),
    Setting(
        "max-model-len",
        "longest prompt + output in tokens; unset: what the model allows",
        None,
        at_least(2),
        metavar="N",
    ),
    Setting(
        "max-chunk-tokens",
        "rows of one forward pass that prompts may fill",
        DEFAULT_MAX_CHUNK_TOKENS,
        at_least(1),
        metavar="N",
    ),
    Setting(
        "max-tree-rows",
        "rows of one forward pass that token trees may fill; at least the nodes of one tree",
        DEFAULT_MAX_TREE_ROWS,
        at_least(MAX_NUM_TREE_NODES),
        metavar="N",
    ),
    Setting(
        "stream-interval-ms",
        "least time between two messages of an output decoded without trees: tokens go out together; 0: each at once",
        20.0,
        milliseconds,
        metavar="MS",
    ),
    VLLM_NAMES,
    *MODEL_SERVICE,
)
