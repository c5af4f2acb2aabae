"""Quantises model folders: every linear to 8 or 4 bits, the rest as it is. Called by the LLM service and ``specgrove quantize``.

A quantised folder is a model folder whose linears have ``NAME.codes``, ``NAME.scales`` and, for 4 bits, ``NAME.mins`` in place of
``NAME``; see ``specgrove.kernels.quantized_linear``. The head keeps 8 bits, embeddings are not touched. It is written layer by layer, and
appears under its name when it is complete.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import filelock
import torch
from safetensors.torch import save_file

from specgrove.kernels.quantized_linear import pack_codes, quantize
from specgrove.models.checkpoint import ALL, Checkpoint
from specgrove.models.decoder import Progress
from specgrove.models.loading import family_of, quantization_of, read_spec
from specgrove.models.sharding import Shard

BITS = {"int8": 8, "int4": 4}
GROUP_SIZE = 32  # inputs of a linear that share a scale at 4 bits
_HEAD_BITS = 8
_COPIED = ("tokenizer*", "generation_config.json", "chat_template*", "special_tokens_map.json", "LICENSE*", "NOTICE*")


class _Names:
    """A ``TensorSource`` without data: tells which tensors a family reads as linears."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint
        self.linears: dict[str, tuple[int, ...]] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._checkpoint

    def tensor(self, name: str, rows: slice = ALL) -> torch.Tensor:
        """Shape only."""
        return torch.empty(self._checkpoint.shape(name), device="meta")[rows]

    def weight(self, name: str, rows: slice, columns: slice) -> torch.Tensor:
        """Shape only."""
        self.linears[name] = self._checkpoint.shape(name)
        return torch.empty(self._checkpoint.shape(name), device="meta")[rows, columns]


def cached_quantized_folder(folder: Path, quantization: str, cache_dir: Path, say: Callable[[str], None]) -> Path:
    """The quantised copy of a model folder in the cache, made on first use. A folder that is quantised already is returned as it is."""
    if quantization_of(folder) is not None:
        return folder
    files = sorted(path for pattern in ("*.safetensors", "config.json") for path in folder.glob(pattern))
    facts = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    digest = hashlib.sha256(json.dumps([facts, quantization, GROUP_SIZE]).encode()).hexdigest()[:12]
    target = cache_dir / "quantized" / f"{folder.name}-{quantization}-{digest}"
    target.parent.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(target.with_name(f".{target.name}.lock")):  # replicas start at the same time
        if not target.exists():
            say(f"quantising {folder.name} to {quantization}, once, into {target}")
            quantize_folder(folder, target, quantization, lambda done, total: _say_layer(done, total, say))
    return target


def _say_layer(done: int, total: int, say: Callable[[str], None]) -> None:
    if done == total or done % 5 == 0:
        say(f"quantised layer {done} of {total}")


def quantize_folder(
    source: Path, target: Path, quantization: str, progress: Progress = lambda done, total: None
) -> None:
    """Writes ``target``. Raises ``ValueError`` when it exists, or when ``source`` is quantised already."""
    if target.exists():
        raise ValueError(f"{target} exists: choose another folder, or remove it")
    if (method := quantization_of(source)) is not None:
        raise ValueError(f"{source} is quantised already ({method})")
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    with Checkpoint(source) as checkpoint:
        _write_tensors(source, partial, checkpoint, BITS[quantization], progress)
    config = json.loads((source / "config.json").read_text())
    config["quantization_config"] = {
        "quant_method": "specgrove",
        "bits": BITS[quantization],
        "group_size": GROUP_SIZE if quantization == "int4" else None,
        "head_bits": _HEAD_BITS,
    }
    (partial / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    for pattern in _COPIED:
        for path in source.glob(pattern):
            shutil.copy2(path, partial)
    partial.rename(target)


def _write_tensors(source: Path, target: Path, checkpoint: Checkpoint, bits: int, progress: Progress) -> None:
    spec = read_spec(source)
    names = _Names(checkpoint)
    weights = family_of(source)[0].weights_of(names, spec, Shard.whole(spec))
    weight_map: dict[str, str] = {}
    quantized: set[str] = set()
    for index in range(spec.num_layers):
        names.linears.clear()
        weights.layer(index)
        tensors: dict[str, torch.Tensor] = {}
        for name, shape in names.linears.items():
            # 4 bits need whole groups.
            own_bits = bits if shape[1] % GROUP_SIZE == 0 else 8
            tensors |= _quantized(name, checkpoint.tensor(name), own_bits)
        quantized |= names.linears.keys()
        _save(tensors, target, f"model-layer-{index:04}.safetensors", weight_map)
        checkpoint.release()
        progress(index + 1, spec.num_layers)
    names.linears.clear()
    weights.head()
    (head,) = (name for name, shape in names.linears.items() if shape[0] == spec.vocab_size)
    _save(
        _quantized("lm_head.weight", checkpoint.tensor(head), _HEAD_BITS), target, "model-head.safetensors", weight_map
    )
    quantized |= set() if spec.has_tied_head else {head}
    others = {name: checkpoint.tensor(name) for name in checkpoint.names() if name not in quantized}
    _save(others, target, "model-others.safetensors", weight_map)
    (target / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": weight_map}, indent=2)
    )


def _quantized(name: str, weight: torch.Tensor, bits: int) -> dict[str, torch.Tensor]:
    found = quantize(weight, bits, GROUP_SIZE if bits == 4 else None)
    codes = found.codes if bits == 8 else pack_codes(found.codes, bits)  # int8 says 8 bits, uint8 says 4
    tensors = {f"{name}.codes": codes, f"{name}.scales": found.scales}
    return tensors if found.mins is None else tensors | {f"{name}.mins": found.mins}


def _save(tensors: dict[str, torch.Tensor], folder: Path, file_name: str, weight_map: dict[str, str]) -> None:
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / file_name)
    weight_map |= dict.fromkeys(tensors, file_name)
