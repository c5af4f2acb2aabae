"""The LLM service: the large model as token-tree verifier. It decides what is accepted, never what is drafted."""
