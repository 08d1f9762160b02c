"""Faults that a process does to itself, without a launcher: for one container, such as a worker on a bad network.

``SHOAL_CHAOS="self: drop=2 duplicate=1 reorder=2 delay_s=0.002 stop_s=0.5 every_s=8 kill_s=30 seed=1"``
"""

import logging
import os
import random
import signal
import subprocess
import threading
import time
from dataclasses import dataclass

from shoal.errors import ConfigError
from shoal.kvstore.eventlog import event
from shoal.kvstore.wire.faults import faults
from shoal.lab.chaos.inside import Meddler
from shoal.lab.chaos.messages import Interference, Rule

__all__ = ["PREFIX", "Alone", "attach_alone", "parse_alone"]

log = logging.getLogger("shoal.chaos")

PREFIX = "self:"

MAX_PEERS = 64
"""Messages with servers of these ranks are interfered with; those with the scheduler are not."""


@dataclass(frozen=True, slots=True)
class Alone:
    """What a process does to itself.

    Args:
        drop, duplicate, reorder: per cent of its messages to and from servers.
        delay_s: each of them comes so much later.
        stop_s: for so long it stands still, every ``every_s`` on the average; 0: never.
        every_s: see ``stop_s``.
        kill_s: after so long on the average it kills itself, as ``kill -9`` does; 0: never.
        seed: of all this.
    """

    drop: float = 0.0
    duplicate: float = 0.0
    reorder: float = 0.0
    delay_s: float = 0.0
    stop_s: float = 0.0
    every_s: float = 10.0
    kill_s: float = 0.0
    seed: int = 0

    def rules(self) -> list[Rule]:
        """What becomes of messages."""
        kinds = {"drop": self.drop, "duplicate": self.duplicate, "reorder": self.reorder, "delay": self.delay_s}
        wanted = [(i, what, amount) for i, (what, amount) in enumerate(kinds.items()) if amount]
        peers = [(way, f"server{rank}") for way in ("out", "in") for rank in range(MAX_PEERS)]
        return [Rule(i, what, way, peer, amount) for i, what, amount in wanted for way, peer in peers]


def parse_alone(text: str) -> Alone:
    """What ``self: NAME=NUMBER ...`` asks for.

    >>> parse_alone("self: drop=2 delay_s=0.01").drop
    2.0

    Raises:
        ConfigError: a word is none of `Alone`'s, or its number makes no sense.
    """
    found: dict[str, float] = {}
    for word in text.removeprefix(PREFIX).split():
        name, _, number = word.partition("=")
        try:
            value = float(number)
        except ValueError:
            value = -1.0
        if name not in Alone.__slots__ or not 0 <= value < float("inf"):
            raise ConfigError(
                f"SHOAL_CHAOS has {word!r}; expected NAME=NUMBER, with a name of {', '.join(Alone.__slots__)}"
            )
        found[name] = value
    return Alone(**{k: int(v) if k == "seed" else v for k, v in found.items()})  # type: ignore[arg-type]  # checked above


def attach_alone(text: str) -> Alone:
    """Let this process disturb itself. To be called before the first transport is made.

    Raises:
        ConfigError: see `parse_alone`.
    """
    chaos = parse_alone(text)
    log.warning("this process disturbs itself, on purpose: %s", text.removeprefix(PREFIX).strip())
    if rules := chaos.rules():
        interference = Interference(chaos.seed)
        interference.use(rules)
        meddlers: list[Meddler] = []
        faults.transport = lambda transport: meddlers.append(Meddler(transport, interference.fate))
    for every_s, act in ((chaos.stop_s and chaos.every_s, "stop"), (chaos.kill_s, "kill")):
        if every_s:
            args = (chaos, act, every_s)
            threading.Thread(target=_strike, args=args, name=f"shoal-chaos-{act}", daemon=True).start()
    return chaos


def _strike(chaos: Alone, act: str, every_s: float) -> None:
    draws = random.Random(f"{chaos.seed} {act} {os.getpid()}")
    while True:
        time.sleep(every_s * draws.uniform(0.5, 1.5))
        log.warning("chaos: %s", act, extra=event("chaos", act))
        if act == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        _stand_still(chaos.stop_s)


def _stand_still(seconds: float) -> None:
    """As SIGSTOP and SIGCONT do; the second must come from somebody else."""
    me = os.getpid()
    waker = subprocess.Popen(["/bin/sh", "-c", f"sleep {seconds}; kill -CONT {me}"])
    os.kill(me, signal.SIGSTOP)
    waker.wait()
