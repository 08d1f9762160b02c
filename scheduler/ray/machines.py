"""The machines of a Ray cluster, as a launcher needs them: Ray finds the places, makes actors there, and makes them
anew elsewhere when a machine is lost; what runs in them is for `shoal.scheduler.run`, and how many for `Staff`.
"""

import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shoal.errors import ConfigError
from shoal.kvstore.wire.keys import load_keys, new_keys
from shoal.scheduler.folders import Folder
from shoal.scheduler.job import JobConfig, OnLine
from shoal.scheduler.machines import Hands, Where
from shoal.scheduler.ray.calls import Calls
from shoal.scheduler.ray.host import HostConfig, Order
from shoal.scheduler.ray.plan import Group, lacking, place_servers
from shoal.scheduler.ray.slots import RemoteProcess, Slot
from shoal.scheduler.ray.staff import Staff

__all__ = ["RayMachines", "RayOptions", "inherited", "key_of"]

MARKET, ON_DEMAND = "ray.io/market-type", "on-demand"

LOOK_S = 0.1

SAY_S = 10.0
"""How often it is said that there is no room yet."""

MORE_S = 2.0
"""When the least number of workers has a place, so long the others may take to get one and begin with them."""

ALIVE_S = 1.0
"""Between two questions which machines there are, while one cannot be reached."""

SWEEP_S = 3.0
"""How long hosts may take to leave nothing behind."""


@dataclass(frozen=True, slots=True)
class RayOptions:
    """What a run asks of a Ray cluster.

    Args:
        worker: resources of a worker, such as ``{"CPU": 1, "GPU": 1}``; it uses as many threads as it has cores.
        server: resources of a server, and of a replica.
        labels: of the machines that servers may be on; None: ``ray.io/market-type=on-demand``, if any has that.
        scale: how many workers an elastic run has; see `shoal.scheduler.ray.policy`.
        clouds: whose notices of preemption are looked for: aws, gcp, azure.
        key: text of the cluster's key file; "" for that of the job, or one that is made for the run.
        insecure: connections without a key, for a network in which everybody may read and change the model.
        cwd: directory of the script, if it is not brought along by Ray.
        shipped: Ray brings the directory of the script to each machine.
        env: names of variables of this process that others get, too; those that begin with SHOAL_ always do.
    """

    worker: Mapping[str, float] = field(default_factory=lambda: {"CPU": 1.0})
    server: Mapping[str, float] = field(default_factory=lambda: {"CPU": 1.0})
    labels: Mapping[str, str] | None = None
    scale: str = "fit"
    clouds: tuple[str, ...] = ()
    key: str = ""
    insecure: bool = False
    cwd: str = ""
    shipped: bool = False
    env: tuple[str, ...] = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS")


def key_of(job: JobConfig, options: RayOptions) -> str:
    """Text of the key that the run was given; "" for none.

    Raises:
        ConfigError: it cannot be used.
    """
    if not job.keys:
        return options.key
    load_keys(job.keys)
    place = Path(job.keys)
    return (place / "cluster.key" if place.is_dir() else place).read_text()


def inherited(names: Sequence[str]) -> dict[str, str]:
    """Of this process's variables, those that all processes of a run get."""
    return {k: v for k, v in os.environ.items() if k.startswith("SHOAL_") or k in names}


class RayMachines:
    """See `shoal.scheduler.machines.Machines`.

    Args:
        job: what is run.
        options: what it asks of the cluster.
        calls: to Ray.
        on_line: called with source, stream and each line of output.
    """

    def __init__(self, job: JobConfig, options: RayOptions, calls: Calls, on_line: OnLine) -> None:
        self.job, self.options, self.calls, self._on_line = job, options, calls, on_line
        self.slots: dict[str, Slot] = {}
        self.old: list[Slot] = []  # slots whose place another one has taken, until their processes have ended
        self._groups: list[Any] = []
        self._keys, self._key = self._make_key()
        self._labels: Mapping[str, str] = {}
        self._config = HostConfig(self._folder, self._key, options.cwd, options.shipped, tuple(options.clouds))
        self._orders = 0
        self._wake: Callable[[], None] = lambda: None
        self._failure: ConfigError | None = None
        self._closing = False
        self._looked = 0.0
        self._poller = threading.Thread(target=self._poll, name="shoal-ray", daemon=True)
        self._staff = Staff(self)

    def _make_key(self) -> tuple[str, str]:
        """Where the cluster's key is on each machine, and its text."""
        text = key_of(self.job, self.options)
        self._private = Folder("shoal-ray-")  # hosts on this machine use it too, those on others one of that name
        self._folder = self._private.path
        if not text and self.options.insecure:
            return "", ""
        text = text or new_keys(self._folder).read_text()
        return os.path.join(self._folder, "cluster.key"), text

    # --- room ---------------------------------------------------------------------------------------------------------

    def prepare(self, wake: Callable[[], None], stopped: Callable[[], bool]) -> Sequence[int]:
        """Ask for places, and wait until everybody has one whom the run cannot begin without."""
        self._wake = wake
        deadline = time.monotonic() + self.job.gather_timeout_s
        nodes = self.calls.nodes()
        self._labels = self._labels_of([labels for _, _, labels in nodes])
        able = [all_ for _, all_, labels in nodes if self._labels.items() <= labels.items()]
        groups, told = place_servers(self.job.servers, self.job.replicas, self.options.server, able)
        if told:
            self.say(told)
        self._gather(groups, deadline, stopped)
        self.add("scheduler", here=True)
        for rank in range(self._staff.first()):
            self.add(f"worker {rank}")
        self._poller.start()
        needed = [s for name, s in self.slots.items() if not name.startswith("worker ")]
        needed += [self.slots[f"worker {rank}"] for rank in range(self.job.workers)]
        self._await(needed, deadline, stopped)
        self._await([], time.monotonic() + MORE_S, lambda: stopped() or all(s.reachable for s in self.slots.values()))
        ranks = [rank for rank in range(self.job.most) if f"worker {rank}" in self.slots]
        return [rank for rank in ranks if self.slots[f"worker {rank}"].reachable]

    def _labels_of(self, nodes: Sequence[Mapping[str, str]]) -> Mapping[str, str]:
        if self.options.labels is not None:
            return self.options.labels
        return {MARKET: ON_DEMAND} if any(n.get(MARKET) == ON_DEMAND for n in nodes) else {}

    def _gather(self, groups: Sequence[Group], deadline: float, stopped: Callable[[], bool]) -> None:
        """Get the placement groups, and a host in each bundle."""
        asked = [(g, self.calls.group(g, self.options.server, self._labels)) for g in groups]
        self._groups = [handle for _, handle in asked]
        said = time.monotonic()
        for group, handle in asked:
            while not self.calls.placed(handle) and not stopped():
                if time.monotonic() > deadline:
                    raise ConfigError(self._no_room(group.slots, self.options.server))
                if time.monotonic() > said + SAY_S:
                    said = time.monotonic()
                    self.say(f"waiting for room: {self._no_room(group.slots, self.options.server)}")
            for i, name in enumerate(group.slots):
                self.add(name, bundle=(handle, i))

    def _no_room(self, names: Sequence[str], need: Mapping[str, float]) -> str:
        able = [all_ for _, all_, labels in self.calls.nodes() if self._labels.items() <= labels.items()]
        why = lacking(need, able) or "all of it is taken, or they must be on more machines than there are"
        where = " on machines with " + ", ".join(f"{k}={v}" for k, v in self._labels.items()) if self._labels else ""
        return f"the Ray cluster has no room for {', '.join(names)}{where}: {why}"

    def _await(self, slots: Sequence[Slot], deadline: float, stopped: Callable[[], bool]) -> None:
        """Wait for hosts; with none to wait for, until ``stopped`` or the deadline, which then is no failure."""
        said = time.monotonic()
        while not stopped():
            missing = [s for s in slots if not s.reachable]
            if self._failure is not None:
                raise self._failure
            trouble = next((f"{s.name} cannot run on {s.address}: {s.trouble}" for s in slots if s.trouble), "")
            if trouble:
                raise ConfigError(trouble)
            if slots and not missing:
                return
            names = [s.name for s in missing]
            if time.monotonic() > deadline:
                if not missing:
                    return
                raise ConfigError(self._no_room(names, self.need(names[0])))
            if missing and time.monotonic() > said + SAY_S:
                said = time.monotonic()
                self.say(f"waiting for room: {self._no_room(names, self.need(names[0]))}")
            time.sleep(0.02)

    def need(self, name: str) -> Mapping[str, float]:
        """Resources of a process of this name."""
        if name == "scheduler":
            return {}
        return self.options.worker if name.startswith("worker ") else self.options.server

    def add(self, name: str, bundle: tuple[Any, int] | None = None, here: bool = False) -> Slot:
        """One more slot; Ray finds a place for it now, or when there is one."""
        labels = {} if name.startswith("worker ") else self._labels
        handle = self.calls.actor(self._config, self.need(name), bundle=bundle, labels=labels, here=here)
        slot = self.slots[name] = Slot(name, self.calls, handle, self._on_line, lambda: self._wake())
        return slot

    def replace(self, name: str) -> Slot:
        """Another slot of this name, anywhere: the one before is on a machine that goes."""
        self.old.append(self.slots[name])
        self.old[-1].leaving = True
        return self.add(name)

    def release(self, slot: Slot) -> None:
        """Give a place back."""
        self.calls.end(slot.handle)
        if self.slots.get(slot.name) is slot:
            del self.slots[slot.name]
        if slot in self.old:
            self.old.remove(slot)

    # --- processes ----------------------------------------------------------------------------------------------------

    def where(self) -> Where:
        """Processes listen at the address that faces the scheduler."""
        return Where("", self._keys, insecure=not self._keys, kept=self._folder)

    def start(self, name: str, args: list[str], *, slot: str, ready: bool = False) -> RemoteProcess:
        """Start ``shoal *args`` in this slot, as soon as its host is there."""
        place = self.slots.get(slot) or self.add(slot)
        need = self.need(name)
        threads = max(1, int(need.get("CPU", 1))) if name.startswith("worker ") else 1
        env = {**inherited(self.options.env), **self.job.env, "SHOAL_LOG": "info" if self.job.verbose else "warning"}
        self._orders += 1
        process = RemoteProcess(place, Order(self._orders, name, tuple(args), env, threads, ready), name)
        place.start(process)
        return process

    def turn(self, run: Hands) -> None:
        """Look after machines that go, and hire or dismiss workers."""
        self._staff.turn(run)

    def say(self, text: str) -> None:
        """Among the lines of the processes."""
        self._on_line("shoal run", "stderr", text)

    # --- watching -----------------------------------------------------------------------------------------------------

    def _everything(self) -> list[Slot]:
        return [*self.slots.values(), *self.old]

    def _poll(self) -> None:
        """Ask hosts for news, and hear them; on a thread of its own."""
        while not self._closing:
            now, slots = time.monotonic(), self._everything()
            for slot in slots:
                slot.ask(now)
            waits = {s.reference: s for s in slots if s.reference is not None}
            for reference in self.calls.wait(list(waits), LOOK_S) if waits else ():
                try:
                    waits[reference].hear()
                except ConfigError as e:
                    self._fail(waits[reference], e)
            if not waits:
                time.sleep(LOOK_S / 2)
            self._bury(now)

    def _fail(self, slot: Slot, e: ConfigError) -> None:
        self._failure = self._failure or e
        slot.trouble, slot.lost_at = str(e), time.monotonic() + 1e9  # nobody need ask it again
        if slot.process is not None:
            slot.process.end(1, str(e))
        self._wake()

    def _bury(self, now: float) -> None:
        """Give up hosts whose machine Ray has lost, or that have been out of reach for as long as a lease."""
        lost = [s for s in self._everything() if s.boot and s.lost_at is not None and not s.trouble]
        if not lost or now < self._looked + ALIVE_S:
            return
        self._looked = now
        alive = {node for node, _, _ in self.calls.nodes()}
        for slot in lost:
            if slot.node not in alive or (slot.lost_at is not None and now > slot.lost_at + self.job.lease_s):
                slot.give_up()

    # --- ending -------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Leave no actor and no placement group; what hosts still have to say is handed on."""
        self._closing = True
        if self._poller.is_alive():
            self._poller.join()
        slots = self._everything()
        asked = {s.call("sweep", s.seen, SWEEP_S / 2): s for s in slots if s.reachable}
        deadline = time.monotonic() + SWEEP_S
        while asked and time.monotonic() < deadline:
            for reference in self.calls.wait(list(asked), LOOK_S):
                self._last_words(asked.pop(reference), reference)
        for slot in slots:
            self.calls.end(slot.handle)
        for group in self._groups:
            self.calls.dissolve(group)
        self._private.remove()  # the key, where no host was there to sweep it away

    def _last_words(self, slot: Slot, reference: Any) -> None:
        try:
            slot.hand_on(self.calls.get(reference))
        except (ConnectionError, ConfigError):
            return
