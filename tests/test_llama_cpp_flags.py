"""How llama.cpp is built for the benchmarks: without AMX where GCC 12 would make it die of SIGILL, and as it chooses itself elsewhere."""

from __future__ import annotations

import pytest

from tools.llama_cpp_flags import llama_cpp_flags

_XEON = "processor : 0\nflags\t\t: fma avx2 avx_vnni avx512f avx512vbmi avx512_vnni avx512_bf16 amx_bf16 amx_tile amx_int8\nbugs : \n"
_EPYC = "processor : 0\nflags\t\t: fma avx2 avx512f avx512vbmi avx512_vnni avx512_bf16\n"
_GCC_12 = "c++ (Debian 12.2.0-14+deb12u1) 12.2.0\nCopyright (C) 2022 Free Software Foundation, Inc.\n"


def test_amx_is_left_out_and_all_else_stays() -> None:
    assert llama_cpp_flags(_XEON, _GCC_12) == [
        "-DGGML_NATIVE=OFF",
        "-DGGML_AVX512=ON",
        "-DGGML_AVX512_BF16=ON",
        "-DGGML_AVX512_VBMI=ON",
        "-DGGML_AVX512_VNNI=ON",
        "-DGGML_AVX_VNNI=ON",
    ]


@pytest.mark.parametrize(
    ("cpuinfo", "compiler"),
    [
        (_EPYC, _GCC_12),
        (_XEON, "g++ (Ubuntu 13.2.0-4ubuntu3) 13.2.0\n"),
        (_XEON, "Debian clang version 14.0.6\n"),
        ("processor : 0\nFeatures : asimd\n", _GCC_12),
    ],
)
def test_elsewhere_llama_cpp_chooses(cpuinfo: str, compiler: str) -> None:
    assert llama_cpp_flags(cpuinfo, compiler) == []
