"""Models of other frameworks, and ours for other runtimes, as ONNX files."""

from shoal.ops.onnx.block import OnnxBlock, load
from shoal.ops.onnx.export import export, exportable
from shoal.ops.onnx.nodes import supported

__all__ = ["OnnxBlock", "export", "exportable", "load", "supported"]
