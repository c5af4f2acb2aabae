"""What the LLM and SSM services share to run a model: KV slots, forward batches, the model runner and the step loop."""
