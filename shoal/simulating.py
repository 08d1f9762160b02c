"""Options of ``shoal simulate``. Every command loads this; what the options mean is looked up when one is given."""

import argparse
from collections.abc import Callable
from typing import Any

from shoal.commands import values
from shoal.errors import ConfigError

__all__ = ["add_options", "simulate"]


def add_options(p: argparse.ArgumentParser) -> None:
    """The options that no other command has."""
    gates = "consistency model, such as sync, ssp:3 or async; repeat it to compare (default: sync, ssp:3 and async)"
    p.add_argument("--gate", type=_gate, action="append", metavar="GATE", help=gates)
    laws = "const:S, exp:S, shifted:S,S, uniform:S,S, lognormal:S,SIGMA, pareto:S,ALPHA or each:S,S,..."
    law = f"how long a gradient takes: {laws} (default: exp:1, exponential of mean 1 s)"
    p.add_argument("--compute", type=_law, default="exp:1", metavar="LAW", help=law)
    p.add_argument("--slow", type=_slow, action="append", metavar="RANK:X", help="this worker takes X times as long")
    p.add_argument(
        "--rounds", type=values.whole, default=1000, metavar="N", help="contributions a worker (default: 1000)"
    )
    p.add_argument("--restart", action="store_true", help="a worker whose round is over gives up and begins anew")
    p.add_argument("--delay", type=_delay, default="0", metavar="S", help="of a message: seconds, or a law as above")
    p.add_argument("--bandwidth", type=_size, metavar="BYTES", help="a process sends, and receives, so much a second")
    p.add_argument("--model-size", type=_size, metavar="BYTES", help="of all weights on their way, such as 100MB")
    p.add_argument("--handling-s", type=float, default=0.0, metavar="S", help="a server's time for a contribution")
    link = "how it scales over links of this rate, such as 25gbit; with -n 8..1024, a row for each number of workers"
    p.add_argument("--link", type=_link, metavar="RATE", help=link)
    p.add_argument("--svg", metavar="FILE", default="", help="with --link: also draw the efficiency")
    p.add_argument(
        "--lr", type=values.positive, metavar="X", help="minimise w**2 / 2 from w = 1 too, with this learning rate"
    )
    rule = "what corrects stale contributions, such as stale or dcasgd:lam=0.04; needs --lr"
    p.add_argument("--rule", type=_rule, default="", metavar="RULE", help=rule)
    p.add_argument(
        "--noise", type=values.positive, metavar="X", help="standard deviation of what is added to the gradients"
    )
    p.add_argument("--target-loss", type=values.positive, metavar="X", help="show when the loss first was no larger")
    chaos = (
        "what goes wrong on purpose, and when (docs/chaos.md): drop, duplicate, reorder, delay, partition, slow, kill"
    )
    p.add_argument("--chaos", metavar="FILE", default="", help=chaos)
    p.add_argument("--json", action="store_true", help="print JSON")


def simulate(o: argparse.Namespace) -> int:
    """Carry out the command; the exit code."""
    if o.link is not None:
        from shoal.lab.scaling_command import run as scale

        return scale(o)
    from shoal.lab.simulate_command import run

    return run(o)


def crowd(text: str) -> int | tuple[int, ...]:
    """``"8"``, or ``"8..1024"``: 8, 16, 32, ..., 1024."""
    low, dots, high = text.partition("..")
    if not dots:
        return values.whole(text)
    first, last = values.whole(low), values.whole(high)
    if first > last:
        raise argparse.ArgumentTypeError(f"expected numbers in order, such as 8..1024, got {text!r}")
    between = []
    while first < last:
        between.append(first)
        first *= 2
    return (*between, last)


def servers(text: str) -> int | str:
    """``"4"``, or ``"/4"``: one for each 4 workers."""
    if text.startswith("/"):
        values.whole(text[1:])
        return text
    return values.whole(text)


def _link(text: str) -> float:
    """Gbit/s, of ``"25gbit"`` or ``"100mbit"``."""
    for unit, factor in (("gbit", 1.0), ("mbit", 1e-3)):
        if text.lower().endswith(unit):
            return values.positive(text[: -len(unit)]) * factor
    raise argparse.ArgumentTypeError(f"expected a rate such as 25gbit or 100mbit, got {text!r}")


def _gate(text: str) -> str:
    from shoal.kvstore.gates import parse_gate

    return str(_checked(parse_gate, text).name)


def _law(text: str) -> str:
    from shoal.lab.simulate_laws import parse_law

    _checked(parse_law, text)
    return text


def _rule(text: str) -> str:
    from shoal.kvstore.rules import parse

    _checked(parse, text)
    return text


def _delay(text: str) -> str:
    from shoal.lab.simulate_command import delay

    _checked(delay, text)
    return text


def _slow(text: str) -> Any:
    from shoal.lab.simulate_command import slowed

    return _checked(slowed, text)


def _size(text: str) -> int:
    from shoal.lab.kvcases import parse_bytes

    return int(_checked(parse_bytes, text))


def _checked(parse: Callable[[str], Any], text: str) -> Any:
    try:
        return parse(text)
    except ConfigError as e:
        raise argparse.ArgumentTypeError(str(e)) from e
