"""The Python API: a large model, small models that draft for it, and ``generate``, in the words of FlexFlow Serve.

    import specgrove.serve as sg

    llm = sg.LLM("smollm2-135m-instruct")
    llm.compile(sg.GenerationConfig(do_sample=False), ssms=[sg.SSM("lookup"), sg.SSM("demo")])
    with llm:
        print(llm.generate([{"role": "user", "content": "Name three primes."}]).output_text)

Under it run the three services, as processes of this machine (``specgrove.suite.processes``). Importing this brings neither torch nor gRPC.
Every failure is a ``SpecGroveError``; what is wrong with a value is a ``ConfigurationError``, before anything is started.
"""

from specgrove.client.output import Chunk, OutputToken, Usage
from specgrove.errors import InvalidRequestError, SpecGroveError, UnavailableError
from specgrove.loop.request import SpeculationOptions
from specgrove.serve.configuration import init
from specgrove.serve.errors import ConfigurationError, StartError
from specgrove.serve.generation import GenerationConfig, GenerationResult, Request
from specgrove.serve.llm import LLM
from specgrove.serve.ssm import SSM, DataType

__all__ = [
    "LLM", "SSM", "Chunk", "ConfigurationError", "DataType", "GenerationConfig", "GenerationResult", "InvalidRequestError",
    "OutputToken", "Request", "SpecGroveError", "SpeculationOptions", "StartError", "UnavailableError", "Usage", "init",
]  # fmt: skip
