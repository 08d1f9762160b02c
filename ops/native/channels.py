"""Sums over images per channel in generated C: the gradient of a bias."""

import numpy as np

from shoal.ops.graph.kernels import Site, Source, register
from shoal.ops.native.batchnorm import why_not
from shoal.ops.native.columns import Columns
from shoal.ops.native.generated import Frame, lanes

__all__ = ["sums"]


def sums(site: Site) -> Source | None:
    """`shoal.ops.conv.sum_channels`: blocks of rows in float32, added in float64."""
    if why_not(site) or site.specs[0].dtype != np.float32:
        return None
    n, c, h, w = site.specs[0].shape
    m, frame = Columns(n * h * w, c, lanes()), Frame(site)
    frame.input("x", 0)
    frame.pointer("y", 1)
    parts = frame.scratch(m.blocks * m.padded)
    frame.stage(str(m.blocks), f"NAME_block(x, {parts} + t * {m.padded}L, t);")
    frame.alone(f"NAME_merge({parts}, y);")
    return frame.source(lambda name: _text(name, m), m.rows * m.width)


def _text(name: str, m: Columns) -> str:
    lines = []
    for group in m.groups():
        stores = " ".join(f"*(vec *)(part + {k * m.lanes}) = s_{k};" for k in group)
        lines.append(f"{{ {m.sums(group, ['s'], lambda k, row: [m.load('x', k, row)])} {stores} }}")
    body = "\n  ".join(lines)
    return f"""
static void {name}_block(const float *restrict x, float *restrict part, long t) {{
  {m.bounds()}
  {body}
}}
static void {name}_merge(const float *restrict parts, float *restrict y) {{
  double sum[{m.width}] = {{0}};
  for (long b = 0; b < {m.blocks}; b++)
    for (long c = 0; c < {m.width}; c++) sum[c] += parts[b * {m.padded}L + c];
  for (long c = 0; c < {m.width}; c++) y[c] = (float)sum[c];
}}
"""


register("sum_channels", sums)
