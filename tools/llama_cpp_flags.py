"""Prints the CMake options with which llama.cpp is built for this machine. Called by the Makefile. Standard library only.

Where the processor has AMX and the compiler is GCC before 13, they leave AMX out: with that compiler's tile intrinsics llama.cpp dies of
SIGILL. All else that such processors have stays in. Everywhere else there are none: llama.cpp's own choice is the best.
"""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

_FIRST_SOUND_GCC = 13
_BY_FLAG = {
    "avx512f": "GGML_AVX512", "avx512_vbmi": "GGML_AVX512_VBMI", "avx512vbmi": "GGML_AVX512_VBMI", "avx512_vnni": "GGML_AVX512_VNNI",
    "avx512_bf16": "GGML_AVX512_BF16", "avx_vnni": "GGML_AVX_VNNI",
}  # fmt: skip


def llama_cpp_flags(cpuinfo: str, compiler_version: str) -> list[str]:
    """From the text of ``/proc/cpuinfo`` and what the compiler's ``--version`` prints first."""
    flags = set(re.findall(r"^flags\s*:(.*)$", cpuinfo, re.MULTILINE)[0].split()) if "flags" in cpuinfo else set()
    gcc = re.search(r"(?:g\+\+|gcc|c\+\+|cc)\S* \(.*\) (\d+)", compiler_version, re.IGNORECASE)
    if "amx_tile" not in flags or gcc is None or int(gcc[1]) >= _FIRST_SOUND_GCC:
        return []
    options = sorted({option for flag, option in _BY_FLAG.items() if flag in flags})
    return ["-DGGML_NATIVE=OFF", *(f"-D{option}=ON" for option in options)]


def main() -> None:
    """One line."""
    compiler = os.environ.get("CXX") or "c++"
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=True).stdout
    print(" ".join(llama_cpp_flags(Path("/proc/cpuinfo").read_text(encoding="utf-8"), version)))


if __name__ == "__main__":
    main()
