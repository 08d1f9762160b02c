"""Write a block as an ONNX file."""

import os
from pathlib import Path
from typing import Any

import numpy as np

from shoal.errors import CheckpointError, ConfigError
from shoal.ops.nn.hybrid import HybridBlock
from shoal.ops.onnx.proto import require
from shoal.ops.onnx.writing import WRITERS, model_of

__all__ = ["export", "exportable"]

OPSET = 18
"""The default: all operators of common networks, and read by every runtime of the last years."""

OPSETS = (13, 26)


def export(
    block: HybridBlock,
    path: "str | os.PathLike[str]",
    *inputs: Any,
    opset: int = OPSET,
    dynamic_batch: bool = True,
) -> Path:
    """Write a model in predict mode as an ONNX file (IR 10), which other runtimes give the same numbers for.

    Args:
        block: its parameters must have values.
        path: of the file.
        inputs: tensors or arrays of the shapes and dtypes to be expected; without them those of the last call of a
            hybridized block.
        opset: version of ONNX's operators, 13 to 26.
        dynamic_batch: the first axis of the inputs may have another length later, as far as no operator of the model
            has it written into itself.
    Returns:
        The file.
    Raises:
        ConfigError: the package onnx is not installed; there are no inputs; there is no such opset.
        GraphError: the model cannot be traced, or has an operator that has no counterpart; names it.
        CheckpointError: the disk refuses.
    """
    require()
    low, high = OPSETS
    if not low <= opset <= high:
        raise ConfigError(f"onnx.export: opset {opset}; {low} to {high} can be written")
    if not isinstance(block, HybridBlock):
        raise ConfigError(f"onnx.export: {type(block).__name__} is no HybridBlock, so it has no graph")
    saved = block.described(*inputs)
    params = {name: np.asarray(p.data()) for name, p in block.collect_params().items()}
    model = model_of(saved, opset, params, dynamic_batch, type(block).__name__)
    target = Path(os.fspath(path))
    part = target.with_name(target.name + ".part")
    try:
        part.write_bytes(model.SerializeToString())
        os.replace(part, target)
    except OSError as error:
        raise CheckpointError(f"{target}: {error.strerror or error}") from None
    finally:
        part.unlink(missing_ok=True)
    return target


def exportable() -> list[str]:
    """Names of the operators that can be written, sorted."""
    from shoal.ops.onnx import writers

    assert writers
    return sorted(WRITERS)
