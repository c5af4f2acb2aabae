"""The demo model, and others that are GGUF files, as the GGUF files that llama.cpp and OpenVINO run: the same weights in 16, 8 and 4 bits.

Files are made once in the cache folder. Of 4 bits there are the type that the demo model comes in (Q4_1), and llama.cpp's fastest (Q4_0).
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np

from specgrove.models.folders.demo import fetch_demo_gguf

TYPES = {
    "BF16": gguf.GGMLQuantizationType.BF16,
    "F16": gguf.GGMLQuantizationType.F16,
    "Q8_0": gguf.GGMLQuantizationType.Q8_0,
    "Q4_0": gguf.GGMLQuantizationType.Q4_0,
    "Q4_1": gguf.GGMLQuantizationType.Q4_1,
}
_FILE_TYPES = {
    "BF16": gguf.LlamaFileType.MOSTLY_BF16,
    "F16": gguf.LlamaFileType.MOSTLY_F16,
    "Q8_0": gguf.LlamaFileType.MOSTLY_Q8_0,
    "Q4_0": gguf.LlamaFileType.MOSTLY_Q4_0,
    "Q4_1": gguf.LlamaFileType.MOSTLY_Q4_1,
}


def peer_gguf(kind: str, source: Path | None, cache_dir: Path, progress: Callable[[str], None]) -> Path:
    """The file of one of ``TYPES``: of the GGUF file ``source``, or of the demo model."""
    name = "smollm2-135m-instruct" if source is None else source.stem
    path = cache_dir / "peers" / f"{name}-{kind}.gguf"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as temporary:
            original = fetch_demo_gguf(Path(temporary), progress) if source is None else source
            progress(f"writing {path.name}")
            made = Path(temporary) / "made.gguf"
            _rewrite(original, made, kind)
            made.rename(path)
    return path


def _rewrite(source: Path, target: Path, kind: str) -> None:
    """The same metadata; matrices in the type. Of 4 bits head and embedding get 8, as llama.cpp's own quantiser leaves more there."""
    reader = gguf.GGUFReader(source)
    architecture = str(reader.fields["general.architecture"].contents())
    writer = gguf.GGUFWriter(target, architecture)
    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name in ("general.architecture", "general.file_type"):
            continue
        value_type = field.types[0]
        element_type = field.types[-1] if value_type is gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(name, field.contents(), value_type, element_type)
    writer.add_file_type(_FILE_TYPES[kind])
    for tensor in reader.tensors:
        values = gguf.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        wanted = TYPES[kind] if values.ndim == 2 else gguf.GGMLQuantizationType.F32
        if kind.startswith("Q4") and tensor.name in ("token_embd.weight", "output.weight"):
            wanted = gguf.GGMLQuantizationType.Q8_0
        writer.add_tensor(tensor.name, gguf.quantize(values, wanted), raw_dtype=wanted)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
