"""For tests of one's own layers, functions and operators."""

from shoal.ops.func.numeric import check_gradient, check_operator

__all__ = ["check_gradient", "check_operator"]
