"""SpecGrove: LLM serving with low latency by speculative inference with token-tree verification."""
