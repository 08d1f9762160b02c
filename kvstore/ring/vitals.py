"""What a worker shows of its all-reduces while it runs: counts, and for whom it waits."""

from contextlib import suppress
from typing import Any

from shoal.kvstore.ring.shell import RingShell

__all__ = ["vitals"]

WAIT_S = 1.0
"""Shorter waits are not worth showing."""

MAX_WAITS = 8


def vitals(shell: RingShell, now: float) -> dict[str, Any]:
    """As `shoal.kvstore.client.vitals.vitals`. Any thread may call it: it copies what it goes over."""
    counts = shell.ledger()
    told: dict[str, Any] = {name: counts[name] for name in ("sent", "retries", "bytes_pushed", "bytes_pulled")}
    waits: list[list[Any]] = []
    with suppress(RuntimeError):  # what it looks at has changed meanwhile: it looks again in a second
        waits = [[what, list(on), for_s] for what, on, for_s in shell.core.waits(now) if for_s >= WAIT_S]
    return told | {"in_flight": len(shell.core.ops), "waits": sorted(waits, key=lambda w: -w[2])[:MAX_WAITS]}
