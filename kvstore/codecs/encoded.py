"""Gradients that were encoded before the store saw them, on a GPU: by the slices and at the clocks of the store."""

from collections.abc import Sequence
from typing import NamedTuple

from shoal.kvstore.codecs.base import Array
from shoal.kvstore.codecs.registry import parse

__all__ = ["Encoded", "Encoding", "Span"]


class Span(NamedTuple):
    """A slice of a key.

    Args:
        slice: its id.
        start, stop: its elements in the flat value.
        clock: how many contributions to it this worker has encoded so far.
    """

    slice: int
    start: int
    stop: int
    clock: int = 0

    @property
    def size(self) -> int:
        """Elements."""
        return self.stop - self.start


class Encoding(NamedTuple):
    """How a store would encode the next push of a key: what somebody needs who does it instead, to the same bits.

    Args:
        spec: of the codec.
        seed: of the run.
        worker: this worker's rank.
        spans: the key's slices, in order.
    """

    spec: str
    seed: int
    worker: int
    spans: tuple[Span, ...]


class Encoded(NamedTuple):
    """An encoded gradient of one key.

    Args:
        spec: of the codec.
        parts: of each slice, as `Codec.encode` gives them.
    """

    spec: str
    parts: tuple[tuple[Array, ...], ...]

    def decode(self, spans: Sequence[Span], out: Array) -> None:
        """Write the dense gradient into ``out``, flat."""
        codec = parse(self.spec)
        for span, parts in zip(spans, self.parts, strict=True):
            codec.decode(parts, out[span.start : span.stop])
