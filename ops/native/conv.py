"""Convolutions of graphs in generated C: which ones, and what is done around the loops.

The weights are packed at each run into the order in which the loops read them, which takes a hundredth of the time of
the convolution; so they can stay in the user's order.

Left to the array-namespace forward: see `why_not`.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from shoal.ops.conv import lengths, out_length
from shoal.ops.graph.kernels import Site, Source, register
from shoal.ops.native.direct import Gather, gather, packed_size
from shoal.ops.native.direct_weight import partial_size, weight_gradient
from shoal.ops.native.generated import Frame, lanes, steps
from shoal.ops.native.geometry import Shape2D, backward_axes, forward_axis
from shoal.ops.registry import Spec

__all__ = ["backward_data", "backward_weight", "forward", "shape_of", "why_not"]

DEFAULTS = {"stride": 1, "pad": 0, "dilate": 1}


def why_not(site: Site) -> str:
    """Why a convolution, or a gradient of one, is not generated; empty if it is."""
    specs = [s for s in (*site.specs, *site.call.specs) if isinstance(s, Spec)]
    if site.xp.module is not np:
        return "it is not on the CPU"
    if any(s.dtype != np.float32 for s in specs):
        return "only float32 is generated"
    if specs[0].ndim != 4:
        return "only two spatial axes are generated"
    if site.call.attrs.get("num_group", 1) != 1:
        return "groups are not generated: most have too few channels to fill a vector"
    if any(0 in s.shape for s in specs):
        return "there is nothing to compute"
    return "" if lanes() else "there is no C compiler"


def shape_of(x: Sequence[int], weight: Sequence[int], attrs: dict[str, Any]) -> Shape2D:
    """The convolution of images of shape ``x`` with a weight of shape ``weight``."""
    stride, pad, dilate = (lengths(attrs.get(name, default), 2) for name, default in DEFAULTS.items())
    out = [out_length(x[2 + i], weight[2 + i], stride[i], pad[i], dilate[i]) for i in (0, 1)]
    pairs = [(int(p[0]), int(p[1])) for p in (x[2:], out, weight[2:], stride, pad, dilate)]
    return Shape2D(x[0], x[1], weight[0], *pairs)


def forward(site: Site) -> Source | None:
    """`shoal.ops.conv.convolution`, or `shoal.ops.joined.convolution_relu`."""
    if why_not(site):
        return None
    s = shape_of(site.specs[0].shape, site.specs[1].shape, site.call.attrs)
    rows, cols = (forward_axis(s.space[i], s.out[i], s.kernel[i], s.stride[i], s.pad[i], s.dilate[i]) for i in (0, 1))
    relu = site.call.op == "convolution_relu"
    has_bias = site.specs[2] is not None
    weight = steps(site.specs[1], site.strides[1] or ())
    g = Gather(s.batch, s.channels, s.filters, rows, cols, s.space, s.out, weight, has_bias, relu)
    return _gathers(site, [g], s)


def backward_data(site: Site) -> Source | None:
    """`shoal.ops.conv.convolution_data`."""
    if why_not(site):
        return None
    s = shape_of(site.call.specs[0].shape, site.specs[1].shape, site.call.attrs)
    o, c, kh, kw = steps(site.specs[1], site.strides[1] or ())
    axes = [backward_axes(s.space[i], s.out[i], s.kernel[i], s.stride[i], s.pad[i], s.dilate[i]) for i in (0, 1)]
    gathers: list[Gather] = []
    size = 0
    for rows in axes[0]:
        for cols in axes[1]:
            g = Gather(s.batch, s.filters, s.channels, rows, cols, s.out, s.space, (c, o, kh, kw), offset=size)
            gathers.append(g)
            size += packed_size(g, lanes())
    return _gathers(site, gathers, s)


def backward_weight(site: Site) -> Source | None:
    """`shoal.ops.conv.convolution_weight`."""
    if why_not(site):
        return None
    s = shape_of(site.specs[1].shape, site.call.specs[0].shape, site.call.attrs)
    result = steps(site.call.specs[0], site.strides[2] or ())
    frame = Frame(site)
    frame.input("dy", 0)
    frame.input("x", 1)
    frame.pointer("dw", 2)
    partial = frame.scratch(partial_size(s, lanes()))
    frame.stage("NAME_tasks", f"NAME_part(x, dy, {partial}, t);")
    frame.stage("NAME_sums", f"NAME_sum({partial}, dw, t);")
    return frame.source(lambda name: weight_gradient(name, s, result, lanes()), s.multiplications)


def _gathers(site: Site, gathers: Sequence[Gather], s: Shape2D) -> Source:
    """Pack the weights, then go through the tasks of all gathers."""
    frame = Frame(site)
    frame.input("x", 0)
    frame.pointer("w", 1)
    if gathers[0].bias:
        frame.pointer("bias", 2)
    frame.output("y", len(frame.specs) - 1)
    packed = frame.scratch(sum(packed_size(g, lanes()) for g in gathers))
    bias = "bias" if gathers[0].bias else "0"
    for i in range(len(gathers)):
        frame.stage(f"NAME_{i}_packs", f"NAME_{i}_pack(w, {packed}, t);", wait=i == len(gathers) - 1)
    for i in range(len(gathers)):
        frame.stage(f"NAME_{i}_tasks", f"NAME_{i}(x, {packed}, {bias}, y, t);", wait=i == len(gathers) - 1)

    def text(name: str) -> str:
        return "".join(gather(f"{name}_{i}", g, lanes()) for i, g in enumerate(gathers))

    return frame.source(text, s.multiplications)


register("convolution", forward)
register("convolution_relu", forward)
register("convolution_data", backward_data)
register("convolution_weight", backward_weight)
