"""Windows and transforms of signals; complex numbers are a last axis of length 2."""

import math
from typing import Any

import numpy as np

from shoal.ops import linalg
from shoal.ops import shape as shaping
from shoal.ops.onnx.families.arithmetic import dtype_of
from shoal.ops.onnx.nodes import Call, node

__all__: list[str] = []

WINDOWS = {
    "BlackmanWindow": (0.42, -0.5, 0.08),
    "HammingWindow": (25 / 46, -21 / 46),
    "HannWindow": (0.5, -0.5),
}
"""Coefficients of cosines."""


def _window(name: str, factors: tuple[float, ...]) -> None:
    @node(name, known=[0])
    def apply(c: Call, size: Any) -> Any:
        n = c.ints(size, "the size")[0]
        turn = np.arange(n) * 2 * math.pi / (n if c.get("periodic", 1) else max(1, n - 1))
        total = sum(f * np.cos(k * turn) for k, f in enumerate(factors))
        return np.asarray(total).astype(dtype_of(int(c.get("output_datatype", 1))))


for _name, _factors in WINDOWS.items():
    _window(_name, _factors)


def _transform(x: Any, axis: int, length: int, inverse: bool, onesided: bool) -> Any:
    """The discrete Fourier transform along ``axis`` of (..., 1 or 2), as products with cosines and sines."""
    n, complex_in = int(x.shape[axis]), int(x.shape[-1]) == 2
    if n != length:
        key: list[Any] = [slice(None)] * x.ndim
        key[axis] = slice(0, min(n, length))
        width = [(0, 0)] * x.ndim
        width[axis] = (0, max(0, length - n))
        x = shaping.pad(x[tuple(key)], tuple(width))
    real = shaping.moveaxis(x[..., 0], axis, -1)
    imaginary = shaping.moveaxis(x[..., 1], axis, -1) if complex_in else None
    back = inverse and onesided
    rows = length // 2 + 1 if onesided and not inverse else length
    angle = np.outer(np.arange(length), np.arange(rows)) * (2 * math.pi / length) * (1 if inverse else -1)
    scale = 1.0 / length if inverse else 1.0
    dtype = np.dtype(x.dtype)
    cos, sin = (np.asarray(f(angle) * scale, dtype) for f in (np.cos, np.sin))
    re, im = linalg.matmul(real, cos), linalg.matmul(real, sin)
    if imaginary is not None:
        re, im = re - linalg.matmul(imaginary, sin), im + linalg.matmul(imaginary, cos)
    parts = [re] if back else [re, im]
    return shaping.stack([shaping.moveaxis(p, -1, axis) for p in parts], axis=-1)


@node("DFT", known=[1, 2])
def dft(c: Call, x: Any, length: Any = None, axis: Any = None) -> Any:
    """Along one axis, either way."""
    if axis is not None:
        a = c.ints(axis, "the axis")[0]
    else:
        a = int(c.get("axis", 1)) if c.opset < 20 else -2
    a %= x.ndim
    inverse, onesided = bool(c.get("inverse", 0)), bool(c.get("onesided", 0))
    if inverse and onesided:
        n = c.ints(length, "the length")[0] if length is not None else 2 * (int(x.shape[a]) - 1)
        x = _mirrored(x, a, n)
    else:
        n = c.ints(length, "the length")[0] if length is not None else int(x.shape[a])
    return _transform(x, a, n, inverse, onesided)


def _mirrored(x: Any, axis: int, n: int) -> Any:
    """The other half of a transform of real numbers."""
    rest = n - int(x.shape[axis])
    key: list[Any] = [slice(None)] * x.ndim
    key[axis] = slice(1, 1 + rest)
    other = shaping.flip(x[tuple(key)], axis=axis) * np.array([1, -1], np.dtype(x.dtype))
    return shaping.concatenate([x, other], axis=axis)


@node("STFT", known=[1, 3])
def stft(c: Call, x: Any, step: Any, window: Any = None, length: Any = None) -> Any:
    """Transforms of overlapping frames: (batch, frames, frequencies, 2)."""
    x = x if x.ndim == 3 else shaping.expand_dims(x, axis=-1)
    hop = c.ints(step, "the step")[0]
    size = c.ints(length, "the length")[0] if length is not None else int(window.shape[0])
    frames = (int(x.shape[1]) - size) // hop + 1
    where = np.arange(frames)[:, None] * hop + np.arange(size)[None, :]
    cut = x[:, where]
    if window is not None:
        before = (size - int(window.shape[0])) // 2
        after = size - int(window.shape[0]) - before
        cut = cut * shaping.reshape(shaping.pad(window, ((before, after),)), (1, 1, size, 1))
    return _transform(cut, 2, size, False, bool(c.get("onesided", 1)))


@node("MelWeightMatrix", known=[0, 1, 2, 3, 4])
def mel_weight_matrix(c: Call, bins: Any, length: Any, rate: Any, low: Any, high: Any) -> Any:
    """From frequencies to mel bands: triangles, (frequencies, bands)."""
    count, n, hertz = (c.ints(v, "the sizes")[0] for v in (bins, length, rate))
    edges = [2595 * math.log10(1 + float(c.known(v, "the edges")) / 700) for v in (low, high)]
    mel = np.arange(count + 2) * ((edges[1] - edges[0]) / (count + 2)) + edges[0]
    at = (700 * (np.power(10, mel / 2595) - 1) * (n + 1) // hertz).astype(int)
    out = np.zeros((n // 2 + 1, count))
    for i in range(count):
        a, b, d = at[i : i + 3]
        if b == a:
            out[b, i] = 1
        else:
            out[a : b + 1, i] = (np.arange(a, b + 1) - a) / (b - a)
        if d > b:
            out[b:d, i] = (d - np.arange(b, d)) / (d - b)
    return out.astype(dtype_of(int(c.get("output_datatype", 1))))
