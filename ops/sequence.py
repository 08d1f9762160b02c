"""Batches of sequences of different lengths: masks, last steps, reversal, padding, packing.

Names are MXNet's (``sequence_mask``, ``sequence_last``, ``sequence_reverse``), and PyTorch's for padding and packing.
Time is the first axis and the batch the second, or, with ``axis=1``, the other way round.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from shoal.errors import ConfigError, ShapeError
from shoal.ops.elementwise import astype, where
from shoal.ops.index import subscript, take
from shoal.ops.registry import OPERATORS
from shoal.ops.shape import pad, reshape, stack, swapaxes
from shoal.ops.tensor import Tensor

__all__ = [
    "PackedSequence",
    "pack_padded_sequence",
    "pack_sequence",
    "pad_packed_sequence",
    "pad_sequence",
    "sequence_last",
    "sequence_mask",
    "sequence_reverse",
    "unpad_sequence",
]


def _counted(n: int, like: Any) -> Any:
    """0, 1, ... on the device of the Tensor ``like``; else an array, which in a graph is a constant."""
    return Tensor(like.backend.arange(n)) if isinstance(like, Tensor) else np.arange(n)


def _check(name: str, data: Any, lengths: Any, axis: int) -> None:
    if axis not in (0, 1) or data.ndim < 2:
        raise ShapeError(f"{name}: data of shape {tuple(data.shape)} needs time and batch as axes 0 and 1, axis={axis}")
    if lengths is not None and tuple(lengths.shape) != (data.shape[1 - axis],):
        raise ShapeError(
            f"{name}: sequence_length has shape {tuple(lengths.shape)}, expected ({data.shape[1 - axis]},) for data of "
            f"shape {tuple(data.shape)} with time along axis {axis}"
        )


def as_lengths(lengths: Any, use: bool = True) -> Any:
    """Lengths as an array or a traced value; None if there are none, or they are not to be used."""
    if not use or lengths is None:
        return None
    return lengths if hasattr(lengths, "shape") else np.asarray(lengths)


def sequence_mask(
    data: Any, sequence_length: Any = None, use_sequence_length: bool = False, value: float = 0.0, axis: int = 0
) -> Any:
    """``value`` in the place of what lies beyond the end of each sequence.

    Args:
        data: time along ``axis`` (0 or 1), batch along the other of the two.
        sequence_length: (batch,).
    Raises:
        ShapeError: the lengths do not fit.
    """
    lengths = as_lengths(sequence_length, use_sequence_length)
    if lengths is None:
        return data
    _check("sequence_mask", data, lengths, axis)
    shape = (-1, 1) if axis == 0 else (1, -1)
    inside = OPERATORS.less(reshape(_counted(data.shape[axis], lengths), shape), reshape(lengths, shape[::-1]))
    return where(reshape(inside, tuple(data.shape[:2]) + (1,) * (data.ndim - 2)), data, value)


def sequence_last(data: Any, sequence_length: Any = None, use_sequence_length: bool = False, axis: int = 0) -> Any:
    """The last step of each sequence: (batch, ...).

    Args:
        data, sequence_length, axis: as of `sequence_mask`; lengths are 1 at least.
    """
    lengths = as_lengths(sequence_length, use_sequence_length)
    _check("sequence_last", data, lengths, axis)
    if lengths is None:
        return data[-1] if axis == 0 else data[:, -1]
    last = astype(lengths, dtype="int64") - 1
    batch = _counted(data.shape[1 - axis], lengths)
    return subscript(data, (last, batch) if axis == 0 else (batch, last))


def sequence_reverse(data: Any, sequence_length: Any = None, use_sequence_length: bool = False, axis: int = 0) -> Any:
    """Each sequence backward; what lies beyond its end stays where it is.

    Args:
        data, sequence_length, axis: as of `sequence_mask`.
    """
    lengths = as_lengths(sequence_length, use_sequence_length)
    _check("sequence_reverse", data, lengths, axis)
    if lengths is None:
        return OPERATORS.flip(data, axis=axis)
    times, ends = reshape(_counted(data.shape[axis], lengths), (-1, 1)), reshape(lengths, (1, -1))
    turned = astype(where(OPERATORS.less(times, ends), ends - 1 - times, times), dtype="int64")
    batch = reshape(_counted(data.shape[1 - axis], lengths), (1, -1))
    if axis == 0:
        return subscript(data, (turned, batch))
    return subscript(data, (reshape(batch, (-1, 1)), swapaxes(turned, 0, 1)))


def pad_sequence(
    sequences: Sequence[Any], batch_first: bool = False, padding_value: float = 0.0, padding_side: str = "right"
) -> Any:
    """Sequences of different lengths as one tensor.

    Args:
        sequences: each (time, ...), alike but for time.
        batch_first: (batch, time, ...) instead of (time, batch, ...).
        padding_value: what stands beyond the ends.
        padding_side: "right", or "left" for padding before the beginnings.
    Raises:
        ConfigError: no sequences, or an unknown side.
    """
    if not sequences or padding_side not in ("left", "right"):
        raise ConfigError(f"pad_sequence: {len(sequences)} sequences, padding_side={padding_side!r}")
    longest = max(s.shape[0] for s in sequences)
    padded = []
    for s in sequences:
        gap = (0, longest - s.shape[0]) if padding_side == "right" else (longest - s.shape[0], 0)
        widths = (gap, *(((0, 0),) * (s.ndim - 1)))
        padded.append(pad(s, widths, constant=padding_value))
    return stack(padded, axis=0 if batch_first else 1)


def unpad_sequence(padded: Any, lengths: Any, batch_first: bool = False) -> list[Any]:
    """The sequences in what `pad_sequence` returns; ``lengths`` are numbers or an array."""
    ends = [int(n) for n in np.asarray(lengths)]
    return [padded[i, :n] if batch_first else padded[:n, i] for i, n in enumerate(ends)]


class PackedSequence(NamedTuple):
    """Sequences step by step without padding, as PyTorch packs them.

    Attributes:
        data: (sum of lengths, ...): the first steps of all sequences, longest sequence first, then the second steps...
        batch_sizes: how many sequences have each step.
        sorted_indices: which sequence comes at which place.
        unsorted_indices: the place of each sequence.
    """

    data: Any
    batch_sizes: Any
    sorted_indices: Any
    unsorted_indices: Any


def pack_padded_sequence(
    data: Any, lengths: Any, batch_first: bool = False, enforce_sorted: bool = True
) -> PackedSequence:
    """Pack padded sequences; shapes depend on the lengths, so that this cannot be part of a graph.

    Args:
        data: (time, batch, ...), or (batch, time, ...) with ``batch_first``.
        lengths: numbers or an array, 1 at least.
        enforce_sorted: insist on descending lengths; otherwise they are sorted here.
    Raises:
        ShapeError: lengths that do not fit, or are not sorted though they must be.
    """
    data = swapaxes(data, 0, 1) if batch_first else data
    ends = np.asarray(lengths)
    if ends.shape != (data.shape[1],) or (ends.size and not 1 <= ends.min() <= ends.max() <= data.shape[0]):
        raise ShapeError(
            f"pack_padded_sequence: lengths {ends.tolist()} for data of shape {tuple(data.shape)} (time, batch, ...); "
            "there must be one a sequence, from 1 to time"
        )
    order = np.argsort(-ends, kind="stable")
    if enforce_sorted and (np.diff(ends) > 0).any():
        raise ShapeError(
            f"pack_padded_sequence: lengths {ends.tolist()} are not descending; sort them, or pass enforce_sorted=False"
        )
    times, columns = np.nonzero(np.arange(data.shape[0])[:, None] < ends[order][None, :])
    sizes = np.bincount(times, minlength=int(ends.max(initial=0)))
    return PackedSequence(subscript(data, (times, order[columns])), sizes, order, np.argsort(order, kind="stable"))


def pad_packed_sequence(
    sequence: PackedSequence, batch_first: bool = False, padding_value: float = 0.0, total_length: int | None = None
) -> tuple[Any, Any]:
    """(padded sequences, lengths): what `pack_padded_sequence` was given, with ``padding_value`` beyond the ends."""
    sizes = sequence.batch_sizes
    steps, batch = total_length or len(sizes), len(sequence.sorted_indices)
    if steps < len(sizes):
        raise ShapeError(f"pad_packed_sequence: total_length={total_length} is less than the {len(sizes)} steps")
    starts = np.concatenate([[0], np.cumsum(sizes)])
    inside = np.arange(batch)[None, :] < np.concatenate([sizes, np.zeros(steps - len(sizes), int)])[:, None]
    rows = np.where(inside, np.resize(starts[:-1], steps)[:, None] + np.arange(batch)[None, :], 0)
    rows, inside = rows[:, sequence.unsorted_indices], inside[:, sequence.unsorted_indices]
    data = take(sequence.data, rows, axis=0)
    data = where(inside.reshape(*inside.shape, *([1] * (data.ndim - 2))), data, padding_value)
    return (swapaxes(data, 0, 1) if batch_first else data), inside.sum(axis=0)


def pack_sequence(sequences: Sequence[Any], enforce_sorted: bool = True) -> PackedSequence:
    """Pack sequences of different lengths, each (time, ...); see `pack_padded_sequence`."""
    lengths = [s.shape[0] for s in sequences]
    return pack_padded_sequence(pad_sequence(sequences), lengths, enforce_sorted=enforce_sorted)
