"""A simulated server: the store's core and table, without the shell that serves sockets and shared memory."""

from collections import Counter
from collections.abc import Callable
from typing import Any

from shoal.errors import StoreError, named
from shoal.kvstore import rules
from shoal.kvstore.arrays import Array, as_array, as_payload
from shoal.kvstore.events import Accumulate, Action, Apply, Configure, Create, PeerGone, Received, Send, SendValue
from shoal.kvstore.server.core import ServerCore
from shoal.kvstore.server.table import Table
from shoal.kvstore.wire.messages import Init, Member, Refused, Roster, SetOptimizer, Value
from shoal.kvstore.wire.schema import Message
from shoal.ops import optim

__all__ = ["SimulatedServer"]

STORE = 1


class SimulatedServer:
    """One server.

    Args:
        rank: its rank.
        workers: how many will come.
        cluster: id of the run.
        send: takes what it sends: rank of a worker, message.
        updated: told of each update: slice, rank of the worker whose message made it.
    """

    def __init__(
        self,
        rank: int,
        workers: int,
        cluster: str,
        send: Callable[[int, Message], None],
        updated: Callable[[int, int], None],
    ) -> None:
        self.core, self.table = ServerCore(rank, 1, cluster), Table()
        self._send, self._updated = send, updated
        members = (Member(role="worker", rank=r, incarnation=1, address="", host="", pid=r) for r in range(workers))
        self.core.roster(Roster(generation=1, epoch=0, members=tuple(members)))

    def create(self, slice_id: int, first: Array, gate: str, reduce: str) -> None:
        """Give a slice its first value, before time begins."""
        value = as_payload(first)
        self._prepare(
            Init(seq=0, store=STORE, slice=slice_id, key=f"w{slice_id}", gate=gate, reduce=reduce, value=value)
        )

    def configure(self, optimizer: optim.Optimizer, rule: str) -> None:
        """Install how contributions are corrected, and how they change the values, before time begins."""
        spec = optimizer.spec()
        what: dict[str, Any] = {"name": spec.name, "params": dict(spec.params), "rule": rule}
        self._prepare(SetOptimizer(worker=0, incarnation=1, seq=0, store=STORE, lr_mult={}, wd_mult={}, **what))

    def receive(self, rank: int, message: Message, now: float) -> None:
        """A message of worker ``rank`` has come."""
        for action in self.core.handle(Received(str(rank), message), now):
            self._do(action, rank)

    def left(self, rank: int, now: float) -> None:
        """Worker ``rank`` is done."""
        for action in self.core.handle(PeerGone(rank, 1), now):
            self._do(action, rank)

    def value(self, slice_id: int) -> Array:
        """A slice's present value; not a copy."""
        return self.table.cells[slice_id].value

    def account(self, rank: int) -> tuple[int, Counter[int]]:
        """Contributions of a worker that were applied, and the staleness of those that are or will be."""
        book = self.core.ledgers[rank]
        return book.applied, book.staleness

    def _prepare(self, message: Message) -> None:
        for action in self.core.handle(Received("0", message), 0.0):
            if isinstance(action, Send) and isinstance(action.message, Refused):
                raise named(action.message.error, f"the simulated server: {action.message.text}", StoreError)
            if not isinstance(action, Send):
                self._do(action, 0)

    def _do(self, action: Action, rank: int) -> None:
        match action:
            case Send(to, message):
                self._send(int(to), message)
            case SendValue():
                self._send_value(action)
            case Accumulate():
                self.table.accumulate(action.slice, action.rank, as_array(action.value), action.clock)
            case Apply():
                for _, error in self.table.apply(action.slice, action.parts, action.reduce):
                    raise error
                self._updated(action.slice, rank)
            case Create():
                self.table.create(action.slice, action.key, as_array(action.value), action.store, action.segments)
            case Configure():
                optimizer = optim.from_spec(optim.OptimizerSpec(action.name, dict(action.params)))  # type: ignore[call-overload]  # of our own client
                rule = rules.parse(action.rule)
                self.table.configure(optimizer, action.lr_mult, action.wd_mult, action.store, rule)

    def _send_value(self, a: SendValue) -> None:
        """Send a value; one that may be overwritten before it is read is copied."""
        self.table.was_read(a.slice, a.rank)
        value = self.table.payload(a.slice)
        if not a.stable:
            value = as_payload(as_array(value).copy())
        self._send(int(a.to), Value(seq=a.seq, version=a.version, floor=a.floor, taken=a.taken, value=value))
