"""The numbers of a server, for Prometheus."""

from typing import TYPE_CHECKING, Any

from shoal.kvstore.exposition import Family, Histogram
from shoal.kvstore.metrics import transport_families

if TYPE_CHECKING:
    from shoal.kvstore.server.shell import ServerShell

__all__ = ["STALENESS", "server_families"]

STALENESS = (0, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 64, 128)
"""Upper bounds of staleness, in updates."""

OUTCOMES = ("applied", "rejected", "dropped", "duplicate", "lost")


def server_families(shell: "ServerShell") -> list[Family]:
    """What the server has counted; see `shoal.kvstore.exposition.provide`."""
    pushes = Family("shoal_pushes_total", "counter", "Pushes by worker and by what became of them.")
    staleness = Family("shoal_staleness", "histogram", "Updates that a contribution was behind.")
    traffic = Family("shoal_bytes_total", "counter", "Bytes of values.")
    traffic.add(shell.bytes_in, direction="in").add(shell.bytes_out, direction="out")
    found = [pushes, staleness, traffic, *transport_families(shell.transport)]
    core = shell.core
    if core is None:
        return found
    for rank, book in dict(core.ledgers).items():
        for outcome in OUTCOMES:
            pushes.add(getattr(book, outcome), worker=rank, outcome=outcome)
        spread = Histogram(STALENESS)
        for tau, n in dict(book.staleness).items():
            spread.observe(tau, n)
        staleness.spread(spread, worker=rank)
    entries = list(core.entries.values())
    if shell.replication is not None:
        found += _replication(shell.replication())
    return [
        *found,
        Family("shoal_updates_total", "counter", "Updates of slices.").add(core.updates),
        Family("shoal_slices", "gauge", "Slices of keys that the server holds.").add(len(entries)),
        Family("shoal_reads_parked", "gauge", "Reads that wait for other workers.").add(
            sum(len(e.parked) for e in entries)
        ),
        Family("shoal_contributions_pending", "gauge", "Contributions to rounds that are not complete.").add(
            sum(len(parts) for e in entries for parts in list(e.pending.values()))
        ),
        Family("shoal_rounds_partial_total", "counter", "Rounds closed without a worker that rests.").add(core.partial),
        Family("shoal_strangers_total", "counter", "Messages of processes that are no members.").add(core.strangers),
    ]


def _replication(r: dict[str, Any]) -> list[Family]:
    """Of a server in a run with replicas."""
    if "replicated" not in r:
        return [Family("shoal_replica_inputs_total", "counter", "Inputs that a replica has handled.").add(r["handled"])]
    return [
        Family("shoal_replicated", "gauge", "Whether a replica has everything.").add(int(r["replicated"])),
        Family("shoal_replica_lag", "gauge", "Inputs that the replica has not acknowledged.").add(r["lag"]),
        Family("shoal_failovers_total", "counter", "Fail-overs of this server's shard.").add(r["failovers"]),
    ]
