"""What a server shows of itself while it runs."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from shoal.kvstore.server.shell import ServerShell

__all__ = ["vitals"]


def vitals(shell: "ServerShell") -> dict[str, Any]:
    """Counts as plain data; to be called by the thread that drives the server.

    ``version`` is that of its slice that has had the most updates, ``parked`` counts reads that wait for others.
    """
    core = shell.core
    shown: dict[str, Any] = {"bytes_in": shell.bytes_in, "bytes_out": shell.bytes_out}
    if core is None:
        return shown
    entries = core.entries.values()
    taus = [(tau, n) for book in core.ledgers.values() for tau, n in book.staleness.items()]
    count = sum(n for _, n in taus)
    return shown | {
        "updates": core.updates,
        "slices": len(entries),
        "version": max((e.version for e in entries), default=0),
        "parked": sum(len(e.parked) for e in entries),
        "staleness": sum(tau * n for tau, n in taus) / count if count else 0.0,
    }
