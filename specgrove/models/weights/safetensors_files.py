"""Which safetensors files of a folder hold its weights, and in which of them each tensor is sought.

The rule is transformers': ``model.safetensors``, else what the index lists, else all files. A name that two files hold is an error
unless the index says which counts. Reads names of files and the index, never weights; imports neither torch nor transformers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from specgrove.files.json_files import JsonFileError, read_json_object

SINGLE_NAME, INDEX_NAME = "model.safetensors", "model.safetensors.index.json"
# Mistral's second copy under other names, what is added to another model, what training goes on from, and what other systems leave.
_NO_WEIGHTS = ("consolidated", "adapter_", "optimizer", "scheduler", "random_states", ".")
_SHOWN = 3


@dataclass(frozen=True, slots=True)
class WeightFiles:
    """``file_of`` is the index's map from tensors to files' names; None where no index counts."""

    paths: tuple[Path, ...]
    file_of: Mapping[str, str] | None = None

    def located(self, names_of: Mapping[str, Iterable[str]]) -> dict[str, str]:
        """The file of every tensor, given the names that each file holds. Raises ``JsonFileError``, ``ValueError``."""
        wanted, found = self.file_of or {}, dict[str, str]()
        for file, names in names_of.items():
            for name in names:
                if wanted.get(name, file) != file:
                    continue
                if name in found:
                    raise ValueError(
                        f"{self.paths[0].parent}: both {found[name]} and {file} hold {name}: leave only the files of one "
                        f"checkpoint in the folder, or add {INDEX_NAME}, which says what is where"
                    )
                found[name] = file
        missing = [name for name in wanted if name not in found]
        if missing:
            files = ", ".join(sorted({wanted[name] for name in missing})[:_SHOWN])
            raise JsonFileError(
                f"{self.paths[0].parent / INDEX_NAME} lists {len(missing)} tensors, {missing[0]} for one, that {files} "
                "does not hold: the index and the files are of different checkpoints, fetch both again"
            )
        return found


def weight_files_of(folder: Path) -> WeightFiles:
    """No paths where there is no safetensors file. Files that an index lists may be missing. Raises ``JsonFileError``."""
    single, index = folder / SINGLE_NAME, folder / INDEX_NAME
    if single.exists() or single.is_symlink():
        # An index beside it is of an earlier checkpoint, unless it names this file as one of several.
        indexed = _indexed(index) if index.is_file() else WeightFiles(())
        return indexed if single in indexed.paths else WeightFiles((single,))
    if index.is_file():
        return _indexed(index)
    return WeightFiles(
        tuple(path for path in sorted(folder.glob("*.safetensors")) if not path.name.startswith(_NO_WEIGHTS))
    )


def _indexed(index: Path) -> WeightFiles:
    content = read_json_object(index)
    file_of = content.object("weight_map")
    if not file_of:
        raise JsonFileError(f"{index}: weight_map is missing or empty, it should map every tensor to its file")
    for name, file in file_of.items():
        if not isinstance(file, str) or not _is_inside(file):
            raise JsonFileError(
                f"{index}: weight_map sends {name} to {file!r}, it should name a .safetensors file in the index's own folder"
            )
    return WeightFiles(tuple(index.parent / file for file in sorted(set(file_of.values()))), dict(file_of))


def _is_inside(file: str) -> bool:
    path = PurePosixPath(file)
    return path.suffix == ".safetensors" and path.parts == (file,) and "\\" not in file and "\0" not in file
