"""The softmax family's GPU kernels, run on the CPU."""

from typing import Any

import numpy as np
import pytest

from shoal.ops.backend import CPU
from shoal.ops.gpu import emulate
from shoal.ops.gpu.kernels.rows import cross_entropy_in_place
from shoal.ops.registry import OPS
from tests.ops.gpu.running import FLOATS, check, close, drawn, in_every_order, needs_compiler, placed, poisoned, wide

pytestmark = needs_compiler
SHAPES = [(1, 1), (5, 7), (3, 64), (2, 3, 33), (2, 2056), (1, 9000)]


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
def test_the_softmax_family_is_that_of_float64_for_every_type_and_odd_lengths(name: str, dtype: Any) -> None:
    for shape in SHAPES:
        check(name, drawn(shape, dtype))


@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
def test_rows_with_infinities_and_nan_are_as_the_operator_has_them(name: str) -> None:
    inf, nan = np.inf, np.nan
    x = np.array([[0, -inf, 1, 2], [-inf] * 4, [inf, 0, 1, 2], [nan, 0, 1, 2], [1e4, 0, -1e4, 9e3]], np.float32)
    with np.errstate(all="ignore"):
        check(name, x)
        check(name, np.tile(x, (1, 600)))


def test_an_array_at_an_odd_address_gives_the_same_numbers() -> None:
    x = drawn((3, 2056), np.float16)
    assert np.array_equal(check("softmax", x)[0], check("softmax", x, shift=1)[0])


@pytest.mark.parametrize("dtype", FLOATS)
def test_the_gradient_of_softmax_is_that_of_float64(dtype: Any) -> None:
    for shape in SHAPES[1:]:
        y = OPS["softmax"].plain(CPU, drawn(shape, np.float64)).astype(dtype)
        check("softmax_grad", drawn(shape, dtype, seed=1), y, factor=2.0)
        check("softmax_grad", drawn(shape, np.float32, seed=1), y, factor=2.0)


@pytest.mark.parametrize("dtype", FLOATS)
def test_cross_entropy_and_its_gradient_are_those_of_float64(dtype: Any) -> None:
    for shape, kind in zip(SHAPES, (np.int64, np.int32) * 3, strict=True):
        x = drawn(shape, dtype)
        label = np.random.default_rng(2).integers(0, shape[-1], shape[:-1]).astype(kind)
        check("softmax_cross_entropy", x, label)
        check("softmax_cross_entropy_grad", drawn(shape[:-1], dtype, seed=3), x, label)


def test_a_label_that_is_no_class_gives_nan_in_its_row_alone() -> None:
    x, label = drawn((4, 40), np.float32), np.array([0, 40, -1, 39])
    from tests.ops.gpu.running import outputs

    (loss,) = outputs("softmax_cross_entropy", [x, label], {})
    (dx,) = outputs("softmax_cross_entropy_grad", [np.ones(4, np.float32), x, label], {})
    assert np.isnan(loss).tolist() == [False, True, True, False]
    assert np.isnan(dx).all(axis=1).tolist() == [False, True, True, False] and not np.isnan(dx[[0, 3]]).any()


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("shape", [(6, 50), (3, 2057), (2, 4096)])
def test_loss_and_gradient_over_the_scores_are_those_of_the_two_operators(dtype: Any, shape: tuple[int, int]) -> None:
    x, label = drawn(shape, dtype), np.random.default_rng(2).integers(0, shape[1], shape[0])

    def run() -> list[np.ndarray]:
        scores, loss = placed(x), poisoned((shape[0],), np.float32)
        cross_entropy_in_place(emulate.NAMESPACE, scores, label, loss, scale=0.25)
        return [scores, loss]

    scores, loss = in_every_order(run)
    quarter = np.full(shape[0], 0.25)
    close(scores, OPS["softmax_cross_entropy_grad"].plain(CPU, quarter, wide(x), label))
    close(loss, OPS["softmax_cross_entropy"].plain(CPU, wide(x), label))
