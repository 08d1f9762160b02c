"""NumPy's products of arrays."""

from shoal.ops.linalg import dot, einsum, inner, matmul, outer, tensordot, trace, vdot

__all__ = ["dot", "einsum", "inner", "matmul", "outer", "tensordot", "trace", "vdot"]
