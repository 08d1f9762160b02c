"""For every operator: `vmap` gives what a loop over the examples gives, whichever inputs have the batch."""

from typing import Any

import numpy as np
import pytest

import shoal.np
import shoal.npx
from shoal.ops.func.mapping import vmap
from shoal.ops.func.rules import has_rule
from shoal.ops.registry import OPS
from shoal.ops.tensor import Tensor
from tests.ops.cases import CASES, Case

assert shoal.np and shoal.npx  # imported for the operators that they register

ALL = [pytest.param(name, c, id=f"{name}-{i}") for name, cases in CASES.items() for i, c in enumerate(cases)]
ALL = [p for p in ALL if "body" not in p.values[1].attrs]  # nobody calls these: passes over graphs make them
SIZE = 3

LOOPED = {"dropout_mask", "random_uniform", "random_normal"}
"""Go one example after the other, on purpose."""


def tuple_of(out: Any) -> tuple[Any, ...]:
    return out if isinstance(out, tuple) else (out,)


def tensors(inputs: list[Any]) -> list[Any]:
    return [Tensor(x) if isinstance(x, np.ndarray) else x for x in inputs]


def choices(name: str, c: Case) -> list[list[int]]:
    """Which inputs have the batch: all, or one of them."""
    arrays = [i for i, x in enumerate(c.make(name)) if isinstance(x, np.ndarray)]
    return [arrays] if len(arrays) < 2 else [arrays, *([i] for i in arrays)]


@pytest.mark.filterwarnings("ignore:vmap. operator:RuntimeWarning")
@pytest.mark.parametrize(("name", "c"), ALL)
def test_a_batch_gives_what_a_loop_gives(name: str, c: Case) -> None:
    made = [tensors(c.make(f"{name}{i}")) for i in range(SIZE)]

    for mapped in choices(name, c):
        batch = [Tensor(np.stack([m[i].data for m in made])) if i in mapped else x for i, x in enumerate(made[0])]
        given = [x for x in batch if isinstance(x, Tensor)]
        axes = tuple(0 if i in mapped else None for i, x in enumerate(batch) if isinstance(x, Tensor))

        def one(*arrays: Any) -> Any:
            fresh = iter(arrays)
            return OPS[name](*(next(fresh) if isinstance(x, Tensor) else x for x in made[0]), **c.attrs)

        found = tuple_of(vmap(one, axes)(*given))
        for i in range(SIZE):
            inputs = [made[i][k] if k in mapped else x for k, x in enumerate(made[0])]
            for a, b in zip(found, tuple_of(OPS[name](*inputs, **c.attrs)), strict=True):
                assert a.shape[1:] == b.shape and a.dtype == b.dtype
                np.testing.assert_allclose(a.asnumpy()[i], b.asnumpy(), rtol=1e-9, atol=1e-12)


def test_which_operators_have_a_rule() -> None:
    without = sorted(name for name, op in OPS.items() if not has_rule(op))
    print("one example after the other:", ", ".join(without))
    assert all(has_rule(OPS[name]) for name in LOOPED)
    assert "matmul" not in without and "convolution" not in without
