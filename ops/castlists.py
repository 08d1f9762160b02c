"""Which operators run in half precision under `shoal.amp`, which in float32, and which in the widest of their inputs.

Every operator that is not named here runs in whatever dtypes it is given. The families follow PyTorch's autocast lists
for CUDA and MXNet 2's ``symbol_bf16.py``; where the two differ, the more careful one.
"""

__all__ = ["FIRST_INPUTS", "LOW", "WIDE", "WIDEST", "names"]

LOW: dict[str, tuple[str, ...]] = {
    "matrix products": ("matmul", "fully_connected", "contract"),
    "convolutions": ("convolution", "convolution_data", "convolution_weight", "convolution_relu"),
    "attention": ("attention",),
    "recurrent layers": ("rnn_sequence", "lstm_sequence", "gru_sequence"),
}
"""Inputs in float32 become halves: multiplied in half precision, accumulated in float32, rounded once."""

WIDE: dict[str, tuple[str, ...]] = {
    "losses": ("softmax_cross_entropy", "ctc"),
    "softmax": ("softmax", "log_softmax", "logsumexp"),
    "norms": ("standardize", "norm"),
    "reductions": ("sum", "mean", "var", "std", "prod", "cumsum", "cumprod", "logcumsumexp", "linear_recurrence"),
    "exponentials and logarithms": (
        *("exp", "exp2", "expm1", "log", "log1p", "log2", "log10", "logaddexp", "logaddexp2", "softplus"),
        *("log_sigmoid", "sinh", "cosh", "power", "square", "reciprocal", "rsqrt"),
    ),
    "functions with poles": ("tan", "arcsin", "arccos", "arctanh", "erfinv", "logit", "xlogy", "xlog1py", "entr"),
    "special functions": (
        *("gammaln", "gamma", "digamma", "polygamma", "erfc", "i0", "i0e", "i1", "i1e"),
        *("gammainc", "gammaincc", "betainc"),
    ),
    "linear algebra": (
        *("inv", "det", "cofactor", "slogdet", "solve", "cholesky", "eigh", "eigvalsh", "eig", "svd", "svdvals"),
        *("qr", "pinv", "least_squares", "matrix_exp"),
    ),
    "Fourier transforms": ("fftn", "rfft", "irfft"),
}
"""Inputs in half precision become float32, and so does the result: they lose digits, or overflow, in halves."""

WIDEST: dict[str, tuple[str, ...]] = {
    "arithmetic": ("add", "subtract", "multiply", "divide", "floor_divide", "mod", "hypot", "arctan2", "copysign"),
    "choices": ("maximum", "minimum", "fmax", "fmin", "where", "clip"),
    "comparisons": ("equal", "not_equal", "less", "less_equal", "greater", "greater_equal"),
    "joining": ("concatenate", "stack"),
}
"""Inputs of several dtypes become the widest among them: float32, unless all are halves of one kind."""

FIRST_INPUTS = {"attention": 3}
"""Operators of which only so many inputs count; a bias that hides has numbers that float16 does not hold."""


def names(families: dict[str, tuple[str, ...]]) -> tuple[str, ...]:
    """The operators of all families of a table, in order."""
    return tuple(name for family in families.values() for name in family)
