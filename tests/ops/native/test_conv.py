"""Generated convolutions against the array-namespace forward in float64."""

from typing import Any

import numpy as np
import pytest

from shoal.ops.backend import CPU
from shoal.ops.graph.ir import Call, Graph
from shoal.ops.native import bound, pool
from shoal.ops.native.binding import bind
from shoal.ops.native.conv import why_not
from shoal.ops.native.geometry import backward_axes, forward_axis
from shoal.ops.registry import OPS, Spec

pytestmark = pytest.mark.skipif(not bound.lanes(), reason="nothing can be compiled here")

GRID: dict[str, tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]] = {
    "usual": ((2, 16, 8, 8), (16, 16, 3, 3), {"pad": 1}),
    "odd channels": ((3, 5, 9, 7), (11, 5, 3, 3), {"pad": (1, 1)}),
    "more than a vector": ((2, 17, 6, 5), (33, 17, 3, 3), {"pad": 1}),
    "many vectors": ((1, 48, 5, 5), (64, 48, 3, 3), {"pad": 1}),
    "stride": ((2, 16, 8, 8), (32, 16, 3, 3), {"stride": 2, "pad": 1}),
    "stride, odd lengths": ((2, 4, 11, 10), (20, 4, 3, 5), {"stride": (3, 2), "pad": (2, 1)}),
    "stride larger than the kernel": ((3, 8, 7, 7), (16, 8, 1, 1), {"stride": 3}),
    "1x1": ((2, 8, 5, 5), (24, 8, 1, 1), {}),
    "one channel": ((4, 1, 12, 12), (6, 1, 5, 5), {"pad": 2}),
    "few channels": ((4, 6, 9, 9), (16, 6, 5, 5), {}),
    "dilated": ((1, 5, 12, 13), (7, 5, 3, 3), {"stride": 2, "pad": 2, "dilate": 2}),
    "dilated by axis": ((2, 3, 9, 12), (4, 3, 2, 3), {"dilate": (1, 3)}),
    "kernel as large as the image": ((2, 3, 4, 4), (8, 3, 4, 4), {}),
    "padding wider than the kernel needs": ((2, 3, 4, 4), (8, 3, 3, 3), {"pad": 3}),
    "wide": ((1, 3, 2, 67), (9, 3, 1, 5), {"pad": (0, 2)}),
    "one pixel": ((1, 2, 1, 1), (3, 2, 3, 3), {"pad": 1}),
}


def calls(
    x: tuple[int, ...], w: tuple[int, ...], attrs: dict[str, Any], dtype: str
) -> list[tuple[str, list[Any], Any]]:
    """(operator, arrays, attributes): a convolution and its two gradients."""
    rng = np.random.default_rng(sum(x) + sum(w))
    arrays = [rng.standard_normal(s).astype(np.float32).astype(dtype) for s in (x, w, w[:1])]
    out = OPS["convolution"].infer(*(Spec(a.shape, a.dtype) for a in arrays), **attrs)
    g = rng.standard_normal(out.shape).astype(np.float32).astype(dtype)
    return [
        ("convolution", arrays, attrs),
        ("convolution", [*arrays[:2], None], attrs),
        ("convolution_data", [g, arrays[1]], {"space": x[2:], **attrs}),
        ("convolution_weight", [g, arrays[0]], {"kernel": w[2:], **attrs}),
    ]


def graph_of(made: list[tuple[str, list[Any], Any]]) -> Graph:
    """A graph in which every array of every call is an input."""
    listed: list[Call] = []
    for op, arrays, attrs in made:
        specs = [None if a is None else Spec(a.shape, a.dtype) for a in arrays]
        refs: list[Any] = []
        for spec in specs:
            refs.append(None if spec is None else (len(listed), 0))
            if spec is not None:
                listed.append(Call("", specs=(spec,)))
        inferred = OPS[op].infer(*specs, **attrs)
        listed.append(Call(op, tuple(refs), attrs, inferred if type(inferred) is tuple else (inferred,)))
    return Graph(tuple(listed), tuple(i for i, call in enumerate(listed) if not call.op), ())


@pytest.fixture(scope="module")
def results() -> dict[str, list[tuple[Any, Any, Any]]]:
    """For each case, (operator, native result, result in float64); all are compiled together."""
    made = [call for case in GRID.values() for call in calls(*case, "float32")]
    exact = [call for case in GRID.values() for call in calls(*case, "float64")]
    graph = graph_of(made)
    bindings = list(bind(graph, CPU).values())
    assert len(bindings) == len(made)
    found = []
    for (op, arrays, attrs), (_, wide, _), native in zip(made, exact, bindings, strict=True):
        want = OPS[op].forward(CPU, *wide, **attrs)
        out = bound.empty(Spec(want.shape, np.dtype(np.float32)), native.orders[0])
        out[...] = np.nan
        native.run(*arrays, out)
        found.append((op, out, want))
    return {case: found[4 * i : 4 * i + 4] for i, case in enumerate(GRID)}


@pytest.mark.parametrize("case", GRID)
def test_it_is_the_convolution_and_its_gradients(case: str, results: Any) -> None:
    for op, got, want in results[case]:
        assert np.abs(got - want).max() <= 3e-6 * np.abs(want).max(), op


def test_the_number_of_threads_does_not_change_a_bit() -> None:
    made = calls((5, 7, 9, 9), (18, 7, 3, 3), {"pad": 1, "stride": 2}, "float32")
    bindings = bind(graph_of(made), CPU)
    found = []
    for threads in (1, 2, 3):
        with pool.limited(threads):
            for (op, arrays, attrs), native in zip(made, bindings.values(), strict=True):
                spec = OPS[op].infer(*(None if a is None else Spec(a.shape, a.dtype) for a in arrays), **attrs)
                out = bound.empty(spec, native.orders[0])
                native.run(*arrays, out)
                found.append(out.tobytes())
    assert found[:4] == found[4:8] == found[8:]


def test_nothing_is_read_or_written_outside_the_arrays() -> None:
    """Each array ends where it is followed by nan, or by numbers that must stay."""
    made = calls((1, 3, 5, 5), (5, 3, 3, 3), {"pad": 1}, "float32")
    for (op, arrays, attrs), native in zip(made, bind(graph_of(made), CPU).values(), strict=True):
        guarded = [a if a is None else within_nan(np.ascontiguousarray(last(a)), a.ndim == 4) for a in arrays]
        spec = OPS[op].infer(*(None if a is None else Spec(a.shape, a.dtype) for a in arrays), **attrs)
        size = int(np.prod(spec.shape))
        memory = np.full(size + 64, 7.0, np.float32)
        out = memory[32:-32].reshape([spec.shape[i] for i in native.orders[0]])
        out = out.transpose([native.orders[0].index(i) for i in range(4)])
        native.run(*guarded, out)
        want = OPS[op].forward(CPU, *arrays, **attrs)
        np.testing.assert_allclose(out, want, rtol=1e-4, atol=1e-5)
        assert (memory[:32] == 7).all() and (memory[-32:] == 7).all()


def last(a: Any) -> Any:
    """Channels last, if it has four axes."""
    return a.transpose(0, 2, 3, 1) if a.ndim == 4 else a


def within_nan(a: Any, images: bool) -> Any:
    """The same numbers, in the same memory order, with nan before and behind."""
    memory = np.full(a.size + 64, np.nan, np.float32)
    inner = memory[32:-32].reshape(a.shape)
    inner[...] = a
    return inner.transpose(0, 3, 1, 2) if images else inner


def test_inputs_may_have_any_memory_order() -> None:
    (op, arrays, attrs), *_ = calls((2, 3, 6, 6), (4, 3, 3, 3), {"pad": 1}, "float32")
    (native,) = bind(graph_of([(op, arrays, attrs)]), CPU).values()
    out = bound.empty(OPS[op].infer(*(Spec(a.shape, a.dtype) for a in arrays), **attrs), native.orders[0])
    want = OPS[op].forward(CPU, *arrays, **attrs)
    for order in ((0, 1, 2, 3), (3, 2, 1, 0), (1, 0, 3, 2)):
        back = [order.index(i) for i in range(4)]
        native.run(*(np.ascontiguousarray(a.transpose(order)).transpose(back) for a in arrays[:2]), arrays[2], out)
        np.testing.assert_allclose(out, want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("attrs", "dtype", "shape", "reason"),
    [
        ({}, "float64", (2, 4, 5, 5), "float32"),
        ({"num_group": 2}, "float32", (2, 4, 5, 5), "groups"),
        ({}, "float32", (2, 4, 5), "two spatial axes"),
        ({}, "float32", (0, 4, 5, 5), "nothing"),
    ],
)
def test_what_is_not_generated_says_why(attrs: dict[str, Any], dtype: str, shape: Any, reason: str) -> None:
    weight = (6, 4 // attrs.get("num_group", 1), *[3] * (len(shape) - 2))
    specs = [Spec(shape, np.dtype(dtype)), Spec(weight, np.dtype(dtype)), None]
    call = Call("convolution", ((0, 0), (1, 0), None), attrs, (OPS["convolution"].infer(*specs, **attrs),))
    assert reason in why_not(call, specs)


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("dilate", [1, 2])
def test_the_gathers_of_a_gradient_cover_each_pair_once(stride: int, dilate: int) -> None:
    length, kernel, pad = 11, 4, 2
    out = (length + 2 * pad - dilate * (kernel - 1) - 1) // stride + 1
    axis = forward_axis(length, out, kernel, stride, pad, dilate)
    pairs = {(j * axis.jump + d, k, j) for t, (k, d) in enumerate(axis.taps) for j in range(*axis.valid(t))}
    assert all(0 <= i < length for i, _, _ in pairs)
    back = [
        (a.start + j * a.step, k, j * a.jump + d)
        for a in backward_axes(length, out, kernel, stride, pad, dilate)
        for t, (k, d) in enumerate(a.taps)
        for j in range(*a.valid(t))
    ]
    assert len(back) == len(set(back))
    assert set(back) == pairs
