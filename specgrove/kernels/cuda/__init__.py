"""Kernels for NVIDIA GPUs, in ``csrc/cuda``. Each has a function here with its shapes, and a twin in ``specgrove.kernels.reference``.

Tensors on a GPU go to ``_cuda``, on the current stream, and no function waits for the device. Tensors on the CPU go to an emulator of the
same sources (``_cuda_emulator``, not in wheels): thread by thread, for tests only.
"""
