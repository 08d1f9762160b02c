"""Pooling of images in generated C: maxima with their positions, sums, and the gradients of both.

A window's channels are vectors; its bounds are numbers in the text where no window leaves the image.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from shoal.ops.conv import lengths
from shoal.ops.graph.kernels import Site, Source, register
from shoal.ops.native.columns import Columns
from shoal.ops.native.generated import Frame, is_channels_last, lanes
from shoal.ops.registry import Spec

__all__ = ["max_index", "max_spread", "maximum", "sum_spread", "total", "why_not"]


@dataclass(frozen=True)
class _Windows:
    """Windows over images: ``out`` x windows of ``kernel`` over ``space``, ``stride`` apart."""

    batch: int
    channels: int
    space: tuple[int, int]
    out: tuple[int, int]
    kernel: tuple[int, int]
    stride: tuple[int, int]
    pad: tuple[int, int]

    @property
    def pixel(self) -> Columns:
        """The channels of one pixel."""
        return Columns(1, self.channels, lanes())

    def inside(self, axis: int) -> bool:
        """Whether no window leaves the image along an axis."""
        reach = (self.out[axis] - 1) * self.stride[axis] + self.kernel[axis]
        return self.pad[axis] == 0 and reach <= self.space[axis]

    @property
    def apart(self) -> bool:
        """Whether no pixel is in two windows."""
        return all(s >= k for s, k in zip(self.stride, self.kernel, strict=True))

    @property
    def covering(self) -> bool:
        """Whether every pixel is in one window."""
        exact = all(self.out[i] * self.kernel[i] == self.space[i] for i in (0, 1))
        return exact and self.stride == self.kernel and self.pad == (0, 0)


def _windows(image: Spec, pooled: Spec, attrs: dict[str, Any]) -> _Windows:
    n, c, h, w = image.shape
    kernel, pad = lengths(attrs["kernel"], 2), lengths(attrs.get("pad", 0), 2)
    stride = kernel if attrs.get("stride") is None else lengths(attrs["stride"], 2)
    pairs = [(int(p[0]), int(p[1])) for p in (pooled.shape[2:], kernel, stride, pad)]
    return _Windows(n, c, (h, w), *pairs)


def why_not(site: Site) -> str:
    """Why a pooling is not generated; empty if it is."""
    arrays = [(s, t) for s, t in zip((*site.specs, *site.call.specs), site.strides, strict=True) if isinstance(s, Spec)]
    if site.xp.module is not np:
        return "it is not on the CPU"
    if any(s.dtype not in (np.float32, np.uint8) for s, _ in arrays) or arrays[0][0].dtype != np.float32:
        return "only float32, with windows of at most 256 elements, is generated"
    if arrays[0][0].ndim != 4:
        return "only two spatial axes are generated"
    if any(0 in s.shape for s, _ in arrays):
        return "there is nothing to compute"
    if any(s.dtype == np.uint8 and not is_channels_last(s, t or ()) for s, t in arrays):
        return "positions that do not lie channels-last are not generated"
    return "" if lanes() else "there is no C compiler"


def maximum(site: Site) -> Source | None:
    """`shoal.ops.pool.max_pool`."""
    return _reduced(site, "-INFINITY", "larger")


def total(site: Site) -> Source | None:
    """`shoal.ops.pool.sum_pool`."""
    return _reduced(site, "0.0f", "plus")


def _reduced(site: Site, start: str, join: str) -> Source | None:
    """The elements of each window, joined."""
    if why_not(site):
        return None
    w, frame = _windows(site.specs[0], site.call.specs[0], site.call.attrs), Frame(site)
    frame.input("x", 0)
    frame.output("y", 1)
    frame.stage(str(w.batch * w.out[0]), "NAME_row(x, y, t);")

    def text(name: str) -> str:
        lines = []
        for group in w.pixel.groups():
            lines += [f"vec m_{k} = (vec){{0}} + {start};" for k in group]
            joined = " ".join(f"m_{k} = {join}(m_{k}, {w.pixel.load('s', k, '0')});" for k in group)
            lines += [_over_window(w, joined), *(_stored(w, "to", k, f"m_{k}") for k in group)]
        body = "\n    ".join(lines)
        return f"""
static void {name}_row(const float *restrict x, float *restrict y, long t) {{
  {_window_row(w)}
    float *to = y + (t * {w.out[1]} + q) * {w.channels}L;
    {body}
  }}
}}
"""

    return frame.source(text, w.batch * w.channels * w.space[0] * w.space[1])


def _window_row(w: _Windows) -> str:
    """Row t of windows: for each window q its first pixel p, and the bounds [i0, i1) x [j0, j1) of what is inside."""
    rows, cols = (
        (
            f"0, {v}1 = {w.kernel[a]}"
            if w.inside(a)
            else f"{b} < 0 ? -{b} : 0, {v}1 = {_least(w.kernel[a], w.space[a], b)}"
        )
        for a, v, b in ((0, "i", "h0"), (1, "j", "w0"))
    )
    return f"""const long h0 = t % {w.out[0]} * {w.stride[0]} - {w.pad[0]}, i0 = {rows};
  for (long q = 0; q < {w.out[1]}; q++) {{
    const long w0 = q * {w.stride[1]} - {w.pad[1]}, j0 = {cols};
    const long at = ((t / {w.out[0]} * {w.space[0]} + h0) * {w.space[1]} + w0) * {w.channels}L;"""


def _least(kernel: int, length: int, begin: str) -> str:
    return f"{length} - {begin} < {kernel} ? {length} - {begin} : {kernel}"


def _over_window(w: _Windows, body: str) -> str:
    """``body`` for each pixel s of the window, number ``i * width + j``."""
    step = f"const float *s = x + at + (i * {w.space[1]} + j) * {w.channels}L;"
    return f"for (long i = i0; i < i1; i++) for (long j = j0; j < j1; j++) {{ {step} {body} }}"


def _stored(w: _Windows, pointer: str, k: int, value: str) -> str:
    rest = min(w.channels - k * lanes(), lanes())
    place = f"{pointer} + {k * lanes()}"
    return f"*(vec *)({place}) = {value};" if rest == lanes() else f"store_part({place}, {value}, {rest});"


def max_index(site: Site) -> Source | None:
    """`shoal.ops.pool.max_pool_index`: the first position whose element is the largest."""
    if why_not(site):
        return None
    w, frame = _windows(site.specs[0], site.call.specs[0], site.call.attrs), Frame(site)
    frame.input("x", 0)
    frame.input("best", 1)
    frame.pointer("index", 2, "uint8_t")
    frame.stage(str(w.batch * w.out[0]), "NAME_row(x, best, index, t);")

    def text(name: str) -> str:
        lines = []
        for group in w.pixel.groups():
            lines += [f"const vec b_{k} = {w.pixel.load('from', k, '0')}; ivec n_{k} = {{0}};" for k in group]
            body = " ".join(
                f"n_{k} = pick({w.pixel.load('s', k, '0')} == b_{k}, (int32_t)(i * {w.kernel[1]} + j), n_{k});"
                for k in group
            )
            lines.append(
                _over_window(w, body)
                .replace("i = i0; i < i1; i++", "i = i1 - 1; i >= i0; i--")
                .replace("j = j0; j < j1; j++", "j = j1 - 1; j >= j0; j--")
            )
            lines += [
                f"store_bytes(to + {k * lanes()}, n_{k}, {min(w.channels - k * lanes(), lanes())});" for k in group
            ]
        body = "\n    ".join(lines)
        return f"""
static void {name}_row(const float *restrict x, const float *restrict best, uint8_t *restrict index, long t) {{
  {_window_row(w)}
    const float *from = best + (t * {w.out[1]} + q) * {w.channels}L;
    uint8_t *to = index + (t * {w.out[1]} + q) * {w.channels}L;
    {body}
  }}
}}
"""

    return frame.source(text, w.batch * w.channels * w.space[0] * w.space[1])


def max_spread(site: Site) -> Source | None:
    """`shoal.ops.pool.max_unpool`: each cotangent goes to its window's position."""
    if why_not(site):
        return None
    w, frame = _windows(site.call.specs[0], site.specs[0], site.call.attrs), Frame(site)
    frame.input("g", 0)
    frame.pointer("index", 1, "uint8_t")
    frame.output("dx", 2)
    return _spread(
        w, frame, "g, index", lambda k, at: f"chosen(load_bytes(n + {k * lanes()}, {_rest(w, k)}), {at}, g_{k})"
    )


def sum_spread(site: Site) -> Source | None:
    """`shoal.ops.pool.sum_unpool`: each cotangent goes to all pixels of its window."""
    if why_not(site):
        return None
    w, frame = _windows(site.call.specs[0], site.specs[0], site.call.attrs), Frame(site)
    frame.input("g", 0)
    frame.output("dx", 1)
    return _spread(w, frame, "g, 0", lambda k, at: f"g_{k}")


def _rest(w: _Windows, k: int) -> int:
    return min(w.channels - k * lanes(), lanes())


def _spread(w: _Windows, frame: Frame, arrays: str, part: Callable[[int, str], str]) -> Source:
    """What windows give to their pixels. ``part(k, position)`` is what vector k of the pixel at a position gets."""
    band = w.apart
    frame.stage(str(w.batch * (w.out[0] if band else w.space[0])), f"NAME_row({arrays}, dx, t);")

    def text(name: str) -> str:
        body = "\n  ".join(_bands(w, part) if band else _pixels(w, part))
        return f"""
static void {name}_row(const float *restrict g, const uint8_t *restrict index, float *restrict dx, long t) {{
  {body}
}}
"""

    return frame.source(text, w.batch * w.channels * w.space[0] * w.space[1])


def _bands(w: _Windows, part: Callable[[int, str], str]) -> Iterator[str]:
    """Windows that do not overlap, row by row: row t writes all pixels from its own first one to the next row's."""
    if not w.covering:
        first = f"t % {w.out[0]} ? t % {w.out[0]} * {w.stride[0]} - {w.pad[0]} : 0"
        after = f"(t + 1) % {w.out[0]} ? (t + 1) % {w.out[0]} * {w.stride[0]} - {w.pad[0]} : {w.space[0]}"
        row = w.space[1] * w.channels
        yield f"const long b0 = {first}, b1 = {after};"
        yield f"memset(dx + (t / {w.out[0]} * {w.space[0]} + b0) * {row}L, 0, (b1 - b0) * {row}L * 4);"
    yield _window_row(w)
    yield from _sources(w, f"t * {w.out[1]} + q")
    for group in w.pixel.groups():
        yield " ".join(f"const vec g_{k} = {w.pixel.load('from', k, '0')};" for k in group)
    every = [k for group in w.pixel.groups() for k in group]
    given = " ".join(_stored(w, "s", k, part(k, f"i * {w.kernel[1]} + j")) for k in every)
    yield _over_window(w, given).replace("const float *s = x", "float *s = dx")
    yield "}"


def _sources(w: _Windows, window: str) -> Iterator[str]:
    yield f"const float *from = g + ({window}) * {w.channels}L;"
    yield f"const uint8_t *n = index ? index + ({window}) * {w.channels}L : 0; (void)n;"


def _pixels(w: _Windows, part: Callable[[int, str], str]) -> Iterator[str]:
    """Windows that overlap: row t of the pixels adds up what the windows around each of them give."""
    (kh, kw), (sh, sw), (ph, pw) = w.kernel, w.stride, w.pad
    yield f"const long h = t % {w.space[0]}, image = t / {w.space[0]};"
    yield f"const long r0 = h + {ph} < {kh} ? 0 : (h + {ph} - {kh}) / {sh} + 1;"
    yield f"const long r1 = (h + {ph}) / {sh} < {w.out[0]} ? (h + {ph}) / {sh} + 1 : {w.out[0]};"
    yield f"for (long c = 0; c < {w.space[1]}; c++) {{"
    yield f"const long q0 = c + {pw} < {kw} ? 0 : (c + {pw} - {kw}) / {sw} + 1;"
    yield f"const long q1 = (c + {pw}) / {sw} < {w.out[1]} ? (c + {pw}) / {sw} + 1 : {w.out[1]};"
    yield f"float *to = dx + (t * {w.space[1]} + c) * {w.channels}L;"
    for group in w.pixel.groups():
        yield " ".join(f"vec d_{k} = {{0}};" for k in group)
        yield "for (long r = r1 - 1; r >= r0; r--) for (long q = q1 - 1; q >= q0; q--) {"
        yield from _sources(w, f"(image * {w.out[0]} + r) * {w.out[1]} + q")
        place = f"(h + {ph} - r * {sh}) * {kw} + c + {pw} - q * {sw}"
        yield " ".join(f"const vec g_{k} = {w.pixel.load('from', k, '0')}; d_{k} += {part(k, place)};" for k in group)
        yield "} " + " ".join(_stored(w, "to", k, f"d_{k}") for k in group)
    yield "}"


for _op, _maker in {
    "max_pool": maximum,
    "max_pool_index": max_index,
    "max_unpool": max_spread,
    "sum_pool": total,
    "sum_unpool": sum_spread,
}.items():
    register(_op, _maker)
