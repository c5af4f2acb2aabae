"""A GGUF file (llama.cpp) of the architecture "llama" as a ``TensorSource``, under Hugging Face's names.

Opened by ``specgrove.models.loading``. Nothing is converted on disk: blocks of 4 and 8 bits become ``QuantizedWeight`` by value. llama.cpp
keeps query and key rows in another order (pairs of a rotation stand together); it is undone here, slice by slice.
"""

from __future__ import annotations

import mmap
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch

from specgrove.models.checkpoint import ALL
from specgrove.models.errors import UnsupportedModelError
from specgrove.models.formats import gguf_blocks
from specgrove.models.formats.gguf_blocks import BITS, BLOCK_BYTES, BLOCK_LEN, PLAIN_TYPES
from specgrove.models.formats.stored import bounds, groups_of
from specgrove.models.weights import Weight

SUPPORTED_TYPES = (*PLAIN_TYPES, *BITS)
_TOP_NAMES = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
_LAYER_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_IGNORED = ("rope_freqs.weight",)  # read by ``gguf_config``
_VOCAB_WEIGHTS = ("model.embed_tokens.weight", "lm_head.weight")


def open_gguf(path: Path) -> Any:
    """The file's reader. Raises ``UnsupportedModelError`` for other files and without the package that reads them."""
    try:
        import gguf
    except ImportError as error:
        raise UnsupportedModelError("GGUF files need the gguf package: pip install 'specgrove[demo]'") from error
    try:
        reader = gguf.GGUFReader(path)
    except (OSError, ValueError, IndexError, KeyError) as error:
        raise UnsupportedModelError(f"{path} is no GGUF file or is truncated: {error}") from error
    architecture = value_of(reader, "general.architecture", "")
    if architecture != "llama":
        raise UnsupportedModelError(f"{path}: GGUF architecture {architecture!r} is not supported, only 'llama'")
    return reader


def value_of(reader: Any, key: str, default: Any) -> Any:
    """A metadata value."""
    field = reader.fields.get(key)
    return default if field is None else field.contents()


def hugging_face_name(name: str) -> str | None:
    """None for a tensor that is no weight of a Llama."""
    stem, _, suffix = name.rpartition(".")
    if stem in _TOP_NAMES:
        return f"{_TOP_NAMES[stem]}.{suffix}"
    parts = stem.split(".")
    if len(parts) == 3 and parts[0] == "blk" and parts[2] in _LAYER_NAMES:
        return f"model.layers.{parts[1]}.{_LAYER_NAMES[parts[2]]}.{suffix}"
    return None


class GgufCheckpoint:
    """See ``Checkpoint``."""

    def __init__(self, path: Path) -> None:
        """Raises ``UnsupportedModelError``."""
        self._path = path
        self._reader = open_gguf(path)
        self._tensors: dict[str, Any] = {}
        for tensor in self._reader.tensors:
            name = hugging_face_name(tensor.name)
            if name is not None:
                self._tensors[name] = tensor
            elif tensor.name not in _IGNORED:
                raise UnsupportedModelError(
                    f"{path} has a tensor {tensor.name}, which no Llama has: it would be left out"
                )
        num_heads = int(value_of(self._reader, "llama.attention.head_count", 0))
        self._num_heads = {
            "q_proj": num_heads,
            "k_proj": int(value_of(self._reader, "llama.attention.head_count_kv", num_heads)),
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.release()

    def __contains__(self, name: str) -> bool:
        return name in self._tensors

    def names(self) -> list[str]:
        """See ``Checkpoint``."""
        return list(self._tensors)

    def shape_of(self, name: str) -> tuple[int, ...]:
        """See ``TensorSource``."""
        return tuple(int(size) for size in reversed(self._found(name).shape))

    def release(self) -> None:
        """See ``Checkpoint``."""
        self._reader.data._mmap.madvise(mmap.MADV_DONTNEED)

    def tensor(self, name: str, rows: slice = ALL) -> torch.Tensor:
        """See ``TensorSource``; dequantised, whatever the type."""
        return gguf_blocks.dequantized(self._rows(name, rows), self._kind(name))

    def weight(self, name: str, rows: slice, columns: slice) -> Weight:
        """See ``TensorSource``."""
        self.release()
        kind, data = self._kind(name), self._rows(name, rows)
        if kind in PLAIN_TYPES:
            return gguf_blocks.plain(data, kind)[:, columns]
        if kind not in BITS:
            if name in _VOCAB_WEIGHTS:  # llama.cpp gives them more bits than the rest
                return gguf_blocks.dequantized(data, kind)[:, columns]
            raise UnsupportedModelError(
                f"{self._path}: {self._found(name).name} has the type {kind}, which is not read directly, only "
                f"{', '.join(SUPPORTED_TYPES)} are: `specgrove models convert` makes a folder of any type"
            )
        in_features = self.shape_of(name)[1]
        groups = groups_of(name, bounds(columns, in_features), in_features, in_features // BLOCK_LEN)
        block_bytes = BLOCK_BYTES[kind]
        return gguf_blocks.quantized(data[:, groups.start * block_bytes : groups.stop * block_bytes], kind)

    def _found(self, name: str) -> Any:
        if name not in self._tensors:
            raise UnsupportedModelError(f"{self._path} has no tensor for {name!r}: is it a whole model?")
        return self._tensors[name]

    def _kind(self, name: str) -> str:
        return str(self._found(name).tensor_type.name)

    def _rows(self, name: str, rows: slice) -> npt.NDArray[Any]:
        data: npt.NDArray[Any] = self._found(name).data
        num_heads = self._num_heads.get(name.split(".")[-2])
        if num_heads is None:
            return data[rows]
        # Row i of a half j of a head (j of 2) is stored as the head's row 2 * i + j.
        stored = np.arange(data.shape[0]).reshape(num_heads, -1, 2).swapaxes(1, 2).ravel()
        return data[stored[rows]]
