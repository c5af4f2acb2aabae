"""Quantises a model folder into one of our own format (``specgrove.models.weights.formats.own``), linear by linear.

Called by ``specgrove.models.folders.quantized_cache`` and ``specgrove quantize``. What is quantised is what the family reads as a weight;
the head gets 8 bits and a tensor of its own, and embeddings, norms and biases stay as they are. A broken run leaves no folder.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch

from specgrove.kernels.quantized_linear import QuantizedWeight, quantize
from specgrove.models.decoder.family import family_of, read_spec
from specgrove.models.decoder.sharding import Shard
from specgrove.models.errors import UnsupportedModelError
from specgrove.models.folders.disk_room import DiskNeed
from specgrove.models.folders.made_folder import copy_other_files, edit_json, whole_folder
from specgrove.models.folders.model_files import config_of, gguf_of, quantization_config_of, quantization_of
from specgrove.models.weights.checkpoint import ALL, Checkpoint, read_weights, stack
from specgrove.models.weights.dry_read import RecordingSource
from specgrove.models.weights.formats.own import parts_of, quantization_config
from specgrove.models.weights.opening import check_weights, open_checkpoint
from specgrove.models.weights.safetensors_writer import SafetensorsWriter

INT4_GROUP_SIZE = 32
HEAD_NAME = "lm_head.weight"
_BLOCK_NUMEL = 1 << 20  # weights quantised by one thread at a time
_SMALLER_GROUPS = (32, 16, 8, 4)
_SCALE_BYTES = 4


@dataclass(frozen=True, slots=True)
class LinearNames:
    """The weights that are quantised, by their names in the checkpoint."""

    layers: tuple[tuple[str, ...], ...]
    others: tuple[str, ...]
    """Projections beside embedding and head."""
    head: str
    """May be the embedding."""


def linear_names(folder: Path, checkpoint: Checkpoint) -> LinearNames:
    """Found out by letting the family read a checkpoint without content."""
    family, _ = family_of(folder)
    spec = read_spec(folder)
    source = RecordingSource(checkpoint)
    weights = read_weights(family, source, spec, Shard.whole(spec))
    weights.embedding()
    before, _ = source.taken()
    layers = []
    for index in range(spec.num_layers):
        weights.layer(index)
        layers.append(source.taken()[0])
    vocab = weights.head().vocab
    names, tensors = source.taken()
    head = next(name for name, tensor in zip(names, tensors, strict=True) if tensor is vocab)
    return LinearNames(tuple(layers), (*before, *(name for name in names if name != head)), head)


def quantize_folder(
    source: Path,
    target: Path,
    bits: int,
    group_size: int | None = None,
    progress: Callable[[str], None] = lambda message: None,
) -> None:
    """Writes ``target``, which must not exist. ``group_size`` is of 4 bits (None: 32); 8 bits have one scale per output.

    Raises ``UnsupportedModelError`` for models that can't be loaded or are quantised already, ``ValueError`` for other mistakes.
    """
    if bits not in (4, 8):
        raise ValueError(f"bits must be 8 or 4, got {bits}")
    if bits == 8 and group_size is not None:
        raise ValueError("8 bits have one scale per output: leave out the group size")
    group_size = None if bits == 8 else group_size or INT4_GROUP_SIZE
    if group_size is not None and (group_size < 4 or group_size % 4):
        raise ValueError(f"the group size must be a multiple of 4, got {group_size}")
    stored = quantization_of(source)
    if stored is not None and gguf_of(source) is None:
        raise UnsupportedModelError(
            f"{source} is quantised already ({stored}): quantise the model that it was made from"
        )
    pool = ThreadPoolExecutor(os.cpu_count(), initializer=_one_thread)
    with pool, open_checkpoint(source, keeps_blocks=False) as checkpoint, contextlib.ExitStack() as made:
        check_weights(source, checkpoint)
        names = linear_names(source, checkpoint)
        folder = made.enter_context(whole_folder(target, _need(source, checkpoint, names, bits, group_size)))
        copy_other_files(source, folder)
        made_from = {} if stored is None else {"made_from": (quantization_config_of(source) or {}).get("type")}
        edit_json(folder / "config.json", {"quantization_config": quantization_config(bits, group_size) | made_from})
        writer = SafetensorsWriter(folder)

        def add(name: str, weight: QuantizedWeight) -> None:
            for part, tensor in parts_of(name, weight):
                writer.add(part, tensor)

        def add_all(linears: tuple[str, ...]) -> None:
            for name in linears:
                add(name, _quantized(checkpoint, name, bits, group_size, pool))

        _copy_tensors(checkpoint, names, writer, to_bfloat16=gguf_of(source) is not None)
        add_all(names.others)
        for index, layer in enumerate(names.layers):
            progress(f"quantising to {bits} bits: layer {index + 1} of {len(names.layers)}")
            add_all(layer)
        progress("quantising the head to 8 bits")
        add(HEAD_NAME, _quantized(checkpoint, names.head, 8, None, pool))
        writer.finish()


def _need(source: Path, checkpoint: Checkpoint, names: LinearNames, bits: int, group_size: int | None) -> DiskNeed:
    """By the headers of the source; what is not quantised keeps its type."""
    linears = {name for layer in names.layers for name in layer} | set(names.others)
    config = config_of(source)
    is_float32 = "float32" in (config.get("dtype"), config.get("torch_dtype")) and gguf_of(source) is None
    num_bytes = 0
    for name in checkpoint.names():
        shape = checkpoint.shape_of(name)
        if name in linears:
            num_bytes += _quantized_bytes(shape, bits, group_size)
        elif name != HEAD_NAME:
            num_bytes += math.prod(shape) * (4 if is_float32 else 2)
    num_bytes += _quantized_bytes(checkpoint.shape_of(names.head), 8, None)
    return DiskNeed(f"quantising {source.name} to {bits} bits", num_bytes)


def _quantized_bytes(shape: tuple[int, ...], bits: int, group_size: int | None) -> int:
    """The size of a linear's codes, with its scales and, for 4 bits, minima."""
    out_features, in_features = shape
    bits, group_size = _form_of(in_features, bits, group_size)
    num_scales = 1 if group_size is None else 2 * in_features // group_size
    return out_features * (in_features * bits // 8 + num_scales * _SCALE_BYTES)


def _form_of(in_features: int, bits: int, group_size: int | None) -> tuple[int, int | None]:
    """Bits and group size of one linear: smaller groups where these don't fit, and 8 bits where none do."""
    if group_size is None:
        return bits, None
    sizes = (group_size, *_SMALLER_GROUPS)
    fitting = next((size for size in sizes if size <= group_size and in_features % size == 0), None)
    return (8, None) if fitting is None else (bits, fitting)  # codes of 4 bits go in pairs


def _copy_tensors(checkpoint: Checkpoint, names: LinearNames, writer: SafetensorsWriter, *, to_bfloat16: bool) -> None:
    """All but what is quantised; embeddings ``to_bfloat16`` where they have been dequantised."""
    linears = {name for layer in names.layers for name in layer} | set(names.others)
    if names.head == HEAD_NAME:  # else it is the embedding, which stays
        linears.add(names.head)
    for name in checkpoint.names():
        if name not in linears:
            tensor = checkpoint.tensor(name)
            writer.add(name, tensor.bfloat16() if to_bfloat16 and tensor.ndim > 1 else tensor)


def _quantized(checkpoint: Checkpoint, name: str, bits: int, group_size: int | None, pool: Executor) -> QuantizedWeight:
    weight = checkpoint.weight(name, ALL, ALL)
    if not isinstance(weight, torch.Tensor):
        raise UnsupportedModelError(f"{name} is quantised already: quantise the model that it was made from")
    bits, group_size = _form_of(weight.shape[1], bits, group_size)
    blocks = torch.split(weight, max(1, _BLOCK_NUMEL // weight.shape[1]))
    try:
        parts = list(pool.map(lambda block: quantize(block, bits, group_size), blocks))
    except ValueError as error:
        raise UnsupportedModelError(f"{name} can't be quantised: {error}") from error
    quantized = stack(parts)
    assert isinstance(quantized, QuantizedWeight)
    return quantized


def _one_thread() -> None:
    torch.set_num_threads(1)  # of this thread: blocks are quantised side by side
