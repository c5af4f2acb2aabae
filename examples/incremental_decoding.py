"""Incremental decoding, in the order of calls that FlexFlow Serve's quick start has. Runs anywhere: without GPUs, on the CPU."""

import specgrove.serve as sg

# How the services are to run. All of it has defaults; on a machine without GPUs what is said of them changes nothing.
sg.init(
    num_gpus=4,
    memory_per_gpu=14000,
    zero_copy_memory_per_node=30000,
    tensor_parallelism_degree=4,
    pipeline_parallelism_degree=1,
)

# The large model: a folder, a .gguf file, a hub id, or the demo model.
llm = sg.LLM("smollm2-135m-instruct")

# How tokens are chosen. One token is kept here, so this samples nothing: leave topk out for outputs that vary.
generation_config = sg.GenerationConfig(do_sample=True, temperature=0.9, topp=0.8, topk=1)

# Checks everything, and converts the model when it is first used.
llm.compile(generation_config)

# The services start with the first prompt, and end with the program.
result = llm.generate("Here are some travel tips for Tokyo:\n")
print(result.output_text)
