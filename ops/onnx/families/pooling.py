"""Pooling, with every padding, dilation and rounding that ONNX has.

Plain windows go to the operators of `shoal.ops.pool`; all others are strided views of a padded array, one for each
position in a window, of which the maximum or the sum is taken.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import product
from typing import Any

import numpy as np

from shoal.ops import elementwise, pool
from shoal.ops import reduce as reducing
from shoal.ops import shape as shaping
from shoal.ops.onnx.nodes import Call, node

__all__ = ["Window"]

Lengths = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Window:
    """How windows lie on the spatial axes.

    Attributes:
        kernel, stride, dilate: one number an axis.
        before, after: padding.
        out: how many windows there are.
    """

    kernel: Lengths
    stride: Lengths
    dilate: Lengths
    before: Lengths
    after: Lengths
    out: Lengths

    @staticmethod
    def of(c: Call, space: Sequence[int], kernel: Sequence[int]) -> "Window":
        """From the attributes of a node."""
        k = len(space)
        stride = tuple(c.get("strides", (1,) * k))
        dilate = tuple(c.get("dilations", (1,) * k))
        reach = [d * (m - 1) + 1 for m, d in zip(kernel, dilate, strict=True)]
        mode, pads = c.get("auto_pad", "NOTSET"), list(c.get("pads", (0,) * 2 * k))
        if mode in ("SAME_UPPER", "SAME_LOWER"):
            total = [max(0, (-(-n // s) - 1) * s + r - n) for n, s, r in zip(space, stride, reach, strict=True)]
            small = [t // 2 for t in total]
            large = [t - t // 2 for t in total]
            pads = small + large if mode == "SAME_UPPER" else large + small
        elif mode == "VALID":
            pads = [0] * 2 * k
        before, after = tuple(pads[:k]), tuple(pads[k:])
        out = [
            _count(n, s, r, a, b, bool(c.get("ceil_mode", 0)))
            for n, s, r, a, b in zip(space, stride, reach, before, after, strict=True)
        ]
        return Window(tuple(kernel), stride, dilate, before, after, tuple(out))

    @property
    def is_plain(self) -> bool:
        """Whether `shoal.ops.pool` has such windows."""
        return (
            self.before == self.after
            and set(self.dilate) == {1}
            and all(p < m for p, m in zip(self.before, self.kernel, strict=True))
        )

    def fits(self, space: Sequence[int]) -> bool:
        """Whether no window begins where the rounding down would end."""
        counts = zip(space, self.stride, self.kernel, self.before, self.after, self.out, strict=True)
        return all(_count(n, s, m, a, b, False) == o for n, s, m, a, b, o in counts)

    def views(self, x: Any, fill: Any) -> list[Any]:
        """For each position in a window, that element of all windows; ``fill`` outside of x."""
        space = tuple(x.shape[2:])
        ends = [
            max(0, (o - 1) * s + d * (m - 1) + 1 - n - a)
            for o, s, d, m, n, a in zip(
                self.out, self.stride, self.dilate, self.kernel, space, self.before, strict=True
            )
        ]
        width = ((0, 0), (0, 0), *zip(self.before, ends, strict=True))
        x = shaping.pad(x, tuple(width), fill) if any(self.before) or any(ends) else x
        return [x[self._key(at)] for at in product(*map(range, self.kernel))]

    def _key(self, at: Sequence[int]) -> tuple[Any, ...]:
        cuts = zip(at, self.dilate, self.out, self.stride, strict=True)
        return (slice(None), slice(None), *(slice(i * d, i * d + (o - 1) * s + 1, s) for i, d, o, s in cuts))


def _count(n: int, stride: int, reach: int, before: int, after: int, up: bool) -> int:
    room = n + before + after - reach
    count = (-(-room // stride) if up else room // stride) + 1
    if up and (count - 1) * stride >= n + before:  # the last window would see padding only
        count -= 1
    return count


@node("MaxPool")
def max_pool(c: Call, x: Any) -> Any:
    """The largest element of each window, and, if asked for, its position in the flattened array."""
    w = Window.of(c, tuple(x.shape[2:]), c.get("kernel_shape"))
    if c.wants(1):
        return _max_pool_with_positions(c, x, w)
    if w.is_plain and w.fits(tuple(x.shape[2:])) and np.dtype(x.dtype).kind == "f":
        return pool.max_pool(x, kernel=w.kernel, stride=w.stride, pad=w.before)
    dtype = np.dtype(x.dtype)
    lowest = -np.inf if dtype.kind == "f" else int(np.iinfo(dtype).min)
    return reduce(elementwise.maximum, w.views(x, lowest))


def _max_pool_with_positions(c: Call, x: Any, w: Window) -> Any:
    shape, dtype = tuple(x.shape), np.dtype(x.dtype)
    lowest = -np.inf if dtype.kind == "f" else int(np.iinfo(dtype).min)
    count = int(np.prod(shape[2:]))
    where = np.arange(count).reshape(shape[2:])
    if c.get("storage_order", 0):
        where = np.arange(count).reshape(shape[2:][::-1]).T
    where = np.broadcast_to(where, shape) + (
        np.arange(shape[0] * shape[1]).reshape(shape[:2] + (1,) * (len(shape) - 2)) * int(np.prod(shape[2:]))
    )
    best = shaping.stack(w.views(x, lowest), axis=0)
    places = np.stack(w.views(where.astype(np.int64), 0), axis=0)
    first = np.argmax(c.known(best, "the positions"), axis=0)[None]
    return reducing.max_(best, axis=0), np.take_along_axis(places, first, axis=0)[0]


@node("AveragePool")
def average_pool(c: Call, x: Any) -> Any:
    """The mean of each window; padding counts if ``count_include_pad`` is set."""
    w = Window.of(c, tuple(x.shape[2:]), c.get("kernel_shape"))
    total = reduce(elementwise.add, w.views(x, 0.0))
    counted = np.ones((1, 1, *x.shape[2:]), np.float64)
    if c.get("count_include_pad", 0):
        width = ((0, 0), (0, 0), *zip(w.before, w.after, strict=True))
        counted = np.pad(counted, width, constant_values=1.0)
        w = Window(w.kernel, w.stride, w.dilate, (0,) * len(w.out), (0,) * len(w.out), w.out)
    count = reduce(np.add, w.views(counted, 0.0))
    return total / count.astype(np.dtype(x.dtype))


@node("LpPool")
def lp_pool(c: Call, x: Any) -> Any:
    """The p-norm of each window."""
    w, p = Window.of(c, tuple(x.shape[2:]), c.get("kernel_shape")), float(c.get("p", 2))
    total = reduce(elementwise.add, [elementwise.abs_(v) ** p for v in w.views(x, 0.0)])
    return total ** (1.0 / p)


def _over_space(name: str, f: Any) -> None:
    @node(name)
    def apply(c: Call, x: Any) -> Any:
        return f(c, x, tuple(range(2, x.ndim)))


def _global_norm(c: Call, x: Any, axes: Lengths) -> Any:
    p = float(c.get("p", 2))
    return reducing.sum_(elementwise.abs_(x) ** p, axis=axes, keepdims=True) ** (1.0 / p)


_over_space("GlobalAveragePool", lambda c, x, axes: reducing.mean(x, axis=axes, keepdims=True))
_over_space("GlobalMaxPool", lambda c, x, axes: reducing.max_(x, axis=axes, keepdims=True))
_over_space("GlobalLpPool", _global_norm)


@node("MaxUnpool", known=[1, 2])
def max_unpool(c: Call, x: Any, where: Any, wanted: Any = None) -> Any:
    """Elements back where `max_pool` found them; zeros elsewhere."""
    k = x.ndim - 2
    kernel, stride = c.get("kernel_shape"), c.get("strides", (1,) * k)
    pads = c.get("pads", (0,) * 2 * k)
    sizes = zip(x.shape[2:], stride, kernel, pads[:k], pads[k:], strict=True)
    usual = (*x.shape[:2], *((n - 1) * s + m - a - b for n, s, m, a, b in sizes))
    places = c.known(where, "the positions").reshape(-1)
    out = c.ints(wanted, "the shape") if wanted is not None else usual
    if out != usual:  # positions are those of the usual shape
        places = np.ravel_multi_index(np.unravel_index(places, usual), out)
    flat = np.zeros(int(np.prod(out)), np.dtype(x.dtype))
    if hasattr(x, "asnumpy"):
        from shoal.ops.index import take_add

        return shaping.reshape(take_add(shaping.reshape(x, (-1,)), places, axis=0, shape=flat.shape), out)
    flat[places] = np.asarray(x).reshape(-1)
    return flat.reshape(out)
