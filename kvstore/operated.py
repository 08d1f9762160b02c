"""What a store on servers can be told while it is in use: new settings, and to run functions where the values are."""

from abc import abstractmethod
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Future
from threading import Lock
from typing import Any

from shoal.kvstore import functions
from shoal.kvstore.api import Coordinator, KVStore
from shoal.kvstore.client.core import Job
from shoal.kvstore.client.exchange import Entry, Exchange
from shoal.kvstore.client.moving import insisting, readdress
from shoal.kvstore.client.shell import Call as ClientCall
from shoal.kvstore.client.shell import ClientShell, Group
from shoal.kvstore.client.snapshots import ends, fetches, joint_cut, surveys
from shoal.kvstore.client.states import StatesPlace, restates, spans_of
from shoal.kvstore.codecs import Compressor, Plan, Switch
from shoal.kvstore.control import check_clock
from shoal.kvstore.gates import Gate
from shoal.kvstore.given import Key, as_lists
from shoal.kvstore.snapshot import Cut, States
from shoal.kvstore.wire.messages import Call, Called, CallPart, Change, KeyLayout, Retire
from shoal.kvstore.wire.schema import Message
from shoal.ops.optim import Optimizer

__all__ = ["OperatedKVStore"]


class OperatedKVStore(KVStore):
    """Settings and functions of a store on servers; `DistKVStore` does the rest.

    A slice takes settings of the optimizer and of the gate when its version is the clock, which servers see to; a codec
    when this worker has pushed it so often.
    """

    _coordinator: Coordinator
    _shell: ClientShell
    _gate: Gate
    _timeout_s: float
    _compressor: Compressor | None
    _optimizer: Optimizer | None

    def __init__(self) -> None:
        self._clocks: Counter[int] = Counter()  # pushes begun, by slice
        self._switch: Switch | None = None  # once a codec has been changed at a clock
        self._heard = 0  # of the run's changes
        self._heeding = Lock()
        self._hyper: dict[str, Any] = {}
        self._writes = 0  # calls of functions that write
        self._looking: dict[ClientCall, None] = {}  # reads under way
        self._barriers = 0
        self._snapshots, self._snapping = 0, Lock()  # how many were begun; one is taken at a time

    # --- settings -----------------------------------------------------------------------------------------------------

    def control(self, at_clock: int | None = None, **settings: Any) -> int:
        if at_clock is None:
            soon = max(self._clocks.values(), default=0) + ("codec" in settings or "compression" in settings)
            at_clock = soon if self._gate.rounds else -1
        else:
            check_clock(at_clock)
        change = self._coordinator.control(self._own_number(), settings, at_clock, self._timeout_s)
        self._heed()
        return change.number

    @property
    def altered(self) -> dict[str, Any]:
        self._heed()
        return dict(self._hyper)

    def _heed(self) -> None:
        """Take in the changes that have been announced since the last look."""
        changes = self._coordinator.changes
        if len(changes) == self._heard:
            return
        with self._heeding:
            new, self._heard = changes[self._heard :], len(changes)
            for c in new:
                if c.store == self._own_number():
                    self._take(c)

    def _take(self, c: Change) -> None:
        limits = {n: v for n, v in c.settings.items() if n in ("s", "max")}
        if limits:
            self._shell.alter(c.store, limits, c.at_clock)
        if "codec" in c.settings:
            if self._switch is None:
                self._switch = Switch(self._compressor)
            self._switch.add(c.at_clock, Compressor.of(Plan.of(c.settings["codec"]), self.rank), c.number)
        self._hyper |= {n: v for n, v in c.settings.items() if n not in ("s", "max", "codec")}

    def _pushing(self, slice_id: int) -> Compressor | None:
        """What compresses the push of a slice that begins now."""
        clock = self._clocks[slice_id]
        self._clocks[slice_id] = clock + 1
        return self._compressing(slice_id, clock)

    def _compressing(self, slice_id: int, clock: int) -> Compressor | None:
        if self._switch is None:
            return self._compressor
        found = self._switch.at(slice_id, clock)
        self._compressor = self._switch.latest
        return found

    def _reading(self, slice_id: int) -> Compressor | None:
        """What may compress a slice on its way here."""
        return self._compressor if self._switch is None else self._switch.now(slice_id)

    def _compress(self, compressor: Compressor | None) -> None:
        """All slices are compressed so from now on."""
        self._compressor = compressor
        if self._switch is not None:
            self._switch.reset(compressor)

    def changes_taken(self) -> dict[str, list[int]]:
        """By number of a change of codec: slices that have taken it, and the first and last clock at which one did."""
        return {} if self._switch is None else self._switch.report()

    def _settled(self, optimizer: Optimizer) -> None:
        """The servers have installed this optimizer for all keys: what changes are checked against."""
        spec = optimizer.spec()
        self._hyper = {}
        self._coordinator.settle(self._own_number(), spec.name, dict(spec.params), self.gradients, self._timeout_s)

    # --- functions ----------------------------------------------------------------------------------------------------

    def call(self, function: str, key: Key | Sequence[Key] | None = None, /, **args: Any) -> list[Any]:
        found = functions.find(function)
        names = self.keys() if key is None else as_lists(key)[0]
        args = functions.plain(args, f"the arguments of {function!r}")
        index = -1
        if found.writes:
            index, self._writes = self._writes, self._writes + 1
            self._meet(f"call of store {self._own_number()}")
        return insisting(lambda: self._call(function, names, args, index))

    def _call(self, function: str, names: list[str], args: dict[str, Any], index: int) -> list[Any]:
        moved = self._shell.core.moved
        places: dict[int, list[tuple[int, CallPart]]] = {}
        for name in names:
            for s in self.layout(name).slices:
                at = sum(map(len, places.values()))
                part = CallPart(slice=s.id, key=name, start=s.start, stop=s.stop, offset=s.offset)
                places.setdefault(moved.get(s.id, s.server), []).append((at, part))
        jobs = [self._call_job(server, function, args, index, parts) for server, parts in places.items()]
        group = Group(len(jobs))
        self._submit(jobs, group).result()
        results = [None] * sum(map(len, places.values()))
        for reply in group.replies:
            if isinstance(reply, Called):
                for (at, _), result in zip(places[reply.server], reply.results, strict=True):
                    results[at] = result
        return results

    def _call_job(
        self, server: int, function: str, args: dict[str, Any], index: int, parts: list[tuple[int, CallPart]]
    ) -> Job:
        request = Call(
            worker=0,
            incarnation=0,
            seq=0,
            store=self._own_number(),
            name=function,
            args=args,
            parts=tuple(p for _, p in parts),
            index=index,
        )
        return Job(server=server, key=function, request=request)

    # --- snapshots ----------------------------------------------------------------------------------------------------

    def _snapshot(
        self, names: list[str], outs: list[Any], priority: int, timeout_s: float | None, states: States | None
    ) -> tuple[list[Any], Cut]:
        wanted = self._reads(names, outs)
        reads = self._jobs(wanted, priority)
        if states is not None:
            spans = spans_of(dict(zip(names, wanted.entries, strict=True)))
            for job in reads:
                job.token = StatesPlace(job.token, spans[job.slice], states)
        self.flush()
        return wanted.results, insisting(lambda: self._cut(reads, timeout_s, states is not None))

    def _cut(self, reads: list[Job], timeout_s: float | None, states: bool) -> Cut:
        """Take a snapshot of the slices that are to be read."""
        with self._snapping:
            readdress(self._shell.core, reads)
            self._snapshots += 1
            place = self._own_number(), self._snapshots
            try:
                cut = joint_cut(self._within(surveys(reads, *place), timeout_s).replies)
                self._within(fetches(reads, *place, cut, states), timeout_s)
            finally:
                over = ends(reads, *place)
                self._submit(over, Group(len(over)))
        return cut

    def _within(self, jobs: list[Job], timeout_s: float | None) -> Group:
        """Carry out requests, and wait; each may take so long."""
        for job in jobs:
            job.timeout_s = timeout_s or 0.0
        group = Group(len(jobs))
        self._submit(jobs, group).result()
        return group

    def load_states(self, states: States) -> None:
        number = self._own_number()
        self._meet(f"before load_states of store {number}")
        loaded = f"load_states of store {number}"
        if self.rank == self._coordinator.chief and not self._coordinator.passed(loaded):
            entries = {n: self._entry(n) for n in self.keys()}
            insisting(lambda: self._within(restates(entries, states, self._shell.core.moved), None))
        self._coordinator.barrier(loaded, self._timeout_s)

    # --- barriers -----------------------------------------------------------------------------------------------------

    def barrier(self) -> None:
        self._meet("user")

    def _meet(self, name: str) -> None:
        """Come to a barrier; first tell the servers, so that nobody waits for who waits there."""
        self.flush()
        if self.keys() and (self._gate.slack is not None or self._gate.need != 1):
            for call in list(self._looking):
                call.peek(self._timeout_s + 5.0)
            self._barriers += 1
            number = self._own_number()
            self._ask_all(Retire(worker=0, incarnation=0, seq=0, store=number, barrier=self._barriers))
        self._coordinator.barrier(name, self._timeout_s)

    def rest(self, number: int) -> None:
        """Nothing is under way any more, and until this worker pushes again nobody waits for it.

        Args:
            number: of the change of the set of workers that it waits for; 0 if it goes.
        """
        self.flush()
        if number and self.keys():
            for call in list(self._looking):
                call.peek(self._timeout_s + 5.0)
            self._ask_all(Retire(worker=0, incarnation=0, seq=0, store=self._own_number(), meeting=number))

    def _note_reading(self, call: ClientCall) -> ClientCall:
        """A read may look at the server's own memory, which is not written before this worker pushes, or rests."""
        if self._gate.rounds:
            self._looking[call] = None
            call.add_done_callback(lambda _: self._looking.pop(call, None))
        return call

    # --- what a store on servers has ----------------------------------------------------------------------------------

    @abstractmethod
    def _ask_all(self, request: Message) -> Group:
        """Ask every server the same, and wait for the answers."""

    @abstractmethod
    def _entry(self, name: str) -> Entry:
        """Where a key is, and what."""

    @abstractmethod
    def _reads(self, names: list[str], outs: list[Any]) -> Exchange:
        """What reads keys into ``outs``, or into new arrays."""

    @abstractmethod
    def _jobs(self, call: Exchange, priority: int) -> list[Job]:
        """One job a slice: a push if there are arrays, a read if there are targets."""

    @abstractmethod
    def _own_number(self) -> int:
        """Which of the script's stores this is."""

    @abstractmethod
    def layout(self, key: Key) -> KeyLayout:
        """Which server holds which part of a key."""

    @abstractmethod
    def _submit(self, jobs: list[Job], group: Group) -> Future[Any]:
        """Hand jobs over; the group's future tells what became of them."""
