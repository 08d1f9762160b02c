"""The command ``shoal control``: change settings of a run that is going on."""

import argparse
from typing import TYPE_CHECKING

from shoal.errors import ConfigError
from shoal.keying import access_of

if TYPE_CHECKING:
    from shoal.kvstore.wire.messages import Change

__all__ = ["add_options", "control"]


def add_options(p: argparse.ArgumentParser) -> None:
    """What there is beside the scheduler's address."""
    p.add_argument("settings", nargs="*", metavar="NAME=VALUE", help="such as lr=0.01 momentum=0.8 s=5 codec=bf16")
    text = "each slice of the weights takes the change when it has had so many updates (default: as soon as possible)"
    p.add_argument("--at-clock", "--at", type=_clock, default=-1, metavar="N", help=text)
    store = "number of the store, in the order in which the script uses them (default: 1)"
    p.add_argument("--store", type=_clock, default=1, metavar="N", help=store)


def _clock(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"expected a whole number, at least 0, got {text!r}")
    return int(text)


def control(o: argparse.Namespace) -> int:
    """Ask for the change, and say what became of it; without settings, list the changes so far.

    Raises:
        ConfigError: the store cannot take it, or nobody answers.
    """
    from shoal.kvstore.control import parse_setting
    from shoal.scheduler.operator import change_settings
    from shoal.scheduler.watch import snapshot_of

    access = access_of(o)
    if not o.settings:
        snapshot = snapshot_of(o.scheduler, access=access)
        if snapshot is None:
            raise ConfigError(f"no scheduler answers at {o.scheduler}")
        print("\n".join(map(line, snapshot.changes)) or "no changes so far")
        return 0
    settings = dict(map(parse_setting, o.settings))
    if len(settings) < len(o.settings):
        raise ConfigError(f"a setting is given twice: {' '.join(o.settings)}")
    change = change_settings(
        o.scheduler, settings, store=o.store, at_clock=o.at_clock, timeout_s=o.timeout_s, access=access
    )
    print(f"{line(change)}; every process of the run has heard of it")
    return 0


def line(change: "Change") -> str:
    """A change in one line."""
    from shoal.kvstore.control import shown

    when = "as soon as possible" if change.at_clock < 0 else f"at clock {change.at_clock}"
    return f"change {change.number}: {shown(change.settings)} {when}, store {change.store}, asked for by {change.by}"
