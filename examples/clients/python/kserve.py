"""A text in, a text out over the Open Inference Protocol, with Triton's client: python kserve.py [ADDRESS] [MODEL]."""

import json
import queue
import sys

import numpy as np
import tritonclient.grpc as triton

address = sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:50051"
model = sys.argv[2] if len(sys.argv) > 2 else "smollm2-135m-instruct"


def tensor(name: str, value: str | bool) -> triton.InferInput:
    """One element of the type of ``value``."""
    is_text = isinstance(value, str)
    made = triton.InferInput(name, [1], "BYTES" if is_text else "BOOL")
    made.set_data_from_numpy(np.array([value.encode() if is_text else value], dtype=object if is_text else bool))
    return made


client = triton.InferenceServerClient(address)
prompt = tensor("text_input", "The capital of France is")
sampling = tensor("sampling_parameters", json.dumps({"max_tokens": 16}))

whole = client.infer(model, [prompt, sampling])
print(whole.as_numpy("text_output")[0].decode())

pieces: queue.Queue[triton.InferResult] = queue.Queue()
client.start_stream(lambda result, error: pieces.put(error or result))
client.async_stream_infer(model, [prompt, sampling, tensor("stream", True)])
while True:
    piece = pieces.get()
    if isinstance(piece, Exception):
        sys.exit(str(piece))
    print(piece.as_numpy("text_output")[0].decode(), end="", flush=True)
    if piece.get_response().parameters["triton_final_response"].bool_param:
        break
print()
client.stop_stream()
