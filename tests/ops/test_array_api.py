"""The Python array API standard 2024.12: every function is there, takes its parameters, and gives the right numbers."""

import inspect
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from shoal import autograd
from shoal.errors import ConfigError, ShapeError
from shoal.ops import array_api as xp
from shoal.ops.tensor import Tensor

# Parameters as the standard has them (checked against array-api-strict 2.6.1); ``...`` is any default.
SIGNATURES = """
asarray(obj, /, *, dtype=None, device=None, copy=None)
arange(start, /, stop=None, step=1, *, dtype=None, device=None)
empty(shape, *, dtype=None, device=None)
empty_like(x, /, *, dtype=None, device=None)
eye(n_rows, n_cols=None, /, *, k=0, dtype=None, device=None)
from_dlpack(x, /, *, device=None, copy=None)
full(shape, fill_value, *, dtype=None, device=None)
full_like(x, /, fill_value, *, dtype=None, device=None)
linspace(start, stop, /, num, *, dtype=None, device=None, endpoint=True)
meshgrid(*arrays, indexing='xy')
ones(shape, *, dtype=None, device=None)
ones_like(x, /, *, dtype=None, device=None)
tril(x, /, *, k=0)
triu(x, /, *, k=0)
zeros(shape, *, dtype=None, device=None)
zeros_like(x, /, *, dtype=None, device=None)
astype(x, dtype, /, *, copy=True, device=None)
broadcast_arrays(*arrays)
broadcast_shapes(*shapes)
broadcast_to(x, /, shape)
can_cast(from_, to, /)
finfo(type, /)
isdtype(dtype, kind)
iinfo(type, /)
result_type(*arrays_and_dtypes)
clip(x, /, min=None, max=None)
take(x, indices, /, *, axis=None)
take_along_axis(x, indices, /, *, axis=-1)
__array_namespace_info__()
matmul(x1, x2, /)
tensordot(x1, x2, /, *, axes=2)
matrix_transpose(x, /)
vecdot(x1, x2, /, *, axis=-1)
concat(arrays, /, *, axis=0)
expand_dims(x, /, axis=0)
flip(x, /, *, axis=None)
moveaxis(x, source, destination, /)
permute_dims(x, /, axes)
repeat(x, repeats, /, *, axis=None)
reshape(x, /, shape, *, copy=None)
roll(x, /, shift, *, axis=None)
squeeze(x, /, axis)
stack(arrays, /, *, axis=0)
tile(x, repetitions, /)
unstack(x, /, *, axis=0)
argmax(x, /, *, axis=None, keepdims=False)
argmin(x, /, *, axis=None, keepdims=False)
nonzero(x, /)
count_nonzero(x, /, *, axis=None, keepdims=False)
searchsorted(x1, x2, /, *, side='left', sorter=None)
where(condition, x1, x2, /)
unique_all(x, /)
unique_counts(x, /)
unique_inverse(x, /)
unique_values(x, /)
isin(x1, x2, /, *, invert=False)
argsort(x, /, *, axis=-1, descending=False, stable=True)
sort(x, /, *, axis=-1, descending=False, stable=True)
cumulative_sum(x, /, *, axis=None, dtype=None, include_initial=False)
cumulative_prod(x, /, *, axis=None, dtype=None, include_initial=False)
max(x, /, *, axis=None, keepdims=False)
mean(x, /, *, axis=None, keepdims=False)
min(x, /, *, axis=None, keepdims=False)
prod(x, /, *, axis=None, dtype=None, keepdims=False)
std(x, /, *, axis=None, correction=0.0, keepdims=False)
sum(x, /, *, axis=None, dtype=None, keepdims=False)
var(x, /, *, axis=None, correction=0.0, keepdims=False)
all(x, /, *, axis=None, keepdims=False)
any(x, /, *, axis=None, keepdims=False)
diff(x, /, *, axis=-1, n=1, prepend=None, append=None)
linalg.cholesky(x, /, *, upper=False)
linalg.cross(x1, x2, /, *, axis=-1)
linalg.det(x, /)
linalg.diagonal(x, /, *, offset=0)
linalg.eigh(x, /)
linalg.eigvalsh(x, /)
linalg.inv(x, /)
linalg.matmul(x1, x2, /)
linalg.matrix_norm(x, /, *, keepdims=False, ord='fro')
linalg.matrix_power(x, n, /)
linalg.matrix_rank(x, /, *, rtol=None)
linalg.matrix_transpose(x, /)
linalg.outer(x1, x2, /)
linalg.pinv(x, /, *, rtol=None)
linalg.qr(x, /, *, mode='reduced')
linalg.slogdet(x, /)
linalg.solve(x1, x2, /)
linalg.svd(x, /, *, full_matrices=True)
linalg.svdvals(x, /)
linalg.tensordot(x1, x2, /, *, axes=2)
linalg.trace(x, /, *, offset=0, dtype=None)
linalg.vecdot(x1, x2, /, *, axis=-1)
linalg.vector_norm(x, /, *, axis=None, keepdims=False, ord=2)
fft.fft(x, /, *, n=None, axis=-1, norm='backward')
fft.ifft(x, /, *, n=None, axis=-1, norm='backward')
fft.fftn(x, /, *, s=None, axes=None, norm='backward')
fft.ifftn(x, /, *, s=None, axes=None, norm='backward')
fft.rfft(x, /, *, n=None, axis=-1, norm='backward')
fft.irfft(x, /, *, n=None, axis=-1, norm='backward')
fft.rfftn(x, /, *, s=None, axes=None, norm='backward')
fft.irfftn(x, /, *, s=None, axes=None, norm='backward')
fft.hfft(x, /, *, n=None, axis=-1, norm='backward')
fft.ihfft(x, /, *, n=None, axis=-1, norm='backward')
fft.fftfreq(n, /, *, d=1.0, dtype=None, device=None)
fft.rfftfreq(n, /, *, d=1.0, dtype=None, device=None)
fft.fftshift(x, /, *, axes=None)
fft.ifftshift(x, /, *, axes=None)
""".strip().splitlines()
FLOATS = [
    "acos",
    "acosh",
    "asin",
    "asinh",
    "atan",
    "atanh",
    "cos",
    "cosh",
    "exp",
    "expm1",
    "log",
    "log1p",
    "log2",
    "log10",
    "sin",
    "sinh",
    "sqrt",
    "tan",
    "tanh",
    "reciprocal",
]
NUMBERS = [
    "abs",
    "ceil",
    "conj",
    "floor",
    "isfinite",
    "isinf",
    "isnan",
    "negative",
    "positive",
    "round",
    "sign",
    "square",
    "trunc",
]
FLOAT_PAIRS = ["atan2", "copysign", "divide", "hypot", "logaddexp", "nextafter"]
PAIRS = [
    "add",
    "equal",
    "floor_divide",
    "greater",
    "greater_equal",
    "less",
    "less_equal",
    "maximum",
    "minimum",
    "multiply",
    "not_equal",
    "pow",
    "remainder",
    "subtract",
]
BITS = ["bitwise_and", "bitwise_or", "bitwise_xor", "bitwise_left_shift", "bitwise_right_shift"]
LOGIC = ["logical_and", "logical_or", "logical_xor"]
SIGNATURES += [f"{n}(x, /)" for n in [*FLOATS, *NUMBERS, "bitwise_invert", "imag", "logical_not", "real", "signbit"]]
SIGNATURES += [f"{n}(x1, x2, /)" for n in [*FLOAT_PAIRS, *PAIRS, *BITS, *LOGIC]]

METHODS = [
    "abs",
    "add",
    "and",
    "array_namespace",
    "bool",
    "complex",
    "dlpack",
    "dlpack_device",
    "eq",
    "float",
    "floordiv",
    "ge",
    "getitem",
    "gt",
    "index",
    "int",
    "invert",
    "le",
    "lshift",
    "lt",
    "matmul",
    "mod",
    "mul",
    "ne",
    "neg",
    "or",
    "pos",
    "pow",
    "rshift",
    "setitem",
    "sub",
    "truediv",
    "xor",
    "radd",
    "rand",
    "rfloordiv",
    "rlshift",
    "rmatmul",
    "rmod",
    "rmul",
    "ror",
    "rpow",
    "rrshift",
    "rsub",
    "rtruediv",
    "rxor",
    "iadd",
    "iand",
    "ifloordiv",
    "ilshift",
    "imatmul",
    "imod",
    "imul",
    "ior",
    "ipow",
    "irshift",
    "isub",
    "itruediv",
    "ixor",
]
REAL = ["float32", "float64"]
WHOLE = [f"{u}int{b}" for u in ("", "u") for b in (8, 16, 32, 64)]


def found(name: str) -> Any:
    module, _, function = name.rpartition(".")
    return getattr(getattr(xp, module) if module else xp, function)


@pytest.mark.parametrize("text", SIGNATURES)
def test_a_function_has_the_parameters_of_the_standard(text: str) -> None:
    name, _, rest = text.partition("(")
    names: dict[str, Any] = {}
    kinds: list[Any] = []
    keyword = "/" not in rest and "*" not in rest
    assert isinstance(keyword, bool)
    parameters = inspect.signature(found(name)).parameters.values()
    mode = "plain"
    parts = [p.strip() for p in rest.rstrip(")").split(",") if p.strip()]
    positional = parts.index("/") if "/" in parts else 0
    for i, part in enumerate(parts):
        if part == "*":
            mode = "keyword"
        elif part != "/":
            p, _, default = part.partition("=")
            if p.startswith("*"):
                kind, mode = inspect.Parameter.VAR_POSITIONAL, "keyword"
            elif i < positional:
                kind = inspect.Parameter.POSITIONAL_ONLY
            else:
                kind = inspect.Parameter.KEYWORD_ONLY if mode == "keyword" else inspect.Parameter.POSITIONAL_OR_KEYWORD
            kinds.append(kind)
            names[p.lstrip("*")] = {"None": None, "True": True, "False": False}.get(default, default.strip("'"))
    ours = list(parameters)
    assert [p.name for p in ours] == list(names)
    for p, kind, (_, default) in zip(ours, kinds, names.items(), strict=True):
        assert p.kind == kind
        given = inspect.Parameter.empty if default == "" else default
        assert p.default is given or str(p.default) == str(given)


def test_the_namespace_has_the_standard_and_nothing_else_is_listed() -> None:
    names = {s.partition("(")[0] for s in SIGNATURES}
    constants = {"e", "inf", "nan", "newaxis", "pi", "__array_api_version__", "linalg", "fft"}
    dtypes = {"bool", *REAL, *WHOLE, "complex64", "complex128", "finfo_object", "iinfo_object"}
    assert {n for n in names if "." not in n} | constants | dtypes == set(xp.__all__)
    for part in ("linalg", "fft"):
        assert {n.partition(".")[2] for n in names if n.startswith(part)} == set(getattr(xp, part).__all__)
    assert len(set(xp.__all__)) == len(xp.__all__)


def test_an_array_has_what_the_standard_asks_of_it() -> None:
    x = xp.ones((2, 3))
    assert [m for m in METHODS if not hasattr(x, f"__{m}__")] == []
    assert (x.dtype, x.device, x.ndim, x.shape, x.size) == (xp.float32, "cpu", 2, (2, 3), 6)
    assert x.T.shape == x.mT.shape == (3, 2) and x.to_device("cpu", stream=None) is x
    assert x.__array_namespace__() is x.__array_namespace__(api_version="2024.12") is xp
    with pytest.raises(ConfigError, match=r"1999\.12"):
        x.__array_namespace__(api_version="1999.12")


# -- numbers and dtypes


def arrays(dtype: str, low: float = 1.0) -> tuple[Any, Any]:
    rng = np.random.default_rng(7)
    a, b = (rng.uniform(low, 6.0, (3, 4)) for _ in range(2))
    return a.astype(dtype), b.astype(dtype)


def same(ours: Any, theirs: Any, tolerance: float = 1e-6) -> None:
    theirs = np.asarray(theirs)
    assert isinstance(ours, Tensor)
    assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype)
    np.testing.assert_allclose(ours.asnumpy(), theirs, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", REAL)
@pytest.mark.parametrize("name", FLOATS + NUMBERS + ["signbit"])
def test_functions_of_a_float_array(name: str, dtype: str) -> None:
    a = arrays(dtype)[0]
    a = a / 7 if name in ("acos", "asin", "atanh") else a
    same(found(name)(Tensor(a)), getattr(np, name)(a))


@pytest.mark.parametrize("dtype", WHOLE)
@pytest.mark.parametrize("name", [*NUMBERS, "bitwise_invert"])
def test_functions_of_an_integer_array_give_its_dtype(name: str, dtype: str) -> None:
    a = arrays(dtype)[0]
    expected = a if name in ("ceil", "floor", "round", "trunc") else getattr(np, name)(a)  # NumPy 2.0 makes floats here
    same(found(name)(Tensor(a)), expected)
    if not name.startswith("is"):
        assert found(name)(Tensor(a)).dtype == dtype


@pytest.mark.parametrize("dtype", REAL)
@pytest.mark.parametrize("name", FLOAT_PAIRS + PAIRS)
def test_functions_of_two_float_arrays_or_one_and_a_number(name: str, dtype: str) -> None:
    a, b = arrays(dtype)
    same(found(name)(Tensor(a), Tensor(b)), getattr(np, name)(a, b))
    same(found(name)(Tensor(a), 2.0), getattr(np, name)(a, a.dtype.type(2)))
    same(found(name)(2, Tensor(b)), getattr(np, name)(a.dtype.type(2), b))


@pytest.mark.parametrize("dtype", WHOLE)
@pytest.mark.parametrize("name", PAIRS + BITS)
def test_functions_of_two_integer_arrays_or_one_and_a_number(name: str, dtype: str) -> None:
    a, b = arrays(dtype)
    same(found(name)(Tensor(a), Tensor(b)), getattr(np, name)(a, b))
    same(found(name)(Tensor(a), 2), getattr(np, name)(a, a.dtype.type(2)))


@pytest.mark.parametrize("name", [*LOGIC, "equal", "not_equal", "bitwise_and", "bitwise_or", "bitwise_xor"])
def test_functions_of_booleans(name: str) -> None:
    a, b = np.array([True, True, False, False]), np.array([True, False, True, False])
    same(found(name)(Tensor(a), Tensor(b)), getattr(np, name)(a, b))
    same(found(name)(Tensor(a), True), getattr(np, name)(a, True))
    same(xp.logical_not(Tensor(a)), ~a)
    same(xp.bitwise_invert(Tensor(a)), ~a)


@pytest.mark.parametrize("a", ["bool", *WHOLE, *REAL, "complex64", "complex128"])
@pytest.mark.parametrize("b", ["bool", *WHOLE, *REAL, "complex64", "complex128"])
def test_promotion_is_numpys_wherever_the_standard_defines_it(a: str, b: str) -> None:
    x, y = xp.ones(2, dtype=getattr(xp, a)), xp.ones(2, dtype=getattr(xp, b))
    expected = np.result_type(a, b)
    assert xp.result_type(x, y) == xp.result_type(x, getattr(xp, b)) == expected
    if (a, b) != ("bool", "bool"):
        assert (x + y).dtype == (x * y).dtype == xp.where(x == x, x, y).dtype == expected
        assert xp.concat([x, y]).dtype == xp.stack([x, y]).dtype == expected


@pytest.mark.parametrize("dtype", [*WHOLE, *REAL, "bool"])
def test_sums_and_products_of_narrow_integers_are_of_64_bits(dtype: str) -> None:
    a = (arrays("float64")[0] > 3) if dtype == "bool" else arrays(dtype)[0]
    for axis in (None, 0, (0, 1)):
        if dtype != "bool":
            same(xp.prod(Tensor(a), axis=axis), np.prod(a, axis=axis), 1e-5)
            same(xp.sum(Tensor(a), axis=axis, keepdims=True), np.sum(a, axis=axis, keepdims=True), 1e-5)
    if dtype != "bool":
        same(xp.cumulative_sum(Tensor(a), axis=1), np.cumsum(a, axis=1), 1e-5)
        same(xp.sum(Tensor(a), dtype=xp.float64), np.sum(a, dtype="float64"))
    same(xp.count_nonzero(Tensor(a), axis=0), np.count_nonzero(a, axis=0))
    same(xp.any(Tensor(a), axis=0), np.any(a, axis=0))
    same(xp.all(Tensor(a)), np.all(a))


@pytest.mark.parametrize("dtype", REAL)
@pytest.mark.parametrize("axis", [None, 0, -1, (0, 1)])
@pytest.mark.parametrize("keepdims", [False, True])
def test_statistics(dtype: str, axis: Any, keepdims: bool) -> None:
    a = arrays(dtype)[0]
    for name in ("mean", "max", "min", "sum", "prod"):
        same(found(name)(Tensor(a), axis=axis, keepdims=keepdims), getattr(np, name)(a, axis=axis, keepdims=keepdims))
    for correction in (0.0, 1, 0.5):
        for name in ("std", "var"):
            expected = getattr(np, name)(a, axis=axis, ddof=correction, keepdims=keepdims)
            same(found(name)(Tensor(a), axis=axis, correction=correction, keepdims=keepdims), expected, 1e-5)


def test_running_results() -> None:
    a = arrays("float64")[0]
    with_zero = np.concatenate([np.zeros((3, 1)), np.cumsum(a, 1)], axis=1)
    same(xp.cumulative_sum(Tensor(a), axis=1, include_initial=True), with_zero)
    with_one = np.concatenate([np.ones((1, 4)), np.cumprod(a, 0)])
    same(xp.cumulative_prod(Tensor(a), axis=0, include_initial=True), with_one)
    same(xp.cumulative_sum(Tensor(a[0]), dtype=xp.float32), np.cumsum(a[0], dtype="float32"))


X = np.arange(24.0, dtype=np.float32).reshape(2, 3, 4)
PLACES = np.array([[[1], [2], [0]]])


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (lambda x: xp.concat([x, x], axis=1), np.concatenate([X, X], axis=1)),
        (lambda x: xp.concat([x, x], axis=None), np.concatenate([X, X], axis=None)),
        (lambda x: xp.stack([x, x], axis=-1), np.stack([X, X], axis=-1)),
        (lambda x: xp.unstack(x, axis=1)[2], X[:, 2]),
        (lambda x: xp.expand_dims(x, axis=1), X[:, None]),
        (lambda x: xp.expand_dims(x), X[None]),
        (lambda x: xp.squeeze(x[:1], 0), X[0]),
        (lambda x: xp.flip(x), np.flip(X)),
        (lambda x: xp.flip(x, axis=1), np.flip(X, 1)),
        (lambda x: xp.moveaxis(x, 0, -1), np.moveaxis(X, 0, -1)),
        (lambda x: xp.permute_dims(x, (2, 0, 1)), X.transpose(2, 0, 1)),
        (lambda x: xp.repeat(x, 2, axis=1), np.repeat(X, 2, 1)),
        (lambda x: xp.repeat(x, xp.asarray([1, 0, 2]), axis=1), np.repeat(X, [1, 0, 2], 1)),
        (lambda x: xp.repeat(x, 2), np.repeat(X, 2)),
        (lambda x: xp.reshape(x, (4, -1)), X.reshape(4, -1)),
        (lambda x: xp.roll(x, (1, 2), axis=(0, 2)), np.roll(X, (1, 2), (0, 2))),
        (lambda x: xp.roll(x, 5), np.roll(X, 5)),
        (lambda x: xp.tile(x, (2, 1, 1)), np.tile(X, (2, 1, 1))),
        (lambda x: xp.tile(x, (2,)), np.tile(X, (2,))),
        (lambda x: xp.broadcast_to(x, (2, 2, 3, 4)), np.broadcast_to(X, (2, 2, 3, 4))),
        (lambda x: xp.broadcast_arrays(x, x[0, 0])[1], np.broadcast_to(X[0, 0], X.shape)),
        (lambda x: xp.tril(x, k=-1), np.tril(X, -1)),
        (lambda x: xp.triu(x, k=1), np.triu(X, 1)),
        (lambda x: xp.take(x, xp.asarray([2, 0]), axis=1), X[:, [2, 0]]),
        (lambda x: xp.take(x[0, 0], xp.asarray([2, 0])), X[0, 0, [2, 0]]),
        (lambda x: xp.take_along_axis(x, xp.asarray(PLACES)), np.take_along_axis(X, PLACES, -1)),
        (lambda x: xp.argmax(x, axis=1, keepdims=True), np.argmax(X, 1, keepdims=True)),
        (lambda x: xp.argmin(x), np.argmin(X)),
        (lambda x: xp.nonzero(x)[2], np.nonzero(X)[2]),
        (lambda x: xp.where(x > 3, x, 0.0), np.where(X > 3, X, np.float32(0))),
        (lambda x: xp.searchsorted(x[0, 0], xp.asarray([1.5, 2.0]), side="right"), np.array([2, 3])),
        (lambda x: xp.sort(x, axis=0, descending=True), X[::-1]),
        (lambda x: xp.argsort(x[0, :, :1] * 0, axis=0, descending=True), np.arange(3)[:, None]),
        (lambda x: xp.isin(x, xp.asarray([2.0, 5.0])), np.isin(X, [2, 5])),
        (lambda x: xp.isin(x, xp.asarray([2.0, 5.0]), invert=True), np.isin(X, [2, 5], invert=True)),
        (lambda x: xp.diff(x, axis=1, n=2), np.diff(X, 2, 1)),
        (lambda x: xp.diff(x, prepend=x[..., :1]), np.diff(X, prepend=X[..., :1])),
        (lambda x: xp.diff(x, append=x[..., -1:]), np.diff(X, append=X[..., -1:])),
        (lambda x: xp.clip(x, 3, 7.5), np.clip(X, 3, 7.5)),
        (lambda x: xp.clip(x, max=x[0]), np.minimum(X, X[0])),
        (lambda x: xp.clip(x), X),
        (lambda x: xp.astype(x, xp.int8), X.astype("int8")),
        (lambda x: xp.matmul(x, xp.matrix_transpose(x)), X @ X.swapaxes(1, 2)),
        (lambda x: xp.tensordot(x, x, axes=((1, 2), (1, 2))), np.tensordot(X, X, ((1, 2), (1, 2)))),
        (lambda x: xp.vecdot(x, x, axis=1), (X * X).sum(1)),
        (lambda x: xp.meshgrid(x[0, 0], x[0, 1], indexing="ij")[0], np.meshgrid(X[0, 0], X[0, 1], indexing="ij")[0]),
        (lambda x: xp.zeros_like(x, dtype=xp.int16), np.zeros_like(X, "int16")),
        (lambda x: xp.ones_like(x), np.ones_like(X)),
        (lambda x: xp.full_like(x, 2), np.full_like(X, 2)),
        (lambda x: xp.empty_like(x) * 0, X * 0),
        (lambda x: xp.linalg.trace(x, offset=1, dtype=xp.float64), np.trace(X.astype("f8"), 1, 1, 2)),
        (lambda x: xp.linalg.diagonal(x, offset=-1), np.diagonal(X, -1, 1, 2)),
        (lambda x: xp.linalg.vector_norm(x, axis=(0, 2), ord=1), np.abs(X).sum((0, 2))),
        (lambda x: xp.linalg.matrix_norm(x), np.linalg.norm(X, axis=(1, 2))),
        (lambda x: xp.linalg.outer(x[0, 0], x[0, 1]), np.outer(X[0, 0], X[0, 1])),
        (lambda x: xp.linalg.cross(x[:, :, :1], x[:, :, 1:2], axis=1), np.cross(X[:, :, :1], X[:, :, 1:2], axis=1)),
        (lambda x: xp.fft.irfft(xp.fft.rfft(x)), X),
        (lambda x: xp.real(xp.fft.ifftn(xp.fft.fftn(x))), X),
        (lambda x: xp.fft.ifftshift(xp.fft.fftshift(x, axes=1), axes=1), X),
    ],
)  # fmt: skip
def test_functions_that_move_find_and_multiply(ours: Any, theirs: Any) -> None:
    same(ours(Tensor(X.copy())), theirs, 1e-5)


def test_linear_algebra_gives_the_named_parts() -> None:
    rng = np.random.default_rng(2)
    a = rng.standard_normal((2, 3, 3))
    p = a @ a.swapaxes(1, 2) + 3 * np.eye(3)
    x, y = Tensor(a), Tensor(p)
    w, v = xp.linalg.eigh(y)
    same((v * w[:, None, :]) @ v.mT, p)
    u, s, vh = xp.linalg.svd(x, full_matrices=False)
    same((u * s[:, None, :]) @ vh, a)
    q, r = xp.linalg.qr(x)
    same(q @ r, a)
    lower = xp.linalg.cholesky(y)
    same(lower @ lower.mT, p)
    same(xp.linalg.cholesky(y, upper=True).mT, lower.asnumpy())
    found_ = xp.linalg.slogdet(x)
    same(found_.sign * xp.exp(found_.logabsdet), np.linalg.det(a))
    same(xp.linalg.inv(x) @ x, np.broadcast_to(np.eye(3), (2, 3, 3)))
    same(xp.linalg.solve(x, xp.matmul(x, y)), p)
    same(xp.linalg.pinv(x, rtol=1e-9), np.linalg.pinv(a))
    same(xp.linalg.matrix_power(x, 3), a @ a @ a)
    assert xp.linalg.matrix_rank(x).tolist() == [3, 3]
    same(xp.linalg.svdvals(x), np.linalg.svd(a, compute_uv=False))
    same(xp.linalg.eigvalsh(y), np.linalg.eigvalsh(p))


def test_sets_have_named_parts_and_every_nan_for_itself() -> None:
    x = xp.asarray([3.0, 1.0, math.nan, 3.0, math.nan])
    everything = xp.unique_all(x)
    assert everything.values.shape == (4,) and everything.counts.tolist() == [1, 2, 1, 1]
    assert xp.take(x, everything.indices).tolist()[:2] == [1.0, 3.0]
    assert everything.inverse_indices.shape == x.shape
    assert xp.unique_counts(x).counts.tolist() == [1, 2, 1, 1]
    assert xp.unique_inverse(x[:2]).inverse_indices.tolist() == [1, 0]
    assert xp.unique_values(x[:2]).tolist() == [1.0, 3.0]


# -- making arrays


@pytest.mark.parametrize(
    ("value", "dtype"),
    [
        (True, "bool"),
        (3, "int64"),
        (3.0, "float32"),
        (3j, "complex64"),
        ([1, 2], "int64"),
        ([1, 2.5], "float32"),
        ([[True], [False]], "bool"),
        (np.ones(2), "float64"),
        (np.float64(2.0), "float64"),
        ([np.int8(1)], "int8"),
        (b"\x01\x02", "uint8"),
    ],
)
def test_python_numbers_have_the_default_dtypes(value: Any, dtype: str) -> None:
    made = xp.asarray(np.frombuffer(value, np.uint8) if isinstance(value, bytes) else value)
    assert isinstance(made, Tensor) and made.dtype == dtype
    if isinstance(value, (bool, int, float, complex)):
        assert xp.full((2,), value).dtype == dtype


def test_asarray_copies_when_it_must_or_is_told_to() -> None:
    values, x = np.ones(3), xp.ones(3)
    assert np.shares_memory(xp.asarray(values).data, values) and xp.asarray(x) is x
    assert not np.shares_memory(xp.asarray(values, copy=True).data, values)
    assert xp.asarray(x, copy=True) is not x and xp.asarray(x, copy=False) is x
    assert xp.asarray([x, x]).shape == (2, 3)
    for bad in (lambda: xp.asarray([1], copy=False), lambda: xp.asarray(x, dtype=xp.int8, copy=False),
                lambda: xp.asarray(values, dtype=xp.int8, copy=False)):  # fmt: skip
        with pytest.raises(ValueError, match="copy"):
            bad()


def test_other_ways_to_make_arrays() -> None:
    assert xp.arange(3).dtype == xp.int64 and xp.arange(3.0).dtype == xp.float32
    assert xp.arange(1, 7, 2, dtype=xp.float64).tolist() == [1.0, 3.0, 5.0]
    same(xp.linspace(0, 1, 5), np.linspace(0, 1, 5, dtype="f4"))
    same(xp.linspace(0, 1, num=4, endpoint=False, dtype=xp.float64), np.linspace(0, 1, 4, endpoint=False))
    same(xp.eye(2, 3, k=1), np.eye(2, 3, 1, "f4"))
    same(xp.zeros((2, 0)), np.zeros((2, 0), "f4"))
    same(xp.ones(2, dtype=xp.bool), np.ones(2, bool))
    assert xp.empty((2, 3), device="cpu").shape == (2, 3)
    assert xp.from_dlpack(np.ones(2)).tolist() == [1.0, 1.0]
    assert xp.asarray(xp.asarray(True) | False).dtype == xp.bool


def test_astype_copies_unless_told_not_to() -> None:
    x = xp.ones(2)
    assert xp.astype(x, xp.float32) is not x and xp.astype(x, xp.float32, copy=False) is x
    assert xp.astype(x, xp.bool, device="cpu").dtype == xp.bool


# -- inspection


def test_the_namespace_describes_itself() -> None:
    info = xp.__array_namespace_info__()
    assert info.default_device() == "cpu" and "cpu" in info.devices()
    assert info.capabilities() == {"boolean indexing": True, "data-dependent shapes": True, "max dimensions": 64}
    assert info.default_dtypes()["real floating"] == xp.float32 and info.default_dtypes()["indexing"] == xp.int64
    assert set(info.dtypes(kind="signed integer")) == {"int8", "int16", "int32", "int64"}
    assert set(info.dtypes(kind=("bool", "real floating"), device="cpu")) == {"bool", "float32", "float64"}
    assert len(info.dtypes()) == 13
    with pytest.raises(ConfigError, match="tpu"):
        info.dtypes(device="tpu")


def test_dtypes_are_described() -> None:
    f = xp.finfo(xp.float32)
    assert (f.bits, f.eps, f.dtype, f.smallest_normal) == (32, 2.0**-23, xp.float32, 2.0**-126)
    assert xp.finfo(xp.complex128).max == xp.finfo(xp.ones(1, dtype=xp.float64)).max
    assert (xp.iinfo(xp.uint8).max, xp.iinfo(xp.int16).min, xp.iinfo(xp.int32).bits) == (255, -32768, 32)
    assert xp.can_cast(xp.int8, xp.int16) and not xp.can_cast(xp.ones(1), xp.int64)
    assert xp.isdtype(xp.uint8, ("unsigned integer", xp.bool)) and not xp.isdtype(xp.float32, "integral")
    assert xp.result_type(xp.int8, 3, xp.float32) == xp.float32


# -- subscripts


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_subscripts_of_the_standard(data: Any) -> None:
    shape = data.draw(hnp.array_shapes(min_dims=0, max_dims=3, max_side=4))
    values = np.arange(float(np.prod(shape, dtype=int))).reshape(shape)
    x = Tensor(values)
    key = data.draw(st.one_of(hnp.basic_indices(shape, allow_newaxis=True), hnp.arrays(bool, shape)))
    np.testing.assert_array_equal(x[Tensor(key) if isinstance(key, np.ndarray) else key].asnumpy(), values[key])


def test_everything_of_it_keeps_the_tape() -> None:
    x = xp.asarray([[1.0, 2.0], [3.0, 4.0]])
    x.attach_grad()
    with autograd.record():
        n = x.__array_namespace__()
        out = n.sum(n.linalg.inv(x) * n.take(n.exp(x), n.asarray([1, 0]), axis=0))
    out.backward()
    assert x.grad is not None and x.grad.asnumpy().all()


@pytest.mark.parametrize(
    ("use", "error", "words"),
    [
        (lambda: xp.take(xp.ones((2, 2)), xp.asarray([0])), ShapeError, "axis="),
        (lambda: xp.nonzero(xp.asarray(1.0)), ShapeError, "without axes"),
        (lambda: xp.reshape(xp.ones((2, 3)).T, (6,), copy=False), ValueError, "copy"),
    ],
)
def test_what_the_standard_forbids_is_refused(use: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        use()
