"""What a worker tells a server that was restored from a snapshot: how far it is."""

from collections.abc import Mapping
from typing import Any, Protocol

from shoal.kvstore.client.memory import Memory
from shoal.kvstore.wire.messages import Stand, Stood, StoodStore

__all__ = ["stand"]


class _Client(Protocol):
    """See `shoal.kvstore.client.core.ClientCore`."""

    rank: int
    incarnation: int
    barriers: dict[int, int]
    retired: set[int]
    shared: int
    meets: bool
    memory: Memory | None

    @property
    def lanes(self) -> Mapping[int, Any]: ...


def stand(client: _Client, server: int, incarnation: int) -> Stand:
    """How far ``client`` is with what ``server`` holds; ``incarnation`` is the server's."""
    slices = []
    for slice_id, lane in client.lanes.items():
        if lane.server == server:
            seen = max(lane.seen, lane.pulled, 0 if lane.fresh is None else lane.fresh.version)
            slices.append(Stood(slice=slice_id, clock=lane.clock, mark=lane.mark, version=seen))
    if client.memory is not None:
        slices += client.memory.stood(server, client.lanes)
    stores = sorted({*client.barriers, *client.retired})
    told = [StoodStore(store=s, barrier=client.barriers.get(s, 0), retired=s in client.retired) for s in stores]
    return Stand(
        worker=client.rank,
        incarnation=client.incarnation,
        server=incarnation,
        slices=tuple(slices),
        stores=tuple(told),
        shared=client.shared,
        meets=client.meets,
    )
