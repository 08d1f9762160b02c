"""Many small arrays to one long one, and back, in one compiled call."""

import numpy as np
import pytest

from shoal.ops.native import compiler
from shoal.ops.native.pieces import gatherer, scatterer

pytestmark = pytest.mark.skipif(bool(compiler.why_not()), reason="nothing can be compiled here")


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8", "float64"])
def test_arrays_of_any_size_come_one_behind_the_other(dtype: str) -> None:
    parts = [np.arange(n).astype(dtype) for n in (3, 0, 1, 700, 5)]
    out = np.empty(sum(p.size for p in parts), dtype)
    gather = gatherer(parts)
    assert gather is not None
    gather(out)
    assert (out == np.concatenate(parts)).all()


def test_what_the_arrays_hold_then_is_gathered() -> None:
    part, out = np.zeros(4, np.float32), np.empty(4, np.float32)
    gather = gatherer([part])
    assert gather is not None
    part[:] = 7
    gather(out)
    assert (out == 7).all()


def test_each_array_gets_the_part_that_begins_at_its_start() -> None:
    flat = np.arange(10, dtype=np.float64)
    first, second = np.empty(2), np.empty((3, 1))
    scatter = scatterer([first, second], [6, 1])
    assert scatter is not None
    scatter(flat)
    assert first.tolist() == [6, 7] and second.reshape(-1).tolist() == [1, 2, 3]


def test_there_is_nothing_where_native_code_is_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shoal.ops.native.pieces._library", lambda: None)
    assert gatherer([np.zeros(1)]) is None and scatterer([np.zeros(1)], [0]) is None
