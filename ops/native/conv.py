"""Convolutions of graphs in generated C: which ones, and how they are called.

Arrays are (batch, channels, height, width) to the caller and channels-last in memory; one that comes in another order
is copied first. The weights are packed at each run into the order in which the loops read them, which takes a
hundredth of the time of the convolution, so that they can stay in the user's order.

Left to the array-namespace forward: see `why_not`.
"""

import ctypes
from collections.abc import Sequence
from typing import Any

import numpy as np

from shoal.ops.conv import lengths, out_length
from shoal.ops.graph.ir import Call
from shoal.ops.native.bound import CHANNELS_LAST, Bound, Maker, Source, address, channels_last, lanes, scratch
from shoal.ops.native.direct import Gather, gather, packed_size
from shoal.ops.native.direct_weight import partial_size, weight_gradient
from shoal.ops.native.geometry import Shape2D, backward_axes, forward_axis

__all__ = ["backward_data", "backward_weight", "forward", "shape_of", "why_not"]

GEOMETRY = frozenset(["stride", "pad", "dilate", "num_group"])


def why_not(call: Call, specs: Sequence[Any]) -> str:
    """Why a convolution, or a gradient of one, is not generated; empty if it is."""
    arrays = [s for s in specs if s is not None]
    attrs = {k: v for k, v in call.attrs.items() if k not in ("space", "kernel")}
    if any(s.dtype != np.float32 for s in (*arrays, call.specs[0])):
        return "only float32 is generated"
    if len(arrays[0].shape) != 4:
        return "only two spatial axes are generated"
    if attrs.get("num_group", 1) != 1:
        return "groups are not generated: most have too few channels to fill a vector"
    if not set(attrs) <= GEOMETRY or any(len(lengths(attrs.get(n, d), 2)) != 2 for n, d in _DEFAULTS):
        return "padding that differs on the two sides is not generated"
    if any(0 in s.shape for s in (*arrays, call.specs[0])):
        return "there is nothing to compute"
    return ""


_DEFAULTS = (("stride", 1), ("pad", 0), ("dilate", 1))


def shape_of(x: Sequence[int], weight: Sequence[int], attrs: dict[str, Any]) -> Shape2D:
    """The convolution of an image batch of shape ``x`` with a weight of shape ``weight``."""
    stride, pad, dilate = (lengths(attrs.get(name, default), 2) for name, default in _DEFAULTS)
    out = [out_length(x[2 + i], weight[2 + i], stride[i], pad[i], dilate[i]) for i in (0, 1)]
    pairs = [(int(p[0]), int(p[1])) for p in (x[2:], out, weight[2:], stride, pad, dilate)]
    return Shape2D(x[0], x[1], weight[0], *pairs)


def forward(call: Call, specs: list[Any], source: Source) -> Maker | None:
    """`shoal.ops.conv.convolution`."""
    if why_not(call, specs):
        return None
    s, bias = shape_of(specs[0].shape, specs[1].shape, call.attrs), specs[2] is not None
    taps = s.kernel[0] * s.kernel[1]
    rows, cols = (forward_axis(s.space[i], s.out[i], s.kernel[i], s.stride[i], s.pad[i], s.dilate[i]) for i in (0, 1))
    strides = (s.channels * taps, taps)
    g = Gather(s.batch, s.channels, s.filters, rows, cols, s.space, s.out, s.kernel, strides, bias)
    name = source.add(("forward", s, bias), lambda name: _gathers(name, [g]))
    return lambda library: Bound(_runner(library[name], packed_size(g, lanes())), (CHANNELS_LAST,))


def backward_data(call: Call, specs: list[Any], source: Source) -> Maker | None:
    """`shoal.ops.conv.convolution_data`."""
    if why_not(call, specs):
        return None
    s = shape_of(call.specs[0].shape, specs[1].shape, call.attrs)
    gathers: list[Gather] = []
    taps, size = s.kernel[0] * s.kernel[1], 0
    axes = [backward_axes(s.space[i], s.out[i], s.kernel[i], s.stride[i], s.pad[i], s.dilate[i]) for i in (0, 1)]
    for rows in axes[0]:
        for cols in axes[1]:
            strides = (taps, s.channels * taps)
            g = Gather(s.batch, s.filters, s.channels, rows, cols, s.out, s.space, s.kernel, strides, offset=size)
            gathers.append(g)
            size += packed_size(g, lanes())
    name = source.add(("data", s), lambda name: _gathers(name, gathers))

    def make(library: ctypes.CDLL) -> Bound:
        run = _runner(library[name], size)
        return Bound(lambda g, weight, out: run(g, weight, None, out), (CHANNELS_LAST,))

    return make


def backward_weight(call: Call, specs: list[Any], source: Source) -> Maker | None:
    """`shoal.ops.conv.convolution_weight`."""
    if why_not(call, specs):
        return None
    s = shape_of(specs[1].shape, call.specs[0].shape, call.attrs)
    name = source.add(("weight", s), lambda name: _weights(name, s))
    size = partial_size(s, lanes())

    def make(library: ctypes.CDLL) -> Bound:
        function = _typed(library[name], 4)

        def run(g: Any, x: Any, out: Any) -> None:
            x, g = channels_last(x), channels_last(g)
            function(address(x), address(g), address(out), scratch(size))

        return Bound(run, ((0, 1, 2, 3),))

    return make


def _typed(function: Any, pointers: int) -> Any:
    function.argtypes, function.restype = [ctypes.c_void_p] * pointers, None
    return function


def _runner(function: Any, floats: int) -> Any:
    """``run(x, weight, bias, out)``."""
    _typed(function, 5)

    def run(x: Any, weight: Any, bias: Any, out: Any) -> None:
        x, weight = channels_last(x), np.ascontiguousarray(weight)
        at = None if bias is None else address(bias := np.ascontiguousarray(bias))
        function(address(x), address(weight), at, address(out), scratch(floats))

    return run


def _gathers(name: str, gathers: Sequence[Gather]) -> str:
    """``name(x, w, bias, y, packed)``: packs the weights, then goes through the tasks of all gathers."""
    parts = [gather(f"{name}_{i}", g, lanes()) for i, g in enumerate(gathers)]
    loops = [f"for (long t = 0; t < {name}_{i}_packs; t++) {name}_{i}_pack(w, packed, t);" for i in range(len(parts))]
    tasks = [
        f"for (long t = 0; t < {name}_{i}_tasks; t++) {name}_{i}(x, packed, bias, y, t);" for i in range(len(parts))
    ]
    lines = [f"#pragma omp for nowait\n  {loop}" for loop in loops]
    lines += ["#pragma omp barrier", *(f"#pragma omp for nowait\n  {task}" for task in tasks)]
    body = "\n  ".join(lines)
    return f"""{"".join(parts)}
EXPORT void {name}(const float *x, const float *w, const float *bias, float *y, float *packed) {{
#pragma omp parallel num_threads(shoal_threads)
  {{
  {body}
  }}
}}
"""


def _weights(name: str, s: Shape2D) -> str:
    """``name(x, dy, dw, partial)``."""
    return f"""{weight_gradient(f"{name}_0", s, lanes())}
EXPORT void {name}(const float *x, const float *dy, float *dw, float *partial) {{
#pragma omp parallel num_threads(shoal_threads)
  {{
#pragma omp for
  for (long t = 0; t < {name}_0_tasks; t++) {name}_0(x, dy, partial, t);
#pragma omp for
  for (long t = 0; t < {name}_0_sums; t++) {name}_0_sum(partial, dw, t);
  }}
}}
"""
