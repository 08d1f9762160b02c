"""Batch normalization of images in generated C, with ReLU and the addition of a shortcut in the same pass.

The statistics come from one pass over memory: blocks of rows, each twice while it is in the first-level cache, so that
squares are taken of distances from the block's own mean; blocks are merged in float64. That keeps the digits that
E[x**2] - E[x]**2 would lose.
"""

import numpy as np

from shoal.ops.graph.kernels import Site, Source, register
from shoal.ops.native.columns import Columns
from shoal.ops.native.generated import Frame, lanes
from shoal.ops.registry import Spec

__all__ = ["backward", "forward", "why_not"]


def why_not(site: Site) -> str:
    """Why a batch normalization is not generated; empty if it is."""
    specs = [s for s in (*site.specs, *site.call.specs) if isinstance(s, Spec)]
    if site.xp.module is not np:
        return "it is not on the CPU"
    if any(s.dtype != np.float32 for s in specs):
        return "only float32 is generated"
    if specs[0].ndim != 4 or site.call.attrs.get("axis", 1) != 1:
        return "only images with their channels along axis 1 are generated"
    if any(0 in s.shape for s in specs):
        return "there is nothing to compute"
    return "" if lanes() else "there is no C compiler"


def _columns(spec: Spec) -> Columns:
    n, c, h, w = spec.shape
    return Columns(n * h * w, c, lanes())


def _eps(site: Site) -> str:
    return repr(float(site.call.attrs.get("eps", 1e-5)))


def forward(site: Site) -> Source | None:
    """`shoal.ops.norm.batch_norm`, or `shoal.ops.joined.batch_norm_relu`, which may add a shortcut."""
    if why_not(site):
        return None
    relu = site.call.op == "batch_norm_relu"
    added = relu and site.specs[3] is not None
    m, frame = _columns(site.specs[0]), Frame(site)
    frame.input("x", 0)
    for number, name in enumerate(("gamma", "beta"), 1):
        frame.pointer(name, number)
    if added:
        frame.input("res", 3)
    first = 4 if added else 3
    frame.output("y", first)
    frame.pointer("mean", first + 1)
    frame.pointer("var", first + 2)
    parts = frame.scratch(2 * m.blocks * m.padded)
    table = frame.scratch(3 * m.padded)
    frame.stage(str(m.blocks), f"NAME_stats(x, {parts} + t * {2 * m.padded}L, t);")
    frame.alone(f"NAME_merge({parts}, gamma, beta, mean, var, {table});")
    frame.stage(str(m.blocks), f"NAME_apply(x, {'res' if added else 'x'}, {table}, y, t);")

    def text(name: str) -> str:
        return _statistics(name, m) + _merge(name, m, _eps(site)) + _apply(name, m, relu, added)

    return frame.source(text, m.rows * m.width * 4)


def _statistics(name: str, m: Columns) -> str:
    """Mean of each column of a block, and the sum of squared distances from it."""
    lines = []
    for group in m.groups():
        lines.append("{ " + m.sums(group, ["s"], lambda k, row: [m.load("x", k, row)]))
        lines += [f"const vec m_{k} = s_{k} / (float)(r1 - r0); *(vec *)(part + {k * m.lanes}) = m_{k};" for k in group]
        squares = m.sums(group, ["q"], lambda k, row: [f"square({m.load('x', k, row)} - m_{k})"])
        lines.append(squares + " ".join(f"*(vec *)(part + {m.padded + k * m.lanes}) = q_{k};" for k in group) + " }")
    body = "\n  ".join(lines)
    return f"""
static void {name}_stats(const float *restrict x, float *restrict part, long t) {{
  {m.bounds()}
  {body}
}}"""


def _merge(name: str, m: Columns, eps: str) -> str:
    """Statistics of all blocks; the table has mean, scale and shift."""
    return f"""
static void {name}_merge(const float *restrict parts, const float *gamma, const float *beta, float *mean, float *var,
                         float *restrict table) {{
  double sum[{m.width}] = {{0}}, square_sum[{m.width}] = {{0}};
  for (long b = 0; b < {m.blocks}; b++) {{
    const double n = b == {m.blocks - 1} ? {m.rows - (m.blocks - 1) * m.block} : {m.block};
    for (long c = 0; c < {m.width}; c++) sum[c] += n * parts[b * {2 * m.padded}L + c];
  }}
  for (long c = 0; c < {m.width}; c++) sum[c] /= {m.rows}.0;
  for (long b = 0; b < {m.blocks}; b++) {{
    const double n = b == {m.blocks - 1} ? {m.rows - (m.blocks - 1) * m.block} : {m.block};
    for (long c = 0; c < {m.width}; c++) {{
      const double d = parts[b * {2 * m.padded}L + c] - sum[c];
      square_sum[c] += parts[b * {2 * m.padded}L + {m.padded} + c] + n * d * d;
    }}
  }}
  for (long c = 0; c < {m.padded}; c++) {{
    const long k = c < {m.width} ? c : {m.width - 1};
    const double v = square_sum[k] / {m.rows}.0;
    if (c == k) {{ mean[c] = (float)sum[c]; var[c] = (float)v; }}
    table[c] = (float)sum[k];
    table[{m.padded} + c] = (float)(gamma[k] / sqrt(v + {eps}));
    table[{2 * m.padded} + c] = beta[k];
  }}
}}"""


def _apply(name: str, m: Columns, relu: bool, added: bool) -> str:
    """(x - mean) * scale + shift, then what comes after."""
    lines = []
    for group in m.groups():
        names = [("m", 0), ("a", m.padded), ("b", 2 * m.padded)]
        tables = [f"const vec {n}_{k} = *(const vec *)(table + {at + k * m.lanes});" for n, at in names for k in group]

        def body(k: int, row: str) -> str:
            value = f"({m.load('x', k)} - m_{k}) * a_{k} + b_{k}"
            value = f"{value} + {m.load('res', k)}" if added else value
            return m.store("y", k, f"relu_vec({value})" if relu else value)

        lines.append(f"{{ {' '.join(tables)} {m.each(group, body)} }}")
    text = "\n  ".join(lines)
    return f"""
static void {name}_apply(const float *restrict x, const float *restrict res, const float *restrict table,
                         float *restrict y, long t) {{
  {m.bounds()}
  (void)res;
  {text}
}}
"""


def backward(site: Site) -> Source | None:
    """`shoal.ops.norm.batch_norm_grad`."""
    if why_not(site):
        return None
    m, frame = _columns(site.specs[0]), Frame(site)
    frame.input("g", 0)
    frame.input("x", 1)
    for number, name in enumerate(("gamma", "mean", "var"), 2):
        frame.pointer(name, number)
    frame.output("dx", 5)
    frame.pointer("dgamma", 6)
    frame.pointer("dbeta", 7)
    parts, table = frame.scratch(2 * m.blocks * m.padded), frame.scratch(4 * m.padded)
    frame.stage(str(m.blocks), f"NAME_sums(g, x, mean, {parts} + t * {2 * m.padded}L, t);")
    frame.alone(f"NAME_merge({parts}, gamma, mean, var, dgamma, dbeta, {table});")
    frame.stage(str(m.blocks), f"NAME_apply(g, x, {table}, dx, t);")

    def text(name: str) -> str:
        return _gradient_sums(name, m) + _gradient_merge(name, m, _eps(site)) + _gradient(name, m)

    return frame.source(text, m.rows * m.width * 6)


def _gradient_sums(name: str, m: Columns) -> str:
    """Sums of g and of g * (x - mean) over a block."""
    lines = []
    for group in m.groups():
        means = [f"const vec m_{k} = {m.load('mean', k, '0')};" for k in group]

        def terms(k: int, row: str) -> list[str]:
            g = m.load("g", k, row)
            return [g, f"{g} * ({m.load('x', k, row)} - m_{k})"]

        sums = m.sums(group, ["b", "a"], terms)
        stores = [
            f"*(vec *)(part + {at + k * m.lanes}) = {n}_{k};" for n, at in (("b", 0), ("a", m.padded)) for k in group
        ]
        lines.append(f"{{ {' '.join(means)} {sums} {' '.join(stores)} }}")
    text = "\n  ".join(lines)
    return f"""
static void {name}_sums(const float *restrict g, const float *restrict x, const float *restrict mean,
                        float *restrict part, long t) {{
  {m.bounds()}
  {text}
}}"""


def _gradient_merge(name: str, m: Columns, eps: str) -> str:
    """Gradients of gamma and beta; the table has what `_gradient` multiplies g and x with."""
    return f"""
static void {name}_merge(const float *restrict parts, const float *gamma, const float *mean, const float *var,
                         float *dgamma, float *dbeta, float *restrict table) {{
  double b[{m.width}] = {{0}}, a[{m.width}] = {{0}};
  for (long i = 0; i < {m.blocks}; i++)
    for (long c = 0; c < {m.width}; c++) {{
      b[c] += parts[i * {2 * m.padded}L + c];
      a[c] += parts[i * {2 * m.padded}L + {m.padded} + c];
    }}
  for (long c = 0; c < {m.padded}; c++) {{
    const long k = c < {m.width} ? c : {m.width - 1};
    const double inv = 1.0 / sqrt((double)var[k] + {eps}), scale = gamma[k] * inv;
    if (c == k) {{ dgamma[c] = (float)(a[c] * inv); dbeta[c] = (float)b[c]; }}
    table[c] = mean[k];
    table[{m.padded} + c] = (float)scale;
    table[{2 * m.padded} + c] = (float)(-scale * inv * inv * a[k] / {m.rows}.0);
    table[{3 * m.padded} + c] = (float)(-scale * b[k] / {m.rows}.0);
  }}
}}"""


def _gradient(name: str, m: Columns) -> str:
    """dx = scale * g + slope * (x - mean) + shift; g and dx may be the same array."""
    lines = []
    for group in m.groups():
        names = [("m", 0), ("a", m.padded), ("c", 2 * m.padded), ("b", 3 * m.padded)]
        tables = [f"const vec {n}_{k} = *(const vec *)(table + {at + k * m.lanes});" for n, at in names for k in group]

        def body(k: int, row: str) -> str:
            return m.store("dx", k, f"{m.load('g', k)} * a_{k} + (({m.load('x', k)} - m_{k}) * c_{k} + b_{k})")

        lines.append(f"{{ {' '.join(tables)} {m.each(group, body)} }}")
    text = "\n  ".join(lines)
    return f"""
static void {name}_apply(const float *g, const float *restrict x, const float *restrict table, float *dx, long t) {{
  {m.bounds()}
  {text}
}}
"""


for _op, _maker in {
    "batch_norm": forward,
    "batch_norm_relu": forward,
    "batch_norm_grad": backward,
}.items():
    register(_op, _maker)
