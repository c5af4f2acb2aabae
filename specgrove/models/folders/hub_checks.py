"""What can be known of a hub's model before its weights are fetched: whether it can be served at all. Minutes of a network are spared.

Called by ``specgrove.models.folders.hub``. Reads the small files, and the list of the others. Imports neither torch nor transformers.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

import huggingface_hub

from specgrove.models.decoder.family import read_spec
from specgrove.models.folders.hub_weights import TRANSFER_ERRORS
from specgrove.models.hidden_state.recognition import reads_hidden_states

_PICKLE = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_SHOWN = 3


def problem_of_hub_model(model: str, folder: Path, *, needs_tokenizer: bool) -> str | None:
    """Why it can't be served, by its small files in ``folder`` and the names of all; ``None`` where nothing speaks against it.

    Raises ``JsonFileError``, ``UnsupportedModelError``, ``OSError``.
    """
    names = _names(model)
    if (folder / "config.json").is_file() and not reads_hidden_states(folder):
        read_spec(folder)
    if not names:  # what is not here may be there
        return None
    if (problem := _problem_of_weights(model, names)) is not None:
        return problem
    if "config.json" not in names:
        return f"{model!r} has no config.json: a model has Hugging Face's layout"
    if needs_tokenizer and "tokenizer.json" not in names:
        return f"{model!r} has no tokenizer.json: save its fast tokenizer into a folder of your own, beside the rest"
    return None


def _names(model: str) -> list[str]:
    """The files of the model; empty where nobody tells."""
    with contextlib.suppress(*TRANSFER_ERRORS):
        return huggingface_hub.HfApi().list_repo_files(model)
    return []


def _problem_of_weights(model: str, names: list[str]) -> str | None:
    """What it has in the place of safetensors."""
    if any("/" not in name and name.endswith(".safetensors") for name in names):
        return None
    if gguf := [name for name in names if name.endswith(".gguf")]:
        more = f" and {len(gguf) - _SHOWN} more" if len(gguf) > _SHOWN else ""
        return (
            f"{model!r} has GGUF files, {', '.join(gguf[:_SHOWN])}{more}: choose one, fetch it with `hf download {model} FILE`, "
            "and give the path that this prints"
        )
    if any(name.endswith(_PICKLE) for name in names):
        return (
            f"{model!r} has pickle files only, which SpecGrove never fetches: fetch them with `hf download {model} --local-dir FOLDER` "
            "and make safetensors of them with `specgrove models convert FOLDER --out NEW_FOLDER`"
        )
    return f"{model!r} has no *.safetensors file: SpecGrove loads weights from safetensors only"
