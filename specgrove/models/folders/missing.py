"""What to say where a model was to be, and is not: that it is missing, and what lies beside it. Used by all that is given models."""

from __future__ import annotations

import difflib
from pathlib import Path

_SHOWN = 5
# Names that end so are files: no hub ids, also where nothing is there.
WEIGHT_SUFFIXES = (".gguf", ".safetensors")


def not_there(path: Path) -> str:
    """One line; the models beside it come with the most similar name first."""
    path = path.expanduser()
    if path.is_symlink():
        return f"{path} leads to {path.readlink()}, which is not there"
    if not path.parent.is_dir():
        return f"{path} is not there, nor is the folder {path.parent}"
    names = _models_in(path.parent)
    close = difflib.get_close_matches(path.name, names, n=_SHOWN, cutoff=0.4)
    names = [*close, *(name for name in names if name not in close)]
    if not names:
        return f"{path} is not there"
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{path} is not there; beside it: {', '.join(names[:_SHOWN])}{more}"


def _models_in(folder: Path) -> list[str]:
    try:
        return sorted(
            child.name for child in folder.iterdir() if child.suffix == ".gguf" or (child / "config.json").is_file()
        )
    except OSError:
        return []


def no_config(folder: Path) -> str:
    """What to say of a folder without config.json: what it is instead, where that can be seen."""
    if (folder / "adapter_config.json").is_file():
        return (
            f"{folder} holds an adapter (adapter_config.json), no whole model: merge it into its base model "
            "(PEFT's merge_and_unload), and give the folder of that"
        )
    if (folder / "model_index.json").is_file():
        return f"{folder} holds a pipeline of diffusers (model_index.json), which is no language model"
    if (folder / "params.json").is_file():
        return (
            f"{folder} has a params.json and no config.json, which is Meta's or Mistral's own layout: "
            "take the same model in Hugging Face's layout"
        )
    if below := _models_in(folder):
        return f"{folder} has no config.json, but holds {', '.join(below[:_SHOWN])}: give the path of one of these"
    return f"{folder} has no config.json: a model folder has Hugging Face's layout"
