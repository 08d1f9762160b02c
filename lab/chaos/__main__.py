"""``python -m shoal.lab.chaos FILE``: check a chaos file, and print what it will do, to whom and when."""

import argparse
import sys
from collections.abc import Sequence

from shoal.errors import ConfigError
from shoal.lab.chaos.cast import Cast
from shoal.lab.chaos.plan import read_plan
from shoal.lab.chaos.schedule import timetable

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Print the timetable of a file; 2 if it is not understood."""
    p = argparse.ArgumentParser(prog="python -m shoal.lab.chaos", description=__doc__)
    p.add_argument("file")
    p.add_argument("-n", "--workers", type=int, default=2)
    p.add_argument("-s", "--servers", type=int, default=2)
    p.add_argument("--replicas", type=int, default=0, help="of each server")
    p.add_argument("--seconds", type=float, default=60.0, help="of the run that are shown (default: 60)")
    o = p.parse_args(argv)
    try:
        plan = read_plan(o.file)
        plan.check(cast := Cast(o.workers, o.servers, o.replicas * o.servers))
    except ConfigError as e:
        print(f"shoal.lab.chaos: {e}", file=sys.stderr)
        return 2
    for fault in timetable(plan, cast, o.seconds):
        print(fault)
    for event in plan.events:
        if event.at_step is not None or event.at_clock is not None:
            print(event)
    return 0


if __name__ == "__main__":
    sys.exit(main())
