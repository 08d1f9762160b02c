"""Who works for a run on machines that come and go: workers are hired where there is room, and told to leave where a
machine is about to be taken away, or a policy wants fewer. Nobody is restarted for that.
"""

import math
import signal
import time
from typing import TYPE_CHECKING

from shoal.kvstore.wire.messages import NodeStatus, Snapshot
from shoal.scheduler.gather import MAX_NODES
from shoal.scheduler.machines import Hands, Process, is_node
from shoal.scheduler.ray.plan import room_for
from shoal.scheduler.ray.policy import Seen, parse_policy
from shoal.scheduler.ray.slots import RemoteProcess, Slot

if TYPE_CHECKING:
    from shoal.scheduler.ray.machines import RayMachines

__all__ = ["Staff"]

TURN_S = 0.5

DECIDE_S = 2.0
"""Between two questions to the policy."""

HASTE = 0.5
"""Of the time that a machine has left, the part in which a server waits for another one to take over."""


class Staff:
    """Of one run.

    Args:
        machines: where it is.
    """

    def __init__(self, machines: "RayMachines") -> None:
        job = machines.job
        self._machines, self._job = machines, job
        self._policy = parse_policy(machines.options.scale, job.workers, job.most)
        self._wanted = job.workers
        self._turned = self._decided = self._began = time.monotonic()
        self._worker_s = 0.0
        self._said: set[str] = set()
        self._moving: dict[str, str] = {}  # servers that go, by slot, and the slot of who takes over

    def first(self) -> int:
        """With how many workers the run would like to begin."""
        job, machines = self._job, self._machines
        if job.most == job.workers or self._policy.name not in ("fit", "budget"):
            return job.workers
        room = room_for(machines.options.worker, machines.calls.free())
        self._wanted = min(max(room, job.workers), job.most)
        return self._wanted

    def turn(self, run: Hands) -> None:
        """Time has passed."""
        now = time.monotonic()
        seen = run.snapshot()
        if now < self._turned + TURN_S or seen is None or seen.phase != "running":
            return
        nodes = {(n.role, n.rank): n for n in seen.nodes}
        workers = [n for n in seen.nodes if n.role == "worker"]
        self._worker_s += (now - self._turned) * sum(n.state == "running" for n in workers)
        self._turned = now
        self._tidy()
        for slot in list(self._machines.slots.values()):
            if slot.notice is not None and not slot.leaving:
                self._move(slot, run, nodes)
        for name in list(self._moving):
            self._hand_over(name, run, nodes)
        if self._job.elastic and workers and not any(n.state == "done" for n in workers):
            self._staff(run, seen, now)

    def _tidy(self) -> None:
        """Give places back whose processes have left."""
        m = self._machines
        for slot in [s for s in (*m.slots.values(), *m.old) if s.leaving]:
            if slot.process is None or slot.process.poll() is not None:
                m.release(slot)

    # --- machines that go ---------------------------------------------------------------------------------------------

    def _move(self, slot: Slot, run: Hands, nodes: dict[tuple[str, int], NodeStatus]) -> None:
        process = slot.process
        if process is None or process.poll() is not None:
            slot.leaving = True
        elif slot.name == "scheduler":
            self._once(run, f"{self._goes(slot)}, and the scheduler with it: the run will fail then")
        elif process.name.startswith("worker "):
            self._leave(slot, process, run, self._goes(slot))
        elif self._job.replicas:
            self._succeed(slot, process, run, nodes)
        elif slot.name not in self._moving:
            self._moving[slot.name] = f"server {sum(role == 'server' for role, _ in nodes) + len(self._moving)}"
            self._machines.add(self._moving[slot.name])
            run.say(f"{self._goes(slot)}: another server is to take over from {process}")

    def _goes(self, slot: Slot) -> str:
        assert slot.notice is not None, "asked of those that go"
        until, why = slot.notice
        return f"machine {slot.address} is to be taken away within {max(0.0, until - time.monotonic()):.0f} s ({why})"

    def _once(self, run: Hands, text: str) -> None:
        key = text.partition(" within ")[0]
        if key not in self._said:
            self._said.add(key)
            run.say(text)

    def _leave(self, slot: Slot, process: Process, run: Hands, why: str) -> None:
        """Have a worker end its batch and go, if another one stays."""
        others = [s.process for s in self._machines.slots.values() if s is not slot and not s.leaving]
        stay = [p for p in others if p is not None and p.name.startswith("worker ") and p.pid and p.poll() is None]
        if not stay:
            self._once(run, f"{why}; {process} is the only worker, and stays as long as it can")
            return
        run.say(f"{why}: {process} leaves")
        slot.leaving = True
        process.signal(signal.SIGTERM)

    def _succeed(
        self, slot: Slot, process: RemoteProcess, run: Hands, nodes: dict[tuple[str, int], NodeStatus]
    ) -> None:
        """End one of a server and its replica: the other one has everything, and a new replica is started elsewhere."""
        role, _, number = process.name.partition(" ")
        other = nodes.get(("replica" if role == "server" else "server", int(number)))
        if other is None or other.state != "running":
            return
        run.say(f"{self._goes(slot)}: {process} is ended there")
        self._machines.replace(slot.name)
        process.signal(signal.SIGKILL)

    def _hand_over(self, name: str, run: Hands, nodes: dict[tuple[str, int], NodeStatus]) -> None:
        """A server is drained when another one has come, or when its machine has not much time left."""
        m, old, new = self._machines, self._machines.slots.get(name), self._machines.slots.get(self._moving[name])
        if old is None or old.process is None or old.process.poll() is not None or old.notice is None:
            del self._moving[name]
            return
        if new is not None and new.free and new.process is None:
            run.add_server(new.name)
        process = new.process if new is not None else None
        come = process is not None and any(is_node(process, n) and n.state == "running" for n in nodes.values())
        left_s = old.notice[0] - time.monotonic()
        several = sum(role == "server" and n.state == "running" for (role, _), n in nodes.items()) > 1
        if come or (several and left_s < self._haste(name, left_s)):
            run.say(f"{old.process} is drained")
            old.leaving = True
            m.old.append(m.slots.pop(name))
            old.process.signal(signal.SIGTERM)
            del self._moving[name]

    def _haste(self, name: str, left_s: float) -> float:
        """Seconds before the end at which a server does not wait any more."""
        slot = self._machines.slots[name]
        assert slot.notice is not None, "asked of those that go"
        return max(10.0, HASTE * left_s) if left_s < 30.0 else 0.0

    # --- how many -----------------------------------------------------------------------------------------------------

    def _staff(self, run: Hands, seen: Snapshot, now: float) -> None:
        m = self._machines
        mine = {name: s for name, s in m.slots.items() if name.startswith("worker ") and not s.leaving}
        at_work = [s for s in mine.values() if s.process is not None and s.process.poll() is None]
        if now >= self._decided + DECIDE_S and self._job.most > self._job.workers:
            self._decided = now
            self._decide(run, seen, len(at_work), now)
        for slot in mine.values():
            if slot.free and len(at_work) < self._wanted:
                run.hire(int(slot.name.split()[1]))
                at_work.append(slot)
        for _ in range(self._wanted - len(mine)):
            m.add(f"worker {self._free_rank()}")
        self._shrink(run, list(mine.values()))

    def _decide(self, run: Hands, seen: Snapshot, at_work: int, now: float) -> None:
        open_ended = self._job.most >= MAX_NODES
        m = self._machines
        room = at_work + room_for(m.options.worker, m.calls.free()) if open_ended else None
        states = [n.status for n in seen.nodes if n.role == "worker" and n.state == "running"]
        told = [s for s in states if isinstance(s, dict)]
        rates = [float(s["samples_per_s"]) for s in told if isinstance(s.get("samples_per_s"), int | float)]
        metrics: dict[str, float] = {}
        for status in told:
            for name, value in status.items():
                if isinstance(value, int | float):
                    metrics[name] = max(float(value), metrics.get(name, -math.inf))
        rate = sum(rates) if rates and len(rates) == len(states) else None
        decision = self._policy.decide(Seen(now - self._began, at_work, room, rate, self._worker_s, metrics))
        if decision.workers != self._wanted:
            run.say(f"{decision.workers} workers are wanted instead of {self._wanted}: {decision.why}")
            self._wanted = decision.workers

    def _free_rank(self) -> int:
        taken = {s.name for s in (*self._machines.slots.values(), *self._machines.old)}
        return next(rank for rank in range(MAX_NODES) if f"worker {rank}" not in taken)

    def _shrink(self, run: Hands, mine: list[Slot]) -> None:
        """Let go of whom the run does not want: first of those that have no place yet, then of the latest."""
        extra = len(mine) - self._wanted
        idle = [s for s in mine if s.process is None or s.process.poll() is not None]
        for slot in sorted(idle, key=lambda s: -int(s.name.split()[1]))[: max(0, extra)]:
            self._machines.release(slot)
            mine.remove(slot)
            extra -= 1
        for slot in sorted(mine, key=lambda s: -int(s.name.split()[1]))[: max(0, extra)]:
            if slot.process is not None:
                self._leave(slot, slot.process, run, "fewer workers are wanted")
