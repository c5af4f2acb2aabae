"""The SSM service's settings."""

from __future__ import annotations

from specgrove.config import DEFAULT_SSMS, DEFAULT_SSMS_ON_CPU, DRAFT_AHEAD, MIN_NUM_SLOTS
from specgrove.settings.setting import Setting
from specgrove.settings.shared import MODEL_SERVICE
from specgrove.settings.values import address, at_least

SSM = (
    Setting(
        "address",
        "HOST:PORT or unix:/path to listen on",
        "127.0.0.1:50053",
        address,
        "ADDRESS",
        is_of_suite=True,
    ),
    Setting(
        "ssm",
        "a small speculative model, repeatable: lookup, recycle, demo, demo-hidden, or a folder, hub id or .gguf file, each with options "
        "after commas (mode=beam|expansion width=3 expansion=1-1-3-1-1 quantization=int8 noise_weight=1.5 name=NAME; of lookup "
        "corpus=50000 store=FILE, of recycle store=FILE); none, in a suite: no SSM; "
        f"unset: {' and '.join(DEFAULT_SSMS)}, or in a suite on a CPU, with an LLM that is not quantised, "
        f"{' and '.join(DEFAULT_SSMS_ON_CPU)}; "
        "in a suite where they fit the LLM",
        None,
        metavar="SSM",
        is_repeatable=True,
        is_common=True,
    ),
    Setting(
        "llm-model",
        "the LLM, as its service's --model: SSMs that read its hidden states take its embedding and head from there, and no other needs it",
        None,
        metavar="MODEL",
        is_of_suite=True,
    ),
    Setting(
        "kv-slots",
        "one-token KV slots of each SSM, shared by all sessions",
        32768,
        at_least(MIN_NUM_SLOTS),
        metavar="N",
    ),
    Setting(
        "draft-ahead",
        "whether trees grow on while the LLM verifies them, so that the next one is there at once; auto: where the SSMs have a GPU or "
        "cores of their own",
        "auto",
        choices=DRAFT_AHEAD,
    ),
    *MODEL_SERVICE,
)
