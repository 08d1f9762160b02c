"""Compiled kernels for the CPU: finding a compiler, one thread pool, and the kernels themselves.

Everything here is optional. Without a compiler, or with ``SHOAL_NATIVE=0``, every operator runs its NumPy forward.
"""
