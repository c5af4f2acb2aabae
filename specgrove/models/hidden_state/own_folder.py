"""Folders of our own format: the tensors of a ``HiddenStateModule`` beside their configuration. Written by training.

Reading is strict: every tensor must be there, in its shape, and none else.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from specgrove.files.json_files import read_json_object
from specgrove.models.errors import UnsupportedModelError
from specgrove.models.hidden_state.module import HiddenStateModule
from specgrove.models.hidden_state.own_config import own_config_of, own_spec_of
from specgrove.models.hidden_state.spec import HiddenSsmSpec

_WEIGHTS = "model.safetensors"


def save_own_folder(folder: Path, module: HiddenStateModule, dtype: torch.dtype = torch.bfloat16) -> None:
    """``config.json`` and ``model.safetensors``; what else is in the folder is left alone."""
    config = own_config_of(module.spec)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.detach().to(dtype).contiguous() for name, tensor in module.state_dict().items()}
    save_file(tensors, folder / _WEIGHTS, metadata={"format": "pt"})
    (folder / _WEIGHTS).chmod(0o644)  # safetensors writes it for its owner only
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")


def load_own_folder(folder: Path) -> HiddenStateModule:
    """In float32. Raises ``UnsupportedModelError`` and ``JsonFileError`` that name what is wrong."""
    spec = own_spec_of(read_json_object(folder / "config.json"))
    return module_of(spec, load_file(folder / _WEIGHTS), str(folder))


def module_of(spec: HiddenSsmSpec, tensors: dict[str, torch.Tensor], place: str) -> HiddenStateModule:
    """The module with ``tensors``, in float32. Raises ``UnsupportedModelError`` that names tensors too many, missing or misshapen."""
    module = HiddenStateModule(spec)
    wanted = module.state_dict()
    check_tensors({name: tuple(tensor.shape) for name, tensor in wanted.items()}, tensors, place)
    module.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})
    return module


def check_tensors(wanted: dict[str, tuple[int, ...]], found: dict[str, torch.Tensor], place: str) -> None:
    """Raises ``UnsupportedModelError`` unless there are just those tensors, in those shapes."""
    if missing := sorted(wanted.keys() - found.keys()):
        raise UnsupportedModelError(f"{place} lacks the tensors {', '.join(missing)}, which its config.json asks for")
    if unknown := sorted(found.keys() - wanted.keys()):
        raise UnsupportedModelError(
            f"{place} has the tensors {', '.join(unknown)}, which its config.json doesn't ask for"
        )
    for name, shape in wanted.items():
        if tuple(found[name].shape) != shape:
            raise UnsupportedModelError(
                f"{place}: {name} has the shape {list(found[name].shape)}, by config.json it should have {list(shape)}"
            )
