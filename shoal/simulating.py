"""Options of ``shoal simulate``. Every command loads this; what the options mean is looked up when one is given."""

import argparse
from collections.abc import Callable
from typing import Any

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
    p.add_argument("--rounds", type=_whole, default=1000, metavar="N", help="contributions a worker (default: 1000)")
    p.add_argument("--restart", action="store_true", help="a worker whose round is over gives up and begins anew")
    p.add_argument("--delay", type=_delay, default="0", metavar="S", help="of a message: seconds, or a law as above")
    p.add_argument("--bandwidth", type=_size, metavar="BYTES", help="a process sends, and receives, so much a second")
    p.add_argument("--model-size", type=_size, metavar="BYTES", help="of all weights on their way, such as 100MB")
    p.add_argument("--handling-s", type=float, default=0.0, metavar="S", help="a server's time for a contribution")
    p.add_argument("--lr", type=_real, metavar="X", help="minimise w**2 / 2 from w = 1 too, with this learning rate")
    rule = "what corrects stale contributions, such as stale or dcasgd:lam=0.04; needs --lr"
    p.add_argument("--rule", type=_rule, default="", metavar="RULE", help=rule)
    p.add_argument("--noise", type=_real, metavar="X", help="standard deviation of what is added to the gradients")
    p.add_argument("--target-loss", type=_real, metavar="X", help="show when the loss first was no larger")
    chaos = (
        "what goes wrong on purpose, and when (docs/chaos.md): drop, duplicate, reorder, delay, partition, slow, kill"
    )
    p.add_argument("--chaos", metavar="FILE", default="", help=chaos)
    p.add_argument("--json", action="store_true", help="print JSON")


def simulate(o: argparse.Namespace) -> int:
    """Carry out the command; the exit code."""
    from shoal.lab.simulate_command import run

    return run(o)


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


def _whole(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number, at least 1, got {text!r}")
    return int(text)


def _real(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a positive number, got {text!r}")
    return value


def _checked(parse: Callable[[str], Any], text: str) -> Any:
    try:
        return parse(text)
    except ConfigError as e:
        raise argparse.ArgumentTypeError(str(e)) from e
