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
