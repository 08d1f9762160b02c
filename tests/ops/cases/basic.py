"""Cases of arithmetic, reductions, shapes, indexing and the layers of common networks."""

from typing import Any

from tests.ops.cases.making import Case, case, definite, key, truth, whole

X = (3, 4)
IMG = (2, 4, 6, 5)
_E = {"empty": ((0, 4),)}  # one input without elements
_EE = {"empty": ((0, 4), (0, 4))}


def statistics(inputs: list[Any], attrs: dict[str, Any]) -> dict[int, Any]:
    """`batch_norm_grad` wants the statistics of its own x."""
    return {3: inputs[1].mean(axis=0), 4: inputs[1].var(axis=0)}


CASES: dict[str, list[Case]] = {
    # arithmetic
    "add": [case(X, X, **_EE), case(X, (4,)), case(X, (3, 1)), case(X, 2.0), case((), X)],
    "subtract": [case(X, X, **_EE), case((2, 1, 4), (3, 1)), case(2.0, X)],
    "multiply": [case(X, X, **_EE), case((2, 1, 4), (3, 1)), case(X, 2.0)],
    "divide": [case(X, X, low=0.5, **_EE), case(1.0, X, low=0.5), case((1, 4), (3, 1), low=0.5)],
    "floor_divide": [case(X, X, low=0.5, **_EE)],
    "mod": [case(X, (3, 1), low=0.5, **_EE)],
    "power": [
        case(X, X, low=0.5, **_EE),
        case(X, 2.0),
        case(X, 3.0),
        case(X, -1.5, low=0.5),
        case(2.0, X),
        case(X, 0.0),
    ],
    "negative": [case(X, **_E)],
    "reciprocal": [case(X, low=0.5, **_E)],
    "abs": [case(X, **_E)],
    "sign": [case(X, **_E)],
    "square": [case(X, **_E)],
    "sqrt": [case(X, low=0.5, **_E)],
    "rsqrt": [case(X, low=0.5, **_E)],
    "cbrt": [case(X, low=0.5, **_E)],
    "hypot": [case(X, (4,), **_EE)],
    # exponential
    "exp": [case(X, **_E)],
    "exp2": [case(X, **_E)],
    "expm1": [case(X, **_E)],
    "log": [case(X, low=0.5, **_E)],
    "log1p": [case(X, low=-0.5, **_E)],
    "log2": [case(X, low=0.5, **_E)],
    "log10": [case(X, low=0.5, **_E)],
    "logaddexp": [case(X, (4,), **_EE)],
    "erf": [case(X, **_E), case(X, low=-7.0, high=7.0)],
    # trigonometric, hyperbolic
    "sin": [case(X, **_E)],
    "cos": [case(X, **_E)],
    "tan": [case(X, low=-1.0, high=1.0, **_E)],
    "arcsin": [case(X, low=-0.8, high=0.8, **_E)],
    "arccos": [case(X, low=-0.8, high=0.8, **_E)],
    "arctan": [case(X, **_E)],
    "arctan2": [case(X, (4,), low=0.5, **_EE)],
    "sinh": [case(X, **_E)],
    "cosh": [case(X, **_E)],
    "tanh": [case(X, **_E)],
    "arcsinh": [case(X, **_E)],
    "arccosh": [case(X, low=1.5, high=3.0, **_E)],
    "arctanh": [case(X, low=-0.8, high=0.8, **_E)],
    # rounding, choosing
    "floor": [case(X, **_E)],
    "ceil": [case(X, **_E)],
    "trunc": [case(X, **_E)],
    "rint": [case(X, **_E)],
    "maximum": [case(X, (4,), **_EE), case(X, 0.5)],
    "minimum": [case(X, (4,), **_EE), case(0.5, X)],
    "clip": [case(X, a_min=-1.0, a_max=1.0, **_E), case(X, a_max=1.0), case(X, a_min=0.0)],
    "where": [case(truth(X), X, X), case(truth((4,)), X, 0.0), case(truth(X), (3, 1), (4,))],
    "astype": [case(X, dtype="float64", **_E)],
    "copy": [case(X, **_E)],
    "stop_gradient": [case(X, **_E)],
    "zeros_like": [case(X, **_E)],
    "ones_like": [case(X, **_E)],
    # comparison, logic
    "equal": [case(X, X, **_EE), case(whole(X, 3), whole((4,), 3))],
    "not_equal": [case(X, (4,), **_EE)],
    "less": [case(X, (4,), **_EE), case(X, 0.0)],
    "less_equal": [case(X, (4,), **_EE)],
    "greater": [case(X, (4,), **_EE)],
    "greater_equal": [case(X, (4,), **_EE)],
    "logical_and": [case(X, (4,), **_EE), case(truth(X), truth(X))],
    "logical_or": [case(X, (4,), **_EE)],
    "logical_xor": [case(X, (4,), **_EE)],
    "logical_not": [case(X, **_E), case(truth(X))],
    "bitwise_and": [case(truth(X), truth(X)), case(whole(X, 8), whole(X, 8))],
    "bitwise_or": [case(truth(X), truth(X)), case(whole(X, 8), 3)],
    "bitwise_xor": [case(truth(X), truth(X))],
    "invert": [case(whole(X, 8))],
    "isnan": [case(X, **_E)],
    "isinf": [case(X, **_E)],
    "isfinite": [case(X, **_E)],
    # activations
    "relu": [case(X, **_E)],
    "leaky_relu": [case(X, **_E), case(X, slope=0.1)],
    "prelu": [case((2, 3, 4), (3,)), case(X, (1,)), case(X, ())],
    "elu": [case(X, **_E), case(X, alpha=0.5)],
    "gelu": [case(X, **_E), case(X, approximation="tanh")],
    "sigmoid": [case(X, **_E), case(X, low=-30.0, high=30.0, half=False)],
    "log_sigmoid": [case(X, **_E)],
    "silu": [case(X, **_E)],
    "softplus": [case(X, **_E)],
    "softsign": [case(X, **_E)],
    "hard_sigmoid": [case(X, **_E), case(X, alpha=1.0 / 6.0)],
    # reductions
    "sum": [case(X, **_E), case(X, axis=0), case((40, 3, 2), axis=(0, 1), keepdims=True), case(X, axis=-1)],
    "sum_to": [case((2, 3, 4), shape=(3, 1)), case((40, 4), shape=(4,), empty=((0, 4),))],
    "mean": [case(X), case((40, 3), axis=0), case((2, 3, 4), axis=(0, -1), keepdims=True)],
    "var": [case(X), case((40, 3), axis=0, ddof=1), case((2, 3, 4), axis=(0, -1), keepdims=True)],
    "std": [case(X), case((40, 3), axis=0, ddof=1), case((2, 3, 4), axis=(0, -1), keepdims=True)],
    "prod": [case(X, **_E), case(X, axis=1), case((2, 3, 4), axis=(0, 2), keepdims=True)],
    "max": [case(X), case(X, axis=0), case((2, 3, 4), axis=(0, 2), keepdims=True)],
    "min": [case(X), case(X, axis=0), case((2, 3, 4), axis=(0, 2), keepdims=True)],
    "argmax": [case(X), case(X, axis=1), case(X, axis=0, keepdims=True)],
    "argmin": [case(X), case(X, axis=1), case(X, axis=0, keepdims=True)],
    "any": [case(truth(X)), case(X, axis=0, **_E)],
    "all": [case(truth(X)), case(X, axis=(0, 1), keepdims=True, **_E)],
    "logsumexp": [case(X), case(X, axis=0), case((2, 3, 4), axis=(1, 2), keepdims=True, empty=((0, 3, 4),))],
    "cumsum": [case(X, **_E), case(X, axis=1), case((2, 3, 4), axis=-2)],
    "norm": [
        case(X),
        case(X, ord=1, axis=0),
        case(X, axis=1, keepdims=True),
        case(X, ord=3.0),
        case(X, ord=-1.5, axis=0),
    ],
    # shape
    "reshape": [case(X, shape=(2, -1)), case(X, shape=-1), case(X, shape=(4, 3), empty=((0, 4),))],
    "transpose": [case(X, **_E), case((2, 3, 4), axes=(2, 0, 1)), case((2, 3, 4), axes=(0, -1, 1))],
    "swapaxes": [case((2, 3, 4), axis1=0, axis2=-1)],
    "moveaxis": [case((2, 3, 4), source=0, destination=-1), case((2, 3, 4), source=(0, 1), destination=(2, 0))],
    "squeeze": [case((1, 3, 1)), case((1, 3, 1), axis=0), case((1, 3, 1), axis=(0, -1))],
    "expand_dims": [case(X, axis=1, **_E), case(X, axis=(0, -1))],
    "broadcast_to": [case((3, 1), shape=(2, 3, 4)), case((), shape=(2,))],
    "concatenate": [case(X, (2, 4), **_EE), case(X, (3, 1), (3, 2), axis=-1), case(X)],
    "stack": [case(X, X, **_EE), case(X, X, axis=-1), case(X, axis=1)],
    "split": [case((4, 3), sections=2), case(X, sections=(1, 3), axis=1), case(X, sections=(-1,), axis=-1)],
    "tile": [case(X, reps=2), case(X, reps=(2, 1, 3)), case((2,), reps=(2, 2))],
    "repeat": [case(X, repeats=2), case(X, repeats=3, axis=0), case((2, 3, 4), repeats=2, axis=-2)],
    "flip": [case(X), case(X, axis=0, **_E), case((2, 3, 4), axis=(0, 2))],
    "roll": [case(X, shift=2), case(X, shift=-1, axis=1), case(X, shift=(1, 2), axis=(0, 1))],
    "pad": [case(X, pad_width=((1, 2), (0, 3)), **_E), case((3,), pad_width=((0, 1),), constant=2.0)],
    "tril": [case(X), case((2, 3, 3), k=-1)],
    "triu": [case(X), case((2, 3, 3), k=1)],
    # indexing
    "getitem": [
        case((4, 5), key=(1,)),
        case((4, 5), key=((None, None, -2), "new", (1, 4, None))),
        case((4, 5), whole((2, 3), 4), key=("array",)),
        case((4, 5, 3), whole((6,), 4), whole((6,), 3), key=("array", (None, None, None), "array")),
    ],
    "getitem_add": [
        case((5,), key=(1,), shape=(4, 5)),
        case((6, 5), whole((6,), 4), key=("array",), shape=(4, 5)),
    ],
    "take": [
        case((4, 5), whole((2, 3), 4), axis=0),
        case((4, 5), whole((3,), 5, -5), axis=1),
        case((4, 5), whole((3,), 20)),
    ],
    "take_add": [
        case((2, 3, 5), whole((2, 3), 4), axis=0, shape=(4, 5)),
        case((4, 3), whole((3,), 5, -5), axis=1, shape=(4, 5)),
        case((7,), whole((7,), 3), shape=(2, 3)),
    ],
    "take_along_axis": [case((4, 5), whole((4, 1), 5), axis=1), case((4, 5), whole((7, 5), 4), axis=0)],
    "along_axis_add": [
        case((4, 1), whole((4, 1), 5), axis=1, shape=(4, 5)),
        case((7, 5), whole((7, 5), 4), axis=0, shape=(4, 5)),
    ],
    "one_hot": [case(whole((2, 3), 6), depth=5), case(whole((3,), 4), depth=4, on_value=2.0, off_value=-1.0)],
    "sort": [case(X, **_E), case(X, axis=0)],
    "argsort": [case(X, **_E), case(whole((9,), 3), axis=0)],
    "topk": [case(X, k=2), case(X, k=1, axis=0), case((2, 5, 3), k=3, axis=1, is_ascend=True)],
    # linear algebra
    "matmul": [
        case((3, 4), (4, 5), empty=((0, 4), (4, 5))),
        case((2, 3, 4), (4, 5)),
        case((2, 1, 3, 4), (5, 4, 2)),
        case((4,), (4, 3)),
        case((3, 4), (4,)),
        case((4,), (4,)),
        case((4,), (2, 4, 3)),
        case((2, 3, 4), (4,)),
    ],
    "fully_connected": [
        case((3, 4), (5, 4), (5,), empty=((0, 4), (5, 4), (5,))),
        case((3, 2, 2), (5, 4), None),
        case((2, 3, 4), (5, 4), (5,), flatten=False),
    ],
    "contract": [
        case((2, 3, 4), (4, 5), subscripts="bij,jk->bik"),
        case((2, 3), (3,), (2,), subscripts="ab,b,a->"),
        case((2, 3), (4,), subscripts="ab,c->c"),
        case((2, 3), subscripts="ab->ba"),
    ],
    "diagonal": [case((3, 4)), case((2, 4, 3), offset=1, axis1=1, axis2=2), case((3, 4), offset=-1)],
    "diagonal_add": [case((3,), shape=(3, 4)), case((2, 2), shape=(2, 4, 3), offset=1, axis1=1, axis2=2)],
    "inv": [case(definite(3), half=False)],
    "det": [case(definite(3), half=False)],
    "slogdet": [case(definite(3), half=False)],
    "solve": [case(definite(3), (3, 2), half=False)],
    "cholesky": [case(definite(3), half=False)],
    # convolution, pooling
    "convolution": [
        case((2, 3, 5, 4), (4, 3, 3, 2), (4,), empty=((0, 3, 5, 4), (4, 3, 3, 2), (4,))),
        case(IMG, (6, 2, 3, 3), (6,), stride=(2, 1), pad=1, num_group=2),
        case(IMG, (3, 4, 2, 2), None, dilate=(2, 1), pad=(0, 1)),
        case((2, 3, 7), (4, 3, 3), (4,), stride=2, pad=2),
        case((1, 2, 3, 4, 3), (3, 2, 2, 2, 2), (3,)),
        case(IMG, (3, 4, 1, 1), (3,)),
    ],
    "convolution_data": [
        case((2, 4, 3, 3), (4, 3, 3, 2), space=(5, 4)),
        case((2, 6, 3, 5), (6, 2, 3, 3), space=(6, 5), stride=(2, 1), pad=1, num_group=2),
        case((2, 3, 2, 2), (3, 2, 2, 2), space=(5, 6), dilate=2, stride=2),
    ],
    "convolution_weight": [
        case((2, 4, 3, 3), (2, 3, 5, 4), kernel=(3, 2)),
        case((2, 6, 3, 5), IMG, kernel=(3, 3), stride=(2, 1), pad=1, num_group=2),
    ],
    "sum_channels": [case(IMG, empty=((0, 4, 6, 5),)), case((3, 4))],
    "max_pool": [case(IMG, kernel=2, empty=((0, 4, 6, 5),)), case(IMG, kernel=(3, 2), stride=2, pad=1)],
    "max_pool_index": [case(IMG, (2, 4, 3, 2), kernel=2), case(IMG, (2, 4, 3, 3), kernel=3, stride=2, pad=1)],
    "max_unpool": [
        case((2, 4, 3, 2), whole((2, 4, 3, 2), 4), space=(6, 5), kernel=2),
        case((2, 4, 3, 3), whole((2, 4, 3, 3), 9), space=(6, 5), kernel=3, stride=2, pad=1),
    ],
    "max_pool_take": [
        case(IMG, whole((2, 4, 3, 2), 4), kernel=2),
        case(IMG, whole((2, 4, 3, 3), 9), kernel=3, stride=2, pad=1),
    ],
    "sum_pool": [case(IMG, kernel=2), case(IMG, kernel=3, stride=(1, 2), pad=1), case((2, 3, 7), kernel=3)],
    "sum_unpool": [
        case((2, 4, 3, 2), space=(6, 5), kernel=2),
        case((2, 4, 6, 3), space=(6, 5), kernel=3, stride=(1, 2), pad=1),
    ],
    # norms
    "batch_norm": [case(IMG, (4,), (4,)), case((40, 3), (3,), (3,)), case((2, 5, 3), (3,), (3,), axis=-1, eps=1e-2)],
    "batch_norm_grad": [
        case((5, 3), (5, 3), (3,), (3,), (3,), tied=statistics, axis=1),
    ],
    "standardize_grad": [case(X, X, (3, 1)), case((2, 3, 4), (2, 3, 4), (2, 1, 1), axis=(1, 2))],
    "standardize": [case(X), case((2, 3, 4), axis=(1, 2)), case((2, 5, 3), axis=1, eps=1e-2)],
    # softmax family
    "softmax": [case(X, **_E), case((2, 3, 4), axis=1)],
    "log_softmax": [case(X, **_E), case((2, 3, 4), axis=1)],
    "softmax_cross_entropy": [case(X, whole((3,), 4)), case((2, 3, 4), whole((2, 4), 3), axis=1)],
    "softmax_cross_entropy_grad": [case((3,), X, whole((3,), 4)), case((2, 4), (2, 3, 4), whole((2, 4), 3), axis=1)],
    "softmax_grad": [case(X, X), case((2, 3, 4), (2, 3, 4), axis=1)],
    # random
    "dropout_mask": [case(key, shape=(30, 4), p=0.3), case(key, shape=(4,), p=0.5, dtype="float16")],
    "random_uniform": [case(key, shape=(3, 4)), case(key, shape=(3,), dtype="float16")],
    "random_normal": [case(key, shape=(3, 4)), case(key, shape=(3,), dtype="float64")],
}

NO_GRADIENT = frozenset(
    [
        "equal",
        "not_equal",
        "less",
        "less_equal",
        "greater",
        "greater_equal",
        "logical_and",
        "logical_or",
        "logical_xor",
        "logical_not",
        "bitwise_and",
        "bitwise_or",
        "bitwise_xor",
        "invert",
        "isnan",
        "isinf",
        "isfinite",
        "argmax",
        "argmin",
        "any",
        "all",
        "argsort",
        "one_hot",
        "max_pool_index",
        "dropout_mask",
        "random_uniform",
        "random_normal",
    ]
)
"""Operators that have no gradient: their results are truths, positions, or do not depend on floats."""

FLAT = frozenset(["floor_divide", "sign", "floor", "ceil", "trunc", "rint", "stop_gradient", "zeros_like", "ones_like"])
"""Operators whose gradient is zero."""
