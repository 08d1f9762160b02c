"""The state of a run as watchers see it."""

from collections.abc import Iterator
from typing import Any

from shoal.kvstore.wire.messages import NodeStatus, Snapshot, Wait
from shoal.scheduler.barriers import Barriers
from shoal.scheduler.contacts import Contacts
from shoal.scheduler.log import ClusterState, Node

__all__ = ["snapshot"]

MAX_WAITS = 64
"""Waits of one process that are told."""


def snapshot(
    state: ClusterState,
    contacts: Contacts,
    barriers: Barriers,
    expected: tuple[int, ...],
    mode: str,
    missing: tuple[str, ...],
    began: float,
    now: float,
) -> Snapshot:
    """What the scheduler knows.

    Args:
        expected: ranks of the workers for which barriers wait.
        mode: of the run, as long as no script has made a store.
        missing: who has not joined yet.
        began, now: on the clock of the contacts, in seconds.
    """
    nodes = [state.nodes[place] for place in sorted(state.nodes)]
    at_barriers = _at_barriers(barriers, expected, now)
    in_stores = (wait for node in nodes if node.live for wait in _in_stores(node, contacts))
    waits = sorted([*at_barriers, *in_stores], key=lambda w: -w.for_s)
    return Snapshot(
        phase=state.phase,
        cluster=state.cluster,
        term=state.term,
        mode=state.gate or mode,
        reason=state.reason,
        culprit=state.culprit,
        missing=missing,
        nodes=tuple(_status(node, contacts, now, _state(node, state)) for node in nodes),
        changes=tuple(c.change for c in state.changes),
        generation=state.generation,
        age_s=now - began,
        idle_s=now - max(contacts.progressed, began) if state.phase == "running" else 0.0,
        waits=tuple(waits) if state.phase in ("gathering", "running") else (),
    )


def _at_barriers(barriers: Barriers, expected: tuple[int, ...], now: float) -> Iterator[Wait]:
    for name, index, here in barriers.closed():
        yield Wait(
            what=f"barrier {name!r} (occurrence {index})",
            who=tuple(f"worker {rank}" for rank in sorted(here)),
            on=tuple(f"worker {rank}" for rank in barriers.missing(name, index, expected)),
            for_s=now - min(here.values()),
        )


def _in_stores(node: Node, contacts: Contacts) -> Iterator[Wait]:
    """What a process says of the answers that it waits for; whatever it says, it cannot do harm."""
    status = contacts.get(node.token).status
    told: Any = status.get("waits") if isinstance(status, dict) else None
    for each in told[:MAX_WAITS] if isinstance(told, list) else ():
        match each:
            case [str(what), [*on], int() | float() as for_s]:
                who = f"{node.member.role} {node.member.rank}"
                yield Wait(what=what[:200], who=(who,), on=tuple(str(o)[:80] for o in on), for_s=float(for_s))


def _filling(node: Node, state: ClusterState) -> bool:
    """Whether this is a replica that does not have everything yet."""
    return node.member.role == "replica" and node.state == "running" and node.member.rank not in state.covered


def _state(node: Node, state: ClusterState) -> str:
    """What a process is doing, where there is more to say of one that runs."""
    drains = node.member.role == "server" and node.live and node.member.rank in state.draining
    return "filling" if _filling(node, state) else "draining" if drains else node.state


def _status(node: Node, contacts: Contacts, now: float, shown: str) -> NodeStatus:
    m, contact = node.member, contacts.get(node.token)
    return NodeStatus(
        role=m.role,
        rank=m.rank,
        incarnation=m.incarnation,
        host=m.host,
        pid=m.pid,
        state=shown,
        silent_s=now - contact.seen,
        status=contact.status,
        report=node.report,
        address=m.address,
        age_s=now - contact.since,
    )
