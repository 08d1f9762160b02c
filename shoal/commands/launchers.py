"""The option ``--on`` of ``shoal run``: where a cluster is started, and by which launcher."""

import argparse
import os
import shlex
from collections.abc import Callable
from typing import TYPE_CHECKING

from shoal.commands import raying, values
from shoal.errors import ConfigError

if TYPE_CHECKING:
    from shoal.lab.chaos.run import Chaos
    from shoal.scheduler.job import Launcher, OnLine, OnSnapshot

__all__ = ["add_option", "kind_of", "launcher_of"]


def _local(o: argparse.Namespace, on_line: "OnLine", on_snapshot: "OnSnapshot", chaos: "Chaos | None") -> "Launcher":
    from shoal.scheduler.local import LocalLauncher

    if o.on != "local":
        raise ConfigError(f"--on local takes nothing behind it, got {o.on!r}")
    return LocalLauncher(on_line, on_snapshot, chaos)


def _ssh(o: argparse.Namespace, on_line: "OnLine", on_snapshot: "OnSnapshot", chaos: "Chaos | None") -> "Launcher":
    from shoal.scheduler.hosts import read_hosts
    from shoal.scheduler.reach import Ssh
    from shoal.scheduler.remote import RemoteLauncher

    path = o.on.partition(":")[2]
    if not path:
        raise ConfigError("--on ssh wants the hosts file behind it, such as --on ssh:hosts.txt")
    _check(o, chaos)
    reach = Ssh(shlex.split(os.environ.get("SHOAL_SSH") or "ssh"), shared=o.shared_dir)
    return RemoteLauncher(read_hosts(path), reach, on_line, on_snapshot, o.host)


def _slurm(o: argparse.Namespace, on_line: "OnLine", on_snapshot: "OnSnapshot", chaos: "Chaos | None") -> "Launcher":
    from shoal.scheduler.reach import Srun
    from shoal.scheduler.remote import RemoteLauncher
    from shoal.scheduler.slurm import allocation

    if o.on != "slurm":
        raise ConfigError(f"--on slurm takes nothing behind it, got {o.on!r}: the job's nodes are those of Slurm's job")
    _check(o, chaos)
    return RemoteLauncher(allocation(os.environ), Srun(), on_line, on_snapshot, o.host)


def _check(o: argparse.Namespace, chaos: "Chaos | None") -> None:
    if chaos is not None:
        raise ConfigError(f"--chaos is for --on local, whose processes it reaches into; got --on {o.on}")


Maker = Callable[[argparse.Namespace, "OnLine", "OnSnapshot", "Chaos | None"], "Launcher"]

LAUNCHERS: dict[str, Maker] = {"local": _local, "ssh": _ssh, "slurm": _slurm, "ray": raying.launcher}
"""By what stands before the colon of ``--on``: who makes the launcher from the command's options."""


def add_option(p: argparse.ArgumentParser) -> None:
    """``--on``."""
    text = "where to start the cluster: local; ssh:HOSTS, a file; slurm, in a Slurm job; ray, or ray://HOST:PORT"
    default = os.environ.get("SHOAL_ON") or "local"
    p.add_argument("--on", metavar="WHERE", default=default, type=_on, help=f"{text} (default: $SHOAL_ON, or local)")
    host = "address under which the machines of --on ssh or slurm reach this one (default: as the routing table has it)"
    p.add_argument("--host", metavar="ADDRESS", default=os.environ.get("SHOAL_HOST", ""), type=values.host, help=host)
    shared = "with --on ssh: the hosts see this directory under the same path, so copy nothing"
    p.add_argument("--shared-dir", action="store_true", help=shared)
    env = "a variable for every process, or the name of one of ours to pass on; may be repeated"
    p.add_argument("--env", metavar="NAME[=VALUE]", action="append", default=[], type=_variable, help=env)
    raying.add_options(p)


def _variable(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not name.isidentifier():
        raise argparse.ArgumentTypeError(f"expected NAME=VALUE, got {text!r}")
    if not equals and name not in os.environ:
        raise argparse.ArgumentTypeError(f"there is no variable {name} here; say {name}=VALUE")
    return name, value if equals else os.environ[name]


def kind_of(on: str) -> str:
    """What stands before the colon.

    >>> kind_of("local")
    'local'
    """
    return on.partition(":")[0]


def launcher_of(
    o: argparse.Namespace, on_line: "OnLine", on_snapshot: "OnSnapshot", chaos: "Chaos | None" = None
) -> "Launcher":
    """The launcher that ``--on`` names.

    Raises:
        ConfigError: the rest of it, or another option, makes no sense with it.
    """
    return LAUNCHERS[kind_of(o.on)](o, on_line, on_snapshot, chaos)


def _on(text: str) -> str:
    if kind_of(text) not in LAUNCHERS:
        raise argparse.ArgumentTypeError(f"expected one of {', '.join(LAUNCHERS)}, got {text!r}")
    return text
