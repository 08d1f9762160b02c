"""Several hosts on one machine, with delay, loss, limited rate and partitions, and nothing but iproute2.

Each host is a network namespace whose only way out is a TUN device that this process holds. Every packet between two
hosts passes through one thread here, which can delay it, drop it, slow it down or cut it. Needs root. About 1.5 Gbit/s,
so its best is a slow LAN; that is enough to see what a program does when the network misbehaves.

    with Lab(["scheduler", "worker-1"]) as lab:
        p = lab.popen("worker-1", ["shoal", "worker", ...])        # finds the other host by its name
        lab.link("scheduler", "worker-1", Link(delay_s=0.02, loss=0.01, rate_bytes_s=25e6))
        lab.cut("worker-1")                                        # as a pulled cable
        lab.heal()

Names are resolved as in a container: ``ip netns exec`` mounts ``/etc/netns/NAMESPACE/hosts`` over ``/etc/hosts``.
"""

import contextlib
import fcntl
import functools
import heapq
import itertools
import os
import random
import selectors
import shutil
import signal
import struct
import subprocess
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any

__all__ = ["Lab", "Link", "why_not"]

TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
NETNS = Path("/etc/netns")
BURST = 64
"""Packets taken from one host before the next one has its turn."""

_labs = itertools.count()


@functools.cache
def why_not() -> str:
    """Why there can be no lab on this machine; empty when there can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    if not Path("/dev/net/tun").exists():
        return "there is no /dev/net/tun"
    if shutil.which("ip") is None:
        return "there is no `ip` command (Debian package iproute2)"
    try:
        os.close(_open_tun(f"slp{os.getpid()}"))
    except OSError as e:
        return f"no TUN device can be made here: {e}"
    probe = f"shoal-probe-{os.getpid()}"
    made = subprocess.run(["ip", "netns", "add", probe], capture_output=True, text=True)
    if made.returncode:
        return f"`ip netns add` fails here: {made.stderr.strip()}"
    subprocess.run(["ip", "netns", "del", probe], check=True)
    return ""


def _open_tun(device: str) -> int:
    """A file descriptor that is the other end of a new network device, which goes when it is closed."""
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    try:
        fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH", device.encode(), IFF_TUN | IFF_NO_PI))
    except OSError:
        os.close(fd)
        raise
    return fd


@dataclass(frozen=True, slots=True)
class Link:
    """What happens to packets from one host to another."""

    delay_s: float = 0.0
    loss: float = 0.0  # fraction
    rate_bytes_s: float = 0.0  # 0: as fast as it goes
    cut: bool = False
    queue: int = 2000  # packets under way; more are dropped


class Lab:
    """Hosts by name, each with its own address, processes and links to the others.

    Args:
        hosts: their names.
        aliases: further names, each for one of the hosts.
        net: first three bytes of the addresses; host ``i`` (from 1) has ``net.i``.
        seed: of the packet loss.
    """

    def __init__(
        self, hosts: Sequence[str], aliases: Mapping[str, str] | None = None, net: str = "10.77.0", seed: int = 0
    ) -> None:
        self.ip = {host: f"{net}.{i}" for i, host in enumerate(hosts, 1)}
        self.aliases = dict(aliases or {})
        self._tag = f"sl{os.getpid()}x{next(_labs)}"
        self._tuns: dict[str, int] = {}
        self._procs: list[subprocess.Popen[str]] = []
        self._hub = _Hub(self._tuns, self.ip, random.Random(seed))

    def namespace(self, host: str) -> str:
        """The network namespace that is ``host``."""
        return f"{self._tag}-{host}"

    def __enter__(self) -> "Lab":
        try:
            for i, host in enumerate(self.ip):
                self._plug(host, f"{self._tag}t{i}"[-15:])
                self._write_hosts(host)
        except BaseException:
            self.close()
            raise
        self._hub.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def _plug(self, host: str, device: str) -> None:
        self._tuns[host] = _open_tun(device)
        ns = self.namespace(host)
        for command in (
            f"ip netns add {ns}",
            f"ip link set {device} netns {ns}",
            f"ip -n {ns} link set {device} name eth0 mtu 9000",
            f"ip -n {ns} addr add {self.ip[host]}/24 dev eth0",
            f"ip -n {ns} link set eth0 up",
            f"ip -n {ns} link set lo up",
        ):
            subprocess.run(command.split(), check=True, capture_output=True, text=True)

    def _write_hosts(self, host: str) -> None:
        folder = NETNS / self.namespace(host)
        folder.mkdir(parents=True)
        names = {**self.ip, **{alias: self.ip[of] for alias, of in self.aliases.items()}}
        lines = ["127.0.0.1 localhost", *(f"{ip} {name}" for name, ip in names.items())]
        (folder / "hosts").write_text("\n".join(lines) + "\n")
        (folder / "resolv.conf").write_text("# no name server: an unknown name fails at once\n")

    def close(self) -> None:
        """Kill what still runs, and remove every trace."""
        for p in self._procs:
            with contextlib.suppress(ProcessLookupError):
                p.kill()
            p.communicate()
        self._hub.stop()
        for host, fd in self._tuns.items():
            os.close(fd)
            subprocess.run(["ip", "netns", "del", self.namespace(host)], capture_output=True)
            shutil.rmtree(NETNS / self.namespace(host), ignore_errors=True)
        self._tuns.clear()
        with contextlib.suppress(OSError):  # others use it, or it was never made
            NETNS.rmdir()

    # --- processes ----------------------------------------------------------------------------------------------------

    def popen(self, host: str, command: Sequence[str], **options: Any) -> subprocess.Popen[str]:
        """Start ``command`` on ``host``; the process is the command itself, so its pid can be signalled."""
        p = subprocess.Popen(["ip", "netns", "exec", self.namespace(host), *command], text=True, **options)
        self._procs.append(p)
        return p

    def run(self, host: str, command: Sequence[str], **options: Any) -> "subprocess.CompletedProcess[str]":
        """Run ``command`` on ``host`` to its end; its output is kept."""
        full = ["ip", "netns", "exec", self.namespace(host), *command]
        return subprocess.run(full, text=True, capture_output=True, **options)

    def kill(self, p: "subprocess.Popen[str]") -> None:
        """End a process as a machine that loses its power does."""
        os.kill(p.pid, signal.SIGKILL)

    # --- links --------------------------------------------------------------------------------------------------------

    def link(self, a: str, b: str, link: Link) -> None:
        """Packets between ``a`` and ``b`` fare so from now on, both ways."""
        self._hub.links[a, b] = self._hub.links[b, a] = link

    def link_all(self, link: Link) -> None:
        """Every pair of hosts."""
        for a, b in itertools.combinations(self.ip, 2):
            self.link(a, b, link)

    def partition(self, some: set[str], others: set[str]) -> None:
        """Nothing passes between the two groups."""
        for a, b in itertools.product(some, others):
            self.link(a, b, replace(self._hub.links[a, b], cut=True))

    def cut(self, host: str) -> None:
        """Nothing reaches ``host`` and nothing leaves it."""
        self.partition({host}, set(self.ip) - {host})

    def heal(self) -> None:
        """Undo every cut."""
        for pair, link in list(self._hub.links.items()):
            self._hub.links[pair] = replace(link, cut=False)

    @property
    def packets(self) -> tuple[int, int]:
        """How many packets have been passed on, and how many dropped."""
        return self._hub.passed, self._hub.dropped


@dataclass(order=True, slots=True)
class _UnderWay:
    at: float
    order: int
    pair: tuple[str, str] = field(compare=False)
    packet: bytes = field(compare=False)


class _Hub:
    """The thread through which every packet passes."""

    def __init__(self, tuns: dict[str, int], ips: Mapping[str, str], rng: random.Random) -> None:
        self.links: dict[tuple[str, str], Link] = defaultdict(Link)
        self.passed = self.dropped = 0
        self._tuns, self._rng = tuns, rng
        self._by_last_byte = {int(ip.rsplit(".", 1)[1]): host for host, ip in ips.items()}
        self._under_way: list[_UnderWay] = []
        self._depth: Counter[tuple[str, str]] = Counter()
        self._free_at: dict[tuple[str, str], float] = defaultdict(float)  # when the link has sent what it has taken
        self._order = itertools.count()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="netlab", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join(60.0)

    def _run(self) -> None:
        with selectors.DefaultSelector() as selector:
            for host, fd in self._tuns.items():
                selector.register(fd, selectors.EVENT_READ, host)
            while not self._stop.is_set():
                for key, _ in selector.select(self._patience()):
                    self._take(key.data, key.fd)
                self._deliver_due()

    def _patience(self) -> float:
        if not self._under_way:
            return 0.05
        return min(0.05, max(0.0, self._under_way[0].at - time.monotonic()))

    def _take(self, source: str, fd: int) -> None:
        for _ in range(BURST):
            try:
                packet = os.read(fd, 65536)
            except BlockingIOError:
                return
            target = self._by_last_byte.get(packet[19]) if packet[0] >> 4 == 4 else None  # IPv4 only
            if target is not None:
                self._forward((source, target), packet)

    def _forward(self, pair: tuple[str, str], packet: bytes) -> None:
        link, now = self.links[pair], time.monotonic()
        if link.cut or (link.loss and self._rng.random() < link.loss) or self._depth[pair] >= link.queue:
            self.dropped += 1
            return
        at = now
        if link.rate_bytes_s:
            at = self._free_at[pair] = max(now, self._free_at[pair]) + len(packet) / link.rate_bytes_s
        at += link.delay_s
        if at <= now and not self._depth[pair]:
            self._deliver(pair, packet)
        else:
            self._depth[pair] += 1
            heapq.heappush(self._under_way, _UnderWay(at, next(self._order), pair, packet))

    def _deliver_due(self) -> None:
        now = time.monotonic()
        while self._under_way and self._under_way[0].at <= now:
            due = heapq.heappop(self._under_way)
            self._depth[due.pair] -= 1
            if self.links[due.pair].cut:
                self.dropped += 1
            else:
                self._deliver(due.pair, due.packet)

    def _deliver(self, pair: tuple[str, str], packet: bytes) -> None:
        try:
            os.write(self._tuns[pair[1]], packet)
            self.passed += 1
        except OSError:  # its queue is full, or its interface is down
            self.dropped += 1
