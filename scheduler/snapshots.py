"""The state of a run as watchers see it."""

from shoal.kvstore.wire.messages import NodeStatus, Snapshot
from shoal.scheduler.contacts import Contacts
from shoal.scheduler.log import ClusterState, Node

__all__ = ["snapshot"]


def snapshot(state: ClusterState, contacts: Contacts, mode: str, missing: tuple[str, ...], now: float) -> Snapshot:
    """What the scheduler knows.

    Args:
        mode: of the run, as long as no script has made a store.
        missing: who has not joined yet.
        now: on the clock of the contacts, in seconds.
    """
    return Snapshot(
        phase=state.phase,
        cluster=state.cluster,
        term=state.term,
        mode=state.gate or mode,
        reason=state.reason,
        culprit=state.culprit,
        missing=missing,
        nodes=tuple(_status(state.nodes[place], contacts, now) for place in sorted(state.nodes)),
        changes=tuple(c.change for c in state.changes),
    )


def _status(node: Node, contacts: Contacts, now: float) -> NodeStatus:
    m, contact = node.member, contacts.get(node.token)
    return NodeStatus(
        role=m.role,
        rank=m.rank,
        incarnation=m.incarnation,
        host=m.host,
        pid=m.pid,
        state=node.state,
        silent_s=now - contact.seen,
        status=contact.status,
        report=node.report,
    )
