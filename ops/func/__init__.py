"""Transformations of functions: gradients, products with Jacobians, mapping over a batch. See `shoal.func`."""
