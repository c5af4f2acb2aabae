"""Speculative inference with one SSM, in the order of calls that FlexFlow Serve's quick start has."""

import specgrove.serve as sg

sg.init(
    num_gpus=4,
    memory_per_gpu=14000,
    zero_copy_memory_per_node=30000,
    tensor_parallelism_degree=4,
    pipeline_parallelism_degree=1,
)

# The large model decides every token.
llm = sg.LLM("smollm2-135m-instruct")

# A small one guesses ahead. With one SSM the list has one element.
ssms = []
ssm = sg.SSM("demo")
ssms.append(ssm)

generation_config = sg.GenerationConfig(do_sample=False, temperature=0.9, topp=0.8, topk=1)

# First the SSMs, then the LLM with them.
for ssm in ssms:
    ssm.compile(generation_config)
llm.compile(generation_config, ssms=ssms)

llm.start_server()
result = llm.generate("Here are some travel tips for Tokyo:\n")
print(result.output_text)
llm.stop_server()  # this call is optional
