"""Workers that leave, are lost, come back, or come late: the scheduler core's part.

A run is *elastic* if its workers have a grace and it has servers. Then a worker that is silent for longer than its
lease is a slow one, for the grace: the others wait for it, as gates have it, and another process may take its place.
After the grace it is given up. Who takes part is settled at one point of the log (`Reshared`), when every worker that
does has come to the end of a batch; arrivals there are soft state, which repetitions rebuild.
"""

from collections.abc import Callable, Iterable

from shoal.kvstore.events import Send
from shoal.kvstore.wire.messages import Goodbye, Join, Meet, Met, Shared
from shoal.kvstore.wire.schema import Plain
from shoal.scheduler.barriers import Barriers
from shoal.scheduler.config import SchedulerConfig
from shoal.scheduler.contacts import Contacts
from shoal.scheduler.gather import ALLREDUCE, MAX_NODES, MAX_TEXT
from shoal.scheduler.log import ClusterState, Node, Record, Reshared, describe

__all__ = ["Workers"]

REMIND_S = 30.0
"""How often it is said who is waited for before a change of the set of workers."""


class Workers:
    """Which workers take part in one run.

    Args:
        config: of the run.
        mode: of the run, canonical.
        state: of the run.
        contacts: of its members.
        barriers: of its workers.
        commit: adds a record to the log.
    """

    def __init__(
        self,
        config: SchedulerConfig,
        mode: str,
        state: ClusterState,
        contacts: Contacts,
        barriers: Barriers,
        commit: Callable[[Record], None],
    ) -> None:
        self._config, self._mode, self._state = config, mode, state
        self._contacts, self._barriers, self._commit = contacts, barriers, commit
        self._here: dict[int, Meet] = {}  # by rank, who has come to the end of a batch
        self._counted: dict[int, tuple[int, ...]] = {}  # by rank, what somebody has heard of one that is gone
        self._asking: dict[int, str] = {}  # by rank, where an answer is due
        self._announced = 0  # number of the change of which the workers have been told
        self._shared = 1  # so many sets of workers have been told, or were as the run began
        self._reminded = 0.0
        self._quiet: set[str] = set()  # tokens of workers whose lease is over
        self._held: dict[str, Node] = {}  # by token, late workers that were told that servers are waited for
        self.notices: list[tuple[str, str]] = []  # what is to be told of soft state: event and text

    @property
    def elastic(self) -> bool:
        """Whether a run goes on when its workers change."""
        reduces = any(s.gate == ALLREDUCE for s in self._state.stores.values())
        return self._config.worker_grace_s > 0 and self._mode != ALLREDUCE and not reduces

    def entered(self) -> list[Node]:
        """Live workers that take part."""
        return [n for n in self._live() if not n.late]

    def _live(self) -> list[Node]:
        return [n for (role, _), n in self._state.nodes.items() if role == "worker" and n.live]

    # --- silence ------------------------------------------------------------------------------------------------------

    def patience_s(self, node: Node) -> float:
        """How long a member may be silent before it is lost."""
        grace = node.member.role == "worker" and self._state.phase == "running" and self.elastic
        return self._config.lease_s + (self._config.worker_grace_s if grace else 0.0)

    def grace_s(self, node: Node) -> float:
        """How long a member that hears nothing of the scheduler tries on: it may be the one that is cut off."""
        return self._config.worker_grace_s if node.member.role == "worker" and self.elastic else 0.0

    def may_go_on_without(self, lost: Iterable[Node]) -> bool:
        """Whether somebody is left to train when these are gone."""
        gone = [n.token for n in lost]
        return self.elastic and any(n.token not in gone for n in self._live())

    def last_words(self, m: Goodbye) -> str:
        """Why a worker ends the run that only wanted to leave."""
        return m.left + "; it was the last worker, and was not done" * bool(m.left and self.elastic)

    def _notice(self, now: float) -> None:
        """Say of workers that they are silent, once, and that they are heard again."""
        if not self.elastic or self._state.phase != "running":
            return
        for node in self._live():
            silent_s = now - self._contacts[node.token].seen
            if silent_s >= self._config.lease_s and node.token not in self._quiet:
                self._quiet.add(node.token)
                text = (
                    f"{describe(node.member)} has been silent for {silent_s:.1f} s; the run goes on without it after "
                    f"{self._config.worker_grace_s:g} s more, unless it comes back or another takes its place"
                )
                self.notices.append(("worker is silent", text))
            elif silent_s < self._config.lease_s / 2 and node.token in self._quiet:
                self._quiet.discard(node.token)
                self.notices.append(("worker is back", f"{describe(node.member)} is heard again"))

    # --- joining ------------------------------------------------------------------------------------------------------

    def comes_late(self, m: Join) -> bool:
        """Whether this is a worker that joins while the run is under way."""
        return m.role == "worker" and self._state.phase == "running" and self.elastic and not m.incarnation

    def refusal(self, m: Join) -> str:
        """Why a late worker cannot be taken in; empty if it can."""
        who = f"{m.role} (host {m.host}, pid {m.pid})"
        if max(map(len, (m.token, m.host, m.address))) > MAX_TEXT:
            return f"a process that names itself with more than {MAX_TEXT} characters is none of ours"
        if m.rank >= MAX_NODES or self.free_rank(m) >= MAX_NODES:
            return f"{who} is one too many: ranks are 0 to {MAX_NODES - 1}"
        if not self._live():
            return f"{who} comes too late: all workers are done, and the run is about to end"
        owner = self._state.nodes.get(("worker", m.rank))
        if owner is not None and not _is_free(owner):
            here = owner.member
            taken = f"rank {m.rank} is taken by pid {here.pid} on {here.host}"
            return f"{taken}; ask for no rank, or, if that process is dead, take its place with --replaces"
        return ""

    def free_rank(self, m: Join) -> int:
        """The rank of a late worker: what it asks for, or the smallest that nobody holds."""
        if m.rank >= 0:
            return m.rank
        taken = {rank for (role, rank), n in self._state.nodes.items() if role == "worker" and not _is_free(n)}
        return next(rank for rank in range(MAX_NODES + 1) if rank not in taken)

    def forget(self, rank: int) -> None:
        """Another process is this rank now, or nobody: where the one before had come to is of no account."""
        self._barriers.forget(rank)
        self._here.pop(rank, None)
        self._asking.pop(rank, None)

    def awaits_servers(self, node: Node) -> tuple[str, ...]:
        """Servers that have not heard yet that a late worker has come: before they have, it is not told the roster."""
        if node.member.role != "worker":
            return ()
        made = [a.generation for a in self._state.arrivals if a.member == node.member]
        unaware = self._unaware(made[0]) if made else ()
        if unaware:
            self._held[node.token] = node
        return unaware

    def ready(self) -> list[Node]:
        """Late workers of whom all servers have heard by now: nothing else is waited for, so they are told at once."""
        held = [n for n in self._held.values() if not (n.live and self.awaits_servers(n))]
        for n in held:
            del self._held[n.token]
        return [n for n in held if n.live]

    def _unaware(self, generation: int) -> tuple[str, ...]:
        nodes = [n for (role, _), n in sorted(self._state.nodes.items()) if role == "server" and n.live]
        return tuple(describe(n.member) for n in nodes if self._contacts[n.token].generation < generation)

    # --- who takes part -----------------------------------------------------------------------------------------------

    def change(self, node: Node) -> int:
        """Number of the change that a worker is waited for; 0 if there is none."""
        return self._next() if node.member.role == "worker" and not node.late and self._is_due() else 0

    def meet(self, node: Node, m: Meet) -> Met:
        """A worker has come to the end of a batch, or has come again; what it is answered."""
        rank, next_ = node.member.rank, self._next()
        if not 1 <= m.number <= next_:
            return Met(number=m.number, missing=(), later=True)
        if m.number == next_:
            self._here[rank] = m
            self._counted |= {r: m.counted[str(r)] for r in self._gone() if str(r) in m.counted}
            self._settle()
        answer = self._answer(node, m.number)
        if answer.missing and not answer.gone:
            self._asking[rank] = self._contacts[node.token].sender
        return answer

    def told(self, now: float) -> list[Send]:
        """What workers that wait here are to be told, now that something has happened."""
        self._notice(now)
        for rank in [r for r in self._here if not self._holds(r)]:
            self.forget(rank)
        self._settle()
        told: list[Send] = []
        for rank, sender in list(self._asking.items()):
            node = self._state.nodes["worker", rank]
            number = self._here[rank].number if rank in self._here else self._next() - 1
            answer = self._answer(node, number)
            if not answer.missing or answer.later or answer.gone:
                del self._asking[rank]
                told.append(Send(sender, answer))
        self._remind(now)
        return told

    def shared(self) -> list[Shared]:
        """The sets that nobody has been told yet."""
        new, self._shared = self._state.shares[self._shared :], max(1, len(self._state.shares))
        return new

    def announce(self) -> list[Node]:
        """Workers that are to be told that a change waits for them; each change once, the rest is in heartbeats."""
        if not self._is_due() or self._announced == self._next():
            return []
        self._announced = self._next()
        return self.entered()

    def _holds(self, rank: int) -> bool:
        node = self._state.nodes.get(("worker", rank))
        return node is not None and node.live

    def _next(self) -> int:
        return len(self._state.shares)

    def _gone(self) -> list[int]:
        """Ranks of the present set that take part no more: they are done, have left, or were given up."""
        return [r for r in self._state.shares[-1].ranks if not self._takes_part(r)]

    def _takes_part(self, rank: int) -> bool:
        node = self._state.nodes["worker", rank]
        return node.live and not node.late

    def _newcomers(self) -> list[int]:
        return [r for r in self._here if self._state.nodes["worker", r].late]

    def _is_due(self) -> bool:
        """Whether the set of workers is to change: somebody wants to enter, or has gone without being done."""
        s = self._state
        if s.phase != "running" or not self.elastic:
            return False
        early = any(s.nodes["worker", r].state != "done" for r in self._gone())
        return early or bool(self._newcomers())

    def _missing(self) -> list[Node]:
        """Workers that take part, and have not come to the end of a batch."""
        return [n for n in self.entered() if n.member.rank not in self._here]

    def _answer(self, node: Node, number: int) -> Met:
        if number < self._next():  # settled; it counts when the servers have heard of it
            return Met(number=number, missing=self._unaware(self._state.shares[number].generation))
        if not self._is_due():
            return Met(number=number, missing=(), later=True)
        missing = self._missing()
        stuck = any(n.member.rank in at for n in missing for _, _, at in self._barriers.closed())
        if stuck and not node.late:  # it waits for workers that wait here
            self._here.pop(node.member.rank, None)
            return Met(number=number, missing=(), later=True)
        gone = tuple(r for r in self._gone() if r not in self._counted)
        names = tuple(describe(n.member) for n in missing)
        return Met(number=number, missing=names or ("the servers' accounts",) * bool(gone), gone=gone)

    def _settle(self) -> None:
        """Write down who takes part from now on, if everybody has come who must."""
        if not self._is_due() or self._missing() or any(r not in self._counted for r in self._gone()):
            return
        stay, gone = [n.member.rank for n in self.entered()], self._gone()
        ranks = sorted({*stay, *self._newcomers()})
        if not ranks:
            return
        cursors: dict[str, Plain] = {str(r): self._here[r].cursor for r in sorted(stay)}
        counted: dict[str, tuple[int, ...]] = {str(r): self._counted[r] for r in gone}
        self._commit(Reshared(self._next(), tuple(ranks), cursors, counted))
        self._here.clear()
        self._counted.clear()

    def _remind(self, now: float) -> None:
        """Every now and then say who is waited for."""
        waiting = [r for r in self._here if self._is_due()]
        if not waiting:
            self._reminded = now
        elif now - self._reminded >= REMIND_S:
            self._reminded = now
            names = ", ".join(describe(n.member) for n in self._missing()) or "nobody"
            who = ", ".join(f"worker {r}" for r in sorted(waiting))
            text = (
                f"the set of workers is to change: {who} wait for {names} "
                "to come to the end of a batch (a DataLoader that shuffles, Trainer.step or shoal.boundary)"
            )
            self.notices.append(("change waits", text))


def _is_free(node: Node) -> bool:
    return node.state in ("lost", "left")
