"""C text of direct convolutions on channels-last arrays: `gather` (forward, and the gradient for the input).

One output row at a time, in blocks of a few pixels times a few vectors of channels whose sums stay in registers. All
lengths are constants of the text, so that every address is a register and a number; blocks at the edges have code of
their own, in which taps that fall outside are left out. So nothing is padded, and nothing is read that is not there.

The sums are variables with names: gcc leaves an array of vectors on the stack, which is three times slower.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from shoal.ops.native.geometry import Axis, overlap

__all__ = ["Gather", "gather", "packed_size", "tile"]

ROW_BYTES = 24 << 10
"""Input rows that a task goes through for each block of filters: half of a first-level cache."""


@dataclass(frozen=True)
class Gather:
    """What one gather does.

    Attributes:
        batch, inner, outer: images, channels that are summed over, channels of the result.
        rows, cols: the two axes.
        source, target: (height, width) of the input and of the whole output.
        weight: strides of the weights, in elements: outer channel, inner channel, height, width.
        bias, relu: what happens to the sums at last.
        offset: where the packed weights of this gather begin.
    """

    batch: int
    inner: int
    outer: int
    rows: Axis
    cols: Axis
    source: tuple[int, int]
    target: tuple[int, int]
    weight: tuple[int, ...]
    bias: bool = False
    relu: bool = False
    offset: int = 0


def vectors(outer: int, lanes: int) -> int:
    """How many vectors the channels of a pixel take."""
    return -(-outer // lanes)


def tile(outer: int, count: int, lanes: int) -> tuple[int, int]:
    """(vectors, pixels) of a block: the fewest cycles, if two products and two loads can begin in each."""
    registers = 28 if lanes == 16 else 12
    total = vectors(outer, lanes)
    best = (float("inf"), 1, 1)
    for v in range(1, min(total, 4) + 1):
        if total % v:
            continue
        for most in range(1, registers // v + 1):
            blocks = -(-count // most)
            pixels = -(-count // blocks)
            if v * pixels + v > registers + 2:
                continue
            cycles = max(v * pixels, v + pixels, 8) / 2 + 0.5
            best = min(best, (cycles * blocks * (total // v), v, pixels))
    return best[1], best[2]


def packed_size(g: Gather, lanes: int) -> int:
    """Floats that the packed weights take."""
    return vectors(g.outer, lanes) * lanes * len(g.rows.taps) * len(g.cols.taps) * g.inner


@lru_cache(256)
def gather(name: str, g: Gather, lanes: int) -> str:
    """Two functions: ``name_pack(w, packed, task)`` and ``name(x, packed, bias, y, task)``, and their task counts."""
    v, _ = tile(g.outer, g.cols.count, lanes)
    width = v * lanes
    blocks = vectors(g.outer, lanes) // v
    group = _row_group(g)
    tasks = g.batch * -(-g.rows.count // group)
    body = "\n".join(_row(g, lanes)) if g.rows.taps and g.cols.taps else _nothing(g)
    return f"""
enum {{ {name}_tasks = {tasks}, {name}_packs = {blocks * len(g.rows.taps)} }};
{_pack(name, g, width)}
static void {name}(const float *restrict x, const float *restrict packed, const float *restrict bias,
                   float *restrict y, long task) {{
  const long n = task / {-(-g.rows.count // group)}, begin = task % {-(-g.rows.count // group)} * {group};
  const long end = begin + {group} < {g.rows.count} ? begin + {group} : {g.rows.count};
  x += n * {g.source[0] * g.source[1] * g.inner}L;
  y += n * {g.target[0] * g.target[1] * g.outer}L;
  for (long ob = 0; ob < {blocks}; ob++) {{
    const float *wb = packed + {g.offset}L + ob * {len(g.rows.taps) * len(g.cols.taps) * g.inner * width}L;
    const int last = ob == {blocks - 1};
    (void)wb; (void)last;
    for (long r = begin; r < end; r++) {{
{body}
    }}
  }}
}}
"""


def _row_group(g: Gather) -> int:
    row = g.source[1] * g.inner * 4 * g.rows.jump
    return max(1, min(g.rows.count, ROW_BYTES // max(row, 1) - len(g.rows.taps) + 1))


def _pack(name: str, g: Gather, width: int) -> str:
    """One block of filters and one row of the kernel at a time, zeros behind the last filter."""
    if not (g.rows.taps and g.cols.taps):
        return f"static void {name}_pack(const float *w, float *packed, long task) {{ }}"
    ks = ", ".join(str(k) for k, _ in g.cols.taps)
    rs = ", ".join(str(k) for k, _ in g.rows.taps)
    t, u = len(g.rows.taps), len(g.cols.taps)
    return f"""
static void {name}_pack(const float *restrict w, float *restrict packed, long task) {{
  static const int rows[] = {{ {rs} }}, cols[] = {{ {ks} }};
  const long ob = task / {t}, row = rows[task % {t}] * {g.weight[2]}L;
  float *q = packed + {g.offset}L + task * {u * g.inner * width}L;
  for (int t = 0; t < {u}; t++)
    for (long c = 0; c < {g.inner}; c++, q += {width})
      for (long o = 0; o < {width}; o++) {{
        const long to = ob * {width} + o;
        const long at = to * {g.weight[0]}L + c * {g.weight[1]}L + row + cols[t] * {g.weight[3]}L;
        q[o] = to < {g.outer} ? w[at] : 0.0f;
      }}
}}"""


def _nothing(g: Gather) -> str:
    """No tap reaches these positions: the result is the bias, or zero."""
    value = "bias[o]" if g.bias else "0.0f"
    value = f"relu_of({value})" if g.relu else value
    return f"""      if (ob == 0)
        for (long j = 0; j < {g.cols.count}; j++)
          for (long o = 0; o < {g.outer}; o++)
            y[({_position(g)}) * {g.outer} + o] = {value};"""


def _position(g: Gather) -> str:
    """The pixel that (r, j) stands for."""
    return f"({g.rows.start}L + r * {g.rows.step}) * {g.target[1]} + {g.cols.start} + j * {g.cols.step}"


def _row(g: Gather, lanes: int) -> Iterator[str]:
    """The code of one output row."""
    taps, apart = g.rows.taps, g.rows.apart
    yield f"      const long at = r * {g.rows.jump} + ({taps[0][1]});"
    yield f"      long t0 = 0, t1 = {len(taps)};"
    yield f"      while (t0 < t1 && at + t0 * {apart} < 0) t0++;"
    yield f"      while (t0 < t1 && at + (t1 - 1) * {apart} >= {g.source[0]}) t1--;"
    yield f"      const float *xr = x + at * {g.source[1] * g.inner}L;"
    v, pixels = tile(g.outer, g.cols.count, lanes)
    for begin, end, size in _runs(g.cols, pixels):
        yield f"      for (long j = {begin}; j < {end}; j += {size}) {{"
        yield from _block(g, begin, size, v, lanes)
        yield "      }"


def _runs(cols: Axis, pixels: int) -> Iterator[tuple[int, int, int]]:
    """(begin, end, size of block) of blocks that follow each other and need the same code."""

    def kind(begin: int) -> object:
        size = min(pixels, cols.count - begin)
        return size, [overlap(cols, t, begin, size) for t in range(len(cols.taps))]

    first = 0
    for begin in range(0, cols.count, pixels):
        after = begin + pixels
        if after >= cols.count or kind(after) != kind(first):
            yield first, min(after, cols.count), min(pixels, cols.count - first)
            first = after


def _block(g: Gather, begin: int, size: int, v: int, lanes: int) -> Iterator[str]:
    """A block of ``size`` pixels times ``v`` vectors: sums, taps, result."""
    width = v * lanes
    sums = [f"a{i}_{k}" for i in range(size) for k in range(v)]
    for k in range(v):
        value = f"bias_of(bias, ob * {width} + {k * lanes}, {g.outer})" if g.bias else "(vec){0}"
        yield f"        const vec b{k} = {value};"
    yield "        vec " + ", ".join(f"{s} = b{s.split('_')[1]}" for s in sums) + ";"
    yield "        for (long t = t0; t < t1; t++) {"
    down, along = g.rows.apart * g.source[1] * g.inner, g.cols.jump * g.inner
    yield f"          const float *xt = xr + t * {down}L + j * {along}L;"
    yield f"          const float *wt = wb + t * {len(g.cols.taps) * g.inner * width}L;"
    for first, count, (low, high) in _merged(g.cols, begin, size):
        if low == high:
            continue
        yield "          {"
        yield f"            const float *p = xt + ({g.cols.taps[first][1] * g.inner}L);"
        yield f"            const float *q = wt + {first * g.inner * width}L;"
        yield f"            for (long c = 0; c < {count * g.inner}; c++, q += {width}) {{"
        yield "              " + " ".join(f"const vec w{k} = *(const vec *)(q + {k * lanes});" for k in range(v))
        for i in range(low, high):
            yield (
                f"              {{ const float s = p[c + {i * g.cols.jump * g.inner}]; "
                + " ".join(f"a{i}_{k} += s * w{k};" for k in range(v))
                + " }"
            )
        yield "            }"
        yield "          }"
    yield "        }"
    yield from _stores(g, size, v, lanes)


def _merged(cols: Axis, begin: int, size: int) -> Iterator[tuple[int, int, tuple[int, int]]]:
    """(first tap, how many, valid pixels): taps side by side that are valid for the same pixels are one loop."""
    first = 0
    for t in range(1, len(cols.taps) + 1):
        same = t < len(cols.taps) and overlap(cols, t, begin, size) == overlap(cols, first, begin, size)
        if not (same and cols.apart == 1):
            yield first, t - first, overlap(cols, first, begin, size)
            first = t


def _stores(g: Gather, size: int, v: int, lanes: int) -> Iterator[str]:
    tail = g.outer - (vectors(g.outer, lanes) - 1) * lanes
    yield f"        float *out = y + ({_position(g)}) * {g.outer} + ob * {v * lanes};"
    for i in range(size):
        for k in range(v):
            value = f"relu_vec(a{i}_{k})" if g.relu else f"a{i}_{k}"
            place = f"out + {i * g.cols.step * g.outer + k * lanes}"
            if k == v - 1 and tail != lanes:
                yield f"        if (last) store_part({place}, {value}, {tail}); else *(vec *)({place}) = {value};"
            else:
                yield f"        *(vec *)({place}) = {value};"
