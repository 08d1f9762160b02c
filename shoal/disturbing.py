"""The option ``--chaos`` of ``shoal run``: faults on purpose. Nothing of it is loaded unless it is asked for."""

import argparse
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from shoal.lab.chaos.run import Chaos
    from shoal.progress import Display
    from shoal.scheduler.job import JobConfig

__all__ = ["add_options", "attach", "chaos_of"]

VARIABLE = "SHOAL_CHAOS"
"""Through which the launcher tells a process how it will be disturbed; or "self: ...", `shoal.lab.chaos.alone`."""


def add_options(p: argparse.ArgumentParser) -> None:
    """Of ``shoal run``."""
    text = "do to the run what this file says: kill, stop, slow, drop, delay, partition, ... (docs/chaos.md)"
    p.add_argument("--chaos", metavar="FILE", default="", help=text)


def chaos_of(o: argparse.Namespace, job: "JobConfig", display: "Display") -> "Chaos | None":
    """What disturbs the run, if anything is to; it shows what it does among the lines of the processes.

    Raises:
        ConfigError: the file is not understood, or names somebody who is not in the run.
    """
    if not o.chaos:
        return None
    from shoal.lab.chaos.cast import Cast
    from shoal.lab.chaos.plan import read_plan
    from shoal.lab.chaos.run import Chaos

    cast = Cast(job.workers, job.servers, getattr(job, "replicas", 0) * job.servers)
    return Chaos(read_plan(o.chaos), cast, lambda text: display.line("chaos", "stderr", text), job.events)


def attach() -> None:
    """In a process of a cluster: let its launcher disturb it, if that is what it wants."""
    text = os.environ.pop(VARIABLE, "")
    if text.startswith("self:"):
        from shoal.lab.chaos.alone import attach_alone

        attach_alone(text)
    elif text:
        from shoal.lab.chaos import inside

        inside.attach(text)
