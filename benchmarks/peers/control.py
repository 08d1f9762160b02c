"""What every system under measurement has in common: it takes orders from the benchmark, over a socket.

Runs in each peer's own environment, so it needs the standard library only. A worker connects, says which system it
belongs to, is told what to exchange, and then runs as many cycles as it is told to, when it is told to: that is how
systems that are all alive at once take turns.
"""

import ctypes
import json
import math
import os
import signal
import socket
import subprocess
import sys
import time

ADDRESS = "KVBENCH_ADDRESS"
SYSTEM = "KVBENCH_SYSTEM"
CONNECT_S = 10.0


def call(address):
    """A connection to where the benchmark listens: ``host:port``, or a path."""
    if address.startswith("/"):
        line = socket.socket(socket.AF_UNIX)
        line.connect(address)
        return line
    host, port = address.rsplit(":", 1)
    line = socket.create_connection((host, int(port)), CONNECT_S)
    line.settimeout(None)
    return line


class Orders:
    """The worker's end of the line."""

    def __init__(self, rank):
        self.rank = rank
        self._line = call(os.environ[ADDRESS])
        self._file = self._line.makefile("rw")
        self.say(system=os.environ[SYSTEM], rank=rank)
        self.task = self.next()

    def say(self, **what):
        self._file.write(json.dumps(what) + "\n")
        self._file.flush()

    def next(self):
        """The next order; None when the benchmark is over, or gone."""
        line = self._file.readline()
        order = json.loads(line) if line else {"stop": True}
        return None if order.get("stop") else order

    def serve(self, version, cycles, check):
        """Run cycles on command until told to stop.

        ``cycles`` is a dict of calls, one a way of using the system; each makes one exchange of the whole set. One
        that returns a float has measured its milliseconds itself.
        ``check(rounds)`` says whether the values that came back last are right.
        """
        self.say(ready=True, version=version, ways=list(cycles))
        rounds = 0
        while True:
            order = self.next()
            if order is None:
                return
            if order.get("check"):
                self.say(right=bool(check(rounds)))
                continue
            cycle, spent = cycles[order["way"]], []
            for _ in range(order["warm"]):
                cycle()
            for _ in range(order["run"]):
                start = time.perf_counter()
                ms = cycle()
                spent.append(ms if isinstance(ms, float) else (time.perf_counter() - start) * 1e3)
            rounds += order["warm"] + order["run"]
            self.say(ms=spent)


def size(shape):
    return math.prod(shape)


def split(shapes, servers, big=1_000_000):
    """Pieces of a set over servers, as (tensor, server, start, stop): big tensors are cut, the others go round."""
    pieces = []
    for k, shape in enumerate(shapes):
        n = size(shape)
        if n >= big and servers > 1:
            pieces += [(k, i, n * i // servers, n * (i + 1) // servers) for i in range(servers)]
        else:
            pieces.append((k, k % servers, 0, n))
    return pieces


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def follow_parent():
    ctypes.CDLL(None).prctl(1, int(signal.SIGTERM))


def start(commands, background=()):
    """Start processes, given as (arguments of this Python, environment), and wait for the end.

    When one fails, or this process is told to stop, all are ended; those in the ``background`` also when all others
    have. Returns the exit code.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    children = []
    try:
        for args, env in [*commands, *background]:
            full = {**os.environ, **env}
            children.append(subprocess.Popen([sys.executable, *args], env=full, preexec_fn=follow_parent))
        while True:
            codes = [c.poll() for c in children]
            if any(codes):
                return next(c for c in codes if c)
            if None not in codes[: len(commands)]:
                return 0
            time.sleep(0.05)
    finally:
        for c in children:
            if c.poll() is None:
                c.terminate()
        for c in children:
            try:
                c.wait(5)
            except subprocess.TimeoutExpired:
                c.kill()
                c.wait()
