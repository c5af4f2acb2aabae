"""Kernels for NVIDIA GPUs, in ``csrc/cuda``. Each has a function here with its shapes. All that compute
something have a twin for the CPU, which tests and the check at the start compare them with.

Tensors on a GPU go to ``_cuda``, on the current stream, and no function waits for the device. Tensors on the CPU go to an emulator of the
same sources (``_cuda_emulator``, not in wheels): thread by thread, for tests only.
"""
