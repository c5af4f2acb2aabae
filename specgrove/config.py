"""Defaults and limits that several services, the command line and the Python API share. Constants only: importing it costs nothing."""

DEFAULT_LLM = "smollm2-135m-instruct"
# Of an SSM service by itself, of a ``SuiteConfig``, of suites with a GPU, stages or a quantised LLM, and where the next don't.
DEFAULT_SSMS = ("lookup", "demo")
# Of commands' suites on a CPU: there it gains most, on a GPU it was never measured. It needs the LLM's folder.
DEFAULT_SSMS_ON_CPU = ("lookup", "demo-hidden,quantization=int8")
DTYPES = ("float32", "bfloat16", "float16")
DEVICES = ("auto", "cpu", "cuda")
GPU_KERNELS = ("auto", "off", "require")
INSTRUCTION_SETS = ("auto", "amx", "avx512", "avx2", "plain")
# When an SSM service grows its trees while they are verified; auto: where it computes on something else than the LLM.
DRAFT_AHEAD = ("auto", "on", "off")
QUANTIZATIONS = ("none", "int8", "int4")
# How models write calls of tools; auto: as their chat template shows.
TOOL_CALL_FORMATS = ("auto", "hermes", "qwen2_coder", "qwen3_coder", "llama3_json", "mistral", "none")
DEFAULT_DTYPE = "bfloat16"
DEFAULT_ADDRESS = "127.0.0.1:50051"
# Nodes of one tree, its root included.
MAX_NUM_TREE_NODES = 256
# Rows of one pass that tell log-probabilities of prompts. In a vocabulary of 128,000 tokens the logits of so many are 33 MB. Fewer would
# make passes that cost as much as one of so many.
MAX_NUM_KNOWN_ROWS = 64
# Rows of one pass of the LLM that prompts and token trees may fill.
DEFAULT_MAX_CHUNK_TOKENS = 256
DEFAULT_MAX_TREE_ROWS = 512
# A prompt of one token, and one token more.
MIN_NUM_SLOTS = 2
# What SSM services take.
MAX_TREE_DEPTH = 32
MAX_NOISE_WEIGHT = 100.0
MAX_BEAM_WIDTH = 64
# SSMs of one request: bits of a node's set of them.
MAX_NUM_SSMS = 64
# Of hidden states that a session may ask of the LLM for SSMs: layers, and rows of a prompt.
MAX_NUM_HIDDEN_LAYERS = 64
MAX_HIDDEN_WINDOW = 8192
# Of hidden states in one message to a drafter, which may have 16 MiB, and so of what a router keeps of a session.
MAX_HIDDEN_BYTES = 8 << 20
# The same of all sessions of a router.
MAX_HIDDEN_BYTES_OF_ALL = 256 << 20
# Most probable tokens of every verified row, for SSMs that learn while they serve.
MAX_NUM_ROW_TOP_K = 32
# Of the ids that a router gives its sessions.
MAX_SESSION_ID_LEN = 64
# Token ids that the wire can carry.
NUM_TOKEN_IDS = 2**32
# What a public server takes. Parsing happens on the event loop: 1 MiB of the smallest fields there are take some 40 ms.
MAX_PUBLIC_REQUEST_BYTES = 1024 * 1024
# Time after which a model service's step is taken to hang: a pass has a bounded number of rows.
PASS_TIMEOUT_S = 120.0
OFFLOADED_PASS_TIMEOUT_S = 1800.0
# More would be mistakes: far from what one machine does, and from what gRPC can count.
MAX_NUM_REQUESTS = 1_000_000
MAX_NUM_THREADS = 1024
MAX_NUM_REPLICAS = 256
MAX_GRPC_BYTES = 2**30
