"""The commands ``shoal status`` and ``shoal top``: what a running cluster is doing."""

import argparse
import json
import logging
import os
import select
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from shoal import dumping, tracing
from shoal.errors import MembershipError
from shoal.keying import access_of, key_options

if TYPE_CHECKING:
    from rich.console import Console

    from shoal.kvstore.wire.keys import Access
    from shoal.kvstore.wire.messages import Snapshot

__all__ = ["add_commands", "add_options", "find_scheduler", "observe", "place_options", "progress", "status", "top"]

log = logging.getLogger("shoal.metrics")

UNREACHABLE = 2
"""Exit code where no scheduler answers."""

DEFAULT = "127.0.0.1:9091"
"""Where a scheduler of this machine listens unless told otherwise."""

PERIOD_S = 1.0

ANSWER_S = 3.0
"""How long a scheduler may take to answer."""

LOST_S = 30.0
"""A scheduler that has been silent for this long will not come back for us."""


def add_commands(commands: Any) -> None:
    """``shoal status`` and ``shoal top``, to the commands of a parser."""
    text = "Say what a running cluster is doing; exit code 1 if it has failed, 2 if it cannot be reached."
    p = commands.add_parser("status", help=text, description=text, allow_abbrev=False)
    place_options(p)
    p.add_argument("--json", action="store_true", help="print JSON")
    p.set_defaults(act=status)
    text = "Show what a running cluster is doing, each second, until it ends or q is pressed."
    p = commands.add_parser("top", help=text, description=text, allow_abbrev=False)
    place_options(p)
    p.add_argument("--once", action="store_true", help="print it once, and end")
    p.set_defaults(act=top)


def add_options(p: argparse.ArgumentParser, *, stalls: bool = False, run: bool = False) -> None:
    """What a process of a cluster shows of itself."""
    text = "serve Prometheus metrics at PORT of the loopback, or HOST:PORT; shoal run: at it and the ports after it "
    text += "(default: $SHOAL_METRICS)"
    p.add_argument("--metrics", metavar="PORT", default=os.environ.get("SHOAL_METRICS", ""), help=text)
    text = "keep decisions and their reasons as JSON lines: in DIR, a file for each process, or all in FILE.jsonl"
    p.add_argument("--events", metavar="DIR", default=os.environ.get("SHOAL_EVENTS", ""), help=text)
    tracing.add_options(p, run=run)
    dumping.add_options(p)
    if stalls:
        text = "say who is waited for when nobody gets on for so long; 0: never (default: $SHOAL_STALL_AFTER_S, or 60)"
        after = os.environ.get("SHOAL_STALL_AFTER_S", "60")
        p.add_argument("--stall-after", metavar="SECONDS", type=_seconds, default=after, help=text)


def _seconds(text: str) -> float:
    try:
        value = float(text.removesuffix("s"))
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a number of seconds, at least 0, got {text!r}")
    return value


def progress(after_s: float, shows: bool) -> "Callable[[Snapshot], None]":
    """What the scheduler does with the state of the run, every now and then: it says so if nobody gets on.

    Args:
        after_s: for so long; 0: never.
        shows: it also logs a line an epoch, as one does that runs by itself.
    """
    from shoal.progress import EpochLines
    from shoal.scheduler.stalls import StallWatch
    from shoal.scheduler.telling import tell_stall

    watch, lines = StallWatch(after_s), EpochLines()

    def look(snapshot: "Snapshot") -> None:
        if (stall := watch.look(snapshot)) is not None:
            tell_stall(stall)
        if shows and (line := lines.news(snapshot)):
            logging.getLogger("shoal.scheduler").info("%s", line)

    return look


def observe(o: argparse.Namespace) -> None:
    """Begin to show what `add_options` asks for.

    Raises:
        ConfigError: it makes no sense, or the port is taken.
    """
    if o.events:
        from shoal.kvstore.eventlog import keep_events

        keep_events(o.events, o.command, getattr(o, "rank", 0))
    tracing.begin(o)
    dumping.begin(o)
    if o.metrics:
        from shoal.kvstore.client.shell import Call
        from shoal.kvstore.exposition import Histogram
        from shoal.scheduler.endpoint import Endpoint

        Call.waits = Histogram()
        log.info("metrics are at http://%s/metrics", Endpoint(o.metrics).address)


def place_options(p: argparse.ArgumentParser) -> None:
    """Where the scheduler of a run is; see `find_scheduler`."""
    text = f"where the scheduler listens (default: $SHOAL_SCHEDULER, or {DEFAULT})"
    p.add_argument("--scheduler", metavar="HOST:PORT", default="", help=text)
    p.add_argument("--run-dir", metavar="DIR", default="", help="the directory that was given to shoal run --run-dir")
    key_options(p, listens=False)


def find_scheduler(o: argparse.Namespace) -> str:
    """``host:port``: from the options, the run's directory, ``$SHOAL_SCHEDULER``, or the default.

    Raises:
        ConfigError: it is no address, or the directory is not one of a run.
    """
    from shoal.scheduler.address import parse_address, recorded_address

    address = o.scheduler or (
        recorded_address(o.run_dir) if o.run_dir else os.environ.get("SHOAL_SCHEDULER") or DEFAULT
    )
    parse_address(address)
    return str(address)


def status(o: argparse.Namespace) -> int:
    """Print what the cluster is doing; 0, or 1 if the run has failed, 2 if no scheduler answers."""
    from shoal.scheduler.watch import snapshot_of

    address, why = find_scheduler(o), ""
    try:
        snapshot = snapshot_of(address, ANSWER_S, access_of(o))
    except MembershipError as e:  # we do not have its key
        snapshot, why = None, str(e)
    if snapshot is None:
        print(f"shoal {o.command}: {why or f'no scheduler answers at {address}'}", file=sys.stderr)
        return UNREACHABLE
    if o.json:
        print(json.dumps(plain(snapshot), indent=2))
    else:
        from shoal.board import board

        console().print(board(snapshot, members=True))
    return int(snapshot.phase == "failed")


def plain(snapshot: "Snapshot") -> dict[str, Any]:
    """A snapshot as JSON has it: times in seconds, sizes in bytes; waits, nodes and changes are lists of mappings."""
    return asdict(snapshot)


def console() -> "Console":
    """As wide as the board needs, unless the terminal is wider."""
    from rich.console import Console

    from shoal.board import WIDTH

    made = Console(highlight=False)
    return made if made.is_terminal and made.width >= WIDTH else Console(width=WIDTH, highlight=False)


def top(o: argparse.Namespace) -> int:
    """Show what the cluster is doing each second, until the run ends, or q or Ctrl-C is pressed.

    Exit codes as of `status`. Without a terminal, and with ``--once``, it is shown once.
    """
    if o.once or not sys.stdout.isatty():
        o.json = False
        return status(o)
    return _follow(find_scheduler(o), access_of(o))


def _follow(address: str, access: "Access") -> int:
    from rich.live import Live
    from rich.text import Text

    from shoal.board import board
    from shoal.scheduler.watch import Watcher

    began = time.monotonic()
    watcher = Watcher(address, lambda snapshot: None, access)
    try:
        with Live(console=console(), auto_refresh=False) as live, _keys() as pressed:
            while True:
                last = watcher.last
                if last is None and time.monotonic() - began > ANSWER_S:
                    break
                live.update(board(last) if last else Text(f"asking {address} ..."), refresh=True)
                if watcher.final is not None or pressed(PERIOD_S if last else 0.1):
                    break
                if watcher.silent_s > LOST_S:
                    break
    except KeyboardInterrupt:
        pass
    finally:
        watcher.close()
    if watcher.last is None or watcher.silent_s > LOST_S:
        print(f"shoal top: no scheduler answers at {address}", file=sys.stderr)
        return UNREACHABLE
    return int(watcher.last.phase == "failed")


@contextmanager
def _keys() -> Iterator[Any]:
    """Gives a function that waits at most so long, and says whether q was pressed; the terminal is put back after."""
    try:
        import termios
        import tty

        fd = sys.stdin.fileno()
        before = termios.tcgetattr(fd)
    except (ImportError, OSError, ValueError, termios.error):  # no terminal to read from
        yield _sleep
        return
    tty.setcbreak(fd)
    try:
        yield lambda wait_s: _pressed(fd, wait_s)
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)


def _sleep(wait_s: float) -> bool:
    time.sleep(wait_s)
    return False


def _pressed(fd: int, wait_s: float) -> bool:
    ready, _, _ = select.select([fd], [], [], wait_s)
    return bool(ready) and os.read(fd, 64).lower().startswith((b"q", b"\x03", b"\x1b"))
