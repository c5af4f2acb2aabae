"""Native kernels and their references: one module per group of ops, each function with its shapes.

This package imports nothing by itself: ``specgrove.kernels.trees`` is free of torch (the router uses it), the other
modules wrap ``specgrove.kernels._native`` for torch tensors, and ``specgrove.kernels.reference`` is the same ops in pure torch.
"""
