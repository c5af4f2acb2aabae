"""Slopes of ALiBi (arXiv 2108.12409), in the two ways that models compute them when their heads are no power of two."""

from __future__ import annotations

import math


def geometric_slopes(num_heads: int) -> tuple[float, ...]:
    """The paper's: for no power of two, the slopes of the next lower one and every other of the next higher one."""
    lower = 2 ** math.floor(math.log2(num_heads))
    base = 2.0 ** -(2.0 ** -(math.log2(lower) - 3))
    extra = 2.0 ** -(2.0 ** -(math.log2(2 * lower) - 3))
    return tuple(base**i for i in range(1, lower + 1)) + tuple(extra**i for i in range(1, 2 * (num_heads - lower), 2))


def interleaved_slopes(num_heads: int, max_bias: float) -> tuple[float, ...]:
    """MPT's: every other of the next power of two first, then the rest, cut to the number of heads."""
    upper = 2 ** math.ceil(math.log2(num_heads))
    slopes = [2.0 ** -(i * max_bias / upper) for i in range(1, upper + 1)]
    if upper != num_heads:
        slopes = (slopes[1::2] + slopes[::2])[:num_heads]
    return tuple(slopes)
