"""What the LLM and SSM services share to run a model: KV slots, the rows of passes, the model runner and the step loop."""
