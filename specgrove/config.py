"""Defaults that the command line and the Python API share. Constants only: importing it costs nothing."""

DEFAULT_LLM = "smollm2-135m-instruct"
DEFAULT_SSMS = ("lookup", "demo")
DTYPES = ("float32", "bfloat16", "float16")
DEVICES = ("auto", "cpu", "cuda")
GPU_KERNELS = ("auto", "off", "require")
QUANTIZATIONS = ("none", "int8", "int4")
DEFAULT_DTYPE = "bfloat16"
DEFAULT_ADDRESS = "127.0.0.1:50051"
