"""What the processes of one host do together: the interface, and a group of one.

Every member makes the same calls in the same order, with arrays of the same size and dtype: C-contiguous ones, of the
kind that the communicator works on (NumPy arrays, or those of one GPU). Three classes do what `Communicator` says:
`Alone`, `shoal.kvstore.group.shared.SharedCommunicator` (memory that processes share) and
`shoal.ops.gpu.nccl.NcclCommunicator`, which puts its work in a stream and waits for nothing.
"""

from typing import Any, Protocol

from shoal.errors import ShapeError

__all__ = ["Alone", "Communicator"]


class Communicator(Protocol):
    """A group of ``size`` processes, of which this is number ``rank``.

    `SharedCommunicator` adds in rank order, halves in float32: the bits are those of a server. NCCL adds in an order of
    its own.
    """

    @property
    def rank(self) -> int: ...
    @property
    def size(self) -> int: ...

    def reduce(self, array: Any, root: int = 0) -> None:
        """Overwrite the root's ``array`` with the sum of all; that of the others is left undefined."""

    def all_reduce(self, array: Any) -> None:
        """Overwrite ``array`` with the sum of all."""

    def broadcast(self, array: Any, root: int = 0) -> None:
        """Overwrite ``array`` with that of the root."""

    def reduce_scatter(self, array: Any, out: Any) -> None:
        """Write this member's part, one of ``size`` equal ones, of the sum of all to ``out``.

        Raises:
            ShapeError: ``array`` has not ``size`` times the elements of ``out``.
        """

    def all_gather(self, part: Any, out: Any) -> None:
        """Write the parts of all members to ``out``, one behind the other.

        Raises:
            ShapeError: ``out`` has not ``size`` times the elements of ``part``.
        """

    def barrier(self) -> None:
        """Return when every member has come here."""

    def close(self) -> None:
        """Leave the group, and give back what it holds."""


class Alone:
    """A group of one: every sum is what was given."""

    rank, size = 0, 1

    def reduce(self, array: Any, root: int = 0) -> None:
        """Nobody to add."""

    def all_reduce(self, array: Any) -> None:
        """Nobody to add."""

    def broadcast(self, array: Any, root: int = 0) -> None:
        """Nobody to tell."""

    def reduce_scatter(self, array: Any, out: Any) -> None:
        """The part is the whole."""
        fits(1, out, array, "reduce_scatter")
        out.reshape(-1)[...] = array.reshape(-1)

    def all_gather(self, part: Any, out: Any) -> None:
        """The whole is the part."""
        fits(1, part, out, "all_gather")
        out.reshape(-1)[...] = part.reshape(-1)

    def barrier(self) -> None:
        """Nobody to wait for."""

    def close(self) -> None:
        """Nothing is held."""


def fits(size: int, part: Any, whole: Any, who: str) -> None:
    """Raise ShapeError unless ``whole`` has the elements of ``size`` parts, and their dtype."""
    if whole.size != size * part.size or whole.dtype != part.dtype:
        raise ShapeError(
            f"{who}: the whole has {whole.size} elements of {whole.dtype}, the part {part.size} of {part.dtype}; in a "
            f"group of {size} the whole is {size} parts: expected {size * part.size} elements"
        )
