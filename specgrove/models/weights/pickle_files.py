"""Which of torch's pickle files of a folder hold its weights. Names only; nothing is opened but the index.

Called by conversion. The rule is transformers': ``pytorch_model.bin``, else what the index lists, else the parts that their names
count, else all files that may hold weights. Invariant: what is returned is there, and is all of it.
"""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath

from specgrove.files.json_files import JsonFileError, read_json_object

_SINGLE, _INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"
_PART = re.compile(r"pytorch_model-(?P<number>\d{5})-of-(?P<count>\d{5})\.bin")
_NO_WEIGHTS = ("training_args.bin", "optimizer.bin", "scheduler.bin", "random_states.bin")
_SHOWN = 3


def pickle_files_of(folder: Path) -> tuple[Path, ...]:
    """Empty where there are none. Raises ``ValueError`` that names what is missing."""
    if (folder / _SINGLE).is_file():
        return (folder / _SINGLE,)
    paths = _indexed(folder) if (folder / _INDEX).is_file() else _counted(folder)
    if missing := [path.name for path in paths if not path.is_file()]:
        more = f" and {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else ""
        raise ValueError(f"{folder} lacks {', '.join(missing[:_SHOWN])}{more}, parts of its weights: fetch them too")
    return paths or tuple(path for path in sorted(folder.glob("*.bin")) if path.name not in _NO_WEIGHTS)


def _indexed(folder: Path) -> tuple[Path, ...]:
    weight_map = read_json_object(folder / _INDEX).object("weight_map")
    names = {name for name in weight_map.values() if isinstance(name, str)}
    if not names or len(names) < len(set(map(str, weight_map.values()))):
        raise JsonFileError(f"{folder / _INDEX}: weight_map should map every tensor to its file")
    if outside := [name for name in sorted(names) if PurePosixPath(name).parts != (name,)]:
        raise JsonFileError(
            f"{folder / _INDEX}: weight_map names {outside[0]!r}, which is not in the index's own folder"
        )
    return tuple(folder / name for name in sorted(names))


def _counted(folder: Path) -> tuple[Path, ...]:
    counts = {match["count"] for path in folder.glob("*.bin") if (match := _PART.fullmatch(path.name))}
    if len(counts) > 1:
        raise ValueError(
            f"{folder} has parts of {' and of '.join(sorted(counts))} files: leave only those of one model"
        )
    return tuple(
        folder / f"pytorch_model-{number:05d}-of-{count}.bin" for count in counts for number in range(1, int(count) + 1)
    )
