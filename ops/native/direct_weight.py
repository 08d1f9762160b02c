"""C text of the gradient of a convolution for its weights, on channels-last arrays: `weight_gradient`.

For each tap it is a matrix product of inputs and cotangents over all positions. A block of the result, some inputs
times a few vectors of filters, stays in registers while a group of rows goes by. The positions are split into `PARTS`
fixed runs, whose sums are added in order: the number of threads does not change a bit.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from shoal.ops.native.direct import vectors
from shoal.ops.native.geometry import Axis, Shape2D, forward_axis

__all__ = ["PARTS", "partial_size", "weight_gradient"]

PARTS = 8
"""Runs of positions that are summed apart."""

GROUP_BYTES = 20 << 10
"""Rows of input and cotangent that stay in the first-level cache while all taps go over them."""


@dataclass(frozen=True)
class _Plan:
    """Lengths of everything. ``inner`` is the run of inputs, over channels and neighbouring taps, that one column of
    the loop multiplies; ``runs`` says at which tap each begins."""

    s: Shape2D
    lanes: int
    rows: Axis
    cols: Axis
    inner: int
    runs: tuple[int, ...]
    v: int
    elements: int
    group: int
    parts: int

    @property
    def width(self) -> int:
        return vectors(self.s.filters, self.lanes) * self.lanes

    @property
    def groups(self) -> int:
        return -(-self.rows.count // self.group)

    @property
    def blocks(self) -> int:
        return self.width // (self.v * self.lanes)


def _plan(s: Shape2D, lanes: int) -> _Plan:
    rows, cols = (forward_axis(s.space[i], s.out[i], s.kernel[i], s.stride[i], s.pad[i], s.dilate[i]) for i in (0, 1))
    together = len(cols.taps) if cols.apart == 1 and s.channels <= lanes else 1
    inner = together * s.channels
    v, elements = _tile(vectors(s.filters, lanes), inner, lanes)
    row_bytes = 4 * (s.space[1] * s.channels * s.stride[0] + s.out[1] * s.filters)
    group = max(1, min(rows.count, GROUP_BYTES // row_bytes))
    parts = min(PARTS, s.batch * -(-rows.count // group))
    return _Plan(s, lanes, rows, cols, inner, tuple(range(0, len(cols.taps), together)), v, elements, group, parts)


def _tile(total: int, inner: int, lanes: int) -> tuple[int, int]:
    """(vectors of filters, inputs) of a block."""
    registers = 26 if lanes == 16 else 12
    best = (float("inf"), 1, 1)
    for v in range(1, min(total, 4) + 1):
        if total % v:
            continue
        for most in range(1, registers // v + 1):
            blocks = -(-inner // most)
            elements = -(-inner // blocks)
            cycles = max(v * elements, v + elements, 8) / 2 + 0.5
            best = min(best, (cycles * blocks * (total // v), v, elements))
    return best[1], best[2]


def partial_size(s: Shape2D, lanes: int) -> int:
    """Floats of scratch that the function takes."""
    p = _plan(s, lanes)
    return p.parts * len(p.rows.taps) * len(p.cols.taps) * s.channels * p.width


@lru_cache(256)
def weight_gradient(name: str, s: Shape2D, result: tuple[int, ...], lanes: int) -> str:
    """Two functions, ``name_part(x, dy, partial, task)``, then ``name_sum(partial, dw, task)``, and their task counts.

    Args:
        result: strides of ``dw``, in elements: filters, channels, height, width.
    """
    p = _plan(s, lanes)
    taps = len(p.rows.taps)
    part = taps * len(p.cols.taps) * s.channels * p.width
    units = s.batch * p.groups
    body = "\n".join(_tap(p))
    return f"""
enum {{ {name}_tasks = {p.parts * p.blocks}, {name}_sums = {taps * len(p.cols.taps)} }};
static void {name}_part(const float *restrict x0, const float *restrict dy0, float *restrict partial, long task) {{
  const long part = task / {p.blocks}, ob = task % {p.blocks};
  const int last = ob == {p.blocks - 1} ? {s.filters - (p.width - lanes)} : {lanes};
  partial += part * {part}L + ob * {p.v * lanes};
  (void)last;
  for (long i = 0; i < {taps * len(p.cols.taps) * s.channels}; i++)
    for (long o = 0; o < {p.v * lanes}; o++) partial[i * {p.width} + o] = 0.0f;
  for (long unit = part * {units} / {p.parts}; unit < (part + 1) * {units} / {p.parts}; unit++) {{
    const long begin = unit % {p.groups} * {p.group};
    const long end = begin + {p.group} < {p.rows.count} ? begin + {p.group} : {p.rows.count};
    const float *x = x0 + unit / {p.groups} * {s.space[0] * s.space[1] * s.channels}L;
    const float *dy = dy0 + unit / {p.groups} * {s.out[0] * s.out[1] * s.filters}L + ob * {p.v * lanes};
    for (long t = 0; t < {taps}; t++) {{
      long r0 = begin, r1 = end;
      const long off = t * {p.rows.apart} + ({p.rows.taps[0][1]});
      while (r0 < r1 && r0 * {p.rows.jump} + off < 0) r0++;
      while (r1 > r0 && (r1 - 1) * {p.rows.jump} + off >= {s.space[0]}) r1--;
      float *out = partial + t * {len(p.cols.taps) * s.channels * p.width}L;
{body}
    }}
  }}
}}
static void {name}_sum(const float *restrict partial, float *restrict dw, long tap) {{
  const long at = tap / {len(p.cols.taps)} * {result[2]}L + tap % {len(p.cols.taps)} * {result[3]}L;
  for (long c = 0; c < {s.channels}; c++)
    for (long o = 0; o < {s.filters}; o++) {{
      const float *from = partial + (tap * {s.channels} + c) * {p.width} + o;
      float sum = from[0];
      for (long part = 1; part < {p.parts}; part++) sum += from[part * {part}L];
      dw[o * {result[0]}L + c * {result[1]}L + at] = sum;
    }}
}}
"""


def _tap(p: _Plan) -> Iterator[str]:
    """All blocks of one row of the kernel."""
    whole = p.inner - p.inner % p.elements
    for first in p.runs:
        if p.inner == p.s.channels:  # one tap: all blocks have the same code
            if whole:
                yield from _block(p, first, 0, p.elements, whole)
            if p.inner > whole:
                yield from _block(p, first, whole, p.inner - whole, p.inner)
        else:
            for e in range(0, p.inner, p.elements):
                size = min(p.elements, p.inner - e)
                yield from _block(p, first, e, size, e + size)


def _block(p: _Plan, first: int, e: int, count: int, end: int) -> Iterator[str]:
    """``count`` elements from e on of the run of inputs that begins at tap ``first``, and so on until ``end``."""
    channels, cols = p.s.channels, p.cols
    valid = [cols.valid(first + (e + i) // channels) for i in range(count)]
    inside = max(v[0] for v in valid), min(v[1] for v in valid)
    inside = (0, 0) if inside[0] >= inside[1] else inside
    row = first * channels * p.width
    pairs = [(i, k) for i in range(count) for k in range(p.v)]
    yield f"      for (long e = {e}; e < {end}; e += {count}) {{"
    yield f"        float *sums = out + e * {p.width} + {row}L;"
    for i, k in pairs:
        yield f"        vec a{i}_{k} = *(vec *)(sums + {i * p.width + k * p.lanes});"
    yield "        for (long r = r0; r < r1; r++) {"
    yield (
        f"          const float *px = x + (r * {p.rows.jump} + off) * {p.s.space[1] * channels}L"
        f" + ({cols.taps[first][1] * channels}L) + e;"
    )
    yield f"          const float *pd = dy + r * {p.s.out[1] * p.s.filters}L;"
    edges = [j for j in range(cols.count) if not inside[0] <= j < inside[1]]
    for j in edges:
        some = [i for i in range(count) if valid[i][0] <= j < valid[i][1]]
        if some:
            yield f"          {{ const long j = {j}; " + _products(p, some) + " }"
    if inside[1] > inside[0]:
        yield f"          for (long j = {inside[0]}; j < {inside[1]}; j++) {{ " + _products(p, range(count)) + " }"
    yield "        }"
    for i, k in pairs:
        yield f"        *(vec *)(sums + {i * p.width + k * p.lanes}) = a{i}_{k};"
    yield "      }"


def _products(p: _Plan, elements: "range | list[int]") -> str:
    """Multiply one column's inputs with its cotangents."""
    full = p.s.filters % p.lanes == 0
    text = []
    for k in range(p.v):
        place = f"pd + j * {p.s.filters} + {k * p.lanes}"
        load = f"*(const vec *)({place})" if full or k < p.v - 1 else f"load_part({place}, last)"
        text.append(f"const vec d{k} = {load};")
    for i in elements:
        products = " ".join(f"a{i}_{k} += s * d{k};" for k in range(p.v))
        text.append(f"{{ const float s = px[j * {p.cols.jump * p.s.channels} + {i}]; {products} }}")
    return " ".join(text)
