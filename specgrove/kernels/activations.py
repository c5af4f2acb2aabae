"""The names of activation functions, for specs and for kernels. Imports no torch."""

from __future__ import annotations

from typing import Literal, TypeAlias

Activation: TypeAlias = Literal["silu", "gelu", "gelu_tanh", "relu"]
"""``gelu`` is ``x`` times the normal distribution function (arXiv 1606.08415), ``gelu_tanh`` the approximation by a hyperbolic tangent."""
