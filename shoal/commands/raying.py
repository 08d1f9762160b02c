"""``shoal run --on ray``: its options, and the launcher that they make."""

import argparse
import os
from typing import TYPE_CHECKING

from shoal.errors import ConfigError

if TYPE_CHECKING:
    from shoal.lab.chaos.run import Chaos
    from shoal.scheduler.job import Launcher, OnLine, OnSnapshot

__all__ = ["add_options", "launcher", "pairs"]

CLOUDS = ("auto", "aws", "gcp", "azure", "none")


def add_options(p: argparse.ArgumentParser) -> None:
    """What only a run on Ray takes."""
    g = p.add_argument_group("on Ray")
    text = (
        "how many of -n 2..16: fit, throughput:samples_per_s=..., budget:usd=...,price=..., queue:metric=...,each=..."
    )
    g.add_argument("--scale", metavar="POLICY", default="fit", help=f"{text} (default: fit)")
    text = "resources of a worker; it computes with as many threads as it has cores (default: CPU=1)"
    g.add_argument("--worker-resources", metavar="CPU=1,GPU=1", type=_amounts, default="CPU=1", help=text)
    text = "resources of a server, and of a replica (default: CPU=1)"
    g.add_argument("--server-resources", metavar="CPU=1", type=_amounts, default="CPU=1", help=text)
    text = "of the machines for servers (default: ray.io/market-type=on-demand, if any machine has that label)"
    g.add_argument("--server-labels", metavar="KEY=VALUE,...", type=pairs, default=None, help=text)
    text = "directory that Ray brings to its machines, such as . (default: it is on all of them)"
    g.add_argument("--working-dir", metavar="DIR", default="", help=text)
    text = "whose notices of preemption are looked for (default: auto)"
    g.add_argument("--preemption", choices=CLOUDS, default="auto", help=text)
    text = "connections without a key: everybody in the network may read and change the model"
    g.add_argument("--insecure", action="store_true", help=text)


def pairs(text: str) -> dict[str, str]:
    """``KEY=VALUE,...``

    >>> pairs("ray.io/market-type=on-demand")
    {'ray.io/market-type': 'on-demand'}
    """
    parts = [part.partition("=") for part in text.split(",") if part]
    if not all(key and value for key, _, value in parts):
        raise argparse.ArgumentTypeError(f"expected KEY=VALUE,..., got {text!r}")
    return {key: value for key, _, value in parts}


def _amounts(text: str) -> dict[str, float]:
    try:
        amounts = {key: float(value) for key, value in pairs(text).items()}
    except ValueError:
        amounts = {"": -1.0}
    if not all(0 <= amount < float("inf") for amount in amounts.values()):
        raise argparse.ArgumentTypeError(f"expected resources such as CPU=2,GPU=1, got {text!r}")
    return amounts


def launcher(o: argparse.Namespace, on_line: "OnLine", on_snapshot: "OnSnapshot", chaos: "Chaos | None") -> "Launcher":
    """Of ``--on ray``, ``ray://HOST:PORT`` (a client's port) or ``ray:HOST:PORT`` (that of the cluster's head).

    Raises:
        ConfigError: it is none of these, or Ray is not installed.
    """
    from shoal.scheduler.ray import RayLauncher, RayOptions
    from shoal.scheduler.ray.calls import import_ray
    from shoal.scheduler.ray.notices import CLOUDS as KNOWN

    if chaos is not None:
        raise ConfigError("--chaos disturbs processes of this machine: it goes with --on local")
    import_ray()
    rest = o.on.removeprefix("ray")
    address = o.on if rest.startswith("://") else rest.removeprefix(":")
    clouds = {"auto": tuple(KNOWN), "none": ()}.get(o.preemption, (o.preemption,))
    options = RayOptions(
        worker=o.worker_resources,
        server=o.server_resources,
        labels=o.server_labels,
        scale=o.scale,
        clouds=clouds,
        insecure=o.insecure,
    )
    directory = os.path.abspath(o.working_dir) if o.working_dir else ""
    return RayLauncher(address, options, directory, on_line, on_snapshot)
