"""Gathering and scattering, compared with PyTorch: values, gradients, what happens where indices meet."""

from typing import Any

import numpy as onp
import pytest
import torch

from shoal import autograd, np, npx
from shoal.errors import ConfigError, DTypeError, ShapeError
from shoal.ops.tensor import Tensor
from tests.ops.torchlike import TOLERANCE, Pair, arrays, compare, strided

ALONG = onp.array([[0, 2, 1, 0], [2, 2, 0, 1]])  # (2, 4): shorter than x along axis 0
ONCE = onp.array([[0, 2, 1, 0], [1, 3, 0, 4]])
ROWS = onp.array([2, 0, 2])
PLACES = onp.array([[0, 2, 0], [1, 3, 1]])
TA, TO, TR = torch.tensor(ALONG), torch.tensor(ONCE), torch.tensor(ROWS)
MASK = onp.array([[True, False, True, False], [False, False, True, True], [True, True, False, False]])
TM = torch.tensor(MASK)
SEGMENTS = onp.array([1, 0, 1, 3, 3])
XV = ((5, 4), (2, 4))


def segments(x: Any, reduce: str, start: float) -> Any:
    ids = torch.tensor(SEGMENTS)[:, None].expand_as(x)
    return torch.full((4, x.shape[1]), start, dtype=x.dtype).scatter_reduce(0, ids, x, reduce, include_self=False)


PAIRS: dict[str, Pair] = {
    "gather": Pair(lambda x: npx.gather(x, 0, ALONG), lambda x: x.gather(0, TA), ((3, 4),)),
    "scatter": Pair(lambda x, v: npx.scatter(x, 0, ONCE, v), lambda x, v: x.scatter(0, TO, v), XV),
    "scatter a number": Pair(lambda x: npx.scatter(x, 0, ALONG, 3.0), lambda x: x.scatter(0, TA, 3.0), ((3, 4),)),
    "scatter longer values": Pair(
        lambda x, v: npx.scatter(x, 0, ONCE, v), lambda x, v: x.scatter(0, TO, v[:2, :4]), ((5, 4), (3, 5))
    ),
    "scatter_add": Pair(lambda x, v: npx.scatter_add(x, 0, ALONG, v), lambda x, v: x.scatter_add(0, TA, v), XV),
    **{
        f"scatter_reduce {r} {own}": Pair(
            lambda x, v, r=r, own=own: npx.scatter_reduce(x, 0, ALONG, v, r, own),
            lambda x, v, r=r, own=own: x.scatter_reduce(0, TA, v, r, include_self=own),
            XV,
            half=False,
        )
        for r in ("sum", "prod", "mean", "amax", "amin")
        for own in (True, False)
    },
    "index_add": Pair(
        lambda x, v: npx.index_add(x, ROWS[None], v), lambda x, v: x.index_add(0, TR, v), ((4, 3), (3, 3))
    ),
    "index_update": Pair(
        lambda x, v: npx.index_update(x, PLACES[:, :2], v),
        lambda x, v: x.index_put(tuple(torch.tensor(PLACES[:, :2])), v),
        ((3, 4), (2,)),
    ),
    "gather_nd": Pair(lambda x: npx.gather_nd(x, PLACES), lambda x: x[tuple(torch.tensor(PLACES))], ((3, 4, 2),)),
    "scatter_nd": Pair(
        lambda v: npx.scatter_nd(v, PLACES, (3, 4)),
        lambda v: torch.zeros(3, 4, dtype=v.dtype).index_put(tuple(torch.tensor(PLACES)), v, accumulate=True),
        ((3,),),
    ),
    "index_select": Pair(lambda x: npx.index_select(x, 1, ROWS), lambda x: x.index_select(1, TR), ((2, 3, 2),)),
    "index_copy": Pair(
        lambda x, v: npx.index_copy(x, 1, ROWS[:2], v), lambda x, v: x.index_copy(1, TR[:2], v), ((2, 3), (2, 2))
    ),
    "index_fill": Pair(lambda x: npx.index_fill(x, 0, ROWS, 7.0), lambda x: x.index_fill(0, TR, 7.0), ((3, 2),)),
    "masked_fill": Pair(lambda x: npx.masked_fill(x, MASK, -1.0), lambda x: x.masked_fill(TM, -1.0), ((3, 4),)),
    "masked_select": Pair(lambda x: npx.masked_select(x, MASK), lambda x: x.masked_select(TM), ((3, 4),)),
    "masked_scatter": Pair(
        lambda x, v: npx.masked_scatter(x, MASK, v), lambda x, v: x.masked_scatter(TM, v), ((3, 4), (2, 4))
    ),
    "segment_sum": Pair(lambda x: npx.segment_sum(x, SEGMENTS), lambda x: segments(x, "sum", 0.0), ((5, 3),)),
    "segment_mean": Pair(lambda x: npx.segment_mean(x, SEGMENTS, 4), lambda x: segments(x, "mean", 0.0), ((5, 3),)),
    "segment_max": Pair(
        lambda x: npx.segment_max(x, SEGMENTS), lambda x: segments(x, "amax", -onp.inf), ((5, 3),), half=False
    ),
    "segment_min": Pair(
        lambda x: npx.segment_min(x, SEGMENTS), lambda x: segments(x, "amin", onp.inf), ((5, 3),), half=False
    ),
    "segment_prod": Pair(
        lambda x: npx.segment_prod(x, SEGMENTS), lambda x: segments(x, "prod", 1.0), ((5, 3),), half=False
    ),
}


PAIRS |= {
    "cosine_similarity": Pair(npx.cosine_similarity, torch.cosine_similarity, ((3, 4), (3, 4)), half=False),
    "normalize": Pair(lambda x: npx.normalize(x, 3, 0), lambda x: torch.nn.functional.normalize(x, 3, 0), ((3, 4),)),
    "pairwise_distance": Pair(
        npx.pairwise_distance, torch.nn.functional.pairwise_distance, ((3, 4), (3, 4)), half=False
    ),
    "cdist": Pair(npx.cdist, torch.cdist, ((2, 3, 4), (2, 5, 4)), half=False),
    "cdist 1": Pair(lambda x, y: npx.cdist(x, y, 1), lambda x, y: torch.cdist(x, y, 1), ((3, 4), (5, 4)), half=False),
    "pdist": Pair(npx.pdist, torch.pdist, ((4, 3),), half=False),
    "masked_log_softmax": Pair(
        lambda x: npx.masked_log_softmax(x, MASK)[MASK],
        lambda x: x.masked_fill(~TM, -torch.inf).log_softmax(-1)[TM],
        ((3, 4),),
    ),
    "slice_axis": Pair(lambda x: npx.slice_axis(x, 1, 1, None), lambda x: x[:, 1:], ((3, 4),)),
    "slice_like": Pair(lambda x, y: npx.slice_like(x, y, (1,)), lambda x, y: x[:, :2] + 0 * y.sum(), ((3, 4), (2, 2))),
    "broadcast_like": Pair(npx.broadcast_like, lambda x, y: x.expand_as(y) + 0 * y, ((3, 1), (2, 3, 4))),
    "reshape_like": Pair(npx.reshape_like, lambda x, y: x.reshape_as(y) + 0 * y, ((3, 4), (2, 6))),
}


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("name", PAIRS)
def test_values_and_gradients_are_those_of_pytorch(name: str, dtype: str) -> None:
    pair = PAIRS[name]
    if dtype == "float16" and not pair.half:
        return
    inputs = arrays(name, pair, dtype)
    compare(pair.ours, pair.theirs, inputs, TOLERANCE[dtype])
    compare(pair.ours, pair.theirs, [strided(x) for x in inputs], TOLERANCE[dtype])


@pytest.mark.parametrize("reduce", ["prod", "amax", "amin"])
def test_zeros_and_ties_have_the_gradients_of_pytorch(reduce: str) -> None:
    x = onp.array([[0.0, 1.0, 0.0, 2.0], [0.0, 2.0, 3.0, 0.0], [1.0, 1.0, 0.0, 1.0]])
    v = onp.array([[0.0, 2.0, 3.0, 0.0], [1.0, 1.0, 0.0, 1.0]])
    compare(
        lambda a, b: npx.scatter_reduce(a, 0, ALONG, b, reduce),
        lambda a, b: a.scatter_reduce(0, TA, b, reduce),
        [x, v],
        1e-12,
    )


def test_of_several_values_for_one_place_the_last_one_stays_and_has_the_gradient() -> None:
    x, v = Tensor(onp.zeros(3)), Tensor(onp.array([1.0, 2.0, 3.0]))
    x.attach_grad()
    v.attach_grad()
    with autograd.record():
        out = npx.index_update(x, onp.array([[1, 1, 0]]), v)
    out.backward(Tensor(onp.array([10.0, 20.0, 30.0])))
    assert out.tolist() == [3.0, 2.0, 0.0]
    assert v.grad.tolist() == [0.0, 20.0, 10.0] and x.grad.tolist() == [0.0, 0.0, 30.0]


def test_integers_are_scattered_too() -> None:
    x = Tensor(onp.zeros(4, "int32"))
    counts = npx.scatter_add(x, 0, onp.array([1, 1, 3]), onp.array([1, 1, 1], "int32"))
    assert counts.tolist() == [0, 2, 0, 1] and counts.dtype == "int32"
    largest = npx.scatter_reduce(x, 0, onp.array([1, 1]), onp.array([-5, -7], "int32"), "amax", include_self=False)
    assert largest.tolist() == [0, -5, 0, 0]


def test_writing_along_an_axis_in_place_is_that_of_numpy() -> None:
    x = onp.arange(12.0).reshape(3, 4)
    t = Tensor(x.copy())
    places = onp.array([[0], [3], [1]])
    np.put_along_axis(t, places, 9.0, axis=1)
    onp.put_along_axis(x, places, 9.0, axis=1)
    assert (t.asnumpy() == x).all()


def test_a_hybridized_scatter_has_the_numbers_of_the_imperative_one() -> None:
    from shoal import nn

    class Graph(nn.HybridBlock):
        def forward(self, x: Any, to: Any) -> Any:
            return npx.segment_mean(x, to, 3) + npx.scatter_add(np.zeros((3, 2)), 0, to.reshape(-1, 1), x)

    block, x, to = Graph(), Tensor(onp.random.default_rng(0).standard_normal((4, 2)).astype("f")), [2, 0, 2, 1]
    results = []
    for active in (False, True, True):
        block.hybridize(active)
        x.attach_grad()
        with autograd.record():
            out = block(x, Tensor(onp.array(to)))
        out.backward()
        results.append((out.asnumpy(), x.grad.asnumpy()))
    for other in results[1:]:
        assert all((a == b).all() for a, b in zip(results[0], other, strict=True))


def test_what_does_not_fit_is_said() -> None:
    x = Tensor(onp.ones((3, 4)))
    with pytest.raises(ShapeError, match=r"gather_nd: 3 rows.*2 axes"):
        npx.gather_nd(x, onp.zeros((3, 5), int))
    with pytest.raises(DTypeError, match=r"scatter_nd: indices must be integers, got float64"):
        npx.scatter_nd(x, onp.zeros((1, 3)), (4,))
    with pytest.raises(ShapeError, match=r"gather: .*\(2,\).*\(3, 4\)"):
        npx.gather(x, 0, onp.zeros(2, int))
    with pytest.raises(ShapeError, match=r"scatter_reduce: .*\(4, 1\).*\(3, 4\)"):
        npx.scatter_add(x, 1, onp.zeros((4, 1), int), 1.0)
    with pytest.raises(ConfigError, match="reduce 'median'"):
        npx.scatter_reduce(x, 0, ALONG, x, "median")
    with pytest.raises(ShapeError, match=r"combine_at: .*\(5,\).*\(3, 4\)"):
        npx.index_add(x, onp.array([[0, 1]]), onp.ones(5))
    with pytest.raises(ShapeError, match=r"segment_sum: .*\(3, 4\).*\(2,\)"):
        npx.segment_sum(x, onp.zeros(2, int))
    with pytest.raises(IndexError):
        npx.gather_nd(x, onp.array([[7]]))
