"""A shorter log of the same state."""

from collections.abc import Sequence

from shoal.scheduler.log import Opened, Record, Ruled

__all__ = ["compacted"]


def compacted(records: Sequence[Record]) -> list[Record]:
    """A shorter log of the same state: of the terms the last, of each barrier the last occurrence.

    Everything else is bounded by what the run is; barriers, and restarts, are not.
    """
    last = {_superseded_by(record): i for i, record in enumerate(records)}
    return [record for i, record in enumerate(records) if last[_superseded_by(record)] == i or _stays(record)]


def _stays(record: Record) -> bool:
    return not isinstance(record, Ruled | Opened)


def _superseded_by(record: Record) -> tuple[str, str]:
    """Later records of the same mark make an earlier one superfluous, unless it stays."""
    return type(record).__name__, record.name if isinstance(record, Opened) else ""
