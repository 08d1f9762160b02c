"""Each function of `shoal.np` gives what NumPy's of that name gives: values, shape and dtype."""

from pathlib import Path
from typing import Any

import numpy as onp
import pytest

from shoal import autograd, func, np
from shoal.errors import ConfigError, ShapeError
from shoal.ops.tensor import Tensor

R = onp.random.default_rng(5)
A = R.standard_normal((3, 4))
B = R.standard_normal((3, 4))
V, W = onp.array([3.0, 1.0, 2.0, 1.0]), onp.array([0.5, -1.0, 2.0])
I, J = onp.array([[5, 3, 0], [2, 7, 4]]), onp.array([2, 3, 6])  # noqa: E741
S = onp.array([-7, 3, 100], onp.int8)
M = A > 0
C3 = R.standard_normal((2, 3, 4))
ODD = onp.array([onp.nan, onp.inf, -onp.inf, 0.0, -0.0, 1.5])

CALLS: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = [
    # element-wise
    ("positive", (A,), {}), ("copysign", (A, B), {}), ("signbit", (ODD,), {}), ("nextafter", (A, B), {}),
    ("spacing", (A,), {}), ("heaviside", (A, B), {}), ("fmod", (A, B), {}), ("fmax", (ODD, 1.0), {}),
    ("fmin", (ODD, 1.0), {}), ("logaddexp2", (A, B), {}), ("ldexp", (W, J), {}), ("frexp", (A,), {}),
    ("modf", (A,), {}), ("deg2rad", (A,), {}), ("degrees", (A,), {}), ("radians", (A,), {}), ("rad2deg", (A,), {}),
    ("left_shift", (I, 2), {}), ("right_shift", (I, J), {}), ("bitwise_count", (I,), {}), ("gcd", (I, J), {}),
    ("lcm", (I, J), {}), ("divmod", (A, B), {}), ("divmod", (I, J), {}), ("fabs", (I,), {}), ("fabs", (A,), {}),
    ("float_power", (I, 2), {}), ("fix", (A,), {}), ("isposinf", (ODD,), {}), ("isneginf", (ODD,), {}),
    ("clip", (A, -0.5, 0.5), {}), ("clip", (A, None, B), {}), ("clip", (A,), {"min": -0.1, "max": B}),
    ("clip", (I, 1, 4), {}), ("nan_to_num", (ODD, True, 1.0, 2.0, 3.0), {}), ("nan_to_num", (I,), {}),
    ("pow", (A, 2), {}),
    ("round", (I,), {}), ("round", (A, 2), {}), ("isclose", (ODD, ODD), {"equal_nan": True}), ("acos", (A / 9,), {}),
    ("bitwise_not", (I,), {}), ("bitwise_invert", (M,), {}), ("bitwise_left_shift", (I, 1), {}), ("atan2", (A, B), {}),
    ("where", (M, A, B), {}), ("sign", (I,), {}), ("abs", (S,), {}), ("negative", (S,), {}), ("square", (S,), {}),
    # reductions
    ("sum", (A,), {}), ("sum", (A, 1), {"keepdims": True}), ("sum", (S,), {}), ("sum", (S,), {"dtype": onp.int8}),
    ("sum", (A, 0), {"where": M, "initial": 2.0}), ("sum", (I, (0, 1)), {"dtype": "float32"}), ("prod", (I, 0), {}),
    ("prod", (A, 1), {"where": M, "initial": 3.0}), ("prod", (S,), {"dtype": "int16"}), ("mean", (A, 0), {}),
    ("mean", (I,), {}), ("mean", (I, 1), {"dtype": "float32"}), ("mean", (A, 1), {"where": M, "keepdims": True}),
    ("mean", (I,), {"where": I > 2}), ("var", (A, 0), {"ddof": 1}), ("var", (A,), {"correction": 0.5}),
    ("var", (A,), {"where": M, "ddof": 1}), ("std", (A, 1), {"where": A > -1.0}), ("std", (A, 1), {"correction": 1}),
    ("max", (A, 0), {}), ("max", (A, 1), {"initial": 0.5, "where": M}), ("min", (I, 0), {"initial": 1}),
    ("max", (onp.ones((0, 3)), 0), {"initial": 2.0}), ("amax", (A,), {}), ("any", (M, 0), {"where": B > 0}),
    ("all", (M, 1), {"where": B > 0, "keepdims": True}), ("count_nonzero", (I,), {}), ("count_nonzero", (M, 0), {}),
    ("average", (A,), {}), ("average", (A, 1), {"weights": V}), ("average", (I, 0), {"weights": [1.0, 3.0]}),
    ("average", (A, 0), {"weights": B * B, "returned": True}), ("ptp", (A, 1), {"keepdims": True}),
    # shapes
    ("reshape", (A, (2, 6)), {}), ("reshape", (A, (-1, 2), "F"), {}), ("reshape", (A, 12), {"copy": True}),
    ("ravel", (A,), {}), ("ravel", (A, "F"), {}), ("rollaxis", (C3, 2), {}), ("rollaxis", (C3, 0, 3), {}),
    ("broadcast_arrays", (A, V), {}), ("repeat", (A, 2, 0), {}), ("repeat", (A, [1, 0, 2], 0), {}),
    ("repeat", (W, [1, 0, 2]), {}), ("fliplr", (A,), {}), ("flipud", (A,), {}), ("atleast_1d", (onp.array(2.0), A), {}),
    ("atleast_2d", (W, A), {}), ("atleast_3d", (W,), {}), ("atleast_3d", (A,), {}),
    ("atleast_3d", (onp.array(3.0),), {}),
    ("diagflat", (A,), {"k": 1}), ("diag", (W,), {"k": -1}), ("diag", (A,), {"k": 1}),
    ("ascontiguousarray", (A.T,), {}), ("swapaxes", (C3, 0, 2), {}), ("moveaxis", (C3, 0, -1), {}),
    ("roll", (A, 1, 1), {}), ("tile", (A, (2, 1, 2)), {}),
    ("expand_dims", (A, (0, 2)), {}), ("squeeze", (A[None],), {}), ("tril", (A,), {"k": 1}), ("triu", (A,), {}),
    ("permute_dims", (C3, (1, 0, 2)), {}), ("matrix_transpose", (C3,), {}), ("rot90", (A, 3), {}),
    # joining
    ("concatenate", ((A, B),), {"axis": 1}), ("concatenate", ((A, W),), {"axis": None}),
    ("concatenate", ((A, I[:, :1].T.repeat(4, 1).reshape(2, 4)),), {}), ("concat", ((A, B),), {"dtype": "float32"}),
    ("vstack", ((W, W),), {}), ("hstack", ((1.0, W),), {}), ("dstack", ((A, B),), {}), ("column_stack", ((W, A),), {}),
    ("block", ([[A, B], [B, A]],), {}), ("block", ([W, 1.0],), {}), ("array_split", (A, 3, 1), {}),
    ("split", (A, 2, 1), {}), ("hsplit", (A, 2), {}), ("vsplit", (A, 3), {}), ("dsplit", (C3, [1, 3]), {}),
    ("hsplit", (V, 2), {}), ("unstack", (A,), {"axis": 1}), ("stack", ((A, B),), {"axis": -1}),
    ("pad", (A, ((1, 0), (2, 3)), "symmetric"), {}), ("pad", (A, 2, "wrap"), {}), ("pad", (W, (2, 1), "reflect"), {}),
    ("pad", (A, 1), {"constant_values": ((1, 2), (3, 4))}), ("pad", (A, (0, 1)), {"constant_values": (5, 6)}),
    ("append", (A, B), {"axis": 0}), ("append", (W, 2.0), {}), ("delete", (A, 1, 1), {}),
    ("delete", (A, [0, -1], 1), {}), ("delete", (A, slice(0, 4, 2), 1), {}), ("delete", (A, 3), {}),
    ("insert", (W, 1, 9.0), {}),
    ("insert", (A, 1, V, 0), {}), ("insert", (A, [0, 2], 7.0, 1), {}), ("insert", (A, 2, A[:2], 0), {}),
    ("insert", (W, [1, 1, 3], [7.0, 8.0, 9.0]), {}), ("insert", (A, -1, [1.0, 2.0, 3.0], 1), {}),
    ("resize", (W, (2, 4)), {}), ("resize", (A, 5), {}), ("trim_zeros", (onp.array([0.0, 0, 1, 0, 2, 0]),), {}),
    ("trim_zeros", (onp.array([0.0, 1, 0]), "f"), {}), ("trim_zeros", (onp.zeros(3),), {}),
    # searching, choosing
    ("nonzero", (I,), {}), ("flatnonzero", (M,), {}), ("argwhere", (M,), {}), ("extract", (M, A), {}),
    ("compress", ([True, False, True], A, 0), {}), ("compress", (M.ravel(), A), {}), ("unravel_index", (J, (3, 4)), {}),
    ("choose", (onp.array([0, 1, 1]), [W, W * 2]), {}), ("choose", (J, [W, W * 2]), {"mode": "wrap"}),
    ("choose", (J - 3, [W, W * 2, W * 3]), {"mode": "clip"}), ("select", ([M, B > 0], [A, B], 7.0), {}),
    ("ravel_multi_index", (([0, 1], [2, 3]), (3, 4)), {}), ("unique_values", (V,), {}), ("unique_counts", (I,), {}),
    ("unique_inverse", (I,), {}), ("unique_all", (V,), {}), ("take_along_axis", (A, A.argsort(1), 1), {}),
    ("argmax", (A, 1), {"keepdims": True}), ("argmin", (A,), {}), ("take", (A, [0, 2], 1), {}),
    ("take", (A, [-1, 13]), {"mode": "wrap"}), ("take", (A, [-1, 13]), {"mode": "clip"}),
    # making
    ("zeros_like", (A,), {"dtype": "int16"}), ("ones_like", (A,), {"shape": (2,)}), ("full_like", (A, 3), {}),
    ("full_like", (I, 2.5), {"dtype": "float64"}), ("meshgrid", (W, V), {"indexing": "ij"}),
    ("meshgrid", (W, V), {"sparse": True}), ("indices", ((2, 3),), {}), ("indices", ((2, 3),), {"sparse": True}),
    ("tril_indices", (3,), {"k": 1}), ("triu_indices", (3, 1, 4), {}), ("tril_indices_from", (A,), {}),
    ("triu_indices_from", (A,), {"k": 1}), ("diag_indices", (3,), {}), ("diag_indices_from", (A[:, :3],), {}),
    ("ix_", ([0, 2], [1, 3]), {}), ("asarray_chkfinite", (A,), {}), ("fromiter", (range(3), "int64"), {}),
    ("frombuffer", (b"\x01\x02\x03\x04", "uint8"), {"offset": 1}),
    # polynomials
    ("convolve", (V, W), {}), ("convolve", (W, V, "same"), {}), ("convolve", (V, W, "valid"), {}),
    ("correlate", (V, W), {}), ("correlate", (V, W, "full"), {}), ("correlate", (V, W, "same"), {}),
    ("correlate", (W, V), {}), ("correlate", (W, V, "full"), {}), ("correlate", (W, V, "same"), {}),
    ("convolve", (V, onp.array([1.0, 2.0]), "same"), {}), ("polyval", (W, V), {}), ("polyadd", (W, V), {}),
    ("polysub", (V, W), {}), ("polymul", (W, V), {}), ("polyder", (V,), {}), ("polyder", (V, 2), {}),
    ("polyint", (W,), {}), ("polyint", (W,), {"m": 2, "k": 0.0}), ("poly", (W,), {}), ("roots", (W,), {}),
    ("polyfit", (V + onp.arange(4), B[0], 2), {}), ("vander", (W,), {}), ("kron", (W, V), {}),
    # about arrays
    ("shape", (A,), {}), ("ndim", (A,), {}), ("size", (A,), {}), ("size", (A, 1), {}), ("array_equal", (A, B), {}),
    ("array_equal", (ODD, ODD), {"equal_nan": True}), ("array_equiv", (W, W[None]), {}), ("allclose", (A, A), {}),
    ("can_cast", (I, "int8"), {}), ("can_cast", ("float32", "float16", "same_kind"), {}), ("isscalar", (3.0,), {}),
    ("promote_types", ("int8", "uint8"), {}), ("result_type", (A, "float32", 3), {}), ("min_scalar_type", (300,), {}),
    ("issubdtype", ("float32", onp.floating), {}), ("isdtype", (onp.dtype("int8"), "integral"), {}),
    ("broadcast_shapes", ((3, 1), (4,)), {}), ("array2string", (A,), {"precision": 2}),
    ("array_str", (A,), {}),
]  # fmt: skip


if onp.lib.NumpyVersion(onp.__version__) < "2.1.0":  # these came with it
    CALLS = [c for c in CALLS if c[0] != "unstack" and "copy" not in c[2] and not (c[0] == "clip" and "min" in c[2])]


def wrapped(x: Any) -> Any:
    if isinstance(x, (list, tuple)):
        return type(x)(wrapped(v) for v in x)
    return Tensor(x.copy()) if isinstance(x, onp.ndarray) else x


def check(found: Any, expected: Any) -> None:
    if isinstance(expected, onp.ndarray | onp.generic) and not isinstance(found, bool | int | onp.dtype):
        assert isinstance(found, Tensor)
        assert (found.shape, found.dtype) == (expected.shape, expected.dtype)
        onp.testing.assert_allclose(found.asnumpy(), expected, rtol=1e-12, atol=1e-12)
    elif isinstance(expected, tuple | list) and not isinstance(expected, str):
        assert len(found) == len(expected)
        for a, b in zip(found, expected, strict=True):
            check(a, b)
    else:
        assert found == expected


def of_numpy(name: str) -> Any:
    """NumPy's function; ``fix``, which NumPy 2.5 has deprecated, is ``trunc``."""
    return onp.trunc if name == "fix" else getattr(onp, name, None) or getattr(onp.linalg, name)


def ids() -> list[str]:
    return [f"{name}-{i}" for i, (name, _, _) in enumerate(CALLS)]


@pytest.mark.parametrize(("name", "args", "options"), CALLS, ids=ids())
def test_a_function_gives_what_numpy_gives(name: str, args: Any, options: Any) -> None:
    theirs = of_numpy(name)
    check(getattr(np, name)(*wrapped(args), **{k: wrapped(v) for k, v in options.items()}), theirs(*args, **options))


@pytest.mark.parametrize(
    "write",
    [
        lambda np_, x, m, v: np_.copyto(x, v, where=m),
        lambda np_, x, m, v: np_.place(x, m, v[0, :3]),
        lambda np_, x, m, v: np_.putmask(x, m, v),
        lambda np_, x, m, v: np_.putmask(x, m, v[0, :3]),
        lambda np_, x, m, v: np_.put(x, [0, -1, 5], v[0, :2]),
        lambda np_, x, m, v: np_.fill_diagonal(x, v[0, :2]),
        lambda np_, x, m, v: np_.fill_diagonal(x, 3.0, wrap=True),
    ],
)
@pytest.mark.parametrize("shape", [(3, 4), (7, 2), (4, 4)])
def test_functions_that_write_write_what_numpys_write(write: Any, shape: tuple[int, int]) -> None:
    x, v = R.standard_normal(shape), R.standard_normal(shape) if shape[1] > 2 else R.standard_normal((7, 2))
    if v.shape[1] < 3:
        v = onp.concatenate([v, v], axis=1) if write.__code__.co_consts and 3 in write.__code__.co_consts else v
    if v.shape != shape and v.shape[0] == shape[0]:
        pytest.skip("the values do not broadcast to this shape")
    ours, mask = Tensor(x.copy()), x > 0
    write(np, ours, Tensor(mask), Tensor(v))
    theirs = x.copy()
    write(onp, theirs, mask, v)
    onp.testing.assert_array_equal(ours.asnumpy(), theirs)


def test_lists_and_numbers_are_taken_as_float32() -> None:
    assert np.sum([1, 2]).item() == 3.0 and np.sum([1, 2]).dtype == onp.float32
    assert np.concatenate([[1.0], [2.0]]).tolist() == [1.0, 2.0]
    assert np.mean([[1.0, 3.0]], axis=1).tolist() == [2.0]
    assert np.max([1.0, 5.0]).item() == 5.0


def test_piecewise_and_fromfunction_call_their_functions() -> None:
    x = Tensor(A)
    functions = [lambda v: -v, lambda v: v * 2, 5.0]
    found = np.piecewise(x, [x < 0, x > 1], functions)
    onp.testing.assert_array_equal(found.asnumpy(), onp.piecewise(A, [A < 0, A > 1], functions))
    assert np.fromfunction(lambda i, j: i + j * 2, (2, 3)).tolist() == [[0.0, 2.0, 4.0], [1.0, 3.0, 5.0]]


def test_windows_and_grids_are_numpys_in_float32() -> None:
    for name in ("bartlett", "blackman", "hamming", "hanning"):
        onp.testing.assert_allclose(getattr(np, name)(7).asnumpy(), getattr(onp, name)(7), atol=1e-7)
    onp.testing.assert_allclose(np.kaiser(7, 3.0).asnumpy(), onp.kaiser(7, 3.0), rtol=1e-6)
    onp.testing.assert_allclose(np.geomspace(1, 8, 4).asnumpy(), [1, 2, 4, 8], rtol=1e-6)


def test_shared_memory_is_seen() -> None:
    x = Tensor(A)
    assert np.shares_memory(x, x.T) and np.may_share_memory(x, x[1:]) and not np.shares_memory(x, x.copy())


def test_dtypes_are_described() -> None:
    assert np.finfo("float32").eps == onp.finfo("float32").eps and np.iinfo("int8").max == 127
    assert float(np.finfo(np.bfloat16).eps) == 2.0**-7 and np.finfo(np.ones(2, dtype="float16")).bits == 16
    assert np.isdtype(np.bfloat16, "real floating") and np.isdtype(np.bfloat16, ("bool", "numeric"))
    assert not np.isdtype(np.bfloat16, "integral") and np.isdtype(np.bfloat16, np.bfloat16)
    assert np.issubdtype(np.bfloat16, onp.floating) and not np.issubdtype(np.bfloat16, onp.integer)


@pytest.mark.parametrize(
    ("use", "error", "words"),
    [
        (lambda: np.max(np.ones(3), where=np.ones(3) > 0), ShapeError, "initial="),
        (lambda: np.reshape(np.ones(4), (2, 2), order="K"), ConfigError, "'K'"),
        (lambda: np.meshgrid(np.ones(2), indexing="yx"), ConfigError, "'yx'"),
        (lambda: np.convolve(np.ones((2, 2)), np.ones(2)), ShapeError, r"\(2, 2\)"),
        (lambda: np.convolve(np.ones(2), np.ones(2), "all"), ConfigError, "'all'"),
        (lambda: np.choose(np.array([0, 5], "int64"), [np.ones(2)] * 2), IndexError, "0 to 5 among 2"),
        (lambda: np.select([np.ones(2) > 0], []), ShapeError, "1 conditions but 0"),
        (lambda: np.resize(np.ones(0), 3), ShapeError, "without elements"),
        (lambda: np.asarray_chkfinite(np.array([onp.nan])), ValueError, "not a number"),
    ],
)
def test_what_does_not_fit_is_explained(use: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        use()


@pytest.mark.parametrize("name", ["mgrid", "ogrid"])
def test_grids_in_brackets_are_numpys(name: str) -> None:
    ours, theirs = getattr(np, name), getattr(onp, name)
    for key in (onp.s_[0:3], onp.s_[0:3, 1:7:2], onp.s_[0:1:5j]):
        found, expected = ours[key], theirs[key]
        if isinstance(found, Tensor):
            found, expected = [found], [expected]
        for a, b in zip(found, expected, strict=True):
            onp.testing.assert_allclose(a.asnumpy(), b)


def test_joins_in_brackets_are_numpys() -> None:
    w = Tensor(W)
    onp.testing.assert_allclose(np.r_[w, 0, w].asnumpy(), onp.r_[W, 0, W])
    onp.testing.assert_allclose(np.r_[1:4, 0].asnumpy(), onp.r_[1:4, 0])
    onp.testing.assert_allclose(np.c_[w, w].asnumpy(), onp.c_[W, W])
    assert np.s_[1:2] == onp.s_[1:2] and list(np.ndindex(1, 2)) == [(0, 0), (0, 1)]
    assert list(np.ndenumerate(w)) == list(onp.ndenumerate(W))


def test_elements_are_put_along_an_axis_with_gradients() -> None:
    x, v = Tensor(A.copy()), Tensor(-onp.ones((3, 1)))
    v.attach_grad()
    theirs = A.copy()
    onp.put_along_axis(theirs, A.argmax(1)[:, None], -1.0, 1)
    with autograd.record():
        y = x * 1.0
        np.put_along_axis(y, np.argmax(x, axis=1, keepdims=True), v, 1)
        y.sum().backward()
    onp.testing.assert_array_equal(y.asnumpy(), theirs)
    assert v.grad is not None and v.grad.tolist() == [[1.0]] * 3


@pytest.mark.parametrize(
    ("u", "v"), [([1.0, 5.0, 6.0, 1.0], [1.0, 2.0]), ([2.0, 0.0, 1.0], [1.0, 0.0]), ([1.0], [1.0, 1.0])]
)
def test_polynomials_divide(u: Any, v: Any) -> None:
    check(np.polydiv(Tensor(onp.array(u)), Tensor(onp.array(v))), onp.polydiv(onp.array(u), onp.array(v)))


def test_histograms_over_several_axes_and_bits_are_numpys() -> None:
    x, y = A.ravel(), B.ravel()
    check(np.histogram2d(Tensor(x), Tensor(y), 3), onp.histogram2d(x, y, 3))
    check(np.histogramdd(Tensor(A), 2)[0], onp.histogramdd(A, 2)[0])
    bits = onp.array([1, 0, 1, 1, 0, 0, 0, 1, 1], onp.uint8)
    check(np.packbits(Tensor(bits)), onp.packbits(bits))
    check(np.unpackbits(Tensor(onp.packbits(bits)), count=9), bits)


# -- what is left out

LEFT_OUT = {
    "text, dates, records and objects are no numbers": """
        bytes_ char character str_ strings object_ void datetime64 timedelta64 datetime_as_string datetime_data
        busday_count busday_offset busdaycalendar is_busday isnat rec recarray record
    """,
    "dtypes of C and of more than 64 bits differ between machines": """
        byte ubyte short ushort intc uintc uintp long ulong longlong ulonglong longdouble clongdouble complex256
        float128 cdouble csingle
    """,
    "tables of dtypes: ask for the dtype itself": """
        ScalarType sctypeDict typecodes typename mintypecode common_type dtypes False_ True_ flexible
        little_endian
    """,
    "files: `numpy.save(file, x)` takes tensors, and `shoal.npx` and blocks save safetensors": """
        load save savez savez_compressed savetxt loadtxt genfromtxt fromfile fromregex fromstring memmap
    """,
    "classes of arrays besides the one": "matrix asmatrix bmat ma poly1d polynomial flatiter broadcast",
    "loops in Python: `autograd.vmap` and operators do it": """
        vectorize frompyfunc apply_along_axis apply_over_axes nditer nested_iters
    """,
    "NumPy's own state and buffers: set them there, tensors obey": """
        seterr geterr seterrcall geterrcall setbufsize getbufsize
    """,
    "memory order is the library's matter": "asfortranarray isfortran require",
    "complex numbers that may turn out real: a dtype must not depend on values": "real_if_close emath sort_complex",
    "text of single numbers": "base_repr binary_repr format_float_positional format_float_scientific",
    "signals with jumps have no useful gradient": "unwrap",
    "special functions are in npx": "i0 sinc",
    "about NumPy itself": """
        core ctypeslib exceptions f2py get_include info lib show_config show_runtime test testing typing ufunc
    """,
    "names that newer versions dropped": "in1d trapz chararray",
}


def test_what_numpy_has_and_we_do_not_is_listed_with_a_reason() -> None:
    listed = {name for names in LEFT_OUT.values() for name in names.split()}
    public = {n for n in dir(onp) if not n.startswith("_")}
    assert public - set(np.__all__) - listed == set()
    assert listed & set(np.__all__) <= {"i0", "sinc"}


def test_the_reasons_stand_in_the_documentation() -> None:
    text = (Path(__file__).parents[2] / "docs" / "numpy.md").read_text()
    for reason, names in LEFT_OUT.items():
        assert reason in text
        assert all(f"`{name}`" in text for name in names.split())


# -- gradients

NOT_RECORDED = {
    "trim_zeros",
    "unique_values",
    "unique_counts",
    "unique_inverse",
    "unique_all",
    "nextafter",
    "spacing",
    "roots",
    "indices",
    "fromiter",
    "frombuffer",
    "isclose",
}
FLAT = {"heaviside", "fix", "round", "full_like", "ones_like", "zeros_like", "sign", "float_power"}


def floats(x: Any) -> list[Any]:
    """The float tensors or arrays in an answer."""
    if isinstance(x, list | tuple):
        return [f for part in x for f in floats(part)]
    return [x] if getattr(getattr(x, "dtype", None), "kind", "") == "f" else []


def moved(x: Any, step: float) -> Any:
    """Arguments with all float arrays moved by a step, in a direction that depends on their size."""
    if isinstance(x, list | tuple) and not all(isinstance(v, int | float) for v in x):
        return type(x)(moved(v, step) for v in x)
    if isinstance(x, onp.ndarray) and x.dtype.kind == "f":
        return x + step * onp.cos(onp.arange(x.size)).reshape(x.shape)
    return x


@pytest.mark.parametrize(
    ("name", "args", "options"),
    [
        pytest.param(*c, id=i)
        for c, i in zip(CALLS, ids(), strict=True)
        if floats(list(c[1])) and c[0] not in NOT_RECORDED
    ],
)
def test_a_function_of_floats_has_the_slope_as_its_gradient(name: str, args: Any, options: Any) -> None:
    theirs = of_numpy(name)
    if not floats(theirs(*args, **options)) or any(v is ODD for v in args) or "dtype" in options:
        return
    tensors = wrapped(args)
    variables = [t for t in floats(list(tensors)) if isinstance(t, Tensor)]
    for v in variables:
        v.attach_grad()
    with autograd.record():
        out = floats(getattr(np, name)(*tensors, **{k: wrapped(v) for k, v in options.items()}))
        total = sum(((o * Tensor(onp.sin(1.0 + onp.arange(o.size)).reshape(o.shape))).sum() for o in out), start=0.0)
    slope = 0.0
    if isinstance(total, Tensor) and total.node is not None:
        total.backward()
        directions = (onp.cos(onp.arange(v.size)).reshape(v.shape) for v in variables)
        slope = sum(
            float((v.grad.asnumpy() * d).sum())
            for v, d in zip(variables, directions, strict=True)
            if v.grad is not None
        )
    else:
        assert name in FLAT

    def value(step: float) -> float:
        found = floats(theirs(*moved(args, step), **options))
        return sum(float((o * onp.sin(1.0 + onp.arange(o.size)).reshape(o.shape)).sum()) for o in found)

    assert slope == pytest.approx((value(1e-6) - value(-1e-6)) / 2e-6, rel=1e-5, abs=1e-6)


def outcome(namespace: Any, name: str, x: Any, axis: Any) -> Any:
    try:
        return onp.asarray(getattr(namespace, name)(x, axis=axis)).tolist()
    except (onp.exceptions.AxisError, ShapeError):
        return "no such axis"


@pytest.mark.parametrize(
    "name",
    ["sum", "mean", "var", "std", "prod", "max", "any", "nansum", "nanmean", "nanvar", "median", "count_nonzero"],
)
@pytest.mark.parametrize("shape", [(), (64, 3)])
def test_axes_that_do_not_exist_are_numpys(name: str, shape: tuple[int, ...]) -> None:
    x = onp.full(shape, 2.0)
    for axis in (0, -1, 2, -3, (0,), (2,), (0, 2), ()):
        expected = outcome(onp, name, x, axis)
        assert outcome(np, name, np.array(x), axis) == expected, axis


def test_a_sum_over_axis_0_of_a_0d_tensor_has_a_gradient_and_can_be_mapped() -> None:
    x = np.array(2.0)
    x.attach_grad()
    with autograd.record():
        (np.sum(x, axis=0) * 3.0).backward()
    assert x.grad.tolist() == 3.0
    assert func.vmap(lambda v: v.sum(axis=-1))(np.array([1.0, 2.0])).tolist() == [1.0, 2.0]


def test_an_axis_of_an_example_that_would_be_the_batchs_is_refused() -> None:
    with pytest.raises(ShapeError, match="axis -2 of an array with 1 axes"):
        func.vmap(lambda v: v.sum(axis=-2))(np.ones((2, 3)))
