"""transformers' model of a folder that we serve, also of a GGUF file's: the same weights as ours, dequantised. For comparisons with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from specgrove.models.folders.model_files import gguf_of
from specgrove.models.weights.opening import open_checkpoint


def transformers_model(folder: Path, dtype: torch.dtype) -> Any:
    """A causal language model in ``dtype``, ready to generate."""
    from transformers import AutoConfig, AutoModelForCausalLM

    if gguf_of(folder) is None:
        return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()
    config = AutoConfig.from_pretrained(folder)
    del config.quantization_config  # transformers would look for weights that it quantised
    model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    with open_checkpoint(folder) as checkpoint:
        weights = {name: checkpoint.tensor(name).to(dtype) for name in checkpoint.names()}
    if model.config.tie_word_embeddings:
        weights["lm_head.weight"] = weights["model.embed_tokens.weight"]
    model.load_state_dict(weights)
    return model.eval()
