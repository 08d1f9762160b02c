"""Resize and Upsample: each axis by a matrix of weights, so that every mode has a gradient."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from shoal.ops import elementwise, index, linalg
from shoal.ops import shape as shaping
from shoal.ops.onnx.families.arithmetic import cast
from shoal.ops.onnx.nodes import Call, node

__all__: list[str] = []

Matrix = np.ndarray[Any, Any]


def _source(mode: str, out: int, n: int, scale: float, roi: tuple[float, float]) -> Matrix:
    """Where each new element lies on the old axis."""
    x = np.arange(out, dtype=np.float64)
    if mode == "align_corners":
        return x * (n - 1) / (out - 1) if out > 1 else np.zeros(out)
    if mode == "asymmetric":
        return x / scale
    if mode == "tf_crop_and_resize":
        start, end = roi
        step = (end - start) * (n - 1) / (out - 1) if out > 1 else 0.0
        return start * (n - 1) + x * step if out > 1 else np.full(1, 0.5 * (start + end) * (n - 1))
    if mode == "pytorch_half_pixel":
        return (x + 0.5) / scale - 0.5 if out > 1 else np.zeros(out)
    if mode == "half_pixel_symmetric":
        adjusted = out / (n * scale)
        return n / 2 * (1 - adjusted) + (x + 0.5) / scale - 0.5
    return (x + 0.5) / scale - 0.5  # half_pixel


def _nearest(mode: str) -> Callable[[Matrix], Matrix]:
    if mode == "round_prefer_ceil":
        return lambda x: np.floor(x + 0.5)
    if mode == "round_prefer_floor":
        return lambda x: np.ceil(x - 0.5)
    return np.floor if mode == "floor" else np.ceil


def _hat(x: Matrix) -> Matrix:
    return np.maximum(0.0, 1.0 - np.abs(x))


def _cubic(a: float) -> Callable[[Matrix], Matrix]:
    def weight(x: Matrix) -> Matrix:
        x = np.abs(x)
        near = ((a + 2) * x - (a + 3)) * x * x + 1
        far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
        return np.where(x <= 1, near, np.where(x < 2, far, 0.0))

    return weight


def _weights(c: Call, at: Matrix, n: int, scale: float) -> Matrix:
    """(new, old): how much of each old element is in each new one."""
    mode = c.get("mode", "nearest")
    cubic = mode == "cubic"
    kernel = _cubic(float(c.get("cubic_coeff_a", -0.75))) if cubic else _hat
    wide = min(1.0, scale) if c.get("antialias", 0) else 1.0
    reach = math.ceil((2 if cubic else 1) / wide)
    first = np.floor(at).astype(int)
    places = first[:, None] + np.arange(-reach + 1, reach + 1)[None, :]
    w = kernel((at[:, None] - places) * wide)
    if c.get("exclude_outside", 0):
        w = np.where((places < 0) | (places >= n), 0.0, w)
    if c.get("exclude_outside", 0) or wide < 1.0:
        w = w / w.sum(axis=1, keepdims=True)
    matrix = np.zeros((len(at), n))
    np.add.at(matrix, (np.arange(len(at))[:, None], np.clip(places, 0, n - 1)), w)
    return matrix


def _resized(c: Call, x: Any, axis: int, out: int, scale: float, roi: tuple[float, float]) -> Any:
    n = int(x.shape[axis])
    coordinates = c.get("coordinate_transformation_mode", "half_pixel" if c.opset >= 11 else "asymmetric")
    at = _source(coordinates, out, n, scale, roi)
    if c.get("mode", "nearest") == "nearest":
        default = "round_prefer_floor" if c.opset >= 11 else "floor"
        where = np.clip(_nearest(c.get("nearest_mode", default))(at), 0, n - 1).astype(int)
        made = index.take(x, where, axis=axis)
    else:
        matrix = _weights(c, at, n, scale)
        dtype = np.dtype(x.dtype)
        made = shaping.moveaxis(linalg.matmul(shaping.moveaxis(x, axis, -1), matrix.T.astype(dtype)), -1, axis)
    if coordinates != "tf_crop_and_resize":
        return made
    shape = [1] * x.ndim
    shape[axis] = out
    inside = ((at >= 0) & (at <= n - 1)).reshape(shape)
    return elementwise.where(inside, made, np.full((), c.get("extrapolation_value", 0.0), np.dtype(x.dtype)))


@node("Resize", known=[1, 2, 3])
def resize(c: Call, x: Any, *given: Any) -> Any:
    """To other lengths by scales or sizes, with all of ONNX's coordinates, modes and policies."""
    roi, scales, sizes = (*given, None, None, None)[:3] if c.opset >= 11 else (None, *given, None)[:3]
    axes = [a % x.ndim for a in c.get("axes", range(x.ndim))]
    box = c.known(roi, "the region").reshape(-1) if roi is not None and int(np.prod(tuple(roi.shape))) else None
    if sizes is not None and int(np.prod(tuple(sizes.shape))):
        wanted = c.ints(sizes, "the sizes")
        factor = [w / int(x.shape[a]) for w, a in zip(wanted, axes, strict=True)]
        policy = c.get("keep_aspect_ratio_policy", "stretch")
        if policy != "stretch":
            same = min(factor) if policy == "not_larger" else max(factor)
            factor = [same] * len(axes)
            wanted = tuple(math.floor(same * int(x.shape[a]) + 0.5) for a in axes)
    else:
        factor = [float(s) for s in c.known(scales, "the scales").reshape(-1)]
        wanted = tuple(math.floor(int(x.shape[a]) * f) for a, f in zip(axes, factor, strict=True))
    return _apply(c, x, axes, wanted, factor, box)


def _apply(c: Call, x: Any, axes: list[int], wanted: tuple[int, ...], factor: list[float], box: Matrix | None) -> Any:
    dtype = np.dtype(x.dtype)
    smooth = c.get("mode", "nearest") != "nearest" and dtype.kind != "f"
    x = cast(x, np.dtype(np.float32)) if smooth else x
    for i, (axis, out, scale) in enumerate(zip(axes, wanted, factor, strict=True)):
        roi = (float(box[i]), float(box[len(axes) + i])) if box is not None else (0.0, 1.0)
        if out != int(x.shape[axis]) or scale != 1.0 or box is not None:
            x = _resized(c, x, axis, out, scale, roi)
    return cast(x, dtype) if smooth else x


@node("Upsample", known=[1])
def upsample(c: Call, x: Any, scales: Any = None) -> Any:
    """`resize` as it was before opset 10."""
    found = c.known(scales, "the scales").reshape(-1) if scales is not None else c.get("scales")
    factor = [float(s) for s in found]
    wanted = tuple(math.floor(int(n) * f) for n, f in zip(x.shape, factor, strict=True))
    return _apply(c, x, list(range(x.ndim)), wanted, factor, None)
