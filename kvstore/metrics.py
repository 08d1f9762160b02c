"""The numbers that servers, workers and the scheduler have in common."""

import os
import sys
from collections import Counter
from contextlib import suppress

from shoal.kvstore.exposition import Family
from shoal.kvstore.wire.transport import Transport

__all__ = ["process_families", "transport_families"]

MAX_PEERS = 64
"""Peers whose malformed messages are told one by one, those with the most; the rest is one sum."""


def process_families(role: str, rank: int, version: str, cluster: str) -> list[Family]:
    """Who this is, and the memory that it takes."""
    who = Family("shoal_info", "gauge", "Who this process is; always 1.")
    memory = Family("shoal_memory_bytes", "gauge", "Memory of the process that is resident.")
    if (resident := _resident()) is not None:
        memory.add(resident)
    return [who.add(1, role=role, rank=rank, version=version, cluster=cluster), memory]


def _resident() -> int | None:
    if sys.platform != "linux":
        return None
    with suppress(OSError, ValueError, IndexError), open("/proc/self/statm") as f:
        return int(f.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return None


def transport_families(transport: Transport) -> list[Family]:
    """Malformed messages by peer, and memory that is shared with others."""
    counts = Counter(dict(transport.malformed))
    malformed = Family("shoal_malformed_messages_total", "counter", "Messages that could not be understood.")
    first = counts.most_common(MAX_PEERS)
    for peer, n in first:
        malformed.add(n, peer=peer)
    if rest := counts.total() - sum(n for _, n in first):
        malformed.add(rest, peer="others")
    sharing = transport.sharing
    peers = Family("shoal_memory_links", "gauge", "Processes of this host with which memory is shared.")
    regions = list(sharing.arena.regions)
    return [
        malformed,
        peers.add(len(sharing.peers())),
        Family("shoal_shared_memory_regions", "gauge", "Regions of shared memory of this process.").add(len(regions)),
        Family("shoal_shared_memory_bytes", "gauge", "What they take.").add(sum(r.size for r in regions)),
    ]
