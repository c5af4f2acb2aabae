"""A GGUF file (llama.cpp) as a ``TensorSource``, under Hugging Face's names.

Opened by ``specgrove.models.weights.opening``. Nothing is converted on disk: blocks that a kernel takes become ``QuantizedWeight`` by
value, all other types are dequantised when they are read. What llama.cpp's converter changed is undone: the order of a Llama's query and
key rows, and the 1 that it adds to Gemma's norms.
"""

from __future__ import annotations

from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt
import torch

from specgrove.models.decoder.parameters import Weight
from specgrove.models.decoder.spec import DecoderSpec
from specgrove.models.errors import UnsupportedModelError
from specgrove.models.weights.checkpoint import ALL
from specgrove.models.weights.formats import gguf_blocks
from specgrove.models.weights.formats.gguf_blocks import BITS, BLOCK_BYTES, BLOCK_LEN
from specgrove.models.weights.formats.gguf_families import check_tensors, family_of_gguf, main_type, values_of
from specgrove.models.weights.formats.stored import bounds, groups_of
from specgrove.models.weights.gguf_file import GgufFile, GgufTensor


class GgufCheckpoint:
    """See ``Checkpoint``."""

    def __init__(self, path: Path, dtype: torch.dtype = torch.float32, *, keeps_blocks: bool = True) -> None:
        """What is dequantised is rounded to ``dtype``: all that is quantised without ``keeps_blocks``, and in files of mostly a
        type that no kernel takes.

        Raises ``UnsupportedModelError`` for a file that is broken, of another family, or has other tensors than
        its family's models.
        """
        self._path = path
        self._dtype = dtype
        self._file = GgufFile(path)
        self._keeps_blocks = keeps_blocks and main_type(self._file) in BITS
        self._family = family = family_of_gguf(self._file)
        check_tensors(self._file)
        names = {name: family.hugging_face_name(name) for name in self._file.tensors}
        self._tensors = {name: self._file.tensors[stored] for stored, name in names.items() if name is not None}
        values = values_of(self._file)
        self._num_q_heads = num_heads = values.size("attention.head_count")
        self._num_kv_heads = num_kv_heads = values.size("attention.head_count_kv", num_heads)
        self._num_heads = {"q_proj": num_heads, "k_proj": num_kv_heads} if family.has_rotated_pairs else {}

    def check_agrees(self, spec: DecoderSpec) -> None:
        """Whether the file is of the model that a config.json beside it describes, in what shapes don't tell.

        Raises ``UnsupportedModelError``.
        """
        architecture = "LlamaForCausalLM" if spec.architecture == "MistralForCausalLM" else spec.architecture
        said = {
            "num_attention_heads": (spec.num_heads, self._num_q_heads),
            "num_key_value_heads": (spec.num_kv_heads, self._num_kv_heads),
            "architectures": (architecture, self._family.architecture),  # Mistral's files are called Llama's
        }
        for key, (by_config, by_file) in said.items():
            if by_config != by_file:
                raise UnsupportedModelError(
                    f"config.json says {key} {by_config} and {self._path.name} has {by_file}: they are of different models"
                )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.release()

    def __contains__(self, name: str) -> bool:
        return name in self._tensors

    def names(self) -> list[str]:
        """See ``Checkpoint``."""
        return list(self._tensors)

    def parts_of(self, name: str) -> tuple[str, ...]:
        """See ``Checkpoint``."""
        return (name,)

    def shape_of(self, name: str) -> tuple[int, ...]:
        """See ``TensorSource``."""
        return self._found(name).shape

    def release(self) -> None:
        """See ``Checkpoint``."""
        self._file.release()

    def tensor(self, name: str, rows: slice = ALL) -> torch.Tensor:
        """See ``TensorSource``; dequantised, whatever the type."""
        tensor = self._found(name)
        if len(tensor.shape) > 1:
            return self._dequantized(tensor, self._rows(name, rows))
        values = self._dequantized(tensor, tensor.data).flatten()
        if (order := self._row_order(name)) is not None:
            values = values[torch.from_numpy(order)]
        if name.endswith("norm.weight") and self._family.norm_offset:
            values = values.float() - self._family.norm_offset
        return values[rows]

    def weight(self, name: str, rows: slice, columns: slice) -> Weight:
        """See ``TensorSource``."""
        self.release()
        tensor, data = self._found(name), self._rows(name, rows)
        if tensor.kind not in BITS or not self._keeps_blocks:
            return self._dequantized(tensor, data)[:, columns]
        in_features = tensor.shape[1]
        groups = groups_of(name, bounds(columns, in_features), in_features, in_features // BLOCK_LEN)
        block_bytes = BLOCK_BYTES[tensor.kind]
        return gguf_blocks.quantized(data[:, groups.start * block_bytes : groups.stop * block_bytes], tensor.kind)

    def _dequantized(self, tensor: GgufTensor, data: npt.NDArray[np.uint8]) -> torch.Tensor:
        try:
            return gguf_blocks.dequantized(data, tensor.kind, self._dtype)
        except UnsupportedModelError as error:
            raise UnsupportedModelError(f"{self._path}: {tensor.name}: {error}") from error

    def _found(self, name: str) -> GgufTensor:
        if name not in self._tensors:
            raise UnsupportedModelError(f"{self._path} has no tensor for {name!r}: is it a whole model?")
        return self._tensors[name]

    def _rows(self, name: str, rows: slice) -> npt.NDArray[np.uint8]:
        data, order = self._found(name).data, self._row_order(name)
        return data[rows] if order is None else data[order[rows]]

    def _row_order(self, name: str) -> npt.NDArray[np.int64] | None:
        """Where the file has Hugging Face's rows, if elsewhere: row i of a half j (of 2) of a head is the head's row 2 * i + j."""
        num_heads = self._num_heads.get(name.split(".")[-2])
        if num_heads is None:
            return None
        return np.arange(self.shape_of(name)[0]).reshape(num_heads, -1, 2).swapaxes(1, 2).ravel()
