"""The operators of ONNX by theme; importing this package registers them all."""

from shoal.ops.onnx.families import (
    arithmetic,
    attention,
    controls,
    layers,
    losses,
    pooling,
    quantized,
    recurrent,
    reductions,
    resizing,
    scattering,
    sequences,
    shapes,
    signals,
    updates,
    vision,
)

__all__ = [
    "arithmetic",
    "attention",
    "controls",
    "layers",
    "losses",
    "pooling",
    "quantized",
    "recurrent",
    "reductions",
    "resizing",
    "scattering",
    "sequences",
    "shapes",
    "signals",
    "updates",
    "vision",
]
