"""SSMs conditioned on an LLM's hidden states: what one is, its layer in plain torch, its files, published formats."""
