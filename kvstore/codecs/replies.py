"""Compressed pulls: a server encodes what it sends, a worker decodes what it gets."""

from time import perf_counter
from typing import NamedTuple

from shoal.errors import RemoteProtocolError, ShoalError
from shoal.kvstore.codecs.base import Address, Array, Codec, CodecState
from shoal.kvstore.codecs.registry import parse

__all__ = ["Codecs", "Replies", "rounded"]

MAX_CODECS = 64
"""Different codecs, or parameters of one, that one run may use."""


class Codecs:
    """Codecs by the text that names them in messages, as peers ask for them."""

    def __init__(self) -> None:
        self._known: dict[str, Codec] = {}

    def __getitem__(self, spec: str) -> Codec:
        """The codec.

        Raises:
            ConfigError: there is none.
            RemoteProtocolError: these are too many.
        """
        codec = self._known.get(spec)
        if codec is None:
            if len(self._known) >= MAX_CODECS:
                raise RemoteProtocolError(f"more than {MAX_CODECS} codecs in one run; the newest is {spec[:60]!r}")
            codec = self._known[spec] = parse(spec)
        return codec


def rounded(codec: Codec, value: Array, slice_id: int, version: int) -> list[Array] | None:
    """The parts that workers get of a slice's value; None if it travels as it is.

    They depend on the version only, so that all workers compute with the same weights.

    Args:
        value: flat.
    """
    if value.dtype.kind != "f" or codec.encoded_bytes(value.size, value.itemsize) >= value.nbytes:
        return None
    try:
        return codec.encode(value, CodecState(), Address(0, 0, slice_id, version))
    except ShoalError:  # what fp16 cannot hold, or what is not finite: the reader shall see it
        return None


class _Last(NamedTuple):
    slice: int
    version: int
    spec: str
    parts: list[Array] | None


class Replies:
    """A server's half. The last encoding is kept: at the end of a round all workers are sent the same."""

    def __init__(self, codecs: Codecs) -> None:
        self._codecs, self._last = codecs, _Last(-1, 0, "", None)
        self.encode_s = 0.0

    def forget(self) -> None:
        """Values have changed without a new version."""
        self._last = _Last(-1, 0, "", None)

    def encode(self, spec: str, value: Array, slice_id: int, version: int) -> list[Array] | None:
        """The parts to send, or None to send the value as it is."""
        if self._last[:3] != (slice_id, version, spec):
            began = perf_counter()
            try:
                codec = self._codecs[spec]
            except ShoalError:  # a peer that asks for what is not there gets the value
                return None
            sound = not codec.weights_objection()
            parts = rounded(codec, value.reshape(-1), slice_id, version) if sound else None
            self._last = _Last(slice_id, version, spec, parts)
            self.encode_s += perf_counter() - began
        return self._last.parts
