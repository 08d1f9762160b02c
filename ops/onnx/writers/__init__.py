"""What operators become in ONNX, by theme; importing this package registers them all."""

from shoal.ops.onnx.writers import arithmetic, layers, sequences, shapes

__all__ = ["arithmetic", "layers", "sequences", "shapes"]
