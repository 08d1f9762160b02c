"""Every operator on a fake GPU: only names that CuPy has, no arrays of the host, NumPy's numbers, no hidden wait."""

from typing import Any

import numpy as np
import pytest

from shoal.ops import autograd, philox, random
from shoal.ops.backend import CPU
from shoal.ops.gpu.fake import FakeGpu, fake_gpus
from shoal.ops.native import table
from shoal.ops.registry import OPS
from shoal.ops.tensor import Tensor
from tests.ops.cases import Case
from tests.ops.test_cases import ALL, made, variables

WAITS = {
    "choice": "which branch is taken",
    "choice_grad": "which branch is taken",
    "csr_matmul": "how many elements are stored",
    "csr_sampled": "how many elements are stored",
    "ctc": "positions are counted",
    "ctc_grad": "positions are counted",
    "match_boxes": "carried out by the host",
    "matrix_exp": "how often it is squared",
    "random_normal": "drawn by the host: NumPy's ziggurat",
    "roi_pool_index": "carried out by the host",
    "suppressed": "carried out by the host",
    "while_steps": "whether it goes on",
    "while_steps_grad": "whether it goes on",
}
"""Operators that wait for the GPU, and what for: they cannot be recorded."""

ROUNDED = {
    "logcumsumexp": "another order of additions",
    **dict.fromkeys(("batch_norm", "mean", "std", "sum", "sum_to", "var"), "BLAS adds columns on the host"),
}


def run(name: str, c: Case, inputs: list[Any], xp: Any) -> list[Any]:
    """Results, then gradients."""
    tensors = [Tensor(xp.asarray(x)) if isinstance(x, np.ndarray) else x for x in inputs]
    wanted = variables(c, inputs) if OPS[name].rule is not None else []
    for i in wanted:
        tensors[i].attach_grad()
    with autograd.record():
        out = OPS[name](*tensors, **c.attrs)
    results = list(out) if isinstance(out, tuple) else [out]
    heads = [o for o in results if o.dtype.kind in "fc" and o.node is not None]
    if heads:
        autograd.backward(heads)
    return results + [tensors[i].grad for i in wanted]


@pytest.mark.parametrize(("name", "c"), ALL)
def test_an_operator_gives_the_numbers_of_numpy_without_waiting(name: str, c: Case) -> None:
    inputs = made(name, c)
    with table.plain():
        expected = run(name, c, [x.copy() if isinstance(x, np.ndarray) else x for x in inputs], CPU)
    with fake_gpus() as (gpu,):
        found = run(name, c, inputs, gpu.xp)
        assert bool(gpu.waits) == (name in WAITS), (gpu.waits, "see WAITS")
        for a, b in zip(expected, found, strict=True):
            if a is None:
                assert b is None
            elif name in ROUNDED:
                np.testing.assert_allclose(b.asnumpy(), a.asnumpy(), rtol=1e-13, atol=1e-14)
            else:
                assert a.dtype == b.dtype and b.device == "gpu:0"
                np.testing.assert_array_equal(b.asnumpy(), a.asnumpy())
        assert not gpu.races()


def test_the_operators_that_wait_are_operators() -> None:
    assert set(WAITS) <= set(OPS) and set(ROUNDED) <= set(OPS)


# -- random bits


@pytest.mark.parametrize("count", [0, 1, 3, 4, 5, 17, 1000])
def test_bits_of_an_address_are_those_of_numpys_philox(count: int) -> None:
    random.set_address(seed=11, worker=3, step=2**40)
    key = random.next_key("test")
    generator = random._philox(key.tolist())
    np.testing.assert_array_equal(philox.bits64(np, key, count), generator.bit_generator.random_raw(count))
    expected = random._philox(key.tolist()).integers(0, 65536, size=count, dtype=np.uint16)
    np.testing.assert_array_equal(philox.bits16(np, key, count), expected)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("shape", [(), (7,), (3, 5), (0, 2)])
def test_what_is_drawn_on_a_gpu_is_what_is_drawn_on_the_host(dtype: str, shape: tuple[int, ...]) -> None:
    key = random.next_key("test")
    with fake_gpus() as (gpu,):
        there = gpu.xp.asarray(key)
        for name, attrs in {"random_uniform": {}, "dropout_mask": {"p": 0.3}}.items():
            a = OPS[name](key, shape=shape, dtype=dtype, **attrs)
            b = OPS[name](there, shape=shape, dtype=dtype, **attrs)
            assert a.dtype == b.dtype and not gpu.waits
            np.testing.assert_array_equal(b.get(), a)
            gpu.waits.clear()


# -- what CuPy does not do


def test_labels_that_are_no_classes_give_nan_on_a_gpu(one: FakeGpu) -> None:
    scores, labels = one.xp.asarray(np.ones((3, 4))), one.xp.asarray(np.array([1, 4, -1]))
    found = OPS["softmax_cross_entropy"](scores, labels)
    np.testing.assert_array_equal(np.isnan(found.get()), [False, True, True])


@pytest.fixture
def one() -> Any:
    with fake_gpus() as (gpu,):
        yield gpu


def test_names_that_cupy_lacks_are_not_there(one: FakeGpu) -> None:
    for name in ("spacing", "setdiff1d_of", "nditer_", "require_all"):
        with pytest.raises(AttributeError, match="has no"):
            getattr(one.module, name)
    with pytest.raises(TypeError, match="unexpected keyword argument 'where'"):
        one.xp.module.sum(one.xp.ones(3), where=True)
    with pytest.raises(AttributeError, match="no attribute 'accumulate'"):
        _ = one.xp.maximum.accumulate


def test_arrays_of_the_host_do_not_mix(one: FakeGpu) -> None:
    x = one.xp.ones(3)
    with pytest.raises(TypeError, match="Unsupported type"):
        one.xp.add(x, np.ones(3))
    with pytest.raises(TypeError, match="Unsupported type"):
        _ = x + np.ones(3)
    with pytest.raises(TypeError, match="Unsupported type"):
        x[:] = np.ones(3)
    with pytest.raises(TypeError, match="Implicit conversion"):
        np.asarray(x)
    assert (x + np.float32(1)).get().tolist() == [2.0, 2.0, 2.0]


def test_numpys_functions_go_to_the_gpu(one: FakeGpu) -> None:
    x = one.xp.ones((2, 3))
    assert np.exp(x).device.id == 0 and np.concatenate([x, x]).shape == (4, 3)
    out = one.xp.empty((2, 3))
    assert np.multiply(x, 2.0, out=out) is out and out.get().tolist() == [[2.0] * 3] * 2


@pytest.mark.parametrize(
    "work",
    [
        lambda x: bool(x.sum()),
        lambda x: x.item(0),
        lambda x: x.tolist(),
        lambda x: x.get(),
        lambda x: x[x > 0],
        lambda x: np.nonzero(x),
        lambda x: int(x[0]),
    ],
)
def test_what_waits_is_counted(one: FakeGpu, work: Any) -> None:
    x = one.xp.ones(3) + 1.0
    assert one.pending() and not one.waits
    work(x)
    assert one.waits
