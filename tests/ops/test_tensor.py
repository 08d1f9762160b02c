"""Tensors as Python objects: operators, conversions, indexing, writing, errors."""

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from shoal.errors import ConfigError, DTypeError, ShapeError
from shoal.ops.tensor import Tensor, array

A = np.array([[1.0, -2.0, 3.0], [4.0, 5.0, -6.0]])
B = np.array([2.0, -1.0, 4.0])
M, J = np.array([[5, 3], [2, 7]]), np.array([2, 3])

BINARY: dict[str, Callable[[Any, Any], Any]] = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "/": lambda a, b: a / b,
    "//": lambda a, b: a // b,
    "%": lambda a, b: a % b,
    "==": lambda a, b: a == b,
    "!=": lambda a, b: a != b,
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
    ">": lambda a, b: a > b,
    ">=": lambda a, b: a >= b,
}


@pytest.mark.parametrize("name", BINARY)
def test_operators_do_what_numpys_do_on_either_side_of_arrays_and_numbers(name: str) -> None:
    f = BINARY[name]
    for left, right in ((A, B), (A, 2.0), (2.0, A), (A, np.float64(2.0)), (np.float64(2.0), A)):
        expected = f(left, right)
        wrapped = [(Tensor(left), right), (left, Tensor(np.asarray(right)))]
        wrapped += [(Tensor(np.asarray(left)), Tensor(np.asarray(right)))]
        for a, b in wrapped:
            out = f(a, b)
            assert type(out) is Tensor and out.dtype == expected.dtype
            np.testing.assert_array_equal(out.asnumpy(), expected)


@pytest.mark.parametrize("f", [lambda a, b: a & b, lambda a, b: a | b, lambda a, b: a ^ b, lambda a, b: a**b])
def test_operators_of_integers(f: Callable[[Any, Any], Any]) -> None:
    np.testing.assert_array_equal(f(Tensor(M), Tensor(J)).asnumpy(), f(M, J))
    np.testing.assert_array_equal(f(3, Tensor(J)).asnumpy(), f(3, J))


def test_unary_operators() -> None:
    assert (-Tensor(B)).tolist() == [-2.0, 1.0, -4.0]
    assert (+Tensor(B)).tolist() == B.tolist()
    assert abs(Tensor(B)).tolist() == [2.0, 1.0, 4.0]
    assert (~Tensor(B > 0)).tolist() == [False, True, False]
    assert (~Tensor(J)).tolist() == [-3, -4]


def test_matmul_on_either_side_of_an_array() -> None:
    np.testing.assert_array_equal((Tensor(A) @ B).asnumpy(), A @ B)
    out = A @ Tensor(B)
    assert type(out) is Tensor
    np.testing.assert_array_equal(out.asnumpy(), A @ B)


@pytest.mark.parametrize("number", [2, 2.5, True])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_python_numbers_do_not_widen(number: Any, dtype: str) -> None:
    x = array([1.0, 2.0], dtype=dtype)
    assert {(x + number).dtype, (number * x).dtype, (x / number).dtype, (number - x).dtype} == {np.dtype(dtype)}


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("sum", (0,)), ("mean", (1,)), ("prod", ()), ("max", (0,)), ("min", (-1,)), ("argmax", (1,)),
        ("argmin", ()), ("cumsum", (0,)), ("any", (0,)), ("all", ()), ("reshape", (3, 2)), ("reshape", ((-1, 2),)),
        ("transpose", ()), ("transpose", (1, 0)), ("transpose", ((1, 0),)), ("swapaxes", (0, 1)), ("flatten", ()),
        ("ravel", ()), ("squeeze", ()), ("repeat", (2, 1)), ("astype", ("int32",)), ("copy", ()), ("clip", (-1.0, 2.0)),
        ("dot", (B,)), ("take", (J - 2, 1)),
    ],
)  # fmt: skip
def test_methods_are_numpys(name: str, args: Any) -> None:
    expected = np.asarray(getattr(A, name)(*args))
    out = getattr(Tensor(A), name)(*args)
    assert (out.shape, out.dtype) == (expected.shape, expected.dtype)
    np.testing.assert_array_equal(out.asnumpy(), expected)


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("conj", ()), ("round", (1,)), ("cumprod", (0,)), ("argsort", (1,)), ("argsort", (None,)), ("diagonal", (1,)),
        ("trace", ()), ("nonzero", ()), ("compress", ([True, False], 0)),
    ],
)  # fmt: skip
def test_rarer_methods_are_numpys_too(name: str, args: Any) -> None:
    expected, found = getattr(A, name)(*args), getattr(Tensor(A), name)(*args)
    pairs = zip(found, expected, strict=True) if isinstance(expected, tuple) else [(found, np.asarray(expected))]
    for a, b in pairs:
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        np.testing.assert_array_equal(a.asnumpy(), b)


def test_methods_that_write_do_so_in_place() -> None:
    x, y = Tensor(A.copy()), A.copy()
    memory = x.data
    for v in (x, y):
        v.sort(0)
        v.put([1, -1], [8.0, 9.0])
        v.partition(1, 1)
    np.testing.assert_array_equal(memory, y)
    x.fill(2.0)
    assert memory.tolist() == [[2.0] * 3] * 2 and x.tobytes() == memory.tobytes()
    assert x.sum(dtype="float32").dtype == x.mean(0, dtype="float32").dtype == np.float32
    assert (x.real is not None, x.imag.asnumpy().any(), x.ptp().item()) == (True, False, 0.0)
    assert Tensor(J).searchsorted(Tensor(J)).tolist() == [0, 1] and Tensor(J - 2).choose([B[:2], B[1:]]).shape == (2,)
    same = Tensor(B)
    assert same.astype("float64", copy=False) is same and same.astype("float64") is not same
    assert Tensor(B).argpartition(0).asnumpy()[0] == 1


def test_every_public_method_of_an_array_is_there_or_named_here() -> None:
    left_out = [
        "base",
        "byteswap",
        "ctypes",
        "dump",
        "dumps",
        "flags",
        "flat",
        "getfield",
        "itemset",
        "newbyteorder",
        "setfield",
        "setflags",
        "strides",
        "tofile",
        "tostring",
        "view",
        "resize",
    ]  # memory and files: through asnumpy(); a tensor's size does not change
    public = {n for n in dir(np.ndarray) if not n.startswith("_")}
    assert {n for n in public if not hasattr(Tensor(A), n)} <= set(left_out)


def test_methods_that_numpy_does_not_have() -> None:
    x = Tensor(A)
    np.testing.assert_array_equal(x.abs().asnumpy(), abs(A))
    np.testing.assert_array_equal(x.exp().asnumpy(), np.exp(A))
    np.testing.assert_array_equal(x.square().asnumpy(), A * A)
    np.testing.assert_array_equal(x.abs().log().asnumpy(), np.log(abs(A)))
    np.testing.assert_array_equal(x.abs().sqrt().asnumpy(), np.sqrt(abs(A)))
    np.testing.assert_array_equal(x.expand_dims(1).asnumpy(), A[:, None])
    np.testing.assert_array_equal(x.broadcast_to((2, 2, 3)).asnumpy(), np.stack([A, A]))
    np.testing.assert_allclose(x.var(0, 1).asnumpy(), A.var(0, ddof=1))
    np.testing.assert_allclose(x.std().asnumpy(), A.std())
    assert [p.shape for p in x.split(3, 1)] == [(2, 1)] * 3


def test_describing_properties() -> None:
    x = Tensor(A)
    assert (x.shape, x.ndim, x.size, x.dtype, len(x), x.T.shape, x.device) == ((2, 3), 2, 6, A.dtype, 2, (3, 2), "cpu")
    assert repr(array([1.0, 2.5])) == "Tensor([1. , 2.5], dtype=float32)"


def test_conversions() -> None:
    x = array([[7]], dtype="int64")
    assert (x.item(), int(x), float(x), [10, 20, 30][array(1, dtype="int64")]) == (7, 7, 7.0, 20)
    assert bool(array(0.0)) is False and bool(x)
    assert np.asarray(x).tolist() == [[7]] and np.array(x, dtype="float32").dtype == np.float32
    assert np.from_dlpack(x).tolist() == [[7]]
    assert [row.tolist() for row in Tensor(A)] == A.tolist()
    assert np.exp(Tensor(B)).tolist() == np.exp(B).tolist()


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        ([True, False], "bool"),
        ([[True], [False]], "bool"),
        (True, "bool"),
        ([True, 2], "float32"),
        ([0.5, True], "float32"),
        ([array([True])], "bool"),
        ([], "float32"),
    ],
)
def test_truth_values_stay_what_they_are(values: Any, dtype: str) -> None:
    assert array(values).dtype == dtype


def test_a_mask_can_be_written_down() -> None:
    assert array([1.0, 2.0, 3.0])[array([True, False, True])].tolist() == [1.0, 3.0]


def test_asnumpy_and_array_copy_and_asarray_shares_memory() -> None:
    values = A.copy()
    x = Tensor(values)
    before = x.asnumpy()
    x += 1.0
    assert before.tolist() == A.tolist() and before.flags.writeable
    assert np.shares_memory(np.asarray(x), values)
    assert not np.shares_memory(array(values).data, values)


@pytest.mark.parametrize(
    ("use", "error"),
    [
        (lambda x: x.item(), ShapeError),
        (lambda x: float(x), ShapeError),
        (lambda x: bool(x), ValueError),
        (lambda x: len(x.sum()), TypeError),
        (lambda x: [0][x.sum()], TypeError),
        (lambda x: x.to_device("tpu"), ConfigError),
    ],
)
def test_what_has_no_meaning_is_refused(use: Callable[[Any], Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        use(Tensor(A))


def test_array_takes_float32_for_python_numbers_and_keeps_dtypes_of_arrays() -> None:
    assert array([1, 2]).dtype == np.float32 and array(3.0).dtype == np.float32
    assert array(A).dtype == np.float64 and array(Tensor(J)).dtype == J.dtype
    assert array([Tensor(B), Tensor(B)]).shape == (2, 3)
    with pytest.raises(ShapeError):
        array([[1.0], [1.0, 2.0]])
    with pytest.raises(TypeError, match="holds numbers"):
        Tensor(object())


def test_tensors_can_be_keys_although_equality_is_elementwise() -> None:
    x, y = array([1.0]), array([1.0])
    assert len({x: 1, y: 2}) == 2


def test_copies_are_independent_and_stay_variables() -> None:
    x = array([1.0])
    x.attach_grad("add")
    y = copy.deepcopy(x)
    y[0] = 5.0
    assert x.item() == 1.0 and y.grad_req == "add" and y.grad is not x.grad


# -- indexing

KEYS = [
    0, -1, slice(1, None), slice(None, None, -2), None, ..., (0, 1), (slice(None), 0), (..., 1), (None, ..., None, 0),
    [0, 1, 1], (0, [0, 2]), ([1, 0], [2, 2]), (slice(None), [2, 0]), (np.array([[1], [0]]), np.array([0, 2])),
    A > 0, (A > 0)[:, 0], (slice(None), [True, False, True]), [], np.int64(1), (np.array(1), slice(None)), (),
]  # fmt: skip


@pytest.mark.parametrize("key", KEYS, ids=lambda k: str(k).replace("\n", ""))
def test_reading_and_writing_with_every_kind_of_subscript_is_numpys(key: Any) -> None:
    out = Tensor(A)[key]
    np.testing.assert_array_equal(out.asnumpy(), A[key])
    ours, theirs = Tensor(A.copy()), A.copy()
    ours[key] = 9.0
    theirs[key] = 9.0
    np.testing.assert_array_equal(ours.asnumpy(), theirs)


def test_tensors_are_subscripts_too() -> None:
    x = Tensor(A.copy())
    np.testing.assert_array_equal(x[Tensor(np.array([1, 0]))].asnumpy(), A[[1, 0]])
    np.testing.assert_array_equal(x[x > 0].asnumpy(), A[A > 0])
    np.testing.assert_array_equal(x[:, Tensor(np.array(2))].asnumpy(), A[:, 2])
    x[x < 0] = Tensor(np.array(0.0))
    np.testing.assert_array_equal(x.asnumpy(), np.maximum(A, 0))


@pytest.mark.parametrize(
    ("key", "error", "words"),
    [
        (2, IndexError, "index 2 is out of bounds"),
        ((0, 0, 0), IndexError, "3 indices for an array with 2 axes"),
        ((..., ...), IndexError, "one ellipsis"),
        ([0.5], DTypeError, "astype('int64')"),
        (([0, 1], [0, 1, 2]), ShapeError, "(2,), (3,)"),
        ([5], IndexError, "out of bounds"),
    ],
)
def test_a_wrong_subscript_is_explained(key: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error) as caught:
        Tensor(A)[key]
    assert words in str(caught.value)


@settings(max_examples=150)
@given(st.data())
def test_any_basic_subscript_is_numpys(data: Any) -> None:
    x = np.arange(24.0).reshape(2, 3, 4)
    key = data.draw(hnp.basic_indices(x.shape, allow_newaxis=True))
    np.testing.assert_array_equal(Tensor(x)[key].asnumpy(), x[key])


# -- in place


def test_in_place_operators_write_into_the_same_memory_and_keep_the_dtype() -> None:
    x = array([1.0, 2.0])
    memory = x.data
    x += 1.0
    x *= Tensor(np.array([2.0, 3.0]))
    x -= np.float64(1.0)
    x /= 2.0
    assert x.data is memory and x.dtype == np.float32 and x.tolist() == [1.5, 4.0]


def test_an_in_place_operator_cannot_change_shape_or_kind() -> None:
    x = array([1.0, 2.0])
    with pytest.raises(ShapeError, match=r"x has shape \(2,\), the result would have \(3, 2\)"):
        x += Tensor(np.ones((3, 1)))
    n = array([1], dtype="int64")
    with pytest.raises(TypeError):
        n += 0.5


# -- errors name the operator and both sides


@pytest.mark.parametrize(
    ("use", "error", "words"),
    [
        (lambda x: x + array([1.0, 2.0]), ShapeError, ["add", "(2, 3)", "(2,)"]),
        (lambda x: x @ x, ShapeError, ["matmul", "(2, 3)", "3", "2"]),
        (lambda x: x @ 2.0, ShapeError, ["matmul", "2.0", "multiply"]),
        (lambda x: x.reshape(4, 2), ShapeError, ["reshape", "6", "(4, 2)"]),
        (lambda x: x.sum(axis=2), ShapeError, ["sum", "axis 2", "-2 to 1"]),
        (lambda x: x.sum(axis=(0, 0)), ShapeError, ["sum", "twice"]),
        (lambda x: x.transpose(0, 1, 2), ShapeError, ["transpose"]),
        (lambda x: x.squeeze(0), ShapeError, ["squeeze", "(2, 3)"]),
        (lambda x: x.broadcast_to((3, 2)), ShapeError, ["broadcast_to", "(2, 3)", "(3, 2)"]),
        (lambda x: x.split(2, 1), ShapeError, ["split", "(2, 3)", "2 equal"]),
        (lambda x: x[:0].max(0), ShapeError, ["max", "(0, 3)"]),
        (lambda x: -(x > 0), DTypeError, ["negative", "bool"]),
        (lambda x: x & x, DTypeError, ["bitwise_and", "float64"]),
    ],
)
def test_errors_name_the_operator_and_what_does_not_fit(use: Any, error: type[Exception], words: list[str]) -> None:
    with pytest.raises(error) as caught:
        use(Tensor(A))
    assert all(w in str(caught.value) for w in words), caught.value
