"""What `shoal.np` consists of: NumPy's functions over Tensors, Symbols and arrays, one file for each kind.

A function is an operator under NumPy's name where the arguments agree; else it is written here, of operators, so that
it has gradients and can be part of a graph. A result whose shape depends on values is never part of a graph.
"""
