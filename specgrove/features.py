"""What a router can do, by the names in ``GetModelInfoResponse.features``. Told by the router; read by clients and people.

A field of a request that an older router would ignore gets a name here, so that a client can know beforehand.
"""

from __future__ import annotations

FEATURES = (
    "chat",  # conversations, by the model's chat template, with chat_template_kwargs_json and attributes_json
    "token_ids",  # prompts as token ids
    "log_probs",  # sampling.num_log_probs, and token_bytes beside them
    "prompt_log_probs",  # num_prompt_log_probs and prompt_only
    "recommended_sampling",  # by the model's generation_config.json
    "logit_bias",
    "penalties",
    "prompt_progress",
    "keep_special_tokens",
    "structured_output",  # sampling.structured_output: JSON schemas, regular expressions, choices, grammars
    "cache_salt",  # cache_salt: who shares what is cached of prompts, and Usage.num_cached_prompt_tokens
    "speculation_options",  # speculation: disabled, ssms, and the bounds of trees
    "resume",  # outputs that go on where another router left off, and numerics in their first piece
    "api_keys",  # 'authorization: Bearer KEY', where the router asks for it
)
