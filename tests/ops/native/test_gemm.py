"""Products of matrices: numbers against float64, and bits that depend on nothing but the numbers."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.ops.backend import CPU
from shoal.ops.native import compiler, gemm, pool, table
from shoal.ops.registry import OPS

pytestmark = pytest.mark.skipif(gemm.library() is None, reason=f"no native code: {compiler.why_not()}")

LENGTHS = (1, 2, 5, 11, 12, 13, 15, 16, 17, 31, 33, 64, 130)


def normal(*shape: int) -> Any:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype("float32")


def multiplied(
    a: Any, b: Any, out: Any, bias: Any = None, *, ta: bool = False, tb: bool = False, add: bool = False
) -> Any:
    """op(a) op(b) in ``out``; the arrays lie as they are given."""
    m, k = a.shape[::-1] if ta else a.shape
    n = b.shape[0] if tb else b.shape[1]
    run = gemm.product(m, n, k, ta=ta, tb=tb, add=add)
    run(a.ctypes.data, b.ctypes.data, out.ctypes.data, None if bias is None else bias.ctypes.data)
    return out


def bound(k: int) -> float:
    """What float32 sums of k normal products may be off by."""
    return 5e-7 * k + 1e-6


@given(
    m=st.sampled_from(LENGTHS), n=st.sampled_from((*LENGTHS, 513, 600)), k=st.sampled_from((*LENGTHS, 256, 257, 520))
)
@settings(max_examples=60)
def test_a_product_is_that_of_float64(m: int, n: int, k: int) -> None:
    a, b, bias = normal(m, k), normal(k, n), normal(n)
    right = a.astype("d") @ b.astype("d")
    for ta, tb in ((False, False), (True, False), (False, True), (True, True)):
        x, y = np.ascontiguousarray(a.T if ta else a), np.ascontiguousarray(b.T if tb else b)
        out = multiplied(x, y, np.full((m, n), np.nan, "f"), bias, ta=ta, tb=tb)
        assert np.abs(out - (right + bias)).max() < bound(k)


@given(m=st.sampled_from(LENGTHS), n=st.sampled_from(LENGTHS), k=st.sampled_from((3, 256, 600)))
@settings(max_examples=40)
def test_nothing_is_written_beside_the_output(m: int, n: int, k: int) -> None:
    room = np.full(m * n + 64, 7.0, "f")
    multiplied(normal(m, k), normal(k, n), room[32 : 32 + m * n].reshape(m, n))
    assert (room[:32] == 7).all()
    assert (room[-32:] == 7).all()


def test_a_product_can_be_added() -> None:
    a, b, out = normal(20, 300), normal(300, 40), normal(20, 40)
    right = out.astype("d") + a.astype("d") @ b.astype("d")
    assert np.abs(multiplied(a, b, out, add=True) - right).max() < bound(300)


@given(
    m=st.integers(1, 70),
    n=st.integers(1, 70),
    k=st.integers(1, 300),
    rows=st.integers(1, 20),
    columns=st.integers(1, 40),
)
@settings(max_examples=50)
def test_the_bits_of_an_element_do_not_depend_on_its_neighbours(
    m: int, n: int, k: int, rows: int, columns: int
) -> None:
    a, b = normal(m, k), normal(k, n)
    whole = multiplied(a, b, np.empty((m, n), "f"))
    rows, columns = min(rows, m), min(columns, n)
    some = np.ascontiguousarray(b[:, n - columns :])
    part = multiplied(a[m - rows :], some, np.empty((rows, columns), "f"))
    assert (part == whole[m - rows :, n - columns :]).all()


@pytest.mark.parametrize(("m", "n", "k"), [(300, 40, 300), (40, 300, 300), (130, 1500, 70)])
def test_the_bits_do_not_depend_on_threads_or_the_order_in_memory(m: int, n: int, k: int) -> None:
    a, b, results = normal(m, k), normal(k, n), []
    for threads in (1, 2, 3, 7):
        with pool.limited(threads):
            results.append(multiplied(a, b, np.empty((m, n), "f")))
            turned = np.ascontiguousarray(a.T), np.ascontiguousarray(b.T)
            results.append(multiplied(*turned, np.empty((m, n), "f"), ta=True, tb=True))
    assert all((r == results[0]).all() for r in results)


def test_infinities_and_nan_come_through() -> None:
    a, b = normal(40, 40), normal(40, 40)
    a[3, 5], a[7, 1] = np.inf, np.nan
    found, right = multiplied(a, b, np.empty((40, 40), "f")), a @ b
    assert (np.isnan(found) == np.isnan(right)).all()
    assert (np.isinf(found) == np.isinf(right)).all()


@pytest.mark.parametrize(
    ("x", "y"),
    [((2, 2), (2, 2)), ((1, 4000), (4000, 40)), ((4000, 400), (400, 1)), ((0, 3, 40, 40), (40, 40))],
    ids=["small", "row", "column", "empty"],
)
def test_what_numpy_does_as_well_is_left_to_it(x: tuple[int, ...], y: tuple[int, ...]) -> None:
    single = np.dtype("float32")
    assert table.bound("matmul", [table.In(x, single), table.In(y, single)], {}) is None


def test_a_view_of_unaligned_numbers_is_copied() -> None:
    a = np.frombuffer(b"\0" + normal(40, 40).tobytes(), np.float32, 1600, 1).reshape(40, 40)
    b = normal(40, 40)
    assert not a.flags.aligned
    assert np.allclose(OPS["matmul"].forward(CPU, a, b), a @ b, atol=1e-4)
