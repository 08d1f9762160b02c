"""What a run asks of Ray, without Ray: machines are names, hosts are objects, only processes are real."""

import os
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from shoal.scheduler.ray.host import Host, HostConfig
from shoal.scheduler.ray.notices import Notice
from shoal.scheduler.ray.plan import Group


@dataclass(eq=False)
class Machine:
    name: str
    total: dict[str, float]
    labels: dict[str, str] = field(default_factory=dict)
    draining: Notice | None = None

    def __post_init__(self) -> None:
        self.free = dict(self.total)

    def takes(self, need: Mapping[str, float]) -> bool:
        return all(self.free.get(k, 0.0) >= v for k, v in need.items())

    def use(self, need: Mapping[str, float], sign: int) -> None:
        for k, v in need.items():
            self.free[k] = self.free.get(k, 0.0) - sign * v


@dataclass(eq=False)
class Actor:
    config: HostConfig
    need: Mapping[str, float]
    labels: Mapping[str, str]
    group: "FakeGroup | None" = None
    machine: Machine | None = None
    host: Host | None = None
    over: bool = False
    waiting: "list[tuple[Future[Any], str, tuple[Any, ...]]]" = field(default_factory=list)


@dataclass(eq=False)
class FakeGroup:
    group: Group
    machines: list[Machine] = field(default_factory=list)


class FakeRay:
    """`shoal.scheduler.ray.calls.Calls` on machines that can be killed, drained and added."""

    def __init__(self, **machines: dict[str, float]) -> None:
        self.machines = [Machine(name, total) for name, total in machines.items()]
        self.actors: list[Actor] = []
        self._lock = threading.RLock()
        self._hosts: list[Host] = []  # that are no more
        self._pool = ThreadPoolExecutor(64)

    # --- what is done to it -------------------------------------------------------------------------------------------

    def add(self, name: str, **total: float) -> None:
        with self._lock:
            self.machines.append(Machine(name, total))
            self._place()

    def drain(self, name: str, notice: Notice) -> None:
        with self._lock:
            self._machine(name).draining = notice

    def kill(self, name: str) -> None:
        """The machine is gone with all processes on it; Ray makes its actors anew elsewhere, where there is room."""
        with self._lock:
            machine = self._machine(name)
            self.machines.remove(machine)
            gone = [a for a in self.actors if a.machine is machine]
            for actor in gone:
                self._stop(actor)
            for actor in gone:
                actor.machine, actor.group = None, None
            self._place()

    def on(self, name: str) -> int:
        return sum(a.machine is not None and a.machine.name == name for a in self.actors)

    def close(self) -> None:
        for actor in list(self.actors):
            self.end(actor)
        self._pool.shutdown(cancel_futures=True)
        for host in self._hosts:
            host._keeper.join()
            with suppress(OSError):  # a host that was swept has closed it
                host._relay.close()
            host._watcher.join()
            host._folder.remove()  # its lock would go with its process

    # --- Calls --------------------------------------------------------------------------------------------------------

    def nodes(self) -> list[tuple[str, Mapping[str, float], Mapping[str, str]]]:
        return [(m.name, m.total, m.labels) for m in self.machines]

    def free(self) -> list[Mapping[str, float]]:
        return [dict(m.free) for m in self.machines]

    def group(self, group: Group, need: Mapping[str, float], labels: Mapping[str, str]) -> FakeGroup:
        made = FakeGroup(group)
        for _ in group.slots:
            able = [m for m in self.machines if m.takes(need) and labels.items() <= m.labels.items()]
            fresh = [m for m in able if m not in made.machines]
            if not (fresh if group.strategy == "STRICT_SPREAD" else able):
                return made
            machine = (fresh or able)[0]
            machine.use(need, 1)
            made.machines.append(machine)
        return made

    def placed(self, group: FakeGroup) -> bool:
        return len(group.machines) == len(group.group.slots)

    def actor(
        self,
        config: HostConfig,
        need: Mapping[str, float],
        *,
        bundle: tuple[Any, int] | None = None,
        labels: Mapping[str, str] | None = None,
        here: bool = False,
    ) -> Actor:
        with self._lock:
            made = Actor(config, need, labels or {})
            if bundle is not None:
                made.group = bundle[0]
                made.machine = bundle[0].machines[bundle[1]]
            self.actors.append(made)
            self._place()
            return made

    def call(self, handle: Actor, method: str, *args: Any) -> "Future[Any]":
        with self._lock:
            future: Future[Any] = Future()
            if handle.host is None:
                handle.waiting.append((future, method, args))
            else:
                self._run(handle, future, method, args)
            return future

    def wait(self, references: "Sequence[Future[Any]]", timeout_s: float) -> "list[Future[Any]]":
        return list(wait(references, timeout_s, FIRST_COMPLETED).done)

    def get(self, reference: "Future[Any]") -> Any:
        return reference.result(0.0)

    def end(self, handle: Actor) -> None:
        with self._lock:
            handle.over = True
            if handle in self.actors:
                self.actors.remove(handle)
                if handle.machine is not None and handle.group is None:
                    handle.machine.use(handle.need, -1)
                self._stop(handle)
                self._place()

    def dissolve(self, group: FakeGroup) -> None:
        pass

    # --- inside -------------------------------------------------------------------------------------------------------

    def _machine(self, name: str) -> Machine:
        return next(m for m in self.machines if m.name == name)

    def _place(self) -> None:
        for actor in self.actors:
            if actor.machine is None:
                able = [m for m in self.machines if m.takes(actor.need) and m.draining is None]
                able = [m for m in able if actor.labels.items() <= m.labels.items()]
                if not able:
                    continue
                actor.machine = max(able, key=lambda m: m.free.get("CPU", 0.0))
                actor.machine.use(actor.need, 1)
            if actor.host is None:
                self._begin(actor)

    def _begin(self, actor: Actor) -> None:
        machine = actor.machine
        assert machine is not None
        actor.host = Host(actor.config, "127.0.0.1", machine.name, lambda: machine.draining)
        for future, method, args in actor.waiting:
            self._run(actor, future, method, args)
        actor.waiting.clear()

    def _run(self, actor: Actor, future: "Future[Any]", method: str, args: tuple[Any, ...]) -> None:
        host = actor.host

        def answer() -> None:
            try:
                result = getattr(host, method)(*args)
            except BaseException as e:
                future.set_exception(e)
                return
            lost = actor.host is not host
            future.set_exception(ConnectionError("lost")) if lost else future.set_result(result)

        self._pool.submit(answer)

    def _stop(self, actor: Actor) -> None:
        """As when the actor's process is killed: its process goes, too; what it would have said is not heard."""
        host, actor.host = actor.host, None
        if host is None:
            return
        child = host._child
        if child is not None:
            with suppress(ProcessLookupError):
                os.killpg(child.pid, 9)
        host._over.set()
        host._wake()
        self._hosts.append(host)
