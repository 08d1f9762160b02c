"""Every kernel against the operator's own forward in float64: shapes, threads, memory orders, odd values."""

from typing import Any

import numpy as np
import pytest

import shoal.np
import shoal.npx
from shoal.errors import ShoalError
from shoal.ops.backend import CPU
from shoal.ops.native import compiler, pool, table
from shoal.ops.registry import OPS

assert shoal.np and shoal.npx  # imported for the operators that they register

pytestmark = pytest.mark.skipif(compiler.load("") is None, reason=f"no native code: {compiler.why_not()}")

Inputs = tuple[Any, ...]


def normal(*shape: int) -> Any:
    return np.random.default_rng(len(shape) + sum(shape)).standard_normal(shape).astype("float32")


def labels(shape: tuple[int, ...], classes: int, dtype: str = "int64") -> Any:
    return np.random.default_rng(classes).integers(0, classes, shape).astype(dtype)


ROWS = [(1, 1), (3, 5), (2, 3, 17), (5, 1000), (700, 130), (7,)]

CASES: dict[str, list[tuple[Inputs, dict[str, Any]]]] = {
    "softmax": [((normal(*s) * 5,), {"axis": -1}) for s in ROWS],
    "log_softmax": [((normal(*s) * 5,), {"axis": len(s) - 1}) for s in ROWS],
    "softmax_grad": [((normal(*s), np.abs(normal(*s))), {}) for s in ROWS],
    "softmax_cross_entropy": [((normal(*s), labels(s[:-1], s[-1], "int32")), {}) for s in ROWS],
    "softmax_cross_entropy_grad": [((normal(*s[:-1]), normal(*s), labels(s[:-1], s[-1])), {}) for s in ROWS],
    "fully_connected": [
        ((normal(3, 5), normal(4, 5), normal(4)), {}),
        ((normal(1, 1), normal(1, 1), None), {}),
        ((normal(3, 2, 6), normal(4, 6), normal(4)), {"flatten": False}),
        ((normal(3, 2, 6), normal(4, 12), normal(4)), {"flatten": True}),
        ((normal(130, 300), normal(257, 300), normal(257)), {}),
    ],
}

SIZES = [(1, 1, 1, 1), (5, 3, 4, 6), (3, 20, 33, 17)]


def lstm(time: int, batch: int, features: int, hidden: int, bias: bool = True) -> Inputs:
    """Arguments of lstm_sequence."""
    weights = 0.5 * normal(4 * hidden, features), 0.5 * normal(4 * hidden, hidden)
    biases = (normal(4 * hidden), 0.3 * normal(4 * hidden)) if bias else (None, None)
    return (normal(time, batch, features), normal(batch, hidden), 0.4 * normal(batch, hidden), *weights, *biases)


def lstm_grad(*sizes: int, bias: bool = True, heads: tuple[bool, ...] = (True, True, True), **attrs: Any) -> Inputs:
    """Arguments of lstm_sequence_grad."""
    x, h0, c0, wx, wh, bx, bh = lstm(*sizes, bias)
    y, h, c, gates, cells = OPS["lstm_sequence"].plain(CPU, x, h0, c0, wx, wh, bx, bh, None, None, **attrs)
    g = [0.7 * normal(*v.shape) if head else None for v, head in zip((y, h, c), heads, strict=True)]
    return (y, gates, cells, x, h0, c0, wx, wh, bx, bh, None, None, *g, None, None)


CASES |= {
    "lstm_sequence": [
        *[((*lstm(*s), None, None), {"reverse": back}) for s in SIZES for back in (False, True)],
        ((*lstm(2, 3, 4, 5, False), None, None), {}),
        ((*lstm(2, 3, 4, 5)[:6], None, None, None), {}),
    ],
    "lstm_sequence_grad": [
        *[(lstm_grad(*s, reverse=back), {"reverse": back}) for s in SIZES for back in (False, True)],
        (lstm_grad(4, 3, 2, 5, bias=False, heads=(True, False, False)), {}),
        (lstm_grad(4, 3, 2, 5, heads=(False, True, True)), {}),
        (lstm_grad(4, 3, 2, 5)[:13], {}),
    ],
    "sum_to": [
        ((normal(*s),), {"shape": to})
        for s, to in [((5, 7), (7,)), ((1000, 130), (130,)), ((4, 300, 65), (1, 1, 65)), ((3, 4, 5), (4, 5))]
    ],
}


def gru(time: int, batch: int, features: int, hidden: int, bx: bool = True, bh: bool = True) -> Inputs:
    """Arguments of gru_sequence."""
    weights = 0.5 * normal(3 * hidden, features), 0.5 * normal(3 * hidden, hidden)
    biases = normal(3 * hidden) if bx else None, 0.3 * normal(3 * hidden) if bh else None
    return (normal(time, batch, features), normal(batch, hidden), *weights, *biases, None)


def gru_grad(*args: Any, heads: tuple[bool, bool] = (True, True), **attrs: Any) -> Inputs:
    """Arguments of gru_sequence_grad."""
    inputs = gru(*args)
    y, h, gates = OPS["gru_sequence"].plain(CPU, *inputs, **attrs)
    g = [0.7 * normal(*v.shape) if head else None for v, head in zip((y, h), heads, strict=True)]
    return (y, gates, *inputs, *g, None)


CASES |= {
    "gru_sequence": [
        *[(gru(*s), {"reverse": back}) for s in SIZES for back in (False, True)],
        (gru(2, 3, 4, 5, False, False), {}),
        (gru(2, 3, 4, 5, False, True), {}),
        (gru(5, 20, 30, 70), {}),
    ],
    "gru_sequence_grad": [
        *[(gru_grad(*s, reverse=back), {"reverse": back}) for s in SIZES for back in (False, True)],
        (gru_grad(4, 3, 2, 5, False, False, heads=(True, False)), {}),
        (gru_grad(4, 3, 2, 5, True, False, heads=(False, True)), {}),
        (gru_grad(5, 20, 30, 70), {}),
        (gru_grad(4, 3, 2, 5)[:11], {}),
    ],
}
CASES["lstm_sequence"].append(((*lstm(5, 20, 30, 70), None, None), {}))
CASES["lstm_sequence_grad"].append((lstm_grad(5, 20, 30, 300), {}))

CASES |= {
    "standardize": [
        *[((3.0 + normal(*s),), {"axis": -1}) for s in ROWS if s[-1] > 1],
        ((normal(4, 3, 5),), {"axis": (-2, -1), "eps": 1e-2}),
    ],
    "standardize_grad": [
        *[((normal(*s), 0.9 * normal(*s), np.abs(normal(*s[:-1], 1))), {}) for s in ROWS],
        ((normal(4, 3, 5), normal(4, 3, 5), normal(4, 1, 1)), {"axis": (1, 2)}),
    ],
    "take_add": [
        ((normal(7, 3, 5), labels((7, 3), 11, "int32")), {"shape": (11, 5), "axis": 0}),
        ((normal(2, 130), labels((2,), 4)), {"shape": (4, 130), "axis": 0}),
        ((normal(500, 33), labels((500,), 3) - 3), {"shape": (3, 33), "axis": -2}),
        ((normal(9), labels((9,), 4)), {"shape": (4,), "axis": 0}),
    ],
    "dropout_mask": [
        ((np.array(words, "uint64"),), {"shape": shape, "p": p})
        for words in ([1, 2, 3, 4, 5], [2**64 - 1, 2**63, 2**40, 0, 2**64 - 1])
        for shape, p in [((1,), 0.5), ((37, 50), 0.1), ((200, 200), 0.9), ((0, 3), 0.5), ((3, 3), 1.0), ((4, 5), 0.0)]
    ],
    "gelu": [((2.0 * normal(*s),), {"approximation": a}) for s in ROWS for a in ("erf", "tanh")],
    "sigmoid": [((9.0 * normal(*s),), {}) for s in ROWS],
}

CASES |= {
    "matmul": [
        ((normal(32, 32), normal(32, 32)), {}),
        ((normal(700, 70).T, normal(300, 700).T), {}),
        ((normal(2, 3, 40, 50), normal(2, 3, 60, 50).swapaxes(-1, -2)), {}),
        ((normal(2, 1, 40, 50), normal(3, 50, 60)), {}),
        ((normal(4, 5, 64, 32), normal(32, 33)), {}),
        ((normal(4, 64, 5, 32).swapaxes(1, 2), normal(32, 33)), {}),
        ((normal(33, 64)[::-1, ::2], normal(64, 80)[::-2]), {}),
    ],
}

ALL = [pytest.param(name, *c, id=f"{name}-{i}") for name, cases in CASES.items() for i, c in enumerate(cases)]


def outputs(value: Any) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else (value,)


def known(inputs: Inputs) -> list[Any]:
    return [table.In(x.shape, x.dtype) if isinstance(x, np.ndarray) else x for x in inputs]


def wide(x: Any) -> Any:
    return x.astype("float64") if isinstance(x, np.ndarray) and x.dtype == np.float32 else x


def test_every_kernel_has_cases_and_an_operator() -> None:
    assert set(table.kernels()) == set(CASES) <= set(OPS)


@pytest.mark.parametrize(("name", "inputs", "attrs"), ALL)
def test_a_kernel_computes_what_the_operator_does(name: str, inputs: Inputs, attrs: dict[str, Any]) -> None:
    assert table.bound(name, known(inputs), attrs) is not None
    found = outputs(OPS[name].forward(CPU, *inputs, **attrs))
    right = outputs(OPS[name].plain(CPU, *map(wide, inputs), **attrs))
    single = outputs(OPS[name].plain(CPU, *inputs, **attrs))
    for f, r, s in zip(found, right, single, strict=True):
        assert f.dtype == s.dtype and f.shape == s.shape
        np.testing.assert_allclose(f, r, rtol=2e-5, atol=2e-6 * max(1.0, float(np.abs(r).max(initial=0))))


@pytest.mark.parametrize(("name", "inputs", "attrs"), ALL)
def test_the_number_of_threads_changes_no_bit(name: str, inputs: Inputs, attrs: dict[str, Any]) -> None:
    results = []
    for n in (1, 2, 3):
        with pool.limited(n):
            results.append([o.tobytes() for o in outputs(OPS[name].forward(CPU, *inputs, **attrs))])
    assert results[0] == results[1] == results[2]


def shrunk(inputs: Inputs, n: int) -> Inputs | None:
    """The inputs with one of them too small."""
    x = inputs[n]
    if not isinstance(x, np.ndarray) or not x.shape or x.shape[0] < 2 or x.dtype == np.uint64:
        return None
    return (*inputs[:n], x[1:], *inputs[n + 1 :])


@pytest.mark.parametrize(("name", "inputs", "attrs"), ALL)
def test_no_kernel_takes_arrays_that_do_not_fit_each_other(name: str, inputs: Inputs, attrs: dict[str, Any]) -> None:
    if len(inputs) == 1:
        return
    for wrong in (shrunk(inputs, n) for n in range(len(inputs))):
        if wrong is not None:
            found = table.bound(name, known(wrong), attrs)
            assert found is None or _still_fits(name, wrong)


def _still_fits(name: str, inputs: Inputs) -> bool:
    """A sequence may be shorter, a row have fewer classes, a dense layer another batch or (no bias) other units,
    a matrix other rows."""
    if name.startswith("softmax_cross_entropy"):
        return inputs[-1].ndim == 0
    if name == "matmul":
        return inputs[0].shape[-1] == inputs[1].shape[-2]
    if name == "lstm_sequence":
        return inputs[3].shape[0] == inputs[4].shape[0]
    if name == "gru_sequence":
        return inputs[2].shape[0] == inputs[3].shape[0]
    return name == "fully_connected" and (inputs[2] is None or inputs[1].shape[0] == inputs[2].shape[0])


def strided(x: Any) -> Any:
    """The same values with gaps between them, in another order of memory."""
    if not isinstance(x, np.ndarray):
        return x
    room = np.full((*x.shape[::-1], 2), 99, x.dtype)
    view = room[..., 0].T
    view[...] = x
    return view


@pytest.mark.parametrize(("name", "inputs", "attrs"), ALL)
def test_memory_order_changes_no_bit(name: str, inputs: Inputs, attrs: dict[str, Any]) -> None:
    straight = outputs(OPS[name].forward(CPU, *inputs, **attrs))
    crooked = outputs(OPS[name].forward(CPU, *map(strided, inputs), **attrs))
    assert [a.tobytes() for a in straight] == [b.tobytes() for b in crooked]


@pytest.mark.parametrize("dtype", ["float16", "float64"])
@pytest.mark.parametrize(("name", "inputs", "attrs"), ALL)
def test_other_dtypes_take_the_operators_own_forward(
    name: str, inputs: Inputs, attrs: dict[str, Any], dtype: str
) -> None:
    cast = [x.astype(dtype) if isinstance(x, np.ndarray) and x.dtype == np.float32 else x for x in inputs]
    if name == "dropout_mask":
        attrs = {**attrs, "dtype": dtype}
    assert table.bound(name, known(tuple(cast)), attrs) is None


@pytest.mark.parametrize(("name", "inputs", "attrs"), ALL)
def test_plain_switches_kernels_off(name: str, inputs: Inputs, attrs: dict[str, Any]) -> None:
    with table.plain():
        assert table.bound(name, known(inputs), attrs) is None
        found = outputs(OPS[name].forward(CPU, *inputs, **attrs))
    assert [o.tobytes() for o in found] == [o.tobytes() for o in outputs(OPS[name].plain(CPU, *inputs, **attrs))]


ODD = np.array(
    [
        [1e30, -1e30, 3.0, 0.0],
        [-np.inf, 0.0, 1.0, -np.inf],
        [-np.inf] * 4,
        [np.inf, 0.0, 1.0, 2.0],
        [np.nan, 0.0, 1.0, 2.0],
        [88.0, 89.0, -104.0, 1e-40],
        [-1e4, -1e4, -1e4, 0.0],
    ],
    "float32",
)


@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
def test_infinite_masked_and_broken_scores_give_what_numpy_gives(name: str) -> None:
    with np.errstate(all="ignore"):
        np.testing.assert_allclose(
            OPS[name].forward(CPU, ODD), OPS[name].plain(CPU, ODD), rtol=1e-5, atol=1e-6, equal_nan=True
        )


def test_infinite_masked_and_broken_scores_have_numpys_cross_entropy() -> None:
    label = np.array([0, 1, 1, 1, 1, 1, 3])
    with np.errstate(all="ignore"):
        for name, inputs in (
            ("softmax_cross_entropy", (ODD, label)),
            ("softmax_cross_entropy_grad", (np.ones(7, "float32"), ODD, label)),
        ):
            np.testing.assert_allclose(
                OPS[name].forward(CPU, *inputs), OPS[name].plain(CPU, *inputs), rtol=1e-5, atol=1e-6, equal_nan=True
            )


@pytest.mark.parametrize(("inputs", "attrs"), CASES["dropout_mask"])
def test_a_mask_has_the_bits_of_numpys_generator(inputs: Inputs, attrs: dict[str, Any]) -> None:
    mask = OPS["dropout_mask"].forward(CPU, *inputs, **attrs)
    assert mask.tobytes() == OPS["dropout_mask"].plain(CPU, *inputs, **attrs).tobytes()


def test_statistics_are_accurate_far_from_zero() -> None:
    x = (1000.0 + normal(8, 4096)).astype("float32")
    found, inv = OPS["standardize"].forward(CPU, x)
    right, right_inv = OPS["standardize"].plain(CPU, x.astype("float64"))
    np.testing.assert_allclose(inv, right_inv, rtol=1e-5)
    np.testing.assert_allclose(found, right, atol=1e-3)


def test_a_position_that_does_not_exist_is_left_to_the_operator() -> None:
    bound = table.bound(
        "take_add", [table.In((1, 2), np.dtype("f4")), table.In((1,), np.dtype("i8"))], {"shape": (3, 2), "axis": 0}
    )
    assert bound is not None
    assert bound.run(np.ones((1, 2), "f4"), np.array([3]), np.zeros((3, 2), "f4"))


def test_a_label_that_is_no_class_is_the_operators_error() -> None:
    x, label = normal(3, 5), np.array([0, 5, 1])
    for name, inputs in (("softmax_cross_entropy", (x, label)), ("softmax_cross_entropy_grad", (normal(3), x, label))):
        with pytest.raises((IndexError, ShoalError), match="5 classes"):
            OPS[name].forward(CPU, *inputs)


def test_sums_of_long_rows_are_accurate() -> None:
    x = np.zeros((2, 100_000), "float32")
    label = np.zeros(2, "int64")
    found = OPS["softmax_cross_entropy"].forward(CPU, x, label)
    np.testing.assert_allclose(found, np.log(1e5), rtol=1e-7)


def test_attributes_may_be_given_by_position() -> None:
    x = normal(4, 6)
    assert (OPS["softmax"].forward(CPU, x, 1) == OPS["softmax"].forward(CPU, x, axis=1)).all()
    assert (OPS["fully_connected"].forward(CPU, x, x) == OPS["fully_connected"].forward(CPU, x, x, None)).all()
