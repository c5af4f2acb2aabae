"""Texts, switches and numbers as tensors of the Open Inference Protocol. Used by ``kserve``.

Tensors have one element each. A request carries them in fields by type, or raw; the answer comes the same way.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from specgrove.errors import InvalidRequestError
from specgrove.inference import open_inference_pb2 as inference

Value = str | bool | int
_LEN_BYTES = 4

INPUT_TYPES: Mapping[str, str] = {
    "text_input": "BYTES",
    "sampling_parameters": "BYTES",
    "stream": "BOOL",
    "exclude_input_in_output": "BOOL",
}
"""The tensors that a request may have."""

OUTPUT_TYPES: Mapping[str, str] = {
    "text_output": "BYTES",
    "finish_reason": "BYTES",
    "num_input_tokens": "UINT32",
    "num_output_tokens": "UINT32",
}
"""The tensors that answers have; all but the text are in the last one of an output."""


def input_values(request: inference.ModelInferRequest) -> dict[str, Value]:
    """The inputs by name. Raises ``InvalidRequestError``."""
    raw = request.raw_input_contents
    if raw and len(raw) != len(request.inputs):
        description = f"has {len(raw)} elements for {len(request.inputs)} inputs: give every input's or none"
        raise InvalidRequestError.of("raw_input_contents", description)
    values: dict[str, Value] = {}
    for index, tensor in enumerate(request.inputs):
        name, field = tensor.name, f"inputs[{tensor.name or index}]"
        if name not in INPUT_TYPES:
            raise InvalidRequestError.of(field, f"is not known; there are {', '.join(INPUT_TYPES)}")
        if name in values:
            raise InvalidRequestError.of(field, "is there twice")
        if tensor.datatype != INPUT_TYPES[name]:
            raise InvalidRequestError.of(field, f"must be {INPUT_TYPES[name]}, got {tensor.datatype or 'no type'}")
        if len(tensor.shape) > 2 or math.prod(tensor.shape) != 1:
            raise InvalidRequestError.of(field, f"must have the shape [1] or [1, 1], got {list(tensor.shape)}")
        values[name] = _raw_value(field, tensor.datatype, raw[index]) if raw else _value(field, tensor)
    return values


def _value(field: str, tensor: inference.ModelInferRequest.InferInputTensor) -> Value:
    contents = tensor.contents.bool_contents if tensor.datatype == "BOOL" else tensor.contents.bytes_contents
    if len(contents) != 1:
        raise InvalidRequestError.of(field, f"must have one element, got {len(contents)}")
    return contents[0] if isinstance(contents[0], bool) else _text(field, contents[0])


def _raw_value(field: str, datatype: str, content: bytes) -> Value:
    if datatype == "BOOL":
        if content not in (b"\0", b"\1"):
            raise InvalidRequestError.of(field, "must be one byte, 0 or 1")
        return content == b"\1"
    text = content[_LEN_BYTES:]
    if len(content) < _LEN_BYTES or int.from_bytes(content[:_LEN_BYTES], "little") != len(text):
        raise InvalidRequestError.of(field, "must be one text with its length before it, in 4 bytes, little-endian")
    return _text(field, text)


def _text(field: str, content: bytes) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise InvalidRequestError.of(field, "is not valid UTF-8") from error


def asked_outputs(request: inference.ModelInferRequest) -> frozenset[str]:
    """Names of the tensors to answer with. Raises ``InvalidRequestError`` for unknown ones."""
    names = [tensor.name for tensor in request.outputs]
    for name in names:
        if name not in OUTPUT_TYPES:
            raise InvalidRequestError.of(f"outputs[{name}]", f"is not known; there are {', '.join(OUTPUT_TYPES)}")
    return frozenset(names or OUTPUT_TYPES)


def add_outputs(response: inference.ModelInferResponse, values: Mapping[str, Value], *, is_raw: bool) -> None:
    """One tensor for each value."""
    for name, value in values.items():
        tensor = response.outputs.add(name=name, datatype=OUTPUT_TYPES[name], shape=[1])
        if is_raw:
            response.raw_output_contents.append(_raw(value))
        elif isinstance(value, str):
            tensor.contents.bytes_contents.append(value.encode())
        else:
            tensor.contents.uint_contents.append(value)


def _raw(value: Value) -> bytes:
    if not isinstance(value, str):
        return int(value).to_bytes(4, "little")
    content = value.encode()
    return len(content).to_bytes(_LEN_BYTES, "little") + content
