"""What this machine can do at most: the same chunks through plain sockets, there and back; and memcpy.

As systems under measurement, so that they take turns with the others:

    python kv_limits.py echo SERVERS WORKERS      1 MB chunks over loopback TCP, no arithmetic
    python kv_limits.py memcpy SERVERS WORKERS    every worker copies the set once, on one thread
"""

import contextlib
import os
import select
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent / "peers"))
import control

CHUNK = 1 << 20
WINDOW = 8
"""Chunks under way between a worker and a server."""


def echo_server(port: int) -> None:
    """Send every chunk back."""
    with socket.create_server(("127.0.0.1", port)) as listener:
        while True:
            line = listener.accept()[0]
            threading.Thread(target=_echo, args=(line,), daemon=True).start()


def _echo(line: socket.socket) -> None:
    """A cycle's length comes first, once; then chunks, the last one shorter, again and again."""
    line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    cycle = int.from_bytes(line.recv(8, socket.MSG_WAITALL), "little")
    chunk = memoryview(bytearray(min(CHUNK, cycle)))
    while True:
        for at in range(0, cycle, CHUNK):
            part, have = chunk[: min(CHUNK, cycle - at)], 0
            while have < len(part):
                n = line.recv_into(part[have:])
                if not n:
                    return
                have += n
            line.sendall(part)


class Lane:
    """One worker's line to one server: its part of the set goes out, and comes back into ``into``."""

    def __init__(self, port: int, out: memoryview, into: memoryview) -> None:
        self.line = _connected(port)
        self.line.sendall(len(out).to_bytes(8, "little"))
        self.line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.line.setblocking(False)
        self.out, self.into = out, into
        self.sent = self.got = 0

    def begin(self) -> None:
        """A new cycle."""
        self.sent = self.got = 0

    @property
    def done(self) -> bool:
        """Whether everything has come back."""
        return self.got == len(self.out)

    def events(self) -> int:
        """What to wait for; no more than `WINDOW` chunks are under way."""
        may_send = self.sent < len(self.out) and self.sent - self.got < WINDOW * CHUNK
        return select.POLLIN | (select.POLLOUT if may_send else 0)

    def send(self) -> None:
        """As much of a chunk as the kernel takes."""
        with contextlib.suppress(BlockingIOError):
            self.sent += self.line.send(self.out[self.sent : self.sent + CHUNK])

    def receive(self) -> None:
        """What is there."""
        with contextlib.suppress(BlockingIOError):
            self.got += self.line.recv_into(self.into[self.got : self.got + CHUNK])


def _connected(port: int) -> socket.socket:
    deadline = time.monotonic() + control.CONNECT_S
    while True:
        try:
            return socket.create_connection(("127.0.0.1", port))
        except ConnectionRefusedError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)


def exchange(lanes: list[Lane]) -> None:
    """Every lane's bytes there and back."""
    poller = select.poll()
    open_lanes = {}
    for lane in lanes:
        lane.begin()
        if not lane.done:
            poller.register(lane.line, lane.events())
            open_lanes[lane.line.fileno()] = lane
    while open_lanes:
        for fd, event in poller.poll():
            lane = open_lanes[fd]
            if event & select.POLLIN:
                lane.receive()
            if event & select.POLLOUT:
                lane.send()
            if lane.done:
                poller.unregister(fd)
                del open_lanes[fd]
            else:
                poller.modify(fd, lane.events())


def _arrays(task: dict[str, Any]) -> tuple[Any, Any]:
    nbytes = 4 * sum(control.size(s) for s in task["shapes"])
    return np.ones(nbytes, np.uint8), np.zeros(nbytes, np.uint8)


def echo_worker(rank: int, ports: list[int]) -> None:
    """Half the bytes to each of two servers, and so on."""
    orders = control.Orders(rank)
    out, into = _arrays(orders.task)
    cuts = [out.size * i // len(ports) for i in range(len(ports) + 1)]
    lanes = [
        Lane(p, memoryview(out)[a:b], memoryview(into)[a:b]) for p, a, b in zip(ports, cuts, cuts[1:], strict=False)
    ]
    orders.serve("", {"echo": lambda: exchange(lanes)}, lambda rounds: bool((into == out).all()))


def memcpy_worker(rank: int) -> None:
    """Copy the set into another place."""
    orders = control.Orders(rank)
    out, into = _arrays(orders.task)
    orders.serve("", {"memcpy": lambda: np.copyto(into, out)}, lambda rounds: bool((into == out).all()))


def main() -> int:
    """Start the processes of one limit."""
    what, servers, workers = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    if what == "memcpy":
        return int(control.start([([__file__, "memcpy_worker", str(r)], {}) for r in range(workers)]))
    ports = [control.free_port() for _ in range(servers)]
    clients = [([__file__, "echo_worker", str(r), *map(str, ports)], {}) for r in range(workers)]
    return int(control.start(clients, background=[([__file__, "echo_server", str(p)], {}) for p in ports]))


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    if sys.argv[1] == "echo_server":
        echo_server(int(sys.argv[2]))
    elif sys.argv[1] == "echo_worker":
        echo_worker(int(sys.argv[2]), [int(p) for p in sys.argv[3:]])
    elif sys.argv[1] == "memcpy_worker":
        memcpy_worker(int(sys.argv[2]))
    else:
        sys.exit(main())
