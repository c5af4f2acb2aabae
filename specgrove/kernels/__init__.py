"""Kernels: one module per group of ops, each function with its shapes; and the same ops of a pass in torch, in ``torch_ops``.

This package imports nothing by itself: ``specgrove.kernels.trees`` is free of torch (the router uses it), the other modules wrap
``specgrove.kernels._native`` for torch tensors. Native ops are tested against ``torch_ops`` in float64, or what lies in ``tests/kernels``.
"""
