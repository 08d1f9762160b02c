"""Runs on a Ray cluster: `Cluster` in a program, ``shoal run --on ray`` on the command line."""

from shoal.scheduler.ray.cluster import Cluster, RayLauncher
from shoal.scheduler.ray.machines import RayOptions

__all__ = ["Cluster", "RayLauncher", "RayOptions"]
