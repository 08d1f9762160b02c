"""Initializers: what parameters start as. ``net.initialize(shoal.init.Xavier())``."""

from shoal.ops.nn.initializer import (
    Bilinear,
    Constant,
    Initializer,
    LSTMBias,
    MSRAPrelu,
    Normal,
    One,
    Orthogonal,
    Uniform,
    Xavier,
    Zero,
    create,
)

__all__ = [
    "Bilinear",
    "Constant",
    "Initializer",
    "LSTMBias",
    "MSRAPrelu",
    "Normal",
    "One",
    "Orthogonal",
    "Uniform",
    "Xavier",
    "Zero",
    "create",
]
