"""Which arithmetic the kernels have, as a number that LLM services tell routers (``llm_service.numerics``).

Two builds of one version may round in another order. Replicas of the old and the new one must not share sessions, so whoever changes a bit
of what a kernel gives counts this up; ``tests/kernels/test_arithmetic.py`` fails where that was forgotten.
"""

ARITHMETIC = 2  # 2: attention over bfloat16 caches multiplies pairs on AVX-512 and on tiles
