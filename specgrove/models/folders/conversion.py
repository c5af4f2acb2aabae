"""Writes a model folder with safetensors from a GGUF file, or from torch's pickle files.

Called by ``specgrove models convert``. The only place that reads pickle, and with ``weights_only=True``, which runs no code of the file.
"""

from __future__ import annotations

import json
import math
import pickle
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from specgrove.files.json_files import read_json_object
from specgrove.models.decoder.architectures import ARCHITECTURES
from specgrove.models.errors import UnsupportedModelError
from specgrove.models.folders.disk_room import DiskNeed
from specgrove.models.folders.gguf_model import write_config_and_tokenizer
from specgrove.models.folders.made_folder import copy_other_files, edit_json, whole_folder
from specgrove.models.folders.missing import not_there
from specgrove.models.folders.model_files import gguf_of, is_gguf_file
from specgrove.models.hidden_state.published_config import flavour_of
from specgrove.models.hidden_state.published_tensors import TOKEN_MAP_FILE
from specgrove.models.weights.formats.gguf_blocks import PLAIN_TYPES
from specgrove.models.weights.formats.gguf_checkpoint import GgufCheckpoint
from specgrove.models.weights.formats.gguf_families import main_type
from specgrove.models.weights.gguf_file import GgufFile
from specgrove.models.weights.opening import check_weights, open_checkpoint
from specgrove.models.weights.pickle_files import pickle_files_of
from specgrove.models.weights.safetensors_files import weight_files_of
from specgrove.models.weights.safetensors_writer import SafetensorsWriter


def convert_model(
    source: Path, target: Path, dtype: str | None, progress: Callable[[str], None] = lambda message: None
) -> None:
    """Writes ``target``, which must not exist. ``dtype`` None keeps types; what is dequantised becomes bfloat16.

    Raises ``ValueError`` where there is nothing to convert, or nothing that can be.
    """
    gguf_path = source if is_gguf_file(source) else None
    if source.is_dir():
        gguf_path = gguf_of(source)
        if (source / TOKEN_MAP_FILE).is_file():
            _convert_token_map(source, target)
            return
        if gguf_path is None and next(source.glob("*.safetensors"), None) is not None:
            raise ValueError(f"{source} holds safetensors: there is nothing to convert")
    elif gguf_path is None:
        raise ValueError(f"{source} is neither a .gguf file nor a folder" if source.exists() else not_there(source))
    wanted = None if dtype is None else getattr(torch, dtype)
    if gguf_path is not None:
        _convert_gguf(gguf_path, target, wanted, progress)
    else:
        _convert_pickle(source, target, wanted, progress)


def _convert_gguf(path: Path, target: Path, dtype: torch.dtype | None, progress: Callable[[str], None]) -> None:
    file = GgufFile(path)
    dtype = dtype or PLAIN_TYPES.get(main_type(file), torch.bfloat16)
    num_bytes = sum(math.prod(tensor.shape) for tensor in file.tensors.values()) * dtype.itemsize
    need = DiskNeed(f"converting {path.name}", num_bytes)
    with GgufCheckpoint(path, dtype) as checkpoint, whole_folder(target, need) as folder:
        write_config_and_tokenizer(file, folder, progress)
        config = dict(read_json_object(folder / "config.json"))
        config.pop("quantization_config", None)
        config["dtype"] = str(dtype).removeprefix("torch.")
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
        writer = SafetensorsWriter(folder)
        names = checkpoint.names()
        for index, name in enumerate(names):
            progress(f"converting: tensor {index + 1} of {len(names)}")
            writer.add(name, checkpoint.tensor(name).to(dtype))
        writer.finish()


def _convert_pickle(source: Path, target: Path, dtype: torch.dtype | None, progress: Callable[[str], None]) -> None:
    paths = pickle_files_of(source)
    if not paths or not (source / "config.json").is_file():
        raise ValueError(f"{source} has no config.json and pytorch_model*.bin beside it, and no GGUF file either")
    num_bytes = sum(path.stat().st_size for path in paths)
    with whole_folder(target, DiskNeed(f"converting {source.name}", num_bytes)) as folder:
        copy_other_files(source, folder)
        writer, file_of = SafetensorsWriter(folder), dict[str, str]()
        for path in paths:
            progress(f"reading {path.name}")
            for name, tensor in _tensors_of(path):
                if file_of.setdefault(name, path.name) != path.name:
                    raise UnsupportedModelError(f"{source}: both {file_of[name]} and {path.name} hold {name}")
                is_cast = dtype is not None and tensor.is_floating_point()
                # A copy: tied weights share memory, which safetensors refuses, and views would keep all of the file.
                writer.add(name, tensor.to(dtype, copy=True) if is_cast else tensor.clone())
        writer.finish()
        if dtype is not None:
            edit_json(folder / "config.json", {"dtype": str(dtype).removeprefix("torch.")})
        if not (folder / "tokenizer.json").is_file():
            _write_tokenizer(source, folder, progress)
        _check_written(source, folder)


def _convert_token_map(source: Path, target: Path) -> None:
    """An EAGLE-3 checkpoint by NeMo AutoModel: its list of token ids becomes the tensor of offsets that others have."""
    paths = weight_files_of(source).paths
    content = _loaded(source / TOKEN_MAP_FILE)
    if not isinstance(content, torch.Tensor) or content.ndim != 1 or content.is_floating_point():
        raise UnsupportedModelError(f"{source / TOKEN_MAP_FILE} should hold a list of token ids as a tensor")
    with whole_folder(
        target, DiskNeed(f"converting {source.name}", sum(path.stat().st_size for path in paths))
    ) as folder:
        copy_other_files(source, folder)
        writer = SafetensorsWriter(folder)
        for path in paths:
            for name, tensor in load_file(path).items():
                writer.add(name, tensor)
        writer.add("d2t", content.long() - torch.arange(len(content)))
        writer.finish()


def _check_written(source: Path, folder: Path) -> None:
    """Whether all tensors came, where they are of a family that we know. Raises ``UnsupportedModelError``."""
    config = read_json_object(folder / "config.json")
    if flavour_of(config) is not None or not set(config.texts("architectures")) & set(ARCHITECTURES):
        return
    try:
        with open_checkpoint(folder) as checkpoint:
            check_weights(folder, checkpoint)
    except UnsupportedModelError as error:
        raise UnsupportedModelError(str(error).replace(str(folder), str(source))) from error


def _tensors_of(path: Path) -> Iterator[tuple[str, torch.Tensor]]:
    content = _loaded(path)
    if not isinstance(content, dict):
        raise UnsupportedModelError(f"{path} holds a {type(content).__name__}, not a dictionary of tensors")
    for name, value in content.items():
        if isinstance(value, Mapping) and any(isinstance(item, torch.Tensor) for item in value.values()):
            raise UnsupportedModelError(
                f"{path} is a checkpoint of training: its tensors lie under {str(name)!r}, not at its top; save those alone "
                "(torch.save(content[name], path))"
            )
        if isinstance(value, torch.Tensor):
            yield str(name), value


def _loaded(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError) as error:
        reason = str(error).split("\n")[0]
        raise UnsupportedModelError(
            f"{path} holds more than weights or is broken, and is not read: {reason}"
        ) from error


def _write_tokenizer(source: Path, folder: Path, progress: Callable[[str], None]) -> None:
    """Folders as old as pickle often have the slow tokenizer's files only."""
    try:
        import transformers
    except ImportError:
        progress("no tokenizer.json is made, which takes transformers: pip install 'specgrove[transformers]'")
        return
    try:
        transformers.AutoTokenizer.from_pretrained(str(source), trust_remote_code=False).save_pretrained(folder)
    except Exception as error:  # whatever transformers meets: the weights are converted all the same
        progress(f"no tokenizer.json could be made: {' '.join(str(error).split())[:200]}")
